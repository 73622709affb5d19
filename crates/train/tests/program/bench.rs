//! Benchmarks: what they time and count.

use crate::calls::{done, failure, json, stdout, train};
use crate::fixture::sample_set;
use crate::support::path;

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
    let share = |variant: &str, what: &str| -> f64 {
        rows.iter().find(|row| row["variant"] == variant).unwrap()[what].as_f64().unwrap()
    };
    for variant in ["dense", "masked", "skipping", "pruned", "pruned, exported", "pruned, exported and folded"] {
        assert!(
            share(variant, "median_seconds") > 0.0 && share(variant, "p95_seconds") >= share(variant, "median_seconds")
        );
    }
    assert!((share("skipping", "macs_share") - 0.6).abs() < 0.02);
    assert_eq!(share("dense", "time_share"), 1.0);
    let text = done(&[&arguments[..], &["--gates", "layer"]].concat());
    assert!(text.contains("cifar-resnet20, gates layer, decided at random") && text.contains("time / MACs"), "{text}");
}
