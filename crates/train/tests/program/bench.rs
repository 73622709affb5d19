//! Benchmarks: what they time and count.

use crate::calls::{done, failure, json, stdout, train};
use crate::fixture::{best, sample_set};
use crate::support::{path, program};

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
fn the_loaders_benchmark_counts_what_it_loads() {
    let data = path(sample_set());
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
fn inference_is_timed_in_all_its_forms() {
    let arguments = ["bench", "inference", "--arch", "cifar-resnet20", "--batch", "1,2", "--rounds", "2"];
    let result = json(&[&arguments[..], &["--gates", "4", "--macs", "0.6"]].concat());
    let rows = result["timings"].as_array().unwrap();
    let value = |runtime: &str, form: &str, what: &str| -> f64 {
        let row = rows.iter().find(|row| row["runtime"] == runtime && row["form"] == form);
        row.unwrap_or_else(|| panic!("{form} in {runtime}"))[what].as_f64().unwrap()
    };
    for form in ["dense", "masked", "skipping", "pruned"] {
        let median = value("libtorch", form, "median_seconds");
        assert!(median > 0.0 && value("libtorch", form, "p95_seconds") >= median);
    }
    assert!((value("libtorch", "skipping", "macs_share") - 0.6).abs() < 0.02);
    assert!(value("torchscript", "pruned", "macs_share") < 0.7);
    for runtime in ["libtorch", "torchscript"] {
        assert_eq!(value(runtime, "dense", "time_share"), 1.0);
    }
    let text = done(&[&arguments[..], &["--gates", "layer", "--runtime", "torchscript"]].concat());
    assert!(text.contains("cifar-resnet20, gates layer, decided at random") && text.contains("time / MACs"), "{text}");
    assert!(!text.contains("libtorch"), "{text}");
}

#[test]
fn a_runtime_that_is_not_there_is_named() {
    let arguments = ["bench", "inference", "--arch", "cifar-resnet20", "--batch", "1", "--rounds", "1"];
    let missing = |more: &[&str]| {
        let all = [&arguments[..], more].concat();
        program().args(all).env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").output().unwrap()
    };
    let asked = missing(&["--runtime", "onnxruntime"]);
    let error = String::from_utf8_lossy(&asked.stderr);
    assert_eq!(asked.status.code(), Some(1));
    assert!(error.contains("ONNX Runtime cannot be used: ORT_DYLIB_PATH names /nowhere"), "{error}");
    // What was not asked for is left out.
    let all = missing(&[]);
    assert!(all.status.success() && String::from_utf8_lossy(&all.stderr).contains("left out: ONNX Runtime"));
    assert!(stdout(&all).contains("TorchScript") && !stdout(&all).contains("ONNX Runtime"));
}

#[test]
fn gates_look_at_the_images_of_a_folder() {
    let data = path(sample_set());
    let arguments = ["bench", "inference", "--arch", "cifar-resnet20", "--data", data];
    assert!(failure(&arguments, 2).contains("gates that decide at random look at nothing"));
    let checkpoint = best();
    let aligned = ["bench", "inference", "--checkpoint", path(&checkpoint), "--align", "8"];
    assert!(failure(&aligned, 2).contains("train prune cuts a checkpoint"));
    let layers = ["bench", "inference", "--arch", "cifar-resnet20", "--align", "8"];
    assert!(failure(&layers, 2).contains("--align is for gates of filters"));
    let arguments = ["bench", "inference", "--checkpoint", path(&checkpoint), "--data", data, "--batch", "2"];
    let text = done(&[&arguments[..], &["--rounds", "2", "--runtime", "libtorch"]].concat());
    assert!(text.contains("dense"), "{text}");
}
