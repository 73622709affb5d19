//! Networks that gates were cut from, and what repair makes of them.

use crate::calls::{done, failure, json, stderr, stdout, train};
use crate::fixture::sample_set;
use crate::support::path;
use std::fs;
use std::path::Path;

/// Single filters of a small network, whose gates freeze at once.
const FILTERS: &str = "[network]\narch = \"cifar-resnet20\"\n[data]\nimage_size = 32\nresize = 32\n\
     [gates]\ngranularity = 1\nsites = [\"between\"]\nkind = \"independent\"\nweighting = \"network\"\n\
     loss = \"batch\"\ntarget = 0.6\nstart = \"norms\"\nfreeze_after = 0\n[train]\nbatch_size = 10\n";

/// A run of it in `folder`/run; gives what it printed.
fn cut(folder: &Path, keys: &[&str]) -> String {
    let (config, out) = (folder.join("config.toml"), folder.join("run"));
    fs::write(&config, FILTERS).unwrap();
    let fit = ["fit", "--config", path(&config), "--data", path(sample_set()), "--out", path(&out)];
    let set = keys.iter().flat_map(|&key| ["--set", key]);
    let output = train(&fit.into_iter().chain(set).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", stderr(&output));
    stderr(&output) + &stdout(&output)
}

#[test]
fn a_cut_network_is_told_in_the_words_of_the_one_it_was_cut_from() {
    let folder = tempfile::tempdir().unwrap();
    let told = cut(folder.path(), &["train.epochs=1"]);
    let run = folder.path().join("run");
    assert!(told.contains("the network is cut: ") && told.contains("of 40.6 MMACs"), "{told}");
    let next = told.lines().find(|line| line.starts_with("next")).unwrap();
    assert!(next.contains(" export --checkpoint ") && next.contains("--out network.onnx"), "{next}");
    let best = run.join("checkpoints/best.safetensors");
    let found = json(&["eval", "--checkpoint", path(&best), "--data", path(sample_set())]);
    let share = found["macs"].as_f64().unwrap() / found["macs_dense"].as_f64().unwrap();
    assert!((0.57..=0.6).contains(&share), "{found:#}");
    assert_eq!(found["gates"].as_array().unwrap().len(), 336);
    // What it takes is a share of what the whole network takes.
    let timed = json(&[
        "bench",
        "inference",
        "--checkpoint",
        path(&best),
        "--runtime",
        "libtorch",
        "--batch",
        "1",
        "--rounds",
        "2",
    ]);
    let rows = timed["timings"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["form"].as_str().unwrap()).collect::<Vec<_>>(), ["dense", "pruned"]);
    assert!((rows[1]["macs_share"].as_f64().unwrap() - share).abs() < 1e-9, "{timed:#}");
    let pruned = folder.path().join("pruned.safetensors");
    let message = failure(&["prune", "--checkpoint", path(&best), "--out", path(&pruned)], 1);
    assert!(message.contains("gates were cut out of it when they froze"), "{message}");
}

#[test]
fn pruned_networks_are_repaired_over_images_without_labels() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    cut(folder.path(), &["train.epochs=0", "gates.cut_when_frozen=false"]);
    let masked = at("run").join("checkpoints/last.safetensors");
    // Loose images of no class.
    let loose = at("loose");
    fs::create_dir(&loose).unwrap();
    for (number, image) in data::images_below(&sample_set().join("train")).unwrap().iter().enumerate() {
        fs::copy(image, loose.join(format!("{number}.jpg"))).unwrap();
    }
    let prune = ["prune", "--checkpoint", path(&masked), "--repair", "--repair-images", "30", "--batch-size", "8"];
    let mut off = Vec::new();
    for (name, images) in [("labeled", sample_set()), ("loose", loose.as_path())] {
        let out = at(&format!("{name}.safetensors"));
        let result = json(&[&prune[..], &["--data", path(images), "--out", path(&out)]].concat());
        let repaired = result["repaired"].as_array().unwrap();
        assert_eq!(repaired.len(), 9, "{result:#}");
        let of = |part: &str| repaired.iter().map(|block| block[part].as_f64().unwrap()).sum::<f64>();
        assert!(of("after") < of("before"), "{result:#}");
        off.push(of("after"));
    }
    assert!((off[0] - off[1]).abs() < 0.5 * off[0], "the same images but for their order: {off:?}");
    let text = done(&[&prune[..], &["--data", path(&loose), "--out", path(&at("text"))]].concat());
    assert!(text.contains("features off") && text.contains("layer3.2"), "{text}");
    let none = at("none");
    let message = failure(&["prune", "--checkpoint", path(&masked), "--repair", "--out", path(&none)], 2);
    assert!(message.contains("--data") && !none.exists(), "{message}");
}
