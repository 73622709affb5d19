//! What is timed to measure a network, and the table that follows from seconds.

#![allow(clippy::unwrap_used)] // helpers outside #[test] functions

use arch::{CostTable, Measured, NetSpec, Pass, Site, SiteKind};
use gumbel_gates::Policy;
use reference::{PyTorch, piped, repository};
use runtime::measure::{Change, Group, Plan, Sampling, Timed};
use serde_json::{Value, json};
use std::io::Cursor;
use std::path::Path;
use tch::{Device, Kind, Tensor};

fn sampling(levels: usize) -> Sampling {
    Sampling { sites: SiteKind::ALL.to_vec(), levels, gates: true }
}

fn plan(name: &str, levels: usize) -> (NetSpec, Plan) {
    let spec = NetSpec::preset(name, 10).unwrap();
    let plan = Plan::of(&spec, 64, 16, &sampling(levels)).unwrap();
    (spec, plan)
}

fn measured() -> Measured {
    Measured { machine: "a board".into(), runtime: "onnxruntime".into(), threads: 2, batch: 1 }
}

#[test]
fn probes_have_the_widths_that_they_are_timed_for() {
    for name in ["cifar-resnet20", "resnet50", "mobilenet_v2"] {
        let (spec, plan) = plan(name, 3);
        let names: Vec<&String> = plan.groups.iter().flat_map(|group| &group.names).collect();
        assert_eq!(names.len(), spec.blocks.len());
        assert!(spec.blocks.iter().all(|block| names.contains(&&block.name)), "every block is timed");
        // Those of ResNet-50 are large, and alike.
        for group in plan.groups.iter().take(6) {
            for (number, probe) in group.probes.iter().enumerate() {
                let network = probe.network().unwrap();
                let blocks = &network.spec().blocks;
                // Nothing is left of a block that is its input.
                let vanishes = probe.change == Change::Closed && blocks.is_empty();
                assert_eq!(blocks.len(), if number == 0 || vanishes { 0 } else { group.copies });
                let Some(block) = blocks.first() else { continue };
                if let Change::Widths(widths) = &probe.change {
                    for (site, width) in widths {
                        let found = match site {
                            Site::Between(position) => block.branch[position - 1].outputs,
                            Site::Output => block.branch.last().unwrap().outputs,
                            // What does not pay is read all the same, and multiplied by zeros.
                            Site::Input => block.branch[0].inputs.min(*width),
                            _ => *width,
                        };
                        assert_eq!(found, *width, "{name} {} {site}", group.names[0]);
                    }
                }
            }
        }
        // They run, and take features of the extent that the block has in the network.
        let strided = plan.groups.iter().find(|group| group.closed.is_some()).unwrap();
        let probe = &strided.probes[strided.open];
        let images =
            Tensor::zeros([2, 3, probe.image_size.into(), probe.image_size.into()], (Kind::Float, Device::Cpu));
        let output = probe.network().unwrap().forward(&images, Pass::inference(Policy::Argmax)).unwrap();
        assert_eq!(output.logits.size()[0], 2);
    }
}

/// Made-up seconds of each probe of a group: what surrounds it, and copies of a block that takes
/// its share of the time of all.
fn seconds(group: &Group, number: usize) -> Vec<Vec<f64>> {
    let of_probe = |probe: usize| if probe == 0 { 0.25 } else { 0.25 + group.copies as f64 * cost(group, probe) };
    let whole = std::iter::repeat_n(2.0, Timed::DENSE);
    let all: Vec<f64> = whole.chain((0..group.probes.len()).map(of_probe)).collect();
    // Rounds of another pace each, and a stumble of one network in each.
    let paces = [1.0, 3.0, 0.5, 1.0, 2.0];
    let of = |(at, seconds): (usize, f64)| {
        let stumbles = |round: usize| if (at + round + number).is_multiple_of(7) { 4.0 } else { 1.0 };
        paces.iter().enumerate().map(|(round, pace)| seconds * pace * stumbles(round)).collect()
    };
    all.into_iter().enumerate().map(of).collect()
}

fn cost(group: &Group, probe: usize) -> f64 {
    match &group.probes[probe].change {
        Change::None => 0.1,
        Change::Closed => 0.01,
        Change::Gated => 0.13,
        Change::Widths(widths) => 0.02 + 1e-4 * widths.iter().map(|(_, width)| *width as f64).sum::<f64>(),
    }
}

#[test]
fn a_table_holds_what_was_timed_and_adds_up_to_the_network() {
    let (spec, plan) = plan("cifar-resnet20", 3);
    let timed: Vec<Timed> =
        plan.groups.iter().enumerate().map(|(number, group)| Timed::of(&seconds(group, number))).collect();
    let outside = Timed { dense: 2.0, probes: vec![0.1] };
    let table = plan.table(&outside, &timed, measured());
    // The parts sum to 0.1 + 9 · 0.1 seconds where the whole takes 2.
    let scale = 2.0;
    assert!((table.outside - scale * 100.0).abs() < 1e-6, "{}", table.outside);
    for (entry, group) in table.blocks.iter().zip(&plan.groups) {
        assert!((entry.open - scale * 100.0).abs() < 1e-6, "{}", entry.open);
        assert!((entry.closed.unwrap() - scale * 10.0).abs() < 1e-6);
        assert!((entry.gate.unwrap() - scale * 30.0).abs() < 1e-6);
        for (found, grid) in entry.grids.iter().zip(&group.grids) {
            assert_eq!(found.widths, grid.widths);
            for (found, probe) in found.costs.iter().zip(&grid.probes) {
                assert!((found - scale * 1e3 * cost(group, *probe)).abs() < 1e-6, "{found}");
            }
        }
    }
    let spending = table.spending(&spec).unwrap();
    assert!((spending.dense() - 2000.0).abs() < 1e-6, "{}", spending.dense());
    let text = serde_json::to_string(&table).unwrap();
    assert_eq!(CostTable::parse(&text, Path::new("")).unwrap(), table);
}

#[test]
fn the_script_for_other_devices_makes_the_same_table() {
    let Some(pytorch) = PyTorch::find() else { return };
    let (_, plan) = plan("mobilenet_v2", 3);
    let mut archive = Cursor::new(Vec::new());
    plan.write_probes(&mut archive, Path::new("probes.zip"), |_, _| {}).unwrap();
    let mut archive = zip::ZipArchive::new(archive).unwrap();
    let written: Value = serde_json::from_reader(archive.by_name("plan.json").unwrap()).unwrap();
    let files = 2 + plan.groups.iter().map(|group| group.probes.len()).sum::<usize>();
    assert_eq!(archive.len(), files + 1);

    let all: Vec<Vec<Vec<f64>>> =
        plan.groups.iter().enumerate().map(|(number, group)| seconds(group, number)).collect();
    let outside = vec![vec![2.0; 4]; Timed::DENSE].into_iter().chain([vec![0.3, 0.2, 0.2, 0.1]]).collect::<Vec<_>>();
    let script = "import json, sys; sys.path.insert(0, sys.argv[1]); import measure_times as m
plan, outside, timed, measured = json.load(sys.stdin)
print(json.dumps(m.table(plan, m.fitted(outside), [m.fitted(own) for own in timed], measured)))";
    let mut command = pytorch.command();
    command.args(["-c", script]).arg(repository().join("scripts"));
    let found = piped(&mut command, &[written, json!(outside), json!(all), json!(measured())]);
    let found = CostTable::parse(std::str::from_utf8(&found).unwrap(), Path::new("")).unwrap();
    let timed: Vec<Timed> = all.iter().map(|seconds| Timed::of(seconds)).collect();
    let expected = plan.table(&Timed::of(&outside), &timed, measured());
    assert_eq!((&found.measured, found.align), (&expected.measured, expected.align));
    assert!((found.outside - expected.outside).abs() < 2e-6);
    for (found, expected) in found.blocks.iter().zip(&expected.blocks) {
        assert_eq!(found.names, expected.names);
        let costs = |block: &arch::TableBlock| {
            let single = [Some(block.open), block.closed, block.gate];
            let grids = block.grids.iter().flat_map(|grid| grid.costs.iter().copied().map(Some));
            single.into_iter().chain(grids).collect::<Vec<_>>()
        };
        for (found, expected) in costs(found).into_iter().zip(costs(expected)) {
            let near = match (found, expected) {
                (Some(found), Some(expected)) => (found - expected).abs() < 2e-6,
                (found, expected) => found == expected,
            };
            assert!(near, "{found:?} and {expected:?}");
        }
        let layout = |block: &arch::TableBlock| {
            block.grids.iter().map(|grid| (grid.sites.clone(), grid.widths.clone())).collect::<Vec<_>>()
        };
        assert_eq!(layout(found), layout(expected));
    }
}
