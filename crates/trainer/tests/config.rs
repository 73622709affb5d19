//! Configurations: what is read, and how every fault is told at once.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use trainer::Config;
use trainer::config::{ActivationLoss, Granularity, parse};

fn fault(text: &str) -> String {
    parse("run.toml", text, &[]).unwrap_err().to_string()
}

#[test]
fn shipped_configurations_are_valid_and_say_what_they_mean() {
    let configs = reference::repository().join("configs");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::read(&path, &[]).unwrap();
        assert_eq!(path.file_stem().unwrap().to_string_lossy(), config.train.name, "a run is named like its file");
        names.push(config.train.name);
    }
    for network in ["resnet50", "resnet101", "mobilenetv2", "cifar-resnet20", "cifar-resnet56", "cifar-resnet110"] {
        let layer = if network.starts_with("resnet") { "aig" } else { "layer" };
        for gates in ["filter", layer] {
            for form in ["", "-paper"] {
                assert!(names.contains(&format!("{network}-{gates}{form}")), "{network}-{gates}{form}");
            }
        }
    }
}

#[test]
fn every_configuration_trains_the_dense_network_too() {
    let dense = [("gates.granularity".to_owned(), "none".to_owned())];
    for entry in std::fs::read_dir(reference::repository().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::read(&path, &dense).unwrap_or_else(|faults| panic!("{}: {faults}", path.display()));
        assert_eq!(config.spec(10).unwrap().gate_count(), 0, "{}", path.display());
    }
}

#[test]
fn the_settings_that_make_suggests_to_try_things_fit_every_configuration() {
    let root = reference::repository();
    let makefile = std::fs::read_to_string(root.join("Makefile")).unwrap();
    let settings = |name: &str| -> Vec<(String, String)> {
        let line = makefile.lines().find_map(|line| line.strip_prefix(&format!("{name} := "))).unwrap();
        let pairs = line.split("--set ").skip(1).map(|pair| pair.trim().split_once('=').unwrap());
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    for entry in std::fs::read_dir(root.join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let mut overrides = settings("TRY");
        let paper = path.file_stem().unwrap().to_string_lossy().ends_with("-paper");
        overrides.extend(settings(if paper { "TRY_PAPER" } else { "TRY_BUDGET" }));
        assert_eq!(Config::read(&path, &overrides).unwrap().train.epochs, 1, "{}", path.display());
    }
}

#[test]
fn the_papers_recipe_gates_ten_blocks() {
    let path = reference::repository().join("configs/resnet50-aig-paper.toml");
    let config = Config::read(&path, &[]).unwrap();
    let spec = config.spec(1000).unwrap();
    assert_eq!(spec.gate_count(), 10, "16 blocks, six of them with target 1");
    assert_eq!((config.train.epochs, config.train.batch_size), (100, 256));
}

#[test]
fn granularities_are_names_numbers_or_one_size_per_place() {
    // Filters per gate in the last stage: 512 channels between, 2048 out, one or two groups of each
    // site open.
    let sites = |gates: &str| {
        let spec = parse("x", &format!("[gates]\n{gates}"), &[]).unwrap().spec(10).unwrap();
        let last = spec.blocks.last().unwrap().clone();
        last.gates.iter().map(|site| (site.site.to_string(), site.count())).collect::<Vec<_>>()
    };
    let expected = |counts: [(&str, usize); 4]| counts.map(|(site, count)| (site.to_owned(), count)).to_vec();
    let low = [("input", 15), ("between1", 7), ("between2", 7), ("output", 15)];
    assert_eq!(sites("granularity = \"low\""), expected(low));
    let explicit = [("input", 128), ("between1", 32), ("between2", 32), ("output", 64)];
    assert_eq!(sites("granularity = { input = 16, between = 16, output = 32 }"), expected(explicit));
    let uniform = [("input", 253), ("between1", 61), ("between2", 61), ("output", 253)];
    assert_eq!(sites("granularity = 8\nfixed_open = 3"), expected(uniform));
    assert_eq!(sites("granularity = 8\nsites = [\"output\"]"), [("output".to_owned(), 256)]);
    for (gates, part) in [
        ("granularity = 0", "gates.granularity: expected at least 1 filter per gate"),
        ("granularity = 8\nsites = []", "gates.sites: expected at least one of input"),
        ("granularity = 8\nsites = [\"middle\"]", "gates.sites: unknown variant `middle`"),
        ("granularity = \"low\"\nfixed_open = 99", "no group is left to gate"),
        ("granularity = { input = 16 }", "gates.granularity: expected \"none\""),
        ("granularity = { input = 16, between = 8, output = 16, projection = 4 }", "gates.granularity: expected"),
        ("granularity = 8\nfixed_opn = 3", "did you mean gates.fixed_open?"),
        ("weight_decay = { over_gates = 1.0, floor = 2 }", "gates.weight_decay: expected a number"),
        ("weight_decay = { over_gate = 1.0 }", "gates.weight_decay: expected a number, or { over_gates = 40.0 }"),
        ("temperature = { from = 1.0, to = 0.0, epochs = 3 }", "gates.temperature: expected numbers above 0"),
        ("loss_factor = { from = -1.0, to = 1.0, epochs = 3 }", "gates.loss_factor: expected numbers of at least 0"),
    ] {
        let faults = fault(&format!("[gates]\n{gates}"));
        assert!(faults.contains(part), "{gates}: {faults}");
    }
}

#[test]
fn the_papers_decay_of_gates_is_shared_among_them() {
    let config = parse("x", "[gates]\nweight_decay = { over_gates = 40.0 }", &[]).unwrap();
    assert_eq!(config.gates.weight_decay.value(1e-4, 1000), 40.0 * 1e-4 / 1000.0);
    assert_eq!(Config::default().gates.weight_decay.value(1e-4, 1000), 0.0);
}

#[test]
fn a_configuration_survives_being_written_and_read() {
    let mut config = parse(
        "x",
        "[gates]\ntarget = { from = 1.0, to = 0.5, epochs = 3 }\nloss = \"batch\"\nweighting = \"macs\"\n\
             granularity = { input = 16, between = 8, output = 16 }\nweight_decay = { over_gates = 40.0 }\n\
             temperature = { from = 1.0, to = 0.5, start = 2, epochs = 3, shape = \"cosine\" }\nfixed_open = 1",
        &[],
    )
    .unwrap();
    config.data.path = Some("/data/images".into());
    assert_eq!(config.gates.loss, ActivationLoss::Batch);
    assert_eq!(parse("x", &config.to_toml().unwrap(), &[]).unwrap(), config);
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

[color]
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
        "line 15: gates.granularity: expected \"none\", \"layer\", \"low\", \"medium\", \"high\", a number of filters per gate",
        "line 17: color: there is no such key",
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
    let faults = fault(
        "[gates]\nfreeze_after = 3\npolarization = -1.0\nstart_spread = -2\n[train]\nepochs = 2\npolicy = \"sample\"",
    );
    for part in [
        "line 2: gates.freeze_after: expected an epoch from 0 to train.epochs (2)",
        "line 3: gates.polarization: expected a number of at least 0",
        "line 4: gates.start_spread: expected a number of at least 0",
        "line 7: train.policy: gates.freeze_after freezes gates for argmax; expected \"argmax\"",
    ] {
        assert!(faults.contains(part), "{part} is not in:\n{faults}");
    }
    assert!(fault("[gates]\nfreeze_after = 0").contains("new gates are all alike"));
    for (text, part) in [
        ("freeze_after = 1\ntarget = [1.0, 0.5]", "expected one target for all blocks"),
        ("freeze_after = 1\ntarget = { from = 1.0, to = 0.5, epochs = 2 }", "expected a ramp that ends before"),
        ("freeze_after = 1\n[train]\ncalibrate_batches = 3", "train.calibrate_batches: statistics estimated anew"),
        ("weighting = \"network\"", "gates.loss: gates.weighting = \"network\" is a target for all gates together"),
        ("weighting = \"network\"\nloss = \"batch\"\ntarget = [0.5]", "expected one target for all blocks"),
    ] {
        let faults = fault(&format!("[gates]\n{text}"));
        assert!(faults.contains(part), "{part} is not in:\n{faults}");
    }
    assert!(parse("x", "[gates]\nfreeze_after = 0\nstart = \"taylor\"", &[]).is_ok());
    let faults = fault("[distillation]\nshare = 1.5\ntemperature = 0");
    assert!(faults.contains("line 2: distillation.share: expected a share from 0 to 1"), "{faults}");
    assert!(faults.contains("line 3: distillation.temperature: expected a number above 0"), "{faults}");
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
    assert_eq!((config.train.epochs, config.gates.granularity), (7, Granularity::NONE));
    let faults = set(&[("train.epochs", "soon"), ("train.speed", "9")]).unwrap_err().to_string();
    assert!(
        faults.contains("\n  --set train.epochs: invalid type: string \"soon\""),
        "no line, for it is not in the file: {faults}"
    );
    assert!(faults.contains("train.speed: there is no such key"));
}

#[test]
fn an_absent_file_is_named() {
    let error = Config::read("absent.toml".as_ref(), &[]).unwrap_err().to_string();
    assert!(error.contains("cannot read absent.toml"));
}

#[test]
fn gates_can_leave_out_the_blocks_that_change_shape() {
    let gated = |text: &str| -> Vec<String> {
        let spec = parse("x", text, &[]).unwrap().spec(10).unwrap();
        spec.gate_sites().map(|(block, _)| block.name.clone()).collect()
    };
    let all = gated("[network]\narch = \"cifar-resnet20\"");
    let same = gated("[network]\narch = \"cifar-resnet20\"\n[gates]\nblocks = \"same-shape\"");
    assert_eq!(all.len(), 9);
    assert_eq!(same, ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]);
    let filters = gated(
        "[network]\narch = \"resnet50\"\n[gates]\nblocks = \"same-shape\"\ngranularity = 8\nsites = [\"between\"]",
    );
    assert!(filters.contains(&"layer1.1".to_owned()) && !filters.contains(&"layer1.0".to_owned()), "{filters:?}");
}

#[test]
fn a_fault_is_told_where_it_comes_from() {
    let set = [("train.epochs".to_owned(), "0".to_owned())];
    let faults = |text: &str| parse("run.toml", text, &set).unwrap_err().to_string();
    let alone = faults("[train]\nepochs = 3");
    assert!(alone.starts_with("1 fault in what the command line sets:\n  --set train.epochs: "), "{alone}");
    let both = faults("[data]\nflip = 2.0");
    assert!(
        both.starts_with("run.toml has 2 faults:\n  line 2: data.flip: ") && both.contains("\n  --set train.epochs: "),
        "{both}"
    );
}

#[test]
fn a_configuration_without_a_form_in_toml_is_an_error_and_not_an_empty_file() {
    let mut config = Config::default();
    config.train.max_bad_steps = u64::MAX;
    for error in [config.to_toml().unwrap_err(), config.flatten().unwrap_err()] {
        assert!(error.to_string().starts_with("the configuration cannot be written as TOML: "), "{error}");
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let mut config = Config::default();
        config.network.weights = Some(std::ffi::OsStr::from_bytes(b"\xff.pth").into());
        assert!(config.to_toml().is_err() && config.flatten().is_err());
    }
}

#[test]
fn a_key_that_was_renamed_is_told_by_its_new_name() {
    let faults = fault("[gates]\ndecide_after = 1\npolarisation = 0.1\n[data]\ncolour_jitter = [0, 0, 0, 0]");
    for part in [
        "line 2: gates.decide_after: was renamed to gates.freeze_after",
        "line 3: gates.polarisation: was renamed to gates.polarization",
        "line 5: data.colour_jitter: was renamed to data.color_jitter",
    ] {
        assert!(faults.contains(part), "{part} is not in:\n{faults}");
    }
    let set = [("gates.decide_after".to_owned(), "1".to_owned())];
    let faults = parse("run.toml", "", &set).unwrap_err().to_string();
    assert!(faults.contains("--set gates.decide_after: was renamed to gates.freeze_after"), "{faults}");
}
