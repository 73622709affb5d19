//! Runs: what they print and leave, and what a dry run tells of them.

use crate::calls::{failure, stderr, stdout, train};
use crate::fixture::{Fixture, best, fixture};
use crate::support::path;
use std::fs;

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
