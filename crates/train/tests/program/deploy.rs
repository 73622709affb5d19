//! From a trained network to files that other programs run: prune, fine-tune, export, and what
//! Python and C++ make of it.

use crate::calls::{done, failure, json, stderr, stdout, train};
use crate::fixture::sample_set;
use crate::support::path;
use data::synth::{SampleSet, draw};
use reference::{PyTorch, repository, skip};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use trainer::Checkpoint;

/// A drawn set and networks trained on it.
struct Fixture {
    _folder: tempfile::TempDir,
    data: PathBuf,
    /// Checkpoints of one short epoch.
    filters: PathBuf,
    layers: PathBuf,
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = sample_set().to_owned();
        let fit = |name: &str, gates: &str| {
            let config = folder.path().join(format!("{name}.toml"));
            let text = format!(
                "[network]\narch = \"cifar-resnet20\"\n[gates]\n{gates}\n\
                 [data]\nimage_size = 32\nresize = 32\naugment = \"padded-crop\"\n\
                 [train]\nname = \"{name}\"\nepochs = 1\nbatch_size = 8\n\
                 [optimizer]\nlearning_rate = 0.02\n"
            );
            fs::write(&config, text).expect("the configuration is written");
            let out = folder.path().join(name);
            done(&["fit", "--config", path(&config), "--data", path(&data), "--out", path(&out)]);
            out.join("checkpoints/last.safetensors")
        };
        // One high step of learning leaves the gates apart: half of them close.
        let filters = "granularity = \"low\"\nkind = \"independent\"\nlearning_rate_factor = 30.0";
        let filters = fit("filters", filters);
        let layers = fit("layers", "granularity = \"layer\"\nkind = \"dependent\"");
        Fixture { data, filters, layers, _folder: folder }
    })
}

/// Half of the filter gates closed, whatever training made of them.
const HALF: [&str; 2] = ["--policy", "topk=60"];

#[test]
fn a_pruned_network_evaluates_trains_and_exports_like_any_other() {
    let Fixture { data, filters, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (pruned, tuned, exported) = (at("pruned.safetensors"), at("tuned"), at("network.pt"));
    let result = json(&[&["prune", "--checkpoint", path(filters), "--out", path(&pruned)], &HALF[..]].concat());
    assert_eq!((&result["gates"]["open"], &result["gates"]["undecided"]), (&60.into(), &0.into()));
    let share = |what: &str| result[what]["after"].as_f64().unwrap() / result[what]["before"].as_f64().unwrap();
    assert!(share("macs") < 0.95 && share("parameters") < 0.95, "{result:#}");

    // The same answers as with the gates, to the image.
    let evaluate = |more: &[&str]| json(&[&["eval", "--data", path(data)], more].concat());
    let gated = evaluate(&[&["--checkpoint", path(filters)], &HALF[..]].concat());
    let without = evaluate(&["--checkpoint", path(&pruned)]);
    assert_eq!(gated["top1"], without["top1"]);
    assert!((gated["cross_entropy"].as_f64().unwrap() - without["cross_entropy"].as_f64().unwrap()).abs() < 1e-4);

    let trained = json(&["fit", "--checkpoint", path(&pruned), "--data", path(data), "--out", path(&tuned)]);
    assert_eq!(trained["macs_dense"], without["macs_dense"], "fine-tuning keeps the smaller network");
    let last = tuned.join("checkpoints/last.safetensors");
    let shown = done(&["inspect", path(&last)]);
    assert!(shown.contains("cifar-resnet20, 10 classes"), "{shown}");
    assert!(shown.contains("% of the published cifar-resnet20"), "{shown}");
    let again = train(&["fit", "--dry-run", "--checkpoint", path(&pruned), "--data", path(data)]);
    let log = stderr(&again);
    assert!(log.contains("fine-tuning a smaller network: learning rate 0.") && log.contains("cosine over"), "{log}");
    done(&["export", "--checkpoint", path(&last), "--out", path(&exported), "--fold-bn"]);
    // A second decision has nothing to decide about.
    let again = at("again.safetensors");
    let message = failure(&["prune", "--checkpoint", path(&pruned), "--out", path(&again)], 1);
    assert!(message.contains("it has no gates, so there is nothing to decide") && !again.exists(), "{message}");
}

#[test]
fn decided_gates_stay_decided_and_within_their_budget_when_a_pruned_network_is_tuned() {
    let Fixture { data, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (config, out, pruned, tuned) = (at("config.toml"), at("run"), at("pruned.safetensors"), at("tuned"));
    let gates = "kind = \"dependent\"\nweighting = \"network\"\nloss = \"batch\"\ntarget = 0.6\n\
                 learning_rate_factor = 30.0\nfreeze_after = 1";
    let text = format!(
        "[network]\narch = \"cifar-resnet20\"\n[gates]\n{gates}\n[data]\nimage_size = 32\nresize = 32\n\
         augment = \"padded-crop\"\n[train]\nepochs = 2\nbatch_size = 8\n[optimizer]\nlearning_rate = 0.02\n"
    );
    fs::write(&config, text).unwrap();
    done(&["fit", "--config", path(&config), "--data", path(data), "--out", path(&out)]);
    let checkpoint = out.join("checkpoints/last.safetensors");
    let prune = ["prune", "--checkpoint", path(&checkpoint), "--data", path(data), "--out", path(&pruned)];
    let macs = &json(&prune)["macs"];
    let [before, after] = ["before", "after"].map(|when| macs[when].as_f64().unwrap());
    assert!(after < before, "{macs}");
    // An epoch less than gates once had to learn.
    let tune = ["fit", "--checkpoint", path(&pruned), "--data", path(data), "--out", path(&tuned)];
    done(&[&tune[..], &["--set", "train.epochs=1"]].concat());
    let config: toml::Table = fs::read_to_string(tuned.join("config.toml")).unwrap().parse().unwrap();
    let key = |key: &str| config["gates"][key].as_float().unwrap();
    assert_eq!(key("freeze_after"), 0.0);
    assert!((key("target") - (0.6 * before / after).min(1.0)).abs() < 1e-9, "{} of {after}", key("target"));
    // What the gates that are left compute from is what it was.
    let gates = |file: &Path| -> Vec<(String, tch::Tensor)> {
        let tensors = trainer::Checkpoint::read_weights(file).unwrap().tensors;
        let is_kept = |name: &str| [".gate.fc1.weight", ".gate.bn.running_var"].iter().any(|end| name.ends_with(end));
        tensors.into_iter().filter(|(name, _)| is_kept(name)).collect()
    };
    let [before, after] = [&pruned, &tuned.join("checkpoints/last.safetensors")].map(|file| gates(file));
    assert!(!before.is_empty() && before == after);
}

#[test]
fn a_fine_tuned_run_resumes_with_its_own_network() {
    let Fixture { data, filters, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let (pruned, out) = (folder.path().join("pruned.safetensors"), folder.path().join("run"));
    done(&[&["prune", "--checkpoint", path(filters), "--out", path(&pruned)], &HALF[..]].concat());
    done(&["fit", "--checkpoint", path(&pruned), "--data", path(data), "--out", path(&out)]);
    // What it came from may be gone by then.
    fs::remove_file(&pruned).unwrap();
    done(&["fit", "--resume", "--out", path(&out)]);
}

#[test]
fn aligned_widths_cost_no_more_than_the_decisions_they_replace() {
    let filters = path(&fixture().filters);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (as_decided, aligned) = (at("as-decided.safetensors"), at("aligned.safetensors"));
    let prune = |out: &Path, more: &[&str]| {
        let most = ["--policy", "topk=90"];
        json(&[&["prune", "--checkpoint", filters, "--out", path(out)][..], &most, more].concat())
    };
    let budget = prune(&as_decided, &[])["macs"]["after"].as_u64().unwrap();
    // Groups have 8 filters, so multiples of 8 are what they are anyway.
    let result = prune(&aligned, &["--align", "16"]);
    let (after, before) = (result["macs"]["after"].as_u64().unwrap(), result["macs"]["before"].as_u64().unwrap());
    // Where a branch reads all channels, because copying some would cost more, MACs are past those
    // that gates count.
    assert!(after < before && after as f64 <= 1.1 * budget as f64, "{after} for {budget} of {before}");
    let network = Checkpoint::read(&aligned).unwrap().network(tch::Device::Cpu).unwrap();
    let whole = arch::NetSpec::preset("cifar-resnet20", 10).unwrap();
    for block in &network.spec().blocks {
        let before = whole.blocks.iter().find(|one| one.name == block.name).unwrap();
        for (conv, uncut) in block.branch.iter().zip(&before.branch) {
            assert!(conv.outputs % 16 == 0 || conv.outputs == uncut.outputs, "{}: {}", block.name, conv.outputs);
        }
    }
    assert!(fs::read(&aligned).unwrap() != fs::read(&as_decided).unwrap(), "other gates are open");
    // With fewer the lowest multiples of all sites are too much, so branches close.
    let few = |out: &str, more: &[&str]| {
        let out = at(out);
        let arguments = ["prune", "--checkpoint", filters, "--policy", "topk=30", "--out", path(&out)];
        json(&[&arguments[..], more].concat())
    };
    let (wide, narrow) = (few("wide.safetensors", &[]), few("narrow.safetensors", &["--align", "16"]));
    let macs = |result: &Value| result["macs"]["after"].as_f64().unwrap();
    assert!(macs(&narrow) <= 1.1 * macs(&wide), "{} for {}", macs(&narrow), macs(&wide));
}

#[test]
fn gates_that_look_at_the_image_are_decided_by_images() {
    let Fixture { data, layers, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("pruned.safetensors");
    let message = failure(&["prune", "--checkpoint", path(layers), "--out", path(&out)], 1);
    assert!(message.contains("the 9 gates of") && message.contains("give --data DIR"), "{message}");
    // After so little training all are open for every image, but surely so for none.
    let watched = ["prune", "--checkpoint", path(layers), "--out", path(&out), "--data", path(data)];
    let message = failure(&[&watched[..], &["--confidence", "0.9999"]].concat(), 1);
    assert!(message.contains("lower --share or --confidence"), "{message}");
    let result = json(&watched);
    assert_eq!((&result["gates"]["open"], &result["gates"]["closed"]), (&9.into(), &0.into()));
    assert_eq!(result["macs"]["before"], result["macs"]["after"]);
}

#[test]
fn python_and_cpp_run_exports_as_this_program_does() {
    let Fixture { filters, layers, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let pruned = at("pruned.safetensors");
    done(&[&["prune", "--checkpoint", path(filters), "--out", path(&pruned)], &HALF[..]].concat());
    let mut exports = Vec::new();
    for (name, checkpoint, mode, fold) in [
        ("pruned.pt", &pruned, "masked", true),
        ("filters.pt", filters, "skip", false),
        ("layers-masked.pt", layers, "masked", false),
        ("layers-skip.pt", layers, "skip", true),
    ] {
        let out = at(name);
        let arguments = ["export", "--checkpoint", path(checkpoint), "--out", path(&out), "--mode", mode];
        let written = done(&[&arguments[..], if fold { &["--fold-bn"] } else { &[] }].concat());
        assert!(written.contains(".check.pt, images to check it with"));
        exports.push(out);
    }
    // The example in docs/ is built as its first lines say.
    let (program, libtorch) = (at("classify"), repository().join(".libtorch").canonicalize().unwrap());
    let library = libtorch.join("lib");
    let built = Command::new(std::env::var("CXX").unwrap_or_else(|_| "c++".into()))
        .args(["-std=c++17", "-w"])
        .arg(repository().join("docs/cpp/classify.cpp"))
        .args([
            format!("-I{0}/include", path(&libtorch)),
            format!("-I{0}/include/torch/csrc/api/include", path(&libtorch)),
        ])
        .args([format!("-L{}", path(&library)), "-Wl,--no-as-needed".into()])
        .args(["-ltorch", "-ltorch_cpu", "-lc10"])
        .args([format!("-Wl,-rpath,{}", path(&library)), "-o".into(), path(&program).into()])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", stderr(&built));
    for export in &exports {
        let check = export.with_extension("check.pt");
        let ran = Command::new(&program).args([export, &check]).output().unwrap();
        assert!(ran.status.success(), "{}{}", stdout(&ran), stderr(&ran));
        assert!(stdout(&ran).contains("10 classes, images of 32 pixels") && stdout(&ran).contains("image 1: "));
    }

    let Some(pytorch) = PyTorch::find() else { return };
    let verified = pytorch.script("verify_export.py").args(&exports).args(["--rounds", "0"]).output().unwrap();
    assert!(verified.status.success(), "{}{}", stdout(&verified), stderr(&verified));
    assert_eq!(stdout(&verified).matches("  agrees\n").count(), exports.len());
    // The check can fail: the images of one network are not those of another.
    fs::copy(at("pruned.pt"), at("other.pt")).unwrap();
    fs::copy(at("layers-skip.check.pt"), at("other.check.pt")).unwrap();
    let differs = pytorch.script("verify_export.py").arg(at("other.pt")).args(["--rounds", "0"]).output().unwrap();
    assert!(!differs.status.success() && stdout(&differs).contains("DIFFERS"));
}

#[test]
fn a_state_dict_is_what_pytorch_saves() {
    let folder = tempfile::tempdir().unwrap();
    let (weights, out) = (folder.path().join("w.safetensors"), folder.path().join("resnet18.pth"));
    let network = arch::Network::build(&arch::NetSpec::preset("resnet18", 10).unwrap(), tch::Device::Cpu, 1).unwrap();
    let tensors = || network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    fs::write(&weights, arch::state_dict::safetensors::to_bytes(tensors(), ("k", String::new())).unwrap()).unwrap();
    let export = ["export", "--arch", "resnet18", "--weights", path(&weights), "--format", "state-dict"];
    done(&[&export[..], &["--out", path(&out)]].concat());
    // This program reads it back to the bit, and so does torchvision.
    let read = arch::state_dict::StateDict::read(&out).unwrap().tensors;
    assert!(read.iter().zip(tensors()).all(|((name, a), (own, b))| name == own && a == b));
    if let Some(pytorch) = PyTorch::find() {
        let code = "import sys, torch, torchvision\n\
                    network = torchvision.models.resnet18(num_classes=10)\n\
                    missing = network.load_state_dict(torch.load(sys.argv[1]), strict=False).missing_keys\n\
                    assert all(name.endswith('num_batches_tracked') for name in missing), missing\n";
        assert!(pytorch.command().args(["-c", code, path(&out)]).status().unwrap().success());
    }
    let filters = &fixture().filters;
    let gated = folder.path().join("gated.pth");
    let message =
        failure(&["export", "--checkpoint", path(filters), "--format", "state-dict", "--out", path(&gated)], 1);
    assert!(message.contains("has not the shapes of the published cifar-resnet20: it has gates"), "{message}");
}

#[test]
fn an_onnx_file_is_written_and_agrees_in_plain_python() {
    let filters = &fixture().filters;
    let folder = tempfile::tempdir().unwrap();
    for (name, more) in [("floats.onnx", &[][..]), ("bytes.onnx", &["--input", "uint8"])] {
        let out = folder.path().join(name);
        let export = ["export", "--checkpoint", path(filters), "--policy", "threshold=0.4", "--out", path(&out)];
        let told = json(&[&export[..], more].concat());
        assert_eq!(told["check"].as_str().unwrap(), path(&out.with_extension("check.npz")));
        // It was run, if ONNX Runtime is there.
        assert!(told["verdict"].as_str().is_none_or(|verdict| verdict == "agrees"), "{told}");
        let Some(pytorch) = PyTorch::find() else { continue };
        if !pytorch.command().args(["-c", "import onnxruntime"]).output().unwrap().status.success() {
            skip("no ONNX Runtime (make setup brings it)");
            continue;
        }
        // Beside the dense network, over the images that this program evaluates.
        let dense = folder.path().join("dense.pt");
        if !dense.exists() {
            let open = ["export", "--checkpoint", path(filters), "--policy", "always-open", "--out", path(&dense)];
            assert!(done(&open).contains("ran it in TorchScript: logits differ by "));
        }
        let data = path(sample_set());
        let arguments = ["--rounds", "1", "--dense", path(&dense), "--data", data];
        let run = pytorch.script("verify_export.py").arg(&out).args(arguments).output().unwrap();
        let text = stdout(&run);
        let policy = ["--policy", "threshold=0.4"];
        let measured = json(&[&["eval", "--checkpoint", path(filters), "--data", data][..], &policy].concat());
        let top1 = format!("top-1 {:.2}% of {} images", 100.0 * measured["top1"].as_f64().unwrap(), measured["images"]);
        let parts = ["  agrees", "10 classes", &top1, "the same label for", "% of dense"];
        let missing = parts.iter().find(|part| !text.contains(**part));
        assert!(run.status.success() && missing.is_none(), "{missing:?} in {text}{}", stderr(&run));
        // Another network's images and logits do not pass.
        let wrong =
            "import sys, numpy; f = dict(numpy.load(sys.argv[1])); f['logits'] += 1; numpy.savez(sys.argv[1], **f)";
        let check = out.with_extension("check.npz");
        assert!(pytorch.command().args(["-c", wrong, path(&check)]).status().unwrap().success());
        let run = pytorch.script("verify_export.py").arg(&out).args(["--rounds", "0"]).output().unwrap();
        assert_eq!(run.status.code(), Some(1));
        assert!(stdout(&run).contains("DIFFERS"), "{}", stdout(&run));
    }
}

/// The lines of code of the tutorial that begin with this one.
fn tutorial(first: &str) -> String {
    let text = fs::read_to_string(repository().join("docs/tutorial.md")).unwrap();
    let code = text.lines().skip_while(|line| line.trim() != first);
    let code = code.take_while(|line| line.is_empty() || line.starts_with("    "));
    let code: Vec<&str> = code.map(|line| line.strip_prefix("    ").unwrap_or_default()).collect();
    assert!(code.len() > 5, "the tutorial has no lines that begin with {first}");
    code.join("\n")
}

#[test]
fn the_tutorials_lines_classify_an_image_as_this_program_does() {
    let Some(pytorch) = PyTorch::find() else { return skip("no Python environment (make setup brings it)") };
    if !pytorch.command().args(["-c", "import onnxruntime, PIL"]).output().unwrap().status.success() {
        return skip("no ONNX Runtime (make setup brings it)");
    }
    let folder = tempfile::tempdir().unwrap();
    let (out, code) = (folder.path().join("network.onnx"), folder.path().join("classify.py"));
    fs::write(&code, tutorial("import sys")).unwrap();
    done(&["export", "--checkpoint", path(&fixture().filters), "--out", path(&out)]);
    for image in data::images_below(&sample_set().join("val")).unwrap().iter().take(4) {
        let predicted = json(&["predict", "--checkpoint", path(&fixture().filters), path(image)]);
        let best = &predicted["images"][0]["classes"][0]["class"];
        let run = pytorch.command().args([path(&code), path(&out), path(image)]).output().unwrap();
        assert_eq!(stdout(&run).trim(), best.as_str().unwrap(), "{}: {predicted:#}{}", image.display(), stderr(&run));
    }
}

#[test]
fn a_browser_runs_an_onnx_file() {
    let Some(modules) = std::env::var_os("BROWSER_MODULES") else {
        skip("no browser (scripts/verify_browser.mjs says what to install; BROWSER_MODULES names the folder)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (weights, out) = (folder.path().join("w.safetensors"), folder.path().join("network.onnx"));
    let spec = arch::NetSpec::preset("mobilenet_v2", 10).unwrap();
    let network = arch::Network::build(&spec, tch::Device::Cpu, 1).unwrap();
    let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    fs::write(&weights, arch::state_dict::safetensors::to_bytes(tensors, ("k", String::new())).unwrap()).unwrap();
    let bytes = ["export", "--arch", "mobilenet_v2", "--weights", path(&weights), "--input", "uint8"];
    done(&[&bytes[..], &["--out", path(&out)]].concat());
    let gated = folder.path().join("gated.onnx");
    done(&["export", "--checkpoint", path(&fixture().layers), "--out", path(&gated)]);
    let script = repository().join("scripts/verify_browser.mjs");
    let run = Command::new("node").arg(script).arg(modules).args([&out, &gated]).output().unwrap();
    assert!(run.status.success(), "{}{}", stdout(&run), stderr(&run));
    assert_eq!(stdout(&run).matches("agrees in HeadlessChrome").count(), 2);
}

/// Runs what must fail with `code`, say `part`, and leave nothing at `out`.
fn refused(arguments: &[&str], out: &Path, code: i32, part: &str) {
    let message = failure(arguments, code);
    assert!(message.contains(part), "{arguments:?}: {message}");
    let beside = ["check.pt", "check.npz"].map(|ending| out.with_extension(ending));
    assert!(!out.exists() && !beside.iter().any(|path| path.exists()), "nothing half-written");
}

#[test]
fn what_cannot_be_exported_is_told_and_leaves_nothing() {
    let filters = path(&fixture().filters);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (out, taken, classifier) = (at("out.pt"), at("taken.pt"), at("classifier.safetensors"));
    fs::write(&taken, "mine").unwrap();
    fs::write(at("beside.check.pt"), "mine").unwrap();
    // A file that holds a classifier alone.
    let weight = tch::Tensor::ones([10, 64], (tch::Kind::Float, tch::Device::Cpu));
    let tensors = [("linear.weight", &weight)];
    let bytes = arch::state_dict::safetensors::to_bytes(tensors, ("k", String::new())).unwrap();
    fs::write(&classifier, bytes).unwrap();
    let export = |to: &str, more: &[&str], code, part: &str| {
        let arguments = ["export", "--checkpoint", filters, "--out", to];
        refused(&[&arguments[..], more].concat(), &out, code, part);
    };
    export(path(&taken), &[], 1, "taken.pt exists; choose another --out");
    export(path(&at("beside.pt")), &[], 1, "beside.check.pt exists");
    export(path(&at("no/such.pt")), &[], 1, "is not a folder");
    export(path(&at("x.safetensors")), &["--check"], 2, "--check is for --format torchscript and onnx");
    let kept = ["--format", "state-dict", "--keep-gates"];
    export("x.pth", &kept, 2, "--keep-gates is for --format torchscript and onnx");
    export("x.check.pt", &[], 2, "NAME.check.pt and NAME.check.npz hold images to check with");
    let to = path(&out);
    export(to, &["--policy", "threshold=1"], 1, "every gate of cifar-resnet20 is closed");
    export(to, &["--policy", "topk=3"], 1, "not by topk=3");
    let folded = ["--format", "safetensors", "--fold-bn"];
    export(to, &folded, 2, "--fold-bn is for --format torchscript");
    export(to, &["--input", "uint8"], 2, "--input is for --format onnx");
    export(to, &["--format", "onnx"], 2, "the name of an ONNX file ends in .onnx");
    export(path(&at("x.onnx")), &["--format", "torchscript"], 2, "ends like another format");
    fs::write(at("here.check.npz"), "mine").unwrap();
    export(path(&at("here.onnx")), &[], 1, "here.check.npz exists");
    for policy in ["threshold=1", "topk=3"] {
        let (out, policy) = (at("out.onnx"), ["--policy", policy]);
        export(path(&out), &policy, 1, "");
        assert!(!out.exists() && !at("out.check.npz").exists(), "nothing half-written");
    }
    let alone = ["export", "--arch", "cifar-resnet20", "--weights", path(&classifier), "--out", to];
    refused(&alone, &out, 1, "tensors missing");
    assert_eq!(fs::read_to_string(&taken).unwrap(), "mine");
}

#[test]
fn what_cannot_be_pruned_or_tuned_is_told_and_leaves_nothing() {
    let Fixture { data, filters, layers, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let (out, other) = (folder.path().join("out.safetensors"), folder.path().join("other"));
    draw(&other, &SampleSet { train_per_class: 2, val_per_class: 1, seed: 3 }).unwrap();
    fs::remove_dir_all(other.join("train/disc")).unwrap();
    let (filters, other) = (path(filters), path(&other));
    let call = |command: &str, checkpoint: &str, more: &[&str], code, part: &str| {
        let arguments = [command, "--checkpoint", checkpoint, "--out", path(&out)];
        refused(&[&arguments[..], more].concat(), &out, code, part);
    };
    let closed = ["--policy", "threshold=1"];
    call("prune", filters, &closed, 1, "every gate of cifar-resnet20 is closed");
    call("prune", path(layers), &["--policy", "topk=3"], 2, "ranked anew for each");
    call("prune", path(layers), &["--align", "8"], 2, "--align is for gates that ignore the image");
    call("prune", filters, &["--policy", "sample"], 2, "a policy that decides is needed");
    call("prune", filters, &["--share", "0.5"], 2, "--share: expected a share above 0.5");
    call("prune", filters, &["--data", other], 1, "the network knows the classes");
    call("fit", filters, &["--data", other], 1, "only in val/: disc");
    let one = ["--data", path(data), "--set", "gates.target=[0.5]"];
    call("fit", filters, &one, 2, "one target for each of the 9 blocks");
}
