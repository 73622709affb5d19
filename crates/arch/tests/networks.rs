//! Presets, gates in a network and cost.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{Cost, Level, Meter, NetSpec, Network, Pass, Place, Preset, Shortcut, Site};
use gumbel_gates::{GateKind, Openings, Policy};
use support::{decide, gated_networks, random_openings};
use tch::{Device, Kind, Tensor};
use torch_ext::normal;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

#[test]
fn presets_have_the_published_sizes() {
    // Parameters and MACs at 224: torchvision's documentation of the weights (GFLOPS there are MACs).
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
fn zero_padded_shortcuts_pick_pixels_and_pad_channels_on_both_sides() {
    // With every branch closed the network is its stem, two zero-padded shortcuts, pooling and the classifier.
    let spec = NetSpec::preset("cifar-resnet20", 10).unwrap().with_layer_gates(GateKind::Independent, |_| true);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let tensor = |name: &str| network.tensors().get(name).unwrap().tensor.detach();
    tch::no_grad(|| {
        for entry in network.tensors().iter().filter(|entry| entry.group == gumbel_gates::GATE_GROUP) {
            entry.tensor.shallow_clone().copy_(&Tensor::from_slice2(&[[1f32, 0.0]]));
        }
    });
    let images = normal(&[2, 3, 32, 32], 1).unwrap();
    let logits = tch::no_grad(|| network.forward(&images, Pass::inference(Policy::Argmax))).unwrap().logits;
    let stem =
        images.conv2d(&tensor("conv1.weight"), None::<Tensor>, [1, 1], [1, 1], [1, 1], 1) / (1.0f64 + 1e-5).sqrt();
    let picked =
        stem.relu().slice(2, None, None, 4).slice(3, None, None, 4).mean_dim([2i64, 3].as_slice(), false, Kind::Float);
    let padded = Tensor::cat(&[Tensor::zeros([2, 24], CPU), picked, Tensor::zeros([2, 24], CPU)], 1);
    let expected = padded.linear(&tensor("linear.weight"), Some(&tensor("linear.bias")));
    assert!((logits - expected).abs().max().double_value(&[]) < 1e-5);
}

#[test]
fn every_preset_runs_with_its_gates_open_as_without() {
    for preset in &arch::PRESETS {
        let dense = preset.spec(10);
        let images = normal(&[1, 3, 32, 32], 1).unwrap();
        let logits = |spec: &NetSpec| {
            let network = Network::build(spec, Device::Cpu, 3).unwrap();
            tch::no_grad(|| network.forward(&images, Pass::inference(Policy::AlwaysOpen))).unwrap().logits
        };
        let expected = logits(&dense);
        assert_eq!(expected, logits(&dense.clone().with_layer_gates(GateKind::Dependent, |_| true)), "{}", preset.name);
        let levels = [Level::Low, Level::Medium, Level::High].map(|level| preset.group_sizes(level));
        let uneven =
            vec![Some(arch::GroupSizes { input: 7, between: 5, output: 11, fixed_open: 1 }); dense.blocks.len()];
        let kinds = [GateKind::Dependent, GateKind::Independent].into_iter().cycle();
        for (sizes, kind) in levels.into_iter().chain([uneven]).zip(kinds) {
            let gated = dense.clone().with_filter_gates(kind, &sizes, &Place::ALL);
            assert!(gated.gate_count() > 0 && gated.validate().is_ok());
            assert_eq!(expected, logits(&gated), "{}: a factor of one changes no bit", preset.name);
        }
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
fn filter_gates_sit_where_the_paper_puts_them() {
    let sites = |name: &str, level| {
        let preset = Preset::named(name).unwrap();
        let spec = preset.spec(10).with_filter_gates(GateKind::Independent, &preset.group_sizes(level), &Place::ALL);
        let mut found = Vec::new();
        for (block, gates) in spec.gate_sites() {
            found.push((format!("{}.{}", block.name, gates.site.name()), gates.count(), gates.fixed_open()));
        }
        found
    };
    let has = |found: &[(String, usize, usize)], name: &str, gates: usize, open: usize| {
        assert!(found.contains(&(name.to_owned(), gates, open)), "{name} {gates} {open} is not in {found:?}");
    };
    // ResNet-50, low: 16 and 8 filters a gate in layer1, one group of each place open.
    let found = sites("resnet50", Level::Low);
    has(&found, "layer1.0.gate.input", 64 / 16 - 1, 16);
    has(&found, "layer1.0.gate.between1", 64 / 8 - 1, 8);
    has(&found, "layer1.0.gate.between2", 64 / 8 - 1, 8);
    has(&found, "layer1.0.gate.output", 256 / 16 - 1, 16);
    has(&found, "layer1.0.gate.projection", 256 / 16 - 1, 16);
    has(&found, "layer4.2.gate.output", 2048 / 128 - 1, 128);
    assert_eq!(found.len(), 16 * 4 + 4);
    has(&sites("resnet50", Level::Medium), "layer3.4.gate.output", 1024 / 16 - 2, 32);
    let found = sites("cifar-resnet20", Level::Low);
    has(&found, "layer2.1.gate.between1", 4, 0);
    assert_eq!(found.len(), 9 * 3);
    // MobileNetV2: the gates between sit behind the depthwise convolution; without a shortcut one group stays open; the
    // first block begins with its depthwise convolution, so its input has none.
    let found = sites("mobilenet_v2", Level::Low);
    has(&found, "features.1.gate.between1", 32 / 16 - 1, 16);
    has(&found, "features.1.gate.output", 1, 8);
    has(&found, "features.3.gate.between2", 144 / 24, 0);
    has(&found, "features.4.gate.input", 24 / 8 - 1, 8);
    assert!(!found.iter().any(|(name, ..)| name == "features.1.gate.input" || name.starts_with("features.18")));
}

#[test]
fn cost_counts_the_tensors_that_are_built() {
    let preset = Preset::named("mobilenet_v2").unwrap();
    let filters = |kind| preset.spec(10).with_filter_gates(kind, &preset.group_sizes(Level::High), &Place::ALL);
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
    let openings = Openings::new(sites).unwrap();
    let used: Vec<f64> = Vec::try_from(Meter::new(&cost, Device::Cpu).unwrap().used(&openings).unwrap()).unwrap();
    assert_eq!(used[0] as u64, cost.dense, "independent gates cost nothing");
    let closed: u64 = cost.blocks.iter().step_by(2).map(|block| block.branch).sum();
    assert_eq!(used[1] as u64, cost.dense - closed);
    let share = Meter::new(&cost, Device::Cpu).unwrap().share(&openings).unwrap().double_value(&[]);
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
    let openings = Openings::new(sites.iter().map(Tensor::shallow_clone).collect()).unwrap();
    let used = Meter::new(&cost, Device::Cpu).unwrap().used(&openings).unwrap();
    assert_eq!(used.double_value(&[0]) as u64, cost.dense + cost.gates);
    used.sum(Kind::Double).backward();
    for (site, block) in sites.iter().zip(&cost.blocks) {
        assert_eq!(site.grad().double_value(&[1, 0]), block.branch as f64);
    }
}

#[test]
fn a_closed_gate_contributes_exactly_zero() {
    let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Independent, |block| block == 1);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let images = normal(&[2, 3, 64, 64], 1).unwrap();
    let logits = || tch::no_grad(|| network.forward(&images, Pass::inference(Policy::Argmax))).unwrap().logits;
    let set = |name: &str, value: &Tensor| {
        tch::no_grad(|| network.tensors().get(name).unwrap().tensor.shallow_clone().copy_(value));
    };
    let open = logits();
    set("layer1.1.gate.logits", &Tensor::from_slice2(&[[1f32, 0.0]]));
    let closed = logits();
    assert_ne!(open, closed);
    // Whatever the closed branch computes, the logits are the same to the last bit.
    set("layer1.1.conv1.weight", &Tensor::from(1e3f32));
    assert_eq!(closed, logits());
}

/// The channels of a place that `open` leaves, by their numbers.
fn open_channels(block: &arch::BlockSpec, site: Site, channels: usize, open: &dyn Fn(Site) -> Vec<bool>) -> Vec<bool> {
    match block.gates_at(site) {
        None => vec![true; channels],
        Some(gates) => {
            let open = open(site);
            gates.gate_of_channel().into_iter().map(|gate| gate.is_none_or(|gate| open[gate])).collect()
        }
    }
}

/// Builds every convolution of the blocks at the width that the open channels leave, runs it, and counts.
fn macs_really_built(spec: &NetSpec, openings: &[Vec<bool>], size: i64) -> u64 {
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
    let mut decisions = openings.iter();
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
        let meter = Meter::new(&cost, Device::Cpu).unwrap();
        let used = |decisions: &[Vec<bool>]| {
            let site = |open: &Vec<bool>| {
                let open: Vec<f32> = open.iter().map(|&open| f32::from(open)).collect();
                Tensor::from_slice(&open).view([1, -1])
            };
            let openings = Openings::new(decisions.iter().map(site).collect()).unwrap();
            (meter.used(&openings).unwrap().double_value(&[0]), meter.activation(&openings).unwrap())
        };
        let all = |open: bool| spec.gate_sites().map(|(_, gates)| vec![open; gates.count()]).collect::<Vec<_>>();
        let (open, closed) = (used(&all(true)), used(&all(false)));
        assert_eq!((open.0 as u64, closed.0 as u64), (cost.dense + cost.gates, cost.constant()), "{}", spec.name);
        assert_eq!((open.1.double_value(&[]), closed.1.double_value(&[])), (1.0, 0.0));
        for seed in 0..6 {
            let decisions = random_openings(spec, 100 * number as u64 + seed);
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
                    cost.per_gate()[gate + i],
                    "{} {site} {i}",
                    spec.name
                );
            }
            gate += all(true)[site].len();
        }
    }
}

#[test]
fn closed_filters_contribute_exactly_zero() {
    for spec in gated_networks() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        let decisions = random_openings(&spec, 5);
        decide(&network, &decisions);
        let images = normal(&[2, 3, 64, 64], 1).unwrap();
        let logits = || tch::no_grad(|| network.forward(&images, Pass::inference(Policy::Argmax))).unwrap();
        let before = logits();
        let found: Vec<Vec<bool>> = before
            .openings
            .sites()
            .iter()
            .map(|site| Vec::<f32>::try_from(site.get(0)).unwrap().into_iter().map(|open| open == 1.0).collect())
            .collect();
        assert_eq!(found, decisions);
        // Whatever closed filters compute, and whatever is read from closed channels, changes no bit.
        let change = |name: String, dim: i64, open: &[bool]| {
            let tensor = &network.tensors().get(&name).unwrap().tensor;
            let closed: Vec<i64> = (0..).zip(open).filter(|(_, open)| !**open).map(|(i, _)| i).collect();
            tch::no_grad(|| {
                let _ = tensor.shallow_clone().index_fill_(dim, &Tensor::from_slice(&closed), 1e3);
            });
        };
        let mut decisions = decisions.iter();
        for block in &spec.blocks {
            for gates in &block.gates {
                let open = decisions.next().unwrap();
                let open: Vec<bool> =
                    gates.gate_of_channel().into_iter().map(|gate| gate.is_none_or(|gate| open[gate])).collect();
                let weight = |conv: &arch::ConvSpec| format!("{}.{}.weight", block.name, conv.name);
                match (gates.site, &block.shortcut) {
                    (Site::Layer, _) => {}
                    (Site::Input, _) => change(weight(&block.branch[0]), 1, &open),
                    (Site::Between(position), _) => {
                        change(weight(&block.branch[position - 1]), 0, &open);
                        change(weight(&block.branch[position]), 1, &open);
                    }
                    (Site::Output, _) => change(weight(block.branch.last().unwrap()), 0, &open),
                    (Site::Projection, Shortcut::Projection(conv)) => change(weight(conv), 0, &open),
                    (Site::Projection, _) => unreachable!("no projection"),
                }
            }
        }
        assert_eq!(before.logits, logits().logits, "{}", spec.name);
    }
}

#[test]
fn skipping_gives_the_logits_of_masking() {
    let images = normal(&[5, 3, 64, 64], 1).unwrap();
    // As the loader delivers them.
    let channels_last = images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let agree = |network: &Network, policy: Policy| {
        for images in [&images, &channels_last, &images.narrow(0, 2, 1)] {
            let pass = |pass| tch::no_grad(|| network.forward(images, pass)).unwrap();
            let (masked, skipping) = (pass(Pass::inference(policy)), pass(Pass::skipping(policy)));
            let distance = (&masked.logits - &skipping.logits).abs().max().double_value(&[]);
            let scale = masked.logits.abs().max().double_value(&[]);
            assert!(distance <= 1e-5 * scale, "{} {policy}: {distance} of {scale}", network.spec().name);
            for (a, b) in masked.openings.sites().iter().zip(skipping.openings.sites()) {
                assert_eq!(a, b);
            }
        }
    };
    for (number, spec) in gated_networks().into_iter().enumerate() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        // Decided alike for all images, one by one, and all closed.
        decide(&network, &random_openings(&spec, number as u64));
        agree(&network, Policy::Argmax);
        agree(&network, Policy::Sample { temperature: 1.0, seed: 8 });
        agree(&network, Policy::AlwaysOpen);
        agree(&network, Policy::TopK(0));
        // Gates that look at the image decide for each.
        let mut dependent = spec.clone();
        for gates in dependent.blocks.iter_mut().flat_map(|block| &mut block.gates) {
            (gates.kind, gates.initial) = (GateKind::Dependent, (0.1, 0.1));
        }
        agree(&Network::build(&dependent, Device::Cpu, 3).unwrap(), Policy::Argmax);
    }
}

#[test]
fn norms_say_how_large_what_a_gate_decides_about_is() {
    let set = |network: &Network, name: &str, value: &dyn Fn(Tensor)| {
        tch::no_grad(|| value(network.tensors().get(name).unwrap().tensor.shallow_clone()));
    };
    let spec = NetSpec::preset("resnet18", 4).unwrap();
    let sizes = vec![Some(arch::GroupSizes::uniform(1, 0)); spec.blocks.len()];
    let spec = spec.with_filter_gates(GateKind::Independent, &sizes, &[Place::Between, Place::Output]);
    let network = Network::build(&spec, Device::Cpu, 0).unwrap();
    set(&network, "layer1.0.bn1.weight", &|mut scale| {
        let _ = scale.fill_(0.5).get(5).fill_(1.5);
    });
    set(&network, "layer1.0.conv2.weight", &|mut weight| {
        let _ = weight.fill_(0.1).select(1, 3).fill_(0.2);
    });
    set(&network, "layer1.0.bn2.weight", &|mut scale| {
        let _ = scale.fill_(1.0).get(0).fill_(0.0);
    });
    let norms = network.gate_norms().unwrap();
    assert_eq!(norms.len(), spec.gate_count());
    // Channel 3 is read with twice the weight, channel 5 has three times the deviation: squared, 4 and 9 among 62 ones.
    for (channel, norm) in norms[..64].iter().enumerate() {
        let expected = match channel {
            3 => 4.0,
            5 => 9.0,
            _ => 1.0,
        } / (75.0 / 64.0);
        assert!((norm - expected).abs() < 1e-5, "channel {channel}: {norm} and {expected}");
    }
    assert_eq!((norms[64], norms[65]), (0.0, 64.0 / 63.0));

    // Layer gates compare with each other.
    let spec = NetSpec::preset("resnet18", 4).unwrap().with_layer_gates(GateKind::Dependent, |block| block < 2);
    let network = Network::build(&spec, Device::Cpu, 0).unwrap();
    set(&network, "layer1.1.bn2.weight", &|mut scale| {
        let _ = scale.fill_(3.0);
    });
    let norms = network.gate_norms().unwrap();
    assert!((norms[0] - 0.2).abs() < 1e-9 && (norms[1] - 1.8).abs() < 1e-9, "{norms:?}");

    // Every place of MobileNetV2 has norms too.
    let preset = Preset::named("mobilenet_v2").unwrap();
    let sizes = vec![Some(arch::GroupSizes::uniform(1, 0)); preset.spec(4).blocks.len()];
    let network =
        Network::build(&preset.spec(4).with_filter_gates(GateKind::Independent, &sizes, &Place::ALL), Device::Cpu, 0)
            .unwrap();
    assert!(network.gate_norms().unwrap().iter().all(|norm| norm.is_finite() && *norm > 0.0));
}

#[test]
fn top_k_opens_that_many_gates_of_the_network_for_every_image() {
    let preset = Preset::named("cifar-resnet20").unwrap();
    let spec = preset.spec(4).with_filter_gates(GateKind::Dependent, &preset.group_sizes(Level::Low), &Place::ALL);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let images = normal(&[5, 3, 32, 32], 1).unwrap();
    let forward = |policy| tch::no_grad(|| network.forward(&images, Pass::inference(policy))).unwrap();
    let output = forward(Policy::TopK(17));
    let open: Vec<f64> =
        Vec::try_from(output.openings.joined().unwrap().sum_dim_intlist([1i64].as_slice(), false, Kind::Double))
            .unwrap();
    assert_eq!(open, [17.0; 5]);
    assert_eq!(forward(Policy::TopK(spec.gate_count())).logits, forward(Policy::AlwaysOpen).logits);
}

#[test]
fn calibration_leaves_the_mean_of_the_batch_statistics() {
    let spec = NetSpec::preset("cifar-resnet20", 4).unwrap();
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let batches: Vec<Tensor> = (0..3).map(|seed| normal(&[4, 3, 32, 32], seed).unwrap()).collect();
    let before: Vec<Tensor> = network.tensors().parameters().map(|entry| entry.tensor.detach().copy()).collect();
    for (k, images) in batches.iter().enumerate() {
        let mode = arch::Mode::Calibration { momentum: 1.0 / (k as f64 + 1.0) };
        tch::no_grad(|| network.forward(images, Pass { mode, ..Pass::inference(Policy::Argmax) })).unwrap();
    }
    let stem = &network.tensors().get("conv1.weight").unwrap().tensor;
    let means = batches.iter().map(|images| {
        let features = images.conv2d(stem, None::<Tensor>, [1, 1], [1, 1], [1, 1], 1);
        features.mean_dim([0i64, 2, 3].as_slice(), false, Kind::Float)
    });
    let expected = Tensor::stack(&means.collect::<Vec<_>>(), 0).mean_dim(0, false, Kind::Float);
    let running = &network.tensors().get("bn1.running_mean").unwrap().tensor;
    assert!((running - expected).abs().max().double_value(&[]) < 1e-5);
    for (entry, before) in network.tensors().parameters().zip(before) {
        assert_eq!(entry.tensor, before, "{} is no statistic", entry.name);
    }
}

#[test]
fn frozen_gates_use_running_statistics_and_leave_them() {
    let spec = NetSpec::preset("cifar-resnet20", 4).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let images = normal(&[4, 3, 32, 32], 1).unwrap();
    let value = |name: &str| network.tensors().get(name).unwrap().tensor.copy();
    // Statistics that fit no batch.
    let mean = &network.tensors().get("layer1.0.gate.bn.running_mean").unwrap().tensor;
    let _ = mean.shallow_clone().fill_(0.3);
    let statistics = || -> Vec<Tensor> {
        let gates =
            network.tensors().iter().filter(|entry| entry.name.contains(".gate.") && entry.name.contains("running"));
        gates.map(|entry| entry.tensor.copy()).collect()
    };
    let (before, stem) = (statistics(), value("bn1.running_mean"));
    assert_eq!(before.len(), 18);
    let training = Pass { mode: arch::Mode::Training { seed: 0 }, ..Pass::inference(Policy::Argmax) };
    let logits = |pass| tch::no_grad(|| network.forward(&images, pass)).unwrap().gate_logits[0].copy();
    let frozen = logits(Pass { frozen_gates: true, ..training });
    assert_eq!(statistics(), before);
    assert_ne!(value("bn1.running_mean"), stem, "the network's own follow the batch");
    let learning = logits(training);
    assert_ne!(learning, frozen);
    assert_ne!(statistics(), before);
}

#[test]
fn after_a_zero_start_gradients_reach_the_first_layer() {
    for name in ["mobilenet_v2_x0.35", "resnet18"] {
        let network = Network::build(&NetSpec::preset(name, 4).unwrap(), Device::Cpu, 3).unwrap();
        network.zero_init_residual().unwrap();
        let scale = |name: &str| network.tensors().get(name).unwrap().tensor.abs().max().double_value(&[]);
        let (last, first) = match name {
            "resnet18" => ("layer1.0.bn2.weight", "conv1.weight"),
            _ => ("features.3.conv.3.weight", "features.0.0.weight"),
        };
        assert_eq!(scale(last), 0.0);
        let output = network.forward(&normal(&[4, 3, 64, 64], 1).unwrap(), Pass::training(1.0, 1)).unwrap();
        output.logits.cross_entropy_for_logits(&Tensor::from_slice(&[0i64, 1, 2, 3])).backward();
        let gradient = network.tensors().get(first).unwrap().tensor.grad();
        assert!(gradient.abs().max().double_value(&[]) > 0.0, "{name}");
    }
}

#[test]
fn ranking_gates_moves_no_statistic() {
    let preset = Preset::named("cifar-resnet20").unwrap();
    let spec = preset.spec(4).with_filter_gates(GateKind::Dependent, &preset.group_sizes(Level::Low), &Place::ALL);
    let images = normal(&[4, 3, 32, 32], 1).unwrap();
    let mode = arch::Mode::Calibration { momentum: 0.5 };
    let running_mean = |policy| {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        tch::no_grad(|| network.forward(&images, Pass { mode, ..Pass::inference(policy) })).unwrap();
        network.tensors().get("layer3.2.bn2.running_mean").unwrap().tensor.copy()
    };
    // All gates open either way, so only a second step of the statistics could tell the two apart.
    assert_eq!(running_mean(Policy::TopK(spec.gate_count())), running_mean(Policy::AlwaysOpen));
}

#[test]
fn dropout_is_a_function_of_the_seed_and_only_for_training() {
    let spec = NetSpec::preset("mobilenet_v2_x0.35", 4).unwrap();
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let images = normal(&[4, 3, 32, 32], 1).unwrap();
    let logits = |mode| {
        let pass = Pass { mode, ..Pass::inference(Policy::AlwaysOpen) };
        tch::no_grad(|| network.forward(&images, pass)).unwrap().logits
    };
    let training = |seed| logits(arch::Mode::Training { seed });
    assert_eq!(training(1), training(1));
    assert_ne!(training(1), training(2));
    assert_eq!(logits(arch::Mode::Inference), logits(arch::Mode::Inference));
}

#[test]
fn gates_reach_the_output_in_the_order_of_the_spec() {
    let spec = NetSpec::preset("resnet50", 10).unwrap().with_layer_gates(GateKind::Dependent, |block| block != 3);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let images = normal(&[2, 3, 64, 64], 1).unwrap();
    let output = network.forward(&images, Pass::training(1.0, 5)).unwrap();
    assert_eq!((output.gate_logits.len(), spec.gate_count()), (15, 15));
    output.logits.sum(Kind::Float).backward();
    for (block, gate) in spec.gate_sites() {
        let name = format!("{}.{}.fc2.bias", block.name, gate.site.name());
        let gradient = network.tensors().get(&name).unwrap().tensor.grad();
        assert!(gradient.defined() && gradient.isfinite().all().int64_value(&[]) == 1, "{name}");
    }
}

#[test]
fn a_seed_gives_the_same_network_and_the_same_pass() {
    let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let images = normal(&[4, 3, 32, 32], 1).unwrap();
    let run = || {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        network.forward(&images, Pass::training(1.0, 17)).unwrap().logits
    };
    assert_eq!(run(), run());
}

#[test]
fn specs_survive_serialisation() {
    let spec = NetSpec::preset("resnet101", 17).unwrap().with_layer_gates(GateKind::Dependent, |block| block > 8);
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<NetSpec>(&text).unwrap(), spec);
}

#[test]
fn contradictions_in_a_spec_are_all_named() {
    let mut spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    spec.blocks[1].branch[0].inputs = 65;
    spec.blocks[2].shortcut = Shortcut::Identity;
    spec.blocks[3].shortcut = Shortcut::None;
    spec.blocks[4].branch[1].stride = 0;
    spec.blocks[5].gates = vec![arch::GateSite::filters(Site::Output, GateKind::Dependent, 256, 8, 0).unwrap(); 2];
    spec.blocks[6].gates[0].site = Site::Projection;
    spec.blocks[7].gates[0].site = Site::Between(2);
    spec.blocks[7].gates[0].groups = vec![arch::Groups { count: 2, channels: usize::MAX, gated: true }];
    spec.head.inputs = 7;
    let error = Network::build(&spec, Device::Cpu, 0).unwrap_err().to_string();
    for part in [
        "'layer1.1.conv1' reads 65",
        "the shortcut of block 'layer2.0' makes 64 channels for 128",
        "'layer2.1' has a layer gate",
        "'layer3.0.conv2'",
        "'layer3.1' has gates at its output twice",
        "'layer4.0' has gates at its projection whose groups do not cover its 512 channels",
        "'layer4.1' has gates at its between2, where none can be",
        "head",
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    spec.blocks[1].branch[0].kernel = usize::MAX;
    assert!(Cost::of(&spec, 64, 64).is_err(), "absurd sizes are refused, not multiplied");
}

#[test]
fn unknown_presets_and_small_images_are_told() {
    assert!(NetSpec::preset("resnet51", 10).unwrap_err().to_string().contains("known are resnet18, resnet34"));
    let spec = NetSpec::preset("resnet18", 10).unwrap();
    assert!(Cost::of(&spec, 32, 32).is_ok());
    assert!(Cost::of(&spec, 0, 0).unwrap_err().to_string().contains("too small"));
}
