//! What networks cost, and what a pass costs by its gate values.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{Allocation, Cost, Level, Meter, NetSpec, Network, Preset, Shortcut, Site, SiteKind};
use gumbel_gates::{GateKind, GateValues};
use support::{gated_networks, random_gate_values};
use tch::{Device, Kind, Tensor};

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

#[test]
fn presets_have_the_published_sizes() {
    // Parameters and MACs at 224: torchvision's documentation of the weights (GFLOPS there are
    // MACs).
    for (name, parameters, giga_macs) in [
        ("resnet18", 11_689_512, 1.814),
        ("resnet34", 21_797_672, 3.664),
        ("resnet50", 25_557_032, 4.089),
        ("resnet101", 44_549_160, 7.801),
        ("resnet152", 60_192_808, 11.514),
        ("mobilenet_v2", 3_504_872, 0.301),
    ] {
        let spec = NetSpec::preset(name, 1000).unwrap();
        let cost = Cost::of(&spec, 224, 224).unwrap();
        assert_eq!(cost.parameters, parameters, "{name}");
        assert!((cost.dense as f64 / 1e9 - giga_macs).abs() < 0.0005, "{name}: {} MACs", cost.dense);
    }
}

#[test]
fn cifar_networks_have_the_published_sizes() {
    // He et al. 2015, table 6: 0.27, 0.46, 0.66, 0.85 and 1.7 million parameters.
    for (name, parameters, blocks) in [
        ("cifar-resnet20", 0.27, 9),
        ("cifar-resnet32", 0.46, 15),
        ("cifar-resnet44", 0.66, 21),
        ("cifar-resnet56", 0.85, 27),
        ("cifar-resnet110", 1.73, 54),
    ] {
        let spec = NetSpec::preset(name, 10).unwrap();
        let cost = Cost::of(&spec, 32, 32).unwrap();
        assert!((cost.parameters as f64 / 1e6 - parameters).abs() < 0.006, "{name}: {}", cost.parameters);
        assert_eq!(cost.blocks.len(), blocks);
    }
}

#[test]
fn mobilenets_scale_as_torchvision_scales_them() {
    // torchvision.models.mobilenet_v2(width_mult=W): parameters with 1000 classes.
    for (width, parameters) in [("0.35", 1_677_128), ("0.5", 1_968_680), ("0.75", 2_636_424), ("1.4", 6_108_776)] {
        let name = format!("mobilenet_v2_x{width}");
        let spec = NetSpec::preset(&name, 1000).unwrap();
        assert_eq!((Cost::of(&spec, 224, 224).unwrap().parameters, spec.name), (parameters, name));
    }
    for name in ["mobilenet_v2_x", "mobilenet_v2_x0", "mobilenet_v2_xNaN", "mobilenet_v2_x9", "resnet50_x0.5"] {
        assert!(
            NetSpec::preset(name, 10).unwrap_err().to_string().contains("width multiplier from 0.1 to 4"),
            "{name}"
        );
    }
}

#[test]
fn cost_counts_the_tensors_that_are_built() {
    let preset = Preset::named("mobilenet_v2").unwrap();
    let filters = |kind| preset.spec(10).with_filter_gates(kind, &preset.group_sizes(Level::High), &SiteKind::ALL);
    let layers = |kind| NetSpec::preset("resnet50", 10).unwrap().with_layer_gates(kind, |block| block % 2 == 0);
    for spec in [GateKind::Independent, GateKind::Dependent].into_iter().flat_map(|kind| [filters(kind), layers(kind)])
    {
        let cost = Cost::of(&spec, 64, 64).unwrap();
        let network = Network::build(&spec, Device::Cpu, 0).unwrap();
        let held: u64 = network.tensors().parameters().map(|entry| entry.tensor.numel() as u64).sum();
        assert_eq!(held, cost.parameters + cost.gate_parameters);
    }
}

#[test]
fn macs_of_openings_are_the_open_branches_and_everything_else() {
    let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Independent, |_| true);
    let cost = Cost::of(&spec, 64, 64).unwrap();
    let sites: Vec<Tensor> = (0..8).map(|i| Tensor::from_slice(&[1.0f32, (i % 2) as f32]).view([2, 1])).collect();
    let gate_values = GateValues::new(sites).unwrap();
    let used: Vec<f64> =
        Vec::try_from(Meter::new(&cost.spending(), Device::Cpu).unwrap().used(&gate_values).unwrap()).unwrap();
    assert_eq!(used[0] as u64, cost.dense, "independent gates cost nothing");
    let closed: u64 = cost.blocks.iter().step_by(2).map(|block| block.branch).sum();
    assert_eq!(used[1] as u64, cost.dense - closed);
    let share = Meter::new(&cost.spending(), Device::Cpu).unwrap().share(&gate_values).unwrap().double_value(&[]);
    assert!((share - (1.0 - closed as f64 / (2 * cost.dense) as f64)).abs() < 1e-6);
    // layer1 at 64 pixels: 16 × 16 positions, two 3×3 convolutions of 64 to 64 channels.
    assert_eq!(cost.blocks[0].branch, 2 * 16 * 16 * 9 * 64 * 64);
    assert_eq!(cost.blocks[2].shortcut, 8 * 8 * 64 * 128);
}

#[test]
fn the_gradient_of_the_macs_is_each_branchs_share() {
    let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let cost = Cost::of(&spec, 64, 64).unwrap();
    let sites: Vec<Tensor> = (0..8).map(|_| Tensor::ones([3, 1], CPU).set_requires_grad(true)).collect();
    let gate_values = GateValues::new(sites.iter().map(Tensor::shallow_clone).collect()).unwrap();
    let used = Meter::new(&cost.spending(), Device::Cpu).unwrap().used(&gate_values).unwrap();
    assert_eq!(used.double_value(&[0]) as u64, cost.dense + cost.gates);
    used.sum(Kind::Double).backward();
    for (site, block) in sites.iter().zip(&cost.blocks) {
        assert_eq!(site.grad().double_value(&[1, 0]), block.branch as f64);
    }
}

/// The channels of a site that `open` leaves, by their numbers.
fn open_channels(block: &arch::BlockSpec, site: Site, channels: usize, open: &dyn Fn(Site) -> Vec<bool>) -> Vec<bool> {
    match block.gates_at(site) {
        None => vec![true; channels],
        Some(gates) => {
            let open = open(site);
            gates.gate_of_channel().into_iter().map(|gate| gate.is_none_or(|gate| open[gate])).collect()
        }
    }
}

/// Builds every convolution of the blocks at the width that the open channels leave, runs it, and
/// counts.
fn macs_really_built(spec: &NetSpec, gate_values: &[Vec<bool>], size: i64) -> u64 {
    let count = |channels: &[bool]| channels.iter().filter(|&&open| open).count() as i64;
    // MACs of a convolution of `inputs` to `outputs` channels and the extent behind it.
    let run = |conv: &arch::ConvSpec, inputs: i64, outputs: i64, extent: i64| -> (u64, i64) {
        let after = Tensor::zeros([1, 1, extent, extent], CPU)
            .conv2d(
                &Tensor::zeros([1, 1, conv.kernel as i64, conv.kernel as i64], CPU),
                None::<Tensor>,
                [conv.stride as i64; 2],
                [conv.padding as i64; 2],
                [1, 1],
                1,
            )
            .size()[3];
        if inputs == 0 || outputs == 0 {
            return (0, after);
        }
        let groups = if conv.is_depthwise() { inputs } else { 1 };
        let weight = Tensor::zeros([outputs, inputs / groups, conv.kernel as i64, conv.kernel as i64], CPU);
        let input = Tensor::zeros([1, inputs, extent, extent], CPU);
        let output =
            input.conv2d(&weight, None::<Tensor>, [conv.stride as i64; 2], [conv.padding as i64; 2], [1, 1], groups);
        assert_eq!(output.size(), [1, outputs, after, after]);
        ((weight.numel() as i64 * after * after) as u64, after)
    };
    let (mut macs, mut extent) = run(&spec.stem.conv, 3, spec.stem.conv.outputs as i64, size);
    if let Some(pool) = &spec.stem.pool {
        extent = pool.output_extent(extent as usize).unwrap() as i64;
    }
    let mut decisions = gate_values.iter();
    for block in &spec.blocks {
        let own: Vec<(Site, Vec<bool>)> =
            block.gates.iter().map(|gates| (gates.site, decisions.next().unwrap().clone())).collect();
        let open = |site: Site| own.iter().find(|(found, _)| *found == site).unwrap().1.clone();
        let branch_runs = block.gates_at(Site::Layer).is_none() || open(Site::Layer)[0];
        let mut channels = open_channels(block, Site::Input, block.inputs, &open);
        let (mut branch, mut after) = (0, extent);
        for (position, conv) in (1..).zip(&block.branch) {
            let site = if position == block.branch.len() { Site::Output } else { Site::Between(position) };
            let mut filters = open_channels(block, site, conv.outputs, &open);
            // What a depthwise convolution behind this one closes is of no use here.
            if let Some(next) = block.branch.get(position).filter(|next| next.is_depthwise()) {
                let site = if position + 1 == block.branch.len() { Site::Output } else { Site::Between(position + 1) };
                filters = open_channels(block, site, next.outputs, &open);
            }
            let inputs = if conv.is_depthwise() { count(&filters) } else { count(&channels) };
            let (own, next) = run(conv, inputs, count(&filters), after);
            branch += own;
            (channels, after) = (filters, next);
        }
        macs += if branch_runs { branch } else { 0 };
        if let Shortcut::Projection(conv) = &block.shortcut {
            let filters = open_channels(block, Site::Projection, conv.outputs, &open);
            macs += run(conv, conv.inputs as i64, count(&filters), extent).0;
        }
        extent = after;
    }
    macs + (spec.head.inputs * spec.head.classes) as u64
}

#[test]
fn macs_of_random_openings_equal_the_convolutions_really_built() {
    for (number, spec) in gated_networks().iter().enumerate() {
        let cost = Cost::of(spec, 64, 64).unwrap();
        let meter = Meter::new(&cost.spending(), Device::Cpu).unwrap();
        let used = |decisions: &[Vec<bool>]| {
            let site = |open: &Vec<bool>| {
                let open: Vec<f32> = open.iter().map(|&open| f32::from(open)).collect();
                Tensor::from_slice(&open).view([1, -1])
            };
            let gate_values = GateValues::new(decisions.iter().map(site).collect()).unwrap();
            (meter.used(&gate_values).unwrap().double_value(&[0]), meter.activation(&gate_values).unwrap())
        };
        let all = |open: bool| spec.gate_sites().map(|(_, gates)| vec![open; gates.count()]).collect::<Vec<_>>();
        let (open, closed) = (used(&all(true)), used(&all(false)));
        assert_eq!((open.0 as u64, closed.0 as u64), (cost.dense + cost.gates, cost.constant()), "{}", spec.name);
        assert_eq!((open.1.double_value(&[]), closed.1.double_value(&[])), (1.0, 0.0));
        for seed in 0..6 {
            let decisions = random_gate_values(spec, 100 * number as u64 + seed);
            assert_eq!(used(&decisions).0 as u64, macs_really_built(spec, &decisions, 64), "{} {seed}", spec.name);
        }
        // What each gate saves by itself.
        let mut gate = 0;
        for site in 0..all(true).len() {
            for i in (0..all(true)[site].len()).step_by(7) {
                let mut one_closed = all(true);
                one_closed[site][i] = false;
                assert_eq!(
                    (open.0 - used(&one_closed).0) as u64,
                    cost.spending().per_gate()[gate + i] as u64,
                    "{} {site} {i}",
                    spec.name
                );
            }
            gate += all(true)[site].len();
        }
    }
}

/// Filter gates one by one between the convolutions of a preset, and what it costs.
fn between(name: &str, side: usize) -> (NetSpec, Cost) {
    let preset = Preset::named(name).unwrap();
    let one = arch::GroupSizes { input: 1, between: 1, output: 1, fixed_open: 0 };
    let sizes = vec![Some(one); preset.spec(10).blocks.len()];
    let spec = preset.spec(10).with_filter_gates(GateKind::Independent, &sizes, &[SiteKind::Between]);
    let cost = Cost::of(&spec, side, side).unwrap();
    (spec, cost)
}

#[test]
fn an_allocation_is_aligned_within_its_budget_and_near_it() {
    for (name, side, align) in [("cifar-resnet20", 32, 4), ("resnet50", 64, 16), ("mobilenet_v2", 64, 8)] {
        let (spec, cost) = between(name, side);
        let gates = spec.gate_count() as i64;
        let scores: Vec<f64> = Vec::try_from(torch_ext::uniform(&[gates], 3).unwrap().to_kind(Kind::Double)).unwrap();
        for share in [0.4, 0.6, 0.9] {
            // A random share of the gates, and the MACs that it leaves.
            let decided: Vec<bool> = scores.iter().map(|score| *score > 1.0 - share).collect();
            let spending = cost.spending();
            let budget = spending.of_gates(&decided).unwrap();
            let allocation = Allocation { spending: &spending, decided: &decided, scores: &scores, align, budget };
            let open = allocation.open().unwrap();
            let spent = spending.of_gates(&open).unwrap();
            assert!(spent <= budget && spent > 0.97 * budget, "{name}: {spent} of {budget}");
            // Widths that are aligned stay.
            let again = Allocation { decided: &open, budget: spent, ..allocation };
            assert_eq!(again.open().unwrap(), open);
            let mut first = 0;
            for (_, gates) in spec.gate_sites() {
                let last = first + gates.count();
                let own = &open[first..last];
                let sizes = gates.sizes().into_iter().zip(own).filter(|(_, open)| **open);
                let channels = gates.fixed_open() + sizes.map(|(size, _)| size).sum::<usize>();
                let whole = own.iter().all(|open| *open);
                assert!(channels > 0 && (channels % align == 0 || whole), "{name}: {channels}");
                // Those of the highest scores.
                let of = |wanted: bool| {
                    let scores = scores[first..last].iter().zip(own);
                    scores.filter(move |(_, open)| **open == wanted).map(|(score, _)| *score)
                };
                assert!(of(true).fold(1.0, f64::min) >= of(false).fold(0.0, f64::max));
                first = last;
            }
            assert_eq!(first, open.len());
        }
    }
}

#[test]
fn an_allocation_spends_what_is_left_where_it_is_worth_most() {
    let (spec, cost) = between("cifar-resnet20", 32);
    let gates = spec.gate_count();
    let size = spec.gate_sites().next().unwrap().1.count();
    // 12 of the 16 filters of the first two sites, 9 to begin with of the others but for the third,
    // which is closed; what matters is in the first site.
    let decided: Vec<bool> = (0..gates)
        .map(|gate| match gate / size {
            0 | 1 => gate % size < 12,
            2 => false,
            _ => gate % size < 9,
        })
        .collect();
    let scores: Vec<f64> = (0..gates).map(|gate| if gate < size { 1.0 } else { 1e-3 }).collect();
    let spending = cost.spending();
    let budget = spending.of_gates(&decided).unwrap();
    let whole = Allocation { spending: &spending, decided: &decided, scores: &scores, align: 8, budget };
    let open = whole.open().unwrap();
    let channels = |site: usize| open[site * size..(site + 1) * size].iter().filter(|open| **open).count();
    assert_eq!(channels(0), 16, "what matters gets what the others leave");
    assert_eq!(channels(1), 8);
    assert_eq!(channels(2), 0, "what is closed stays closed");
    // With more to spend all others are whole; with too little nothing fits.
    let rich = Allocation { budget: spending.dense(), ..whole }.open().unwrap();
    let expected: Vec<bool> = (0..gates).map(|gate| gate / size != 2).collect();
    assert_eq!(rich, expected);
    // With little, whole branches are closed: no site is left without the other one of its block.
    let poor = Allocation { budget: spending.dense() / 8.0, ..whole }.open().unwrap();
    let left: Vec<usize> = poor.chunks(size).map(|site| site.iter().filter(|open| **open).count()).collect();
    assert!(left[1..].contains(&0) && left[0] > 0, "{left:?}");
    assert!(spending.of_gates(&poor).unwrap() <= spending.dense() / 8.0);
    // Where one site of a branch is closed, the others are of no use.
    let both = vec![Some(arch::GroupSizes::uniform(1, 0)); 9];
    let preset = Preset::named("cifar-resnet20").unwrap().spec(10);
    let both = preset.with_filter_gates(GateKind::Independent, &both, &[SiteKind::Between, SiteKind::Output]);
    let spending_of_both = Cost::of(&both, 32, 32).unwrap().spending();
    let mut halves = vec![true; both.gate_count()];
    halves[..size].fill(false);
    let all = vec![1.0; halves.len()];
    let dead = Allocation { spending: &spending_of_both, decided: &halves, scores: &all, ..whole };
    let dead = Allocation { budget: spending_of_both.dense(), ..dead }.open().unwrap();
    assert!(!dead[..2 * size].contains(&true) && !dead[2 * size..].contains(&false));
    let error = Allocation { budget: spending.dense() / 500.0, ..whole }.open().unwrap_err().to_string();
    assert!(error.contains("cannot be met: the narrowest widths asked for take"), "{error}");
    assert!(Allocation { scores: &scores[1..], ..whole }.open().is_err());
    assert!(Allocation { decided: &decided[1..], ..whole }.open().is_err());
}
