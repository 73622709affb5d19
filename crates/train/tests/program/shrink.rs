//! A network made smaller in one command, several in another, and the pages about them.

use crate::calls::{done, failure, json, stderr, train};
use crate::fixture::sample_set;
use crate::support::path;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// A small network that has learned next to nothing, without gates.
fn dense() -> &'static Path {
    static DENSE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = DENSE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (config, out) = (folder.path().join("config.toml"), folder.path().join("run"));
        let keys = "[network]\narch = \"cifar-resnet20\"\n[data]\nimage_size = 32\nresize = 32\n\
             [gates]\ngranularity = \"none\"\n[train]\nepochs = 1\nbatch_size = 8\n";
        fs::write(&config, keys).unwrap();
        done(&["fit", "--config", path(&config), "--data", path(sample_set()), "--out", path(&out)]);
        (folder, out.join("checkpoints/best.safetensors"))
    });
    path
}

/// The options of a shrink in this program's own libtorch, which is always there.
fn shrink<'a>(out: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let options = ["shrink", "--checkpoint", path(dense()), "--data", path(sample_set()), "--device", "cpu"];
    let runs = ["--runtime", "libtorch", "--batch", "2", "--set", "train.batch_size=8", "--out", path(out)];
    [&options[..], &runs[..], more].concat()
}

fn plan(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("plan.json")).unwrap()).unwrap()
}

#[test]
fn a_network_is_shrunk_without_training_and_its_files_are_what_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("small");
    let asked = shrink(&out, &["--macs", "0.6", "--no-train"]);
    // Looking ahead measures the dense network alone, and tells what is in reach.
    let ahead = done(&[&asked[..], &["--dry-run"]].concat());
    assert!(ahead.contains("reachable: ") && ahead.contains("40.6 MMACs"), "{ahead}");
    assert!(plan(&out)["learned"].is_null() && !out.join("run").exists());
    let measured = fs::metadata(out.join("dense.safetensors")).unwrap().modified().unwrap();

    let found = json(&asked);
    let now = fs::metadata(out.join("dense.safetensors")).unwrap().modified().unwrap();
    assert_eq!(now, measured, "a stage that is done is not done again");
    let of = |side: &str, what: &str| found[side][what].as_f64().unwrap();
    let share = of("small", "macs") / of("dense", "macs");
    assert!((0.55..=0.6).contains(&share), "{found:#}");
    assert!(of("small", "parameters") < of("dense", "parameters") && of("small", "bytes") < of("dense", "bytes"));
    assert!(found["small"]["time"]["median"].as_f64().unwrap() > 0.0);
    assert!(found["differences"].as_array().unwrap().iter().any(|pair| pair[0] == "TorchScript"), "{found:#}");
    for (runtime, difference) in found["differences"].as_array().unwrap().iter().map(|pair| (&pair[0], &pair[1])) {
        assert!(difference.as_f64().unwrap() < 1e-4, "{runtime}: {difference}");
    }
    // The same as another command says of the network that was exported.
    let checkpoint = out.join(plan(&out)["learned"]["found"]["checkpoint"].as_str().unwrap());
    let evaluated = json(&["eval", "--checkpoint", path(&checkpoint), "--data", path(sample_set())]);
    assert!((evaluated["top1"].as_f64().unwrap() - of("small", "top1")).abs() < 0.051, "one of twenty images");
    assert_eq!(evaluated["macs"], found["small"]["macs"]);
    assert!(out.join("network.onnx").exists() && out.join("network.check.pt").exists());

    // Done once, it is told again, not done again.
    let written = fs::metadata(out.join("network.onnx")).unwrap().modified().unwrap();
    assert_eq!(json(&asked), found);
    assert_eq!(fs::metadata(out.join("network.onnx")).unwrap().modified().unwrap(), written);
    let text = done(&asked);
    assert!(text.contains("top-1") && text.contains("libtorch") && text.contains("report.html"), "{text}");
    // A goal that is missed is an exit code; the files stay.
    let missed = train(&[&asked[..], &["--min-top1", "1.0"]].concat());
    assert_eq!(missed.status.code(), Some(1));
    assert!(stderr(&missed).contains("less than the 100.0% of --min-top1"), "{}", stderr(&missed));
    assert!(out.join("network.onnx").exists());

    let other = failure(&shrink(&out, &["--macs", "0.5", "--no-train"]), 1);
    assert!(other.contains("was begun with a budget of 60% of the MACs, and not 50% of the MACs"), "{other}");
    fs::write(out.join("network.onnx"), "something else").unwrap();
    let changed = failure(&asked, 1);
    assert!(changed.contains("network.onnx is not there, or not what the stage before left"), "{changed}");
}

#[test]
fn what_cannot_be_shrunk_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("small");
    let share = failure(&shrink(&out, &["--macs", "1.5"]), 2);
    assert!(share.contains("--macs: expected a share between 0 and 1"), "{share}");
    let both = failure(&shrink(&out, &["--macs", "0.5", "--time", "0.5"]), 2);
    assert!(both.contains("cannot be used with"), "{both}");
    let key = failure(&shrink(&out, &["--macs", "0.5", "--set", "gates.tarket=1"]), 2);
    assert!(key.contains("gates.tarket"), "{key}");
    // Images of other classes than the network knows.
    let images = folder.path().join("images");
    for split in ["train", "val"] {
        let class = images.join(split).join("unknown");
        fs::create_dir_all(&class).unwrap();
        let some = data::images_below(&sample_set().join(split)).unwrap();
        fs::copy(&some[0], class.join("0.jpg")).unwrap();
    }
    let arguments = ["shrink", "--checkpoint", path(dense()), "--data", path(&images), "--macs", "0.5"];
    let classes = failure(&[&arguments[..], &["--out", path(&out)]].concat(), 1);
    assert!(classes.contains("unknown"), "{classes}");
    // A folder of something else.
    let taken = folder.path().join("thesis");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("thesis.tex"), "").unwrap();
    let refused = failure(&shrink(&taken, &["--macs", "0.5"]), 1);
    assert!(refused.contains("was not begun by this command; choose another --out"), "{refused}");
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);
    assert!(!out.exists());

    // A budget below what any width leaves, said before training.
    let unreachable = failure(&shrink(&out, &["--macs", "0.001", "--no-train"]), 2);
    assert!(unreachable.contains("cannot be reached"), "{unreachable}");
    assert!(!out.join("run").exists());
}

#[test]
fn a_sweep_shares_what_it_measures_and_can_be_added_to() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sweep");
    let sweep = |budgets: &'static str| {
        let options = ["sweep", "--checkpoint", path(dense()), "--data", path(sample_set()), "--device", "cpu"];
        let runs = ["--runtime", "libtorch", "--set", "train.batch_size=8", "--no-train", "--macs", budgets];
        train(&[&options[..], &runs[..], &["--out", path(&out)]].concat())
    };
    let first = sweep("0.8,0.6");
    assert!(first.status.success(), "{}", stderr(&first));
    let told = stderr(&first);
    assert_eq!(told.matches("measuring the dense network").count(), 1, "{told}");
    let more = sweep("0.8,0.6,0.4");
    assert!(more.status.success(), "{}", stderr(&more));
    assert_eq!(stderr(&more).matches("learning what to keep").count(), 1, "two are done: {}", stderr(&more));
    let csv = fs::read_to_string(out.join("sweep.csv")).unwrap();
    let shares: Vec<f64> = csv
        .lines()
        .skip(1)
        .map(|line| {
            let cells: Vec<f64> = line.split(',').skip(4).take(2).map(|cell| cell.parse().unwrap()).collect();
            cells[0] / cells[1]
        })
        .collect();
    assert!(shares.len() == 3 && shares.windows(2).all(|pair| pair[0] > pair[1]), "{csv}");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("macs-0.4") && page.contains("id=\"pareto-macs\""), "all runs are on the page");
    assert!(out.join("figures/pareto-macs.svg").exists() && out.join("macs-0.6/report.html").exists());
}

#[test]
fn a_page_loads_nothing_and_says_names_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    // Class names are text, whatever they look like.
    let images = folder.path().join("images");
    for split in ["train", "val"] {
        for (class, name) in ["arrow", "disc"].into_iter().zip(["<b>arrow", "R&D \"disc\""]) {
            let target = images.join(split).join(name);
            fs::create_dir_all(&target).unwrap();
            for (number, image) in data::images_below(&sample_set().join(split).join(class)).unwrap().iter().enumerate()
            {
                fs::copy(image, target.join(format!("{number}.jpg"))).unwrap();
            }
        }
    }
    let (config, out) = (folder.path().join("config.toml"), folder.path().join("run"));
    let keys = "[network]\narch = \"cifar-resnet20\"\n[data]\nimage_size = 32\nresize = 32\n\
         [gates]\ngranularity = \"layer\"\nkind = \"dependent\"\n[train]\nepochs = 2\nbatch_size = 4\nlog_every = 1\n";
    fs::write(&config, keys).unwrap();
    done(&["fit", "--config", path(&config), "--data", path(&images), "--out", path(&out)]);
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(!page.contains("<b>arrow") && page.contains("&lt;b&gt;arrow"), "a name is no markup");
    for loads in ["src=\"http", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(loads), "{loads}");
    }
    assert!(page.len() < 5_000_000 && page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
    for figure in ["loss", "top1", "learning-rate", "classes"] {
        assert!(page.contains(&format!("id=\"{figure}\"")), "{figure} is on the page");
        let svg = fs::read_to_string(out.join("figures").join(figure).with_extension("svg")).unwrap();
        assert!(svg.starts_with("<svg xmlns") && svg.contains("<title>"), "{svg}");
    }
    // A page of several runs is one of its own, which is not written over.
    let compared = folder.path().join("compared.html");
    let both = ["report", path(&out), path(&out), "--out", path(&compared)];
    assert!(failure(&both[..3], 2).contains("give --out FILE"));
    done(&both);
    assert!(failure(&both, 1).contains("compared.html exists"));
    let empty = failure(&["report", path(folder.path())], 1);
    assert!(empty.contains("there is no run in it, or none that was saved yet"), "{empty}");
}
