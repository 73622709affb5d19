//! Gates in a network: what they close, skip and say.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{Level, NetSpec, Network, Pass, Preset, Shortcut, Site, SiteKind};
use gumbel_gates::{GateKind, Policy};
use support::{decide, gated_networks, random_gate_values};
use tch::{Device, Kind, Tensor};
use torch_ext::normal;

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

#[test]
fn closed_filters_contribute_exactly_zero() {
    for spec in gated_networks() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        let decisions = random_gate_values(&spec, 5);
        decide(&network, &decisions);
        let images = normal(&[2, 3, 64, 64], 1).unwrap();
        let logits = || tch::no_grad(|| network.forward(&images, Pass::inference(Policy::Argmax))).unwrap();
        let before = logits();
        let found: Vec<Vec<bool>> = before
            .gate_values
            .sites()
            .iter()
            .map(|site| Vec::<f32>::try_from(site.get(0)).unwrap().into_iter().map(|open| open == 1.0).collect())
            .collect();
        assert_eq!(found, decisions);
        // Whatever closed filters compute, and whatever is read from closed channels, changes no
        // bit.
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
            for (a, b) in masked.gate_values.sites().iter().zip(skipping.gate_values.sites()) {
                assert_eq!(a, b);
            }
        }
    };
    for (number, spec) in gated_networks().into_iter().enumerate() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        // Decided alike for all images, one by one, and all closed.
        decide(&network, &random_gate_values(&spec, number as u64));
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
    let spec = spec.with_filter_gates(GateKind::Independent, &sizes, &[SiteKind::Between, SiteKind::Output]);
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
    // Channel 3 is read with twice the weight, channel 5 has three times the deviation: squared, 4
    // and 9 among 62 ones.
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

    // Every site of MobileNetV2 has norms too.
    let preset = Preset::named("mobilenet_v2").unwrap();
    let sizes = vec![Some(arch::GroupSizes::uniform(1, 0)); preset.spec(4).blocks.len()];
    let network = Network::build(
        &preset.spec(4).with_filter_gates(GateKind::Independent, &sizes, &SiteKind::ALL),
        Device::Cpu,
        0,
    )
    .unwrap();
    assert!(network.gate_norms().unwrap().iter().all(|norm| norm.is_finite() && *norm > 0.0));
}

#[test]
fn top_k_opens_that_many_gates_of_the_network_for_every_image() {
    let preset = Preset::named("cifar-resnet20").unwrap();
    let spec = preset.spec(4).with_filter_gates(GateKind::Dependent, &preset.group_sizes(Level::Low), &SiteKind::ALL);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let images = normal(&[5, 3, 32, 32], 1).unwrap();
    let forward = |policy| tch::no_grad(|| network.forward(&images, Pass::inference(policy))).unwrap();
    let output = forward(Policy::TopK(17));
    let open: Vec<f64> =
        Vec::try_from(output.gate_values.joined().unwrap().sum_dim_intlist([1i64].as_slice(), false, Kind::Double))
            .unwrap();
    assert_eq!(open, [17.0; 5]);
    assert_eq!(forward(Policy::TopK(spec.gate_count())).logits, forward(Policy::AlwaysOpen).logits);
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
fn ranking_gates_moves_no_statistic() {
    let preset = Preset::named("cifar-resnet20").unwrap();
    let spec = preset.spec(4).with_filter_gates(GateKind::Dependent, &preset.group_sizes(Level::Low), &SiteKind::ALL);
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
