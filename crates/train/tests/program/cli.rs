//! The program as a user meets it: output, messages, exit codes, and that nothing is half-written.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use data::synth::{SampleSet, draw};
use reference::{repository, skip};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

struct Fixture {
    _folder: tempfile::TempDir,
    data: PathBuf,
    config: PathBuf,
    /// A finished run of two epochs.
    run: PathBuf,
    /// What the program printed at its end.
    printed: String,
}

/// A drawn set and a run trained on it, made once.
fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let data = folder.path().join("data");
        draw(&data, &SampleSet { train_per_class: 4, val_per_class: 2, seed: 3 }).expect("the set is drawn");
        let config = folder.path().join("config.toml");
        fs::write(
            &config,
            "[network]\narch = \"resnet18\"\n[data]\nimage_size = 32\nresize = 36\n[train]\nname = \"small\"\nepochs = 2\n\
             batch_size = 8\nlog_every = 2\n[optimizer]\nlearning_rate = 0.02\n",
        )
        .expect("the configuration is written");
        let run = folder.path().join("run");
        let output = train(&["fit", "--config", path(&config), "--data", path(&data), "--out", path(&run)]);
        assert!(output.status.success(), "{}", stderr(&output));
        let printed = stdout(&output);
        Fixture { _folder: folder, data, config, run, printed }
    })
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.stdin(Stdio::null());
    command
}

fn train(arguments: &[&str]) -> Output {
    program().args(arguments).args(device(arguments)).output().expect("the program starts")
}

/// Tests run on the CPU wherever a command has a choice.
fn device(arguments: &[&str]) -> &'static [&'static str] {
    let chooses = ["fit", "eval", "calibrate", "predict"].contains(&arguments[0]);
    if chooses && !arguments.contains(&"--device") && !arguments.contains(&"--help") {
        &["--device", "cpu"]
    } else {
        &[]
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs, expects an exit code and one clear message, and gives it back.
fn failure(arguments: &[&str], code: i32) -> String {
    let output = train(arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    assert!(output.stdout.is_empty(), "results only on success");
    message
}

fn best() -> PathBuf {
    fixture().run.join("checkpoints/best.safetensors")
}

#[test]
fn a_run_ends_with_a_table_of_what_matters() {
    let Fixture { printed, run, .. } = fixture();
    for part in
        ["layer1.0", "layer4.1", "target", "60.0%", "top-1", "top-5", "MACs", "of the dense", "best.safetensors"]
    {
        assert!(printed.contains(part), "{part} is not in:\n{printed}");
    }
    for file in ["config.toml", "metrics.jsonl", "checkpoints/last.safetensors", "checkpoints/best.safetensors"] {
        assert!(run.join(file).is_file(), "{file}");
    }
    let events = fs::read_dir(run.join("tensorboard")).unwrap().next().unwrap().unwrap();
    assert!(events.metadata().unwrap().len() > 1000);
}

#[test]
fn a_dry_run_tells_what_a_run_would_take_and_leaves_nothing() {
    let Fixture { config, data, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let arguments = ["fit", "--config", path(config), "--data", path(data), "--out", path(&out), "--dry-run"];
    let output = train(&arguments);
    assert!(stderr(&output).contains("nothing is kept"), "{}", stderr(&output));
    let printed = stdout(&output);
    for part in ["resnet18 with 8 gates", "memory", "waiting for images", "checkpoint", "for 2 epochs of 5 steps and 1"]
    {
        assert!(printed.contains(part), "'{part}' is not in: {printed}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&train(&[&arguments[..], &["--json"]].concat()).stdout).unwrap();
    let seconds = |key: &str| json[key].as_f64().unwrap();
    let step = json["step_seconds"]["total"].as_f64().unwrap();
    let projected = 2.0 * (5.0 * step + seconds("evaluation_batch_seconds"));
    assert!((seconds("projected_seconds") - projected).abs() < 1e-6 * projected);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    fs::create_dir(&out).unwrap();
    assert!(failure(&arguments, 1).contains("exists; choose another --out"));
}

#[test]
fn a_log_says_early_how_long_training_will_take() {
    let Fixture { config, data, .. } = fixture();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let arguments = ["fit", "--config", path(config), "--data", path(data), "--out", path(&out)];
    let log = stderr(&train(&[&arguments[..], &["--set", "train.log_every=100"]].concat()));
    let early: Vec<&str> = log.lines().filter(|line| line.contains("a line follows every 100 steps")).collect();
    assert!(matches!(early[..], [line] if line.starts_with("epoch 1/2  step 3/5  about ")), "{log}");
}

#[test]
fn paths_on_the_command_line_go_before_those_of_the_configuration() {
    let Fixture { config, data, .. } = fixture();
    let (best, folder) = (best(), tempfile::tempdir().unwrap());
    let dry = |keys: &str, arguments: &[&str]| {
        let file = folder.path().join("config.toml");
        let network = format!("[network]\n{keys}");
        fs::write(&file, fs::read_to_string(config).unwrap().replace("[network]", &network)).unwrap();
        let fit = ["fit", "--config", path(&file), "--data", path(data), "--dry-run"];
        stdout(&train(&[&fit[..], arguments].concat()))
    };
    let found = dry("checkpoint = \"other.safetensors\"", &["--weights", path(&best)]);
    assert!(found.contains("loaded ") && found.contains("best.safetensors"), "{found}");
    let found = dry("weights = \"other.pth\"", &["--checkpoint", path(&best)]);
    assert!(found.contains("goes on from ") && found.contains("best.safetensors"), "{found}");
    let found = dry("weights = \"other.pth\"", &["--set", "network.weights="]);
    assert!(found.contains("resnet18 with 8 gates") && !found.contains("loaded"), "{found}");
    let message = failure(&["fit", "--config", path(config), "--data", path(data), "--set", "network.wieghts="], 2);
    assert!(message.contains("did you mean network.weights?"), "{message}");
}

#[test]
fn training_steps_are_timed_side_by_side() {
    let arguments = ["bench", "step", "--arch", "cifar-resnet20", "--gates", "none,layer,4", "--batch", "4"];
    let more = ["--rounds", "2", "--device", "cpu"];
    let output = train(&[&arguments[..], &more, &["--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let variants = json["variants"].as_array().unwrap();
    assert_eq!(variants.iter().map(|one| one["gates"].as_str().unwrap()).collect::<Vec<_>>(), ["none", "layer", "4"]);
    assert!(variants.iter().all(|one| one["seconds"].as_array().unwrap().len() == 2));
    let printed = stdout(&train(&[&arguments[..], &more].concat()));
    assert!(printed.contains("images/s") && printed.contains("at the peak"), "{printed}");
    assert!(failure(&["bench", "step", "--gates", "some"], 2).contains("gates.granularity"));
}

#[test]
fn evaluation_repeats_what_training_saw_last() {
    let run = &fixture().run;
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    let last_checkpoint = run.join("checkpoints/last.safetensors");
    let output = train(&["eval", "--checkpoint", path(&last_checkpoint), "--data", path(&fixture().data), "--json"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["top1"], last["val"]["top1"]);
    assert_eq!(result["macs"], last["val"]["macs"]);
    assert_eq!(result["gates"].as_array().unwrap().len(), 8);
    let always = train(&[
        "eval",
        "--checkpoint",
        path(&last_checkpoint),
        "--data",
        path(&fixture().data),
        "--policy",
        "always-open",
        "--json",
    ]);
    let always: serde_json::Value = serde_json::from_slice(&always.stdout).unwrap();
    assert_eq!(always["opening"], 1.0);
    assert!(always["macs"].as_f64() >= result["macs"].as_f64());
}

#[test]
fn sampled_evaluation_is_a_function_of_its_seed() {
    let evaluate = |seed: &str| {
        let (checkpoint, data) = (best(), &fixture().data);
        let output = train(&[
            "eval",
            "--checkpoint",
            path(&checkpoint),
            "--data",
            path(data),
            "--policy",
            "sample",
            "--seed",
            seed,
            "--json",
        ]);
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        result["macs"].as_f64().unwrap()
    };
    assert_eq!(evaluate("1"), evaluate("1"));
    assert_ne!(evaluate("1"), evaluate("2"));
}

#[test]
fn strategies_are_compared_side_by_side() {
    let (checkpoint, data) = (best(), &fixture().data);
    let compare = |more: &[&str]| {
        let arguments = ["eval", "--checkpoint", path(&checkpoint), "--data", path(data), "--strategies"];
        let output = train(&[&arguments, more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    let result: serde_json::Value = serde_json::from_slice(&compare(&["all", "--json"]).stdout).unwrap();
    let found: Vec<_> =
        result["strategies"].as_array().unwrap().iter().map(|s| s["strategy"].as_str().unwrap()).collect();
    let all = ["argmax", "always-open", "stochastic=5", "ensemble=5", "threshold=0.25", "threshold=0.75", "topk=4"];
    assert_eq!(found, all);
    let macs = |i: usize| result["strategies"][i]["macs"].as_f64().unwrap();
    assert!((macs(3) / macs(2) - 5.0).abs() < 1e-9, "an ensemble costs all its runs");
    assert!(result["strategies"][2]["deviation"]["macs"].as_f64().unwrap() > 0.0);
    assert!(result["strategies"][0]["deviation"].is_null());
    let text = stdout(&compare(&["argmax, stochastic=2,topk=3"]));
    for part in ["strategy", "argmax", "stochastic=2", "±", "37.5%", "of dense"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn what_gates_did_is_written_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let (report, checkpoint, data) = (folder.path().join("report"), best(), &fixture().data);
    let arguments = ["eval", "--checkpoint", path(&checkpoint), "--data", path(data), "--gate-report", path(&report)];
    assert!(train(&arguments).status.success());
    let images = fs::read_to_string(report.join("images.csv")).unwrap();
    assert_eq!(images.lines().count(), 21);
    assert!(images.contains("\ndisc/0000-"), "{images}");
    assert!(failure(&arguments, 1).contains("report exists; choose another folder for --gate-report"));
    // The run keeps its own.
    assert!(fixture().run.join("gates/gates.csv").is_file());
}

#[test]
fn a_calibrated_network_is_a_checkpoint_with_other_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let (out, checkpoint, data) = (folder.path().join("calibrated.safetensors"), best(), &fixture().data);
    let arguments =
        ["calibrate", "--checkpoint", path(&checkpoint), "--data", path(data), "--out", path(&out), "--batches", "6"];
    let output = train(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("averaged over 6 batches of up to 8 training images, gates by argmax"));
    let tensors = |path: &Path| trainer::Checkpoint::read_weights(path).unwrap().tensors;
    let mut moved = 0;
    for ((name, before), (_, after)) in tensors(&checkpoint).into_iter().zip(tensors(&out)) {
        let statistic = name.ends_with("running_mean") || name.ends_with("running_var");
        assert!(statistic || before == after, "{name}");
        moved += usize::from(before != after);
    }
    assert!(moved > 40, "{moved} statistics moved");
    assert!(train(&["eval", "--checkpoint", path(&out), "--data", path(data)]).status.success());
    assert!(failure(&arguments, 1).contains("calibrated.safetensors exists; choose another --out"));
    let missing = folder.path().join("no/such/folder.safetensors");
    let elsewhere = [&arguments[..6], &[path(&missing)]].concat();
    assert!(failure(&elsewhere, 1).contains("is not a folder, so --out cannot be written there"));
}

#[test]
fn inspect_knows_presets_and_checkpoints() {
    let text = stdout(&train(&["inspect", "--arch", "resnet50"]));
    assert!(text.contains("25,557,032") && text.contains("4.089 GMACs"), "{text}");
    let text = stdout(&train(&["inspect", path(&best())]));
    assert!(
        text.contains("layer, dependent") && text.contains("of 2 epochs") && text.contains("images of 32×32"),
        "{text}"
    );
    let json: serde_json::Value =
        serde_json::from_slice(&train(&["inspect", "--arch", "resnet101", "--json"]).stdout).unwrap();
    assert_eq!(json["parameters"], 44_549_160);
}

#[test]
fn predict_names_classes_and_cost() {
    let image = fs::read_dir(fixture().data.join("val/disc")).unwrap().next().unwrap().unwrap().path();
    let output = train(&["predict", "--checkpoint", path(&best()), path(&image), "--json", "--top", "3"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let image_result = &result["images"][0];
    let classes = image_result["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 3);
    assert!(classes[0]["probability"].as_f64() >= classes[1]["probability"].as_f64());
    assert_eq!(image_result["gates"], 8);
    // A bad image does not hide the good ones, and the exit code tells.
    let output = train(&["predict", "--checkpoint", path(&best()), path(&image), "/nowhere.jpg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("of 8 gates open") && stderr(&output).contains("cannot use /nowhere.jpg"));
}

#[test]
fn the_data_commands_draw_list_and_check() {
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set");
    let output = train(&["data", "synth", path(&set), "--train", "3", "--val", "1"]);
    assert!(stdout(&output).contains("drew 30 training and 10 validation images of 10 classes"));
    assert!(failure(&["data", "synth", path(&set)], 1).contains("exists; choose another folder"));
    let index: serde_json::Value =
        serde_json::from_slice(&train(&["data", "index", path(&set), "--json"]).stdout).unwrap();
    assert_eq!((&index["train"], &index["classes"][2]["class"]), (&30.into(), &"crescent".into()));
    let output = train(&["data", "check", path(&set)]);
    assert!(output.status.success() && stdout(&output).contains("40 images, 0 cannot be used"));
    fs::write(set.join("val/disc/0000-bad.jpg"), b"").unwrap();
    let output = train(&["data", "check", path(&set)]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("0000-bad.jpg: the file is empty"));
    // Balance and sizes at a glance: the bad file counts in its class.
    assert!(text.contains("validation: 11 images of 10 classes"), "{text}");
    assert!(text.contains("images per class: 1 (arrow) to 2 (disc), 1 in the median"), "{text}");
    assert!(text.contains("training: 30 images of 10 classes") && text.contains("shorter side, pixels"), "{text}");
    let output = train(&["data", "check", path(&set), "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["images"], &json["splits"]["validation"]["bad"]), (&41.into(), &1.into()));
    assert_eq!(json["splits"]["training"]["images_per_class"], serde_json::json!(vec![3; 10]));
    // One split alone, as a folder of class folders.
    assert_eq!(train(&["data", "check", path(&set.join("train"))]).status.code(), Some(0));
}

#[test]
fn the_loaders_benchmark_counts_what_it_loads() {
    let data = path(&fixture().data);
    let arguments = ["bench", "loader", data, "--batch", "4", "--image-size", "32", "--resize", "36", "--rounds", "2"];
    let output = train(&[&arguments[..], &["--images", "50", "--json"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let variants = json["variants"].as_array().unwrap();
    let names: Vec<_> = variants.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["training", "evaluation", "decoding alone"]);
    for one in variants {
        assert!(one["images"].as_u64().unwrap() >= 50 && one["bad"] == 0, "{one}");
        assert_eq!(one["turns"].as_array().unwrap().len(), 2);
    }
    let shares = &variants[0]["time_shares"];
    let sum: f64 = ["read", "decode", "prepare"].iter().map(|part| shares[part].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{shares}");
    let printed = stdout(&train(&arguments));
    assert!(printed.contains("images/s, median") && printed.contains("of batches ahead"), "{printed}");
}

#[test]
fn every_command_helps_with_an_example() {
    for command in [
        &["fit"][..],
        &["eval"],
        &["calibrate"],
        &["inspect"],
        &["predict"],
        &["data", "synth"],
        &["data", "index"],
        &["data", "check"],
        &["bench", "loader"],
        &["bench", "step"],
        &["bench", "inference"],
    ] {
        let output = train(&[command, &["--help"]].concat());
        assert!(output.status.success() && stdout(&output).contains("Example"), "{command:?}");
    }
}

#[test]
fn wrong_usage_exits_with_two_and_says_what_to_do() {
    let Fixture { config, data, .. } = fixture();
    let (config, data) = (path(config), path(data));
    for (arguments, part) in [
        (&["fit"][..], "--config"),
        (&["fit", "--config", config], "Give --data DIR"),
        (&["fit", "--config", config, "--data", data, "--set", "epochs"], "expected KEY=VALUE"),
        (
            &["fit", "--config", config, "--data", data, "--set", "train.epoch=3"],
            "1 fault in what the command line sets:\n  --set train.epoch: there is no such key; did you mean train.epochs?",
        ),
        (
            &["fit", "--config", config, "--data", data, "--set", "train.epochs=0"],
            "train.epochs: expected 1 to 1,000,000 epochs",
        ),
        (&["fit", "--resume"], "--out DIR"),
        (&["eval", "--data", data], "Give --checkpoint FILE, or --arch NAME"),
        (&["eval", "--data", data, "--arch", "resnet18"], "give --weights FILE too"),
        (
            &["eval", "--data", data, "--checkpoint", "a", "--policy", "argmin"],
            "expected argmax, always-open, sample, threshold=P with P from 0 to 1, or topk=K",
        ),
        (
            &["eval", "--data", data, "--checkpoint", path(&best()), "--strategies", "argmax,vote"],
            "unknown strategy 'vote'; expected argmax",
        ),
        (
            &["eval", "--data", data, "--checkpoint", "a", "--strategies", "all", "--gate-report", "b"],
            "cannot be used with",
        ),
        (&["calibrate", "--data", data, "--checkpoint", "a"], "--out <FILE>"),
        (&["eval", "--data", data, "--checkpoint", "a", "--device", "gpu"], "expected auto, cpu, cuda or cuda:N"),
        (&["inspect"], "--arch NAME"),
        (&["inspect", "--arch", "vgg16"], "unknown architecture 'vgg16'"),
    ] {
        let message = failure(arguments, 2);
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
}

#[test]
fn what_fails_exits_with_one_and_names_the_file() {
    let Fixture { config, data, run, .. } = fixture();
    let (config, data) = (path(config), path(data));
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let text = folder.path().join("text.pth");
    fs::write(&text, "not weights").unwrap();
    let cut = folder.path().join("cut.safetensors");
    fs::write(&cut, &fs::read(best()).unwrap()[..5000]).unwrap();
    let out = folder.path().join("out");
    for (arguments, part) in [
        (&["fit", "--config", config, "--data", "/nowhere"][..], "cannot read /nowhere"),
        (&["fit", "--config", config, "--data", path(&empty)], "has no folder 'train'"),
        (
            &["fit", "--config", config, "--data", data, "--weights", path(&text)],
            "text.pth is not a readable weights file",
        ),
        (
            &["fit", "--config", config, "--data", data, "--weights", path(&best()), "--set", "network.arch=resnet34"],
            "does not fit resnet34",
        ),
        (&["eval", "--checkpoint", path(&cut), "--data", data], "cut.safetensors is not a readable weights file"),
        (&["eval", "--checkpoint", "/nowhere.safetensors", "--data", data], "cannot read /nowhere.safetensors"),
        (&["eval", "--checkpoint", path(&best()), "--data", path(&empty)], "empty holds no images"),
        (&["eval", "--checkpoint", path(&best()), "--data", path(run)], "run holds no images"),
        (&["inspect", path(&text)], "text.pth is not a readable weights file"),
    ] {
        let fits = arguments[0] == "fit";
        let arguments = if fits { [arguments, &["--out", path(&out)]].concat() } else { arguments.to_vec() };
        let message = failure(&arguments, 1);
        assert!(message.matches("os error").count() <= 1, "the cause is told once: {message}");
        assert!(message.contains(part), "{arguments:?}: {message}");
        assert!(!out.exists(), "nothing half-written");
    }
    let message = failure(&["fit", "--config", config, "--data", data, "--out", path(run)], 1);
    assert!(message.contains("exists; choose another --out, or continue that run with --resume"), "{message}");
}

/// A run of 40 epochs that was interrupted by `signal` after its first checkpoint.
#[cfg(unix)]
fn interrupted_run(out: &Path, signal: &str) {
    let Fixture { config, data, .. } = fixture();
    let arguments =
        ["fit", "--config", path(config), "--data", path(data), "--out", path(out), "--set", "train.epochs=40"];
    let mut child = program()
        .args(arguments)
        .args(["--device", "cpu"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !out.join("checkpoints/last.safetensors").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let advice = format!("go on with: {} fit --resume --out {} --device cpu", env!("CARGO_BIN_EXE_train"), path(out));
    assert!(stderr(&output).contains(&advice), "{}", stderr(&output));
}

#[cfg(unix)]
fn steps(out: &Path) -> u64 {
    let output = train(&["inspect", path(&out.join("checkpoints/last.safetensors")), "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    value["training"]["steps"].as_u64().unwrap()
}

#[cfg(unix)]
#[test]
fn a_full_disk_keeps_the_old_checkpoint_and_names_the_size() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    interrupted_run(&out, "-INT");
    let last = out.join("checkpoints/last.safetensors");
    let before = fs::read(&last).unwrap();
    // A limit on file sizes stands in for a full disk: writing past it fails in the same way.
    let script = format!(
        "trap '' XFSZ; ulimit -f 20000; exec {} fit --resume --out {} --device cpu",
        env!("CARGO_BIN_EXE_train"),
        path(&out)
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.contains("cannot write") && message.contains(".safetensors (") && message.contains("bytes)"),
        "{message}"
    );
    assert!(message.contains("free some space, then continue with --resume"), "{message}");
    assert!(fs::read(&last).unwrap() == before, "the old checkpoint is still there");
    let names: Vec<_> = fs::read_dir(out.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "no scratch file stays: {names:?}");
}

#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_resume_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    interrupted_run(&out, "-TERM");
    let before = steps(&out);
    assert!(before > 0);
    let message = failure(&["fit", "--resume", "--out", path(&out), "--set", "train.epochs=3"], 1);
    assert!(message.contains("train.epochs is 3 and was 40"), "{message}");
    let mut child = program()
        .args(["fit", "--resume", "--out", path(&out), "--device", "cpu"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while steps(&out) == before {
        assert!(child.try_wait().unwrap().is_none(), "the resumed run ended early");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn published_weights_reach_their_accuracy() {
    let shared = repository().join("../shared");
    let (weights, images) = (shared.join("weights/resnet20-12fca82f.th"), shared.join("data/cifar10-jpeg.tar"));
    if !weights.exists() || !images.exists() {
        skip(&format!("no CIFAR-10 weights and images in {}", shared.display()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unpacked = Command::new("tar")
        .args(["-xf", path(&images), "-C", path(folder.path()), "--wildcards", "*test/*"])
        .status()
        .unwrap();
    assert!(unpacked.success());
    let data = folder.path().join("test");
    let arguments = ["eval", "--arch", "cifar-resnet20", "--weights", path(&weights), "--data", path(&data), "--json"];
    let result: serde_json::Value = serde_json::from_slice(&train(&arguments).stdout).unwrap();
    // PyTorch measures 81.03 % on these files.
    assert!((result["top1"].as_f64().unwrap() - 0.8103).abs() < 0.001, "{}", result["top1"]);
}

#[test]
fn weights_are_fetched_checked_and_never_overwritten() {
    let script = repository().join("scripts/fetch_weights.sh");
    let folder = tempfile::tempdir().unwrap();
    let (mirror, target) = (folder.path().join("mirror"), folder.path().join("weights"));
    fs::create_dir(&mirror).unwrap();
    fs::create_dir(&target).unwrap();
    let fetch = |name: &str| {
        let mut command = Command::new(&script);
        command.args([name, path(&target)]).env("WEIGHTS_URL", format!("file://{}", path(&mirror)));
        let output = command.output().unwrap();
        (output.status.code(), stderr(&output))
    };
    let (code, message) = fetch("vgg16");
    assert_eq!(code, Some(2));
    assert!(message.contains("no weights are known for 'vgg16'; known are resnet18, resnet34"), "{message}");
    assert_eq!(fetch("resnet50").0, Some(1), "the mirror has no such file");
    fs::write(mirror.join("resnet50-0676ba61.pth"), "something else").unwrap();
    let (code, message) = fetch("resnet50");
    assert_eq!(code, Some(1));
    assert!(message.contains("SHA-256 does not begin with 0676ba61; nothing was written"), "{message}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    fs::write(target.join("resnet50.pth"), "mine").unwrap();
    assert!(fetch("resnet50").1.contains("exists and is another file"));
    assert_eq!(fs::read_to_string(target.join("resnet50.pth")).unwrap(), "mine");
}

#[test]
fn a_classifier_for_other_classes_is_fresh_and_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.safetensors");
    let network = arch::Network::build(&arch::NetSpec::preset("resnet18", 10).unwrap(), tch::Device::Cpu, 1).unwrap();
    let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    fs::write(&file, arch::state_dict::safetensors::to_bytes(tensors, ("k", String::new())).unwrap()).unwrap();
    let output = train(&["inspect", "--arch", "resnet18", "--weights", path(&file), "--num-classes", "7"]);
    assert!(stdout(&output).contains("resnet18, 7 classes"));
    assert!(stderr(&output).contains("the classifier is fresh:") && stderr(&output).contains("has 10 classes"));
}

#[test]
fn the_weights_of_torchvision_are_evaluated_and_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.safetensors");
    let spec = arch::NetSpec::preset("resnet18", 10).unwrap();
    let network = arch::Network::build(&spec, tch::Device::Cpu, 1).unwrap();
    let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    fs::write(&file, arch::state_dict::safetensors::to_bytes(tensors, ("k", String::new())).unwrap()).unwrap();
    let (file, data) = (path(&file), path(&fixture().data));
    let output = train(&["eval", "--arch", "resnet18", "--weights", file, "--data", data, "--json"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&result["images"], &result["opening"]), (&20.into(), &1.0.into()));
    let text = stdout(&train(&["inspect", "--arch", "resnet18", "--weights", file]));
    assert!(text.contains("resnet18, 10 classes"), "{text}");
    assert!(failure(&["inspect", file], 1).contains("--arch NAME --weights FILE"));
    assert!(
        failure(&["eval", "--arch", "resnet18", "--weights", path(&best()), "--data", data], 2)
            .contains("is a checkpoint; give it as --checkpoint")
    );
}
