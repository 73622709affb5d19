//! Help, messages and exit codes: what is wrong is told, and nothing is half-written.

use crate::calls::{failure, stdout, train};
use crate::fixture::{Fixture, best, fixture};
use crate::support::path;
use std::fs;

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
            "train.epochs: expected at least 1; 0 is for gates that freeze before the first step",
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
