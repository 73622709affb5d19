//! Tables of costs: what they say of gates, of pruned networks and of themselves.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use arch::{Allocation, Cost, CostTable, Decision, GroupSizes, Measured, Meter, NetSpec, Network, Preset, Site};
use arch::{SiteKind, TableBlock, TableGrid};
use gumbel_gates::{GateKind, GateValues};
use std::path::PathBuf;
use tch::{Device, Kind};

/// One gate for each filter at all sites.
fn filters(name: &str) -> (NetSpec, u32) {
    let preset = Preset::named(name).unwrap();
    let spec = preset.spec(10);
    let sizes = vec![Some(GroupSizes::uniform(1, 0)); spec.blocks.len()];
    (spec.with_filter_gates(GateKind::Independent, &sizes, &SiteKind::ALL), 64)
}

/// The decisions that leave the first channels of some sites of a block open, and all else.
fn narrowed(spec: &NetSpec, block: &str, widths: &[(Site, usize)]) -> Vec<bool> {
    let mut open = Vec::new();
    for (own, gates) in spec.gate_sites() {
        let width = widths.iter().find(|(site, _)| own.name == block && *site == gates.site);
        let count = width.map_or(gates.count(), |(_, width)| width - gates.fixed_open());
        open.extend((0..gates.count()).map(|gate| gate < count));
    }
    open
}

/// A table whose costs are MACs: what it says of any widths is known.
fn of_macs(spec: &NetSpec, image_size: u32, align: usize) -> CostTable {
    let cost = Cost::of(spec, image_size as usize, image_size as usize).unwrap();
    let spending = cost.spending();
    let blocks = spec.blocks.iter().zip(&cost.blocks).map(|(block, own)| {
        let of = |widths: &[(Site, usize)]| {
            spending.of_gates(&narrowed(spec, &block.name, widths)).unwrap() - spending.dense() + own.macs() as f64
        };
        let levels = |full: usize| -> Vec<usize> {
            let multiples = (1..).map(|step| step * align).take_while(|&width| width < full);
            multiples.chain([full]).collect()
        };
        let sites = block.sites();
        let branch: Vec<_> = sites.iter().filter(|(site, ..)| *site != Site::Projection).collect();
        let mut grids = Vec::new();
        let mut single = |site: Site, full: usize| {
            let widths = levels(full);
            let costs = widths.iter().map(|&width| of(&[(site, width)])).collect();
            grids.push(TableGrid { sites: vec![site.to_string()], widths: vec![widths], costs });
        };
        if let [(site, _, full)] = branch[..] {
            single(*site, *full);
        }
        if let Some((site, _, full)) = sites.iter().find(|(site, ..)| *site == Site::Projection) {
            single(*site, *full);
        }
        for pair in branch.windows(2) {
            let [(first, _, rows), (second, _, columns)] = pair else { unreachable!() };
            let widths = vec![levels(*rows), levels(*columns)];
            let costs = widths[0].iter().flat_map(|&row| {
                let of = &of;
                widths[1].iter().map(move |&column| of(&[(*first, row), (*second, column)]))
            });
            let costs = costs.collect();
            grids.push(TableGrid { sites: vec![first.to_string(), second.to_string()], widths, costs });
        }
        TableBlock {
            names: vec![block.name.clone()],
            open: own.macs() as f64,
            closed: (block.shortcut != arch::Shortcut::None).then_some(own.shortcut as f64),
            gate: None,
            channels: sites.iter().map(|(site, _, channels)| (site.to_string(), *channels)).collect(),
            grids,
        }
    });
    CostTable {
        unit: "MACs".into(),
        network: spec.name.clone(),
        image_size,
        measured: Measured { machine: "any".into(), runtime: "none".into(), threads: 1, batch: 1 },
        align,
        outside: cost.spending().dense() - cost.blocks.iter().map(|block| block.macs() as f64).sum::<f64>(),
        blocks: blocks.collect(),
        origin: PathBuf::new(),
    }
}

/// Random decisions that leave what the tables have measured least at every site.
fn decisions(spec: &NetSpec, seed: u64) -> Vec<bool> {
    let drawn = torch_ext::uniform(&[spec.gate_count() as i64], seed).unwrap();
    let drawn: Vec<f64> = Vec::try_from(drawn.to_kind(Kind::Double)).unwrap();
    let mut open = Vec::new();
    for (_, gates) in spec.gate_sites() {
        let first = open.len();
        let share = 0.2 + 0.8 * drawn[first];
        open.extend(drawn[first..first + gates.count()].iter().map(|value| *value < share));
        let least = 16.min(gates.count());
        open[first..first + least].fill(true);
    }
    open
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{found} and {expected}");
}

#[test]
fn a_table_of_macs_says_of_any_widths_what_macs_are() {
    for name in ["cifar-resnet20", "resnet50", "mobilenet_v2"] {
        let (spec, size) = filters(name);
        let macs = Cost::of(&spec, size as usize, size as usize).unwrap().spending();
        let table = of_macs(&spec, size, 16);
        let spending = table.spending(&spec).unwrap();
        close(spending.dense(), macs.dense());
        for (found, expected) in spending.blocks().iter().zip(macs.blocks()) {
            close(*found, *expected);
        }
        let network = Network::build(&spec, Device::Cpu, 1).unwrap();
        for seed in 0..3 {
            let open = decisions(&spec, seed);
            let expected = macs.of_gates(&open).unwrap();
            close(spending.of_gates(&open).unwrap(), expected);
            // A pruned network has the widths that were left; where it reads or writes all the
            // same, MACs do not count that, and a table counts what is there.
            let decisions: Vec<Decision> =
                open.iter().map(|open| if *open { Decision::Open } else { Decision::Closed }).collect();
            let pruned = network.prune(&decisions).unwrap();
            let left = Cost::of(pruned.spec(), size as usize, size as usize).unwrap();
            close(table.spending(pruned.spec()).unwrap().dense(), left.dense as f64);
        }
        let sites = spec.gate_sites().flat_map(|(_, gates)| vec![gates.count(); gates.count()]);
        for ((found, expected), count) in spending.per_gate().into_iter().zip(macs.per_gate()).zip(sites) {
            // Of narrower ones half is less than what was measured least.
            if count >= 32 {
                close(found, expected);
            }
        }
    }
}

#[test]
fn a_meter_finds_what_a_table_says_and_its_slopes() {
    for name in ["cifar-resnet20", "resnet50", "mobilenet_v2"] {
        let (spec, size) = filters(name);
        let spending = of_macs(&spec, size, 16).spending(&spec).unwrap();
        for spending in [spending.steady(), spending] {
            let gates = spec.gate_count();
            let drawn = torch_ext::uniform(&[1, gates as i64], 7).unwrap() * 0.8 + 0.15;
            let rates = Vec::<f64>::try_from(drawn.view([-1]).to_kind(Kind::Double)).unwrap();
            let values = drawn.detach().set_requires_grad(true);
            let meter = Meter::new(&spending, Device::Cpu).unwrap();
            let share = meter.share(&GateValues::new(vec![values.shallow_clone()]).unwrap()).unwrap();
            share.backward();
            let found = share.double_value(&[]) * spending.dense();
            assert!((found / spending.of_rates(&rates) - 1.0).abs() < 1e-6, "{name}: {found}");
            let slopes = Vec::<f64>::try_from(values.grad().view([-1]).to_kind(Kind::Double)).unwrap();
            let mut first = 0;
            for (block, gates) in spec.gate_sites() {
                let moved = |by: f64| {
                    let mut rates = rates.clone();
                    rates[first] += by;
                    spending.of_rates(&rates)
                };
                let expected = (moved(1e-4) - moved(-1e-4)) / 2e-4;
                let found = slopes[first] * spending.dense();
                let near = (found - expected).abs() < 1e-3 * expected.abs() + 1e-6 * spending.dense();
                assert!(near, "{name}, {} {}: {found} and {expected}", block.name, gates.site);
                first += gates.count();
            }
        }
    }
}

#[test]
fn a_closed_layer_costs_what_is_left_of_its_block() {
    let (spec, size) = filters("cifar-resnet20");
    let table = of_macs(&spec, size, 16);
    let plain = NetSpec::preset("cifar-resnet20", 10).unwrap();
    let gated = plain.clone().with_layer_gates(GateKind::Dependent, |_| true);
    let mut with_gates = table.clone();
    for block in &mut with_gates.blocks {
        block.gate = Some(7.0);
    }
    let spending = with_gates.spending(&gated).unwrap();
    assert_eq!(spending.gates(), 63.0);
    close(spending.least(), table.outside + table.blocks.iter().filter_map(|block| block.closed).sum::<f64>() + 63.0);
    // Half open on average costs half.
    close(spending.of_rates(&[0.5; 9]), f64::midpoint(spending.least(), spending.most()));
    // A pruned block is what its table says without its branch.
    let network = Network::build(&plain.with_layer_gates(GateKind::Independent, |_| true), Device::Cpu, 1).unwrap();
    let mut closed = [Decision::Open; 9];
    closed[3] = Decision::Closed;
    let pruned = network.prune(&closed).unwrap();
    let left = table.spending(pruned.spec()).unwrap();
    close(left.blocks()[3], table.blocks[3].closed.unwrap());
}

#[test]
fn a_branch_without_channels_at_a_site_costs_nothing_and_a_narrow_one_fades() {
    for name in ["cifar-resnet20", "resnet50", "mobilenet_v2"] {
        let (spec, size) = filters(name);
        let table = of_macs(&spec, size, 16);
        let spending = table.spending(&spec).unwrap();
        let whole = spending.dense();
        for (block, entry) in spec.blocks.iter().zip(&table.blocks) {
            let Some(closed) = entry.closed else { continue };
            for gates in block.gates.iter().filter(|gates| gates.site != Site::Projection) {
                // Whatever is left at the other sites.
                let other = block.gates.iter().find(|other| other.site != gates.site);
                let narrow = other.map(|other| (other.site, 16));
                for others in [Vec::new(), narrow.into_iter().collect::<Vec<_>>()] {
                    let left = [vec![(gates.site, 0)], others.clone()].concat();
                    let open = narrowed(&spec, &block.name, &left);
                    close(spending.of_gates(&open).unwrap(), whole - entry.open + closed);
                    let half = [vec![(gates.site, 8)], others.clone()].concat();
                    let least = [vec![(gates.site, 16)], others].concat();
                    let of = |widths: &[(Site, usize)]| {
                        let open = narrowed(&spec, &block.name, widths);
                        spending.of_gates(&open).unwrap() - (whole - entry.open)
                    };
                    close(of(&half) - closed, (of(&least) - closed) / 2.0);
                }
            }
        }
        // With all closed nothing is counted below what is left.
        let left: f64 = table.blocks.iter().map(|entry| entry.closed.unwrap_or_default()).sum();
        let least = spending.least();
        assert!(least >= table.outside && least < table.outside + left + 0.1 * whole, "{name}: {least}");
    }
}

#[test]
fn costs_that_do_not_grow_evenly_are_spent_exactly() {
    // In steps of 16 channels between them nothing is gained, and 48 channels cost more than 64.
    let (spec, size) = filters("cifar-resnet20");
    let spec = {
        let sizes = vec![Some(GroupSizes::uniform(1, 0)); spec.blocks.len()];
        spec.with_filter_gates(GateKind::Independent, &sizes, &[SiteKind::Between])
    };
    let mut table = of_macs(&spec, size, 16);
    for block in &mut table.blocks {
        let grid = &mut block.grids[0];
        for (width, cost) in grid.widths[0].iter().zip(&mut grid.costs) {
            *cost = if *width == 48 { 1.2 * block.open } else { block.open * *width as f64 / 64.0 };
        }
        block.open = *grid.costs.last().unwrap();
        block.closed = Some(0.0);
    }
    let spending = table.spending(&spec).unwrap();
    let scores: Vec<f64> = (0..spec.gate_count()).map(|gate| 1.0 / (1.0 + gate as f64)).collect();
    let decided = vec![true; scores.len()];
    for share in [0.3, 0.5, 0.7, 0.9] {
        let budget = share * spending.dense();
        let open = Allocation { spending: &spending, decided: &decided, scores: &scores, align: 16, budget }.open();
        let open = open.unwrap();
        assert!(spending.of_gates(&open).unwrap() <= budget);
        let mut left = open.as_slice();
        for (_, gates) in spec.gate_sites() {
            let (own, rest) = left.split_at(gates.count());
            left = rest;
            let width = own.iter().filter(|open| **open).count();
            assert!(width % 16 == 0 && width != 48, "{width}");
        }
    }
}

#[test]
fn a_table_that_does_not_fit_is_refused_by_name() {
    let (spec, size) = filters("cifar-resnet20");
    let table = of_macs(&spec, size, 16);
    let text = serde_json::to_string(&table).unwrap();
    let read = |text: &str| CostTable::parse(text, &PathBuf::from("times.json"));
    assert_eq!(CostTable { origin: "times.json".into(), ..table.clone() }, read(&text).unwrap());
    for (from, to, expected) in [
        ("\"unit\"", "\"unti\"", "unknown field `unti`"),
        ("\"align\":16", "\"align\":0", "align: expected at least 1"),
        ("[\"between1\",\"output\"]", "[\"between1\",\"output\",\"output\"]", "one cost for each combination"),
        ("\"layer1.1\"", "\"layer1.0\"", "layer1.0: twice"),
        ("\"between1\":16", "\"between1\":17", "expected the channels of the block as the last width of 'between1'"),
        ("[\"between1\",\"output\"]", "[\"between1\",\"between1\"]", "expected a chain of neighbors"),
        ("\"open\":1", "\"open\":-1", "is not a cost"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = read(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(
            error.starts_with("times.json is not a table of costs that fits") && error.contains(expected),
            "{error}"
        );
    }
    let error = table.require("resnet50", 224).unwrap_err().to_string();
    assert!(error.contains("measured for cifar-resnet20 with images of 64 pixels, not for resnet50"), "{error}");
    let mut without = table.clone();
    without.blocks[4].grids.retain(|grid| !grid.sites.contains(&"input".to_owned()));
    let error = without.spending(&spec).unwrap_err().to_string();
    assert!(error.contains("no costs for the gates at 'input' of block 'layer2.1'"), "{error}");
    assert!(error.contains("train measure --sites input,between,output"), "{error}");
    // A pruned network without gates, narrower where the table knows nothing.
    let network = Network::build(&spec, Device::Cpu, 1).unwrap();
    let decisions: Vec<Decision> =
        decisions(&spec, 2).into_iter().map(|open| if open { Decision::Open } else { Decision::Closed }).collect();
    let mut blind = table.clone();
    for block in &mut blind.blocks {
        block.grids.retain(|grid| !grid.sites.contains(&"output".to_owned()));
    }
    let error = blind.spending(network.prune(&decisions).unwrap().spec()).unwrap_err().to_string();
    assert!(error.contains("of 32 channels at output, and it has no costs by that"), "{error}");
    let mut narrow = table.clone();
    narrow.blocks[0].channels.insert("input".into(), 15);
    let error = narrow.spending(&spec).unwrap_err().to_string();
    assert!(error.contains("block 'layer1.0' has 16 channels at input, the table 15"), "{error}");
    let looks = NetSpec::preset("cifar-resnet20", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let error = table.spending(&looks).unwrap_err().to_string();
    assert!(error.contains("no costs for the gates at 'layer' of block 'layer1.0'"), "{error}");
}
