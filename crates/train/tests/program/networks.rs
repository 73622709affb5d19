//! What is done with a network that was trained: measuring, calibrating, inspecting, predicting.

use crate::calls::{failure, stderr, stdout, train};
use crate::fixture::{best, fixture};
use crate::support::path;
use std::fs;
use std::path::Path;

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
    assert_eq!(always["open_rate"], 1.0);
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
