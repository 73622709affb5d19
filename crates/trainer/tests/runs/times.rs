//! Runs whose gates are held to a table of costs, and frozen at aligned widths.

use super::{config, epochs, refusal, run, weights};
use arch::{CostTable, Measured, NetSpec, Shortcut, TableBlock, TableGrid};
use std::fs;
use std::path::{Path, PathBuf};
use trainer::{Checkpoint, Config, Resume, RunDir, Verdict};

const GATES: &str = "granularity = 1\nsites = [\"between\"]\nkind = \"independent\"\nloss = \"batch\"\n\
     start = \"taylor\"\nstart_batches = 2\nfreeze_after = 1";

/// Costs of ResNet-18's blocks: in steps of 16 channels, the first blocks dearest.
fn table(folder: &Path) -> PathBuf {
    let spec = NetSpec::preset("resnet18", 10).unwrap();
    let blocks = spec.blocks.iter().enumerate().map(|(number, block)| {
        let full = block.branch[0].outputs;
        let widths: Vec<usize> = (1..=full / 16).map(|step| 16 * step).collect();
        let open = 10.0 - number as f64;
        let closed = if matches!(block.shortcut, Shortcut::Projection(_)) { 0.5 } else { 0.0 };
        let costs = widths.iter().map(|&width| 1.0 + (open - 1.0) * width as f64 / full as f64).collect();
        let grid = TableGrid { sites: vec!["between1".into()], widths: vec![widths], costs };
        let channels = block.sites().into_iter().map(|(site, _, channels)| (site.to_string(), channels)).collect();
        let (names, grids) = (vec![block.name.clone()], vec![grid]);
        TableBlock { names, open, closed: Some(closed), gate: Some(0.25), channels, grids }
    });
    let table = CostTable {
        unit: "ms".into(),
        network: "resnet18".into(),
        image_size: 32,
        measured: Measured { machine: "a board".into(), runtime: "onnxruntime".into(), threads: 1, batch: 1 },
        align: 16,
        outside: 4.0,
        blocks: blocks.collect(),
        origin: PathBuf::new(),
    };
    let path = folder.join("times.json");
    fs::write(&path, serde_json::to_string(&table).unwrap()).unwrap();
    path
}

fn by_table(gates: &str, path: &Path) -> Config {
    let times = path.display();
    config(&format!("[gates]\nweighting = \"cost-table\"\ntimes = \"{times}\"\n{gates}"))
}

/// Open filters of each site of the last evaluation.
fn widths(verdict: &Verdict) -> Vec<usize> {
    let spec = NetSpec::preset("resnet18", 10).unwrap();
    let mut rates = verdict.evaluation.summary.rates.as_slice();
    let sites = spec.blocks.iter().map(|block| {
        let (own, rest) = rates.split_at(block.branch[0].outputs);
        rates = rest;
        own.iter().filter(|rate| **rate == 1.0).count()
    });
    sites.collect()
}

#[test]
fn gates_freeze_at_aligned_widths_within_a_budget_of_milliseconds() {
    let folder = tempfile::tempdir().unwrap();
    let path = table(folder.path());
    let out = folder.path().join("run");
    let verdict = run(by_table(&format!("{GATES}\ntarget = 0.6"), &path), &out, false, None).unwrap().unwrap();
    // 4 outside and 10, 9, … 3 in the blocks.
    assert!((verdict.reach.dense - 56.0).abs() < 1e-9 && verdict.reach.unit == "ms");
    let widths = widths(&verdict);
    assert!(widths.iter().all(|width| width % 16 == 0), "{widths:?}");
    let table = CostTable::read(&path).unwrap();
    let cost = |(width, entry): (&usize, &TableBlock)| match width {
        0 => entry.closed.unwrap(),
        width => entry.grids[0].costs[width / 16 - 1],
    };
    let spent = 4.0 + widths.iter().zip(&table.blocks).map(cost).sum::<f64>();
    let found = verdict.activation.unwrap().found;
    assert!((found - spent / 56.0).abs() < 1e-9, "{found}");
    assert!((0.56..=0.6).contains(&found), "{found}");
    // The multiples and the table are kept with the run.
    let saved = Config::read_saved(&RunDir::at(&out).config(), &[]).unwrap();
    assert_eq!(serde_json::to_value(saved.gates.align).unwrap(), 16);
    assert_eq!(fs::read(RunDir::at(&out).times()).unwrap(), fs::read(&path).unwrap());
    // A budget in the table's unit is the same one.
    let other = folder.path().join("absolute");
    let absolute = by_table(&format!("{GATES}\ntarget_absolute = 33.6"), &path);
    let absolute = run(absolute, &other, false, None).unwrap().unwrap();
    assert_eq!(absolute.evaluation.summary.rates, verdict.evaluation.summary.rates);
    assert!((absolute.activation.unwrap().target - 0.6).abs() < 1e-12);
}

#[test]
fn a_run_goes_on_exactly_with_its_own_copy_of_the_table_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = table(folder.path());
    let config = || by_table(&format!("{GATES}\ntarget = 0.6"), &path);
    let whole = folder.path().join("whole");
    run(config(), &whole, false, None).unwrap().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    for step in [3, 7] {
        let parts = folder.path().join(format!("parts-{step}"));
        assert!(run(config(), &parts, false, Some(step)).unwrap().is_none());
        fs::remove_file(&path).unwrap();
        run(config(), &parts, true, None).unwrap().unwrap();
        assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()), "step {step}");
        assert_eq!(epochs(&parts), epochs(&whole), "step {step}");
        fs::write(&path, &text).unwrap();
    }
    // Another table in its place by now is remarked on, and not used.
    let parts = folder.path().join("another");
    assert!(run(config(), &parts, false, Some(3)).unwrap().is_none());
    fs::write(&path, text.replace("\"outside\":4.0", "\"outside\":5.0")).unwrap();
    let fit = trainer::Fit::prepare(config(), Some(parts), Resume::Exactly, tch::Device::Cpu).unwrap();
    assert!((fit.spending().dense() - 56.0).abs() < 1e-9);
    drop(fit);
    fs::write(&path, &text).unwrap();
    // Stopped before its first state it begins once more with the same configuration, left open as
    // it was.
    let parts = folder.path().join("early");
    drop(trainer::Fit::prepare(config(), Some(parts.clone()), Resume::No, tch::Device::Cpu).unwrap());
    run(config(), &parts, true, None).unwrap().unwrap();
    assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()));
    let parts = folder.path().join("changed");
    assert!(run(config(), &parts, false, Some(3)).unwrap().is_none());
    fs::write(RunDir::at(&parts).times(), text.replace("\"outside\":4.0", "\"outside\":5.0")).unwrap();
    let error = run(config(), &parts, true, None).unwrap_err().to_string();
    assert!(error.contains("is not the table of costs that the run began with"), "{error}");
}

#[test]
fn layers_of_both_kinds_are_held_to_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = table(folder.path());
    for kind in ["independent", "dependent"] {
        let gates = format!("granularity = \"layer\"\nkind = \"{kind}\"\nloss = \"batch\"\ntarget = 0.7");
        let out = folder.path().join(kind);
        let verdict = run(by_table(&gates, &path), &out, false, None).unwrap().unwrap();
        let table = CostTable::read(&path).unwrap();
        let of_block = |(rate, entry): (&f64, &TableBlock)| {
            let closed = entry.closed.unwrap();
            closed + rate * (entry.open - closed)
        };
        let blocks: f64 = verdict.evaluation.summary.rates.iter().zip(&table.blocks).map(of_block).sum();
        let own = if kind == "dependent" { 8.0 * 0.25 } else { 0.0 };
        let found = verdict.activation.unwrap().found;
        assert!((found - (4.0 + blocks + own) / 56.0).abs() < 1e-9, "{kind}: {found}");
        assert!((verdict.reach.most - 56.0 - own).abs() < 1e-9);
    }
}

#[test]
fn budgets_of_macs_are_aligned_too() {
    let folder = tempfile::tempdir().unwrap();
    let gates = format!("[gates]\nweighting = \"network\"\nalign = 16\ntarget = 0.7\n{GATES}");
    let verdict = run(config(&gates), &folder.path().join("run"), false, None).unwrap().unwrap();
    let widths = widths(&verdict);
    assert!(widths.iter().all(|width| width % 16 == 0), "{widths:?}");
    let found = verdict.activation.unwrap().found;
    assert!((0.66..=0.7).contains(&found), "{found}");
    // What is left of the network is what was decided.
    let checkpoint = Checkpoint::read(&verdict.run.last()).unwrap();
    let filters = |block: &arch::BlockSpec| block.branch.first().map_or(0, |conv| conv.outputs);
    let left: usize = checkpoint.spec.blocks.iter().map(filters).sum();
    assert_eq!(left, widths.iter().sum::<usize>());
}

#[test]
fn what_a_table_cannot_give_is_refused_before_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = table(folder.path());
    let refused = |gates: &str| refusal(by_table(gates, &path), false);
    let text = refused(&format!("{GATES}\ntarget = 0.05"));
    // Closed branches leave 4 outside and three shortcuts.
    for part in [
        "gates.target: 0.05 of the network's cost cannot be reached: 0.098 of it is spent",
        "dense 56.000 ms",
        "layer1.0 10.000 ms",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let text = refused(&GATES.replace("[\"between\"]", "[\"between\", \"output\"]"));
    assert!(
        text.contains(
            "no costs for the gates at 'output' of block 'layer1.0'; measure it: train measure --sites between,output"
        ),
        "{text}"
    );
    let mut other = by_table(GATES, &path);
    other.data.image_size = 64;
    other.data.resize = 64;
    let text = refusal(other, false);
    assert!(
        text.contains("measured for resnet18 with images of 32 pixels, not for resnet18 with images of 64"),
        "{text}"
    );
    for (gates, expected) in [
        (GATES.replace("independent", "dependent"), "filter gates that look at the image leave no widths"),
        (
            GATES.replace("\"batch\"", "\"per-gate\""),
            "gates.loss: gates.weighting = \"cost-table\" is a target for all gates",
        ),
        (GATES.replace("freeze_after = 1", "align = 8"), "gates.align: widths are aligned when gates freeze"),
        (format!("{GATES}\nalign = 0"), "gates.align: expected at least 1 channel"),
        ("granularity = \"layer\"\nloss = \"batch\"\nalign = 8\nfreeze_after = 1".into(), "layers have none"),
    ] {
        let text = format!("[gates]\nweighting = \"cost-table\"\ntimes = \"times.json\"\n{gates}");
        let faults = trainer::config::parse("test", &text, &[]).unwrap_err().to_string();
        assert!(faults.contains(expected), "{faults}");
    }
    let faults = trainer::config::parse("test", &format!("[gates]\nweighting = \"cost-table\"\n{GATES}"), &[]);
    assert!(
        faults.unwrap_err().to_string().contains("gates.times: gates.weighting = \"cost-table\" counts by a table")
    );
    let mut auto = config(&format!("[gates]\nalign = \"auto\"\nweighting = \"network\"\n{GATES}"));
    auto.network.weights = None;
    let text = refusal(auto, false);
    assert!(text.contains("gates.align: \"auto\" is measured before a run is prepared"), "{text}");
    let text = refused(&format!("{GATES}\ntarget_absolute = 33600.0"));
    assert!(text.contains("gates.target_absolute: 33600 ms is more than the 56.000 ms"), "{text}");
    let text = refused(&format!("{GATES}\ntarget_absolute = 2.0"));
    assert!(text.contains("gates.target_absolute: 0.03"), "{text}");
    let fit =
        trainer::Fit::prepare(by_table(GATES, &folder.path().join("none.json")), None, Resume::No, tch::Device::Cpu);
    assert!(fit.unwrap_err().to_string().contains("none.json"));
}
