//! Times by the widths of layers, what they predict, and widths that are aligned.

use crate::calls::{done, failure, json, stderr, train};
use crate::fixture::{fixture, sample_set};
use crate::support::path;
use arch::{CostTable, NetSpec};
use reference::PyTorch;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;
use tempfile::TempDir;
use trainer::{Config, RunDir};

/// A table of a small network in this program's own libtorch, made once.
fn times() -> &'static Path {
    static TIMES: OnceLock<(TempDir, std::path::PathBuf)> = OnceLock::new();
    let (_, path) = TIMES.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("times.json");
        let arguments = ["measure", "--arch", "cifar-resnet20", "--num-classes", "10", "--runtime", "libtorch"];
        let more = ["--align", "8", "--levels", "2", "--seconds", "1", "--out", out.to_str().unwrap()];
        let text = done(&[&arguments[..], &more].concat());
        assert!(text.contains("layer1.0 (3 alike)") && text.contains("multiples of 8"), "{text}");
        (folder, out)
    });
    path
}

#[test]
fn a_measured_table_adds_up_and_is_told_with_the_network() {
    let table = CostTable::read(times()).unwrap();
    let spec = NetSpec::preset("cifar-resnet20", 10).unwrap();
    assert_eq!((table.network.as_str(), table.unit.as_str(), table.align), ("cifar-resnet20", "ms", 8));
    assert_eq!((table.measured.runtime.as_str(), table.measured.batch), ("libtorch", 1));
    let dense = table.spending(&spec).unwrap().dense();
    assert!(dense > 0.0 && table.outside > 0.0);
    let widths: Vec<usize> = table.blocks.iter().map(|block| block.grids[0].widths[0].len()).collect();
    assert_eq!(widths, [2; 5], "five shapes of blocks, two widths each");
    let inspected = ["inspect", "--arch", "cifar-resnet20", "--num-classes", "10", "--times", path(times())];
    let result = json(&inspected);
    assert!((result["times"]["dense"].as_f64().unwrap() - dense).abs() < 1e-9);
    assert_eq!(result["times"]["blocks"].as_array().unwrap().len(), 9);
    let text = done(&inspected);
    assert!(text.contains("ms, of which") && !text.contains("can reach"), "nothing has gates: {text}");
    // What is there is not written over, and another network has no costs in it.
    let again = ["measure", "--arch", "cifar-resnet20", "--out", path(times())];
    assert!(failure(&again, 1).contains("exists; choose another --out"));
    let other = failure(&["inspect", "--arch", "cifar-resnet56", "--times", path(times())], 1);
    assert!(other.contains("measured for cifar-resnet20 with images of 32 pixels, not for cifar-resnet56"), "{other}");
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("t.json");
    let sites = ["measure", "--arch", "cifar-resnet20", "--sites", "middle", "--out", path(&missing)];
    assert!(failure(&sites, 2).contains("--sites middle: expected input, between, output or projection"));
}

#[test]
fn what_a_table_predicts_stands_beside_what_is_measured() {
    let bench = ["bench", "inference", "--arch", "cifar-resnet20", "--num-classes", "10", "--gates", "1"];
    let more = ["--sites", "between", "--macs", "0.6", "--align", "8", "--batch", "1", "--rounds", "2"];
    fn of<'a>(bench: &[&'a str], more: &[&'a str], times: &'a Path) -> Vec<&'a str> {
        [bench, more, &["--runtime", "libtorch", "--times", path(times)]].concat()
    }
    let of = |times| of(&bench, &more, times);
    let result = json(&of(times()));
    let rows = result["timings"].as_array().unwrap();
    for row in rows {
        let predicted = row["predicted_time_share"].as_f64();
        assert_eq!(predicted.is_some(), row["form"] == "pruned", "{row}");
        assert!(predicted.is_none_or(|share| (0.1..1.0).contains(&share)), "{row}");
    }
    let text = done(&of(times()));
    assert!(text.contains("predicted") && text.contains("of the dense time, measured"), "{text}");
    // Of another machine, of another unit, and of what is not timed here.
    let folder = tempfile::tempdir().unwrap();
    let changed = |key: &str, value: Value| {
        let mut table: Value = serde_json::from_str(&fs::read_to_string(times()).unwrap()).unwrap();
        *table.pointer_mut(key).unwrap() = value;
        let file = folder.path().join("changed.json");
        fs::write(&file, table.to_string()).unwrap();
        file
    };
    let other = changed("/measured/machine", "a board".into());
    let refused = failure(&of(&other), 2);
    assert!(refused.contains("measured on a board, and this is") && refused.contains("--any-machine"), "{refused}");
    assert!(done(&[&of(&other)[..], &["--any-machine"]].concat()).contains("predicted"));
    let energy = changed("/unit", "mJ".into());
    assert!(failure(&of(&energy), 2).contains("it counts mJ, which is not what is timed here"));
    let batches = changed("/measured/batch", 4.into());
    assert!(failure(&of(&batches), 2).contains("measured in libtorch with batches of 4; give that"));
}

#[test]
fn a_board_without_this_program_makes_the_same_kind_of_table() {
    let folder = tempfile::tempdir().unwrap();
    let probes = folder.path().join("probes.zip");
    let arguments = ["measure", "--arch", "cifar-resnet20", "--num-classes", "10", "--levels", "2", "--align", "8"];
    let text = done(&[&arguments[..], &["--probes", path(&probes)]].concat());
    assert!(text.contains("scripts/measure_times.py"), "{text}");
    let Some(pytorch) = PyTorch::find() else { return };
    let has_runtime = pytorch.command().args(["-c", "import onnxruntime"]).output().unwrap().status.success();
    if !has_runtime {
        return reference::skip("no ONNX Runtime in .venv");
    }
    let out = folder.path().join("times.json");
    let mut script = pytorch.script("measure_times.py");
    script.arg(&probes).args(["--threads", "1", "--seconds", "1", "--out"]).arg(&out);
    let output = script.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let (found, own) = (CostTable::read(&out).unwrap(), CostTable::read(times()).unwrap());
    assert_eq!((found.network.as_str(), found.align), (own.network.as_str(), own.align));
    let spec = NetSpec::preset("cifar-resnet20", 10).unwrap();
    assert!(found.spending(&spec).unwrap().dense() > 0.0);
    for (found, own) in found.blocks.iter().zip(&own.blocks) {
        assert_eq!((&found.names, &found.grids[0].widths), (&own.names, &own.grids[0].widths));
    }
    // A table that is there, and an archive that is none.
    assert!(!script.output().unwrap().status.success());
    let mut damaged = pytorch.script("measure_times.py");
    damaged.arg(&out).args(["--out", "none.json"]);
    assert!(stderr(&damaged.output().unwrap()).contains("is not what train measure --probes writes"));
}

#[test]
fn the_alignment_that_a_run_measures_is_kept_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let set = |key: &'static str| ["--set", key];
    let keys = [
        "gates.granularity=1",
        "gates.sites=[\"between\"]",
        "gates.kind=independent",
        "gates.loss=batch",
        "gates.weighting=network",
        "gates.target=0.7",
        "gates.start=norms",
        "gates.freeze_after=1",
        "gates.align=auto",
    ];
    let config = path(&fixture().config);
    let fit = ["fit", "--config", config, "--data", path(sample_set()), "--out", path(&out)];
    let arguments = [&fit[..], &keys.map(set).concat()].concat();
    let output = train(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("on this machine"), "{}", stderr(&output));
    let saved = Config::read_saved(&RunDir::at(&out).config(), &[]).unwrap();
    let align = serde_json::to_value(saved.gates.align).unwrap().as_u64().unwrap();
    assert!([1, 8, 16, 32].contains(&align), "{align}");
    let checkpoint = out.join("checkpoints/last.safetensors");
    let spec = trainer::Checkpoint::read(&checkpoint).unwrap().spec;
    let full = arch::NetSpec::preset(&spec.name, 10).unwrap();
    let mut narrower = 0;
    for block in &spec.blocks {
        let original = full.blocks.iter().find(|other| other.name == block.name).unwrap();
        for (conv, original) in block.branch.iter().zip(&original.branch) {
            assert!((conv.outputs as u64).is_multiple_of(align) || conv.outputs == original.outputs, "{conv:?}");
            narrower += usize::from(conv.outputs < original.outputs);
        }
    }
    assert!(narrower > 0);
}

#[test]
fn padded_widths_keep_the_logits_and_say_what_they_add() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let run = at("run");
    let keys = ["gates.granularity=1", "gates.sites=[\"between\"]", "gates.kind=independent", "train.epochs=1"];
    let config = path(&fixture().config);
    let fit = ["fit", "--config", config, "--data", path(sample_set()), "--out", path(&run)];
    done(&[&fit[..], &keys.map(|key| ["--set", key]).concat()].concat());
    let checkpoint = run.join("checkpoints/last.safetensors");
    let prune = |out: &Path, more: &[&str]| {
        let arguments = ["prune", "--checkpoint", path(&checkpoint), "--policy", "topk=1500", "--out", path(out)];
        json(&[&arguments[..], more].concat())
    };
    let (plain, padded) = (at("plain.safetensors"), at("padded.safetensors"));
    let before = prune(&plain, &[]);
    assert!(before["macs_of_padding"].is_null());
    let after = prune(&padded, &["--align", "16", "--pad"]);
    let macs = |result: &Value| result["macs"]["after"].as_u64().unwrap();
    assert_eq!(after["macs_of_padding"].as_u64().unwrap(), macs(&after) - macs(&before));
    let networks =
        [&plain, &padded].map(|file| trainer::Checkpoint::read(file).unwrap().network(tch::Device::Cpu).unwrap());
    assert!(networks[1].spec().blocks.iter().all(|block| block.branch.iter().all(|conv| conv.outputs % 16 == 0)));
    let images = torch_ext::normal(&[2, 3, 32, 32], 4).unwrap();
    let [expected, found] = networks.map(|network| {
        let pass = arch::Pass::inference(gumbel_gates::Policy::Argmax);
        tch::no_grad(|| network.forward(&images, pass)).unwrap().logits
    });
    let scale = expected.abs().max().double_value(&[]);
    assert!((found - expected).abs().max().double_value(&[]) < 1e-5 * scale);
    let arguments = ["prune", "--checkpoint", path(&checkpoint), "--out", path(&plain), "--pad"];
    assert!(failure(&arguments, 2).contains("--align"));
}
