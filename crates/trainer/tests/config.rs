//! Configurations: what is read, and how every fault is told at once.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use trainer::Config;
use trainer::config::{ActivationLoss, Granularity, parse};

fn fault(text: &str) -> String {
    parse("run.toml", text, &[]).unwrap_err().to_string()
}

#[test]
fn shipped_configurations_are_valid_and_say_what_they_mean() {
    let configs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut count = 0;
    for entry in std::fs::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::read(&path, &[]).unwrap();
        assert_eq!(path.file_stem().unwrap().to_string_lossy(), config.train.name, "a run is named like its file");
        count += 1;
    }
    assert!(count >= 2);
}

#[test]
fn the_papers_recipe_gates_ten_blocks() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/resnet50-aig.toml");
    let config = Config::read(&path, &[]).unwrap();
    let spec = config.spec(1000).unwrap();
    assert_eq!(spec.gate_count(), 10, "16 blocks, six of them with target 1");
    assert_eq!((config.train.epochs, config.train.batch_size), (100, 256));
}

#[test]
fn a_configuration_survives_being_written_and_read() {
    let mut config =
        parse("x", "[gates]\ntarget = { from = 1.0, to = 0.5, epochs = 3 }\nloss = \"batch\"", &[]).unwrap();
    config.data.path = Some("/data/images".into());
    assert_eq!(config.gates.loss, ActivationLoss::Batch);
    assert_eq!(parse("x", &config.to_toml(), &[]).unwrap(), config);
}

#[test]
fn every_fault_is_told_with_its_key_and_line() {
    let text = "\
[network]
arch = \"resnet51\"

[train]
epoch = 3
batch_size = \"many\"
seed = -1

[data]
flip = 1.5
mean = [0.5, 0.5]

[gates]
target = 1.5
granularity = \"filtre\"

[colour]
a = 1
";
    let faults = fault(text);
    for part in [
        "run.toml has 9 faults",
        "line 2: network.arch: unknown architecture 'resnet51'; known are resnet18",
        "line 5: train.epoch: there is no such key; did you mean train.epochs?",
        "line 6: train.batch_size: invalid type: string \"many\", expected a whole number of at least 0",
        "line 7: train.seed: invalid value: integer `-1`, expected a whole number of at least 0",
        "line 10: data.flip: expected a probability from 0 to 1",
        "line 11: data.mean: invalid length 2, expected an array of length 3",
        "line 14: gates.target: expected a target from 0 to 1",
        "line 15: gates.granularity: unknown variant `filtre`, expected `none` or `layer`",
        "line 17: colour: there is no such key",
    ] {
        assert!(faults.contains(part), "{part} is not in:\n{faults}");
    }
}

#[test]
fn values_that_contradict_each_other_are_told() {
    let faults = fault("[data]\nimage_size = 224\nresize = 200\n[schedule]\nwarmup_epochs = 200");
    assert!(faults.contains("line 3: data.resize: expected data.image_size (224) to 8192 pixels"), "{faults}");
    assert!(faults.contains("line 5: schedule.warmup_epochs: expected no more than train.epochs"), "{faults}");
    let faults = fault("[gates]\ntarget = [1.0, 0.5]");
    assert!(faults.contains("expected one target for each of the 16 blocks, found 2"), "{faults}");
    let all_open = format!("[gates]\ntarget = [{}]", ["1.0"; 16].join(", "));
    assert!(fault(&all_open).contains("no gate is left"));
}

#[test]
fn text_that_is_no_toml_is_told_with_its_line() {
    let faults = fault("[train]\nepochs = \n");
    assert!(faults.starts_with("run.toml has 1 fault:\n  line 2: "), "{faults}");
}

#[test]
fn overrides_change_single_keys() {
    let set = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        parse("run.toml", "[train]\nepochs = 5", &pairs)
    };
    let config = set(&[("train.epochs", "7"), ("gates.granularity", "none"), ("gates.target", "[0.5, 1.0]")]).unwrap();
    assert_eq!((config.train.epochs, config.gates.granularity), (7, Granularity::None));
    let faults = set(&[("train.epochs", "soon"), ("train.speed", "9")]).unwrap_err().to_string();
    assert!(
        faults.contains("\n  train.epochs: invalid type: string \"soon\""),
        "no line, for it is not in the file: {faults}"
    );
    assert!(faults.contains("train.speed: there is no such key"));
}

#[test]
fn an_absent_file_is_named() {
    let error = Config::read("absent.toml".as_ref(), &[]).unwrap_err().to_string();
    assert!(error.contains("cannot read absent.toml"));
}
