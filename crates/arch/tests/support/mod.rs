//! Gated networks of every kind, and decisions for them.

#![allow(dead_code)] // each test file uses some of it

pub mod onnx;

use arch::{Decision, Level, NetSpec, Network, Preset, SiteKind};
use gumbel_gates::GateKind;
use tch::Tensor;
use torch_ext::{derive_seed, normal, uniform};

/// Sets the logits of independent gates so that argmax decides as `gate_values` say.
pub fn decide(network: &Network, gate_values: &[Vec<bool>]) {
    for ((block, gates), open) in network.spec().gate_sites().zip(gate_values) {
        let logits: Vec<f32> = open.iter().flat_map(|&open| [0.0, if open { 1.0 } else { -1.0 }]).collect();
        let name = format!("{}.{}.logits", block.name, gates.site.name());
        let mut own = network.tensors().get(&name).unwrap().tensor.shallow_clone();
        tch::no_grad(|| own.copy_(&Tensor::from_slice(&logits).view([-1, 2])));
    }
}

/// Moves the logits of decided gates far to their side; the others get values near zero.
pub fn decide_some(network: &Network, decisions: &[Decision], seed: u64) {
    let mut left = decisions;
    for (number, (block, gates)) in network.spec().gate_sites().enumerate() {
        let (own, rest) = left.split_at(gates.count());
        left = rest;
        let logits: Vec<f32> = own
            .iter()
            .flat_map(|decision| match decision {
                Decision::Open => [0.0, 1e3],
                Decision::Closed => [1e3, 0.0],
                Decision::Undecided => [0.0, 0.0],
            })
            .collect();
        let name = format!("{}.{}", block.name, gates.site.name());
        let (name, shape) = match gates.kind {
            GateKind::Independent => (format!("{name}.logits"), vec![-1, 2]),
            GateKind::Dependent => (format!("{name}.fc2.bias"), vec![-1]),
        };
        let logits = Tensor::from_slice(&logits).view(shape.as_slice());
        let noise = normal(&logits.size(), derive_seed(seed, number as u64)).unwrap() * 0.1;
        let mut own = network.tensors().get(&name).unwrap().tensor.shallow_clone();
        tch::no_grad(|| own.copy_(&(logits + noise)));
    }
}

/// Random decisions for every gate of a network.
pub fn random_gate_values(spec: &NetSpec, seed: u64) -> Vec<Vec<bool>> {
    let mut part = 0;
    let mut coin = || {
        part += 1;
        !derive_seed(seed, part).is_multiple_of(3)
    };
    spec.gate_sites().map(|(_, gates)| (0..gates.count()).map(|_| coin()).collect()).collect()
}

/// Gated networks of every kind of block and site.
pub fn gated_networks() -> Vec<NetSpec> {
    let filters = |name: &str, level, kinds: &[SiteKind]| {
        let preset = Preset::named(name).unwrap();
        preset.spec(4).with_filter_gates(GateKind::Independent, &preset.group_sizes(level), kinds)
    };
    let mut uneven = NetSpec::preset("resnet18", 4).unwrap();
    let groups = |i: usize| Some(arch::GroupSizes { input: 7 + i, between: 5, output: 100, fixed_open: i % 3 });
    let groups: Vec<_> = (0..uneven.blocks.len()).map(groups).collect();
    uneven = uneven.with_filter_gates(GateKind::Independent, &groups, &SiteKind::ALL);
    let mut both = filters("resnet50", Level::Low, &[SiteKind::Between, SiteKind::Projection]);
    for block in both.blocks.iter_mut().step_by(2) {
        block.gates.insert(0, arch::GateSite::layer(GateKind::Independent));
    }
    vec![
        filters("cifar-resnet20", Level::Low, &SiteKind::ALL),
        filters("resnet50", Level::Medium, &SiteKind::ALL),
        filters("mobilenet_v2", Level::Low, &SiteKind::ALL),
        filters("mobilenet_v2_x0.35", Level::High, &[SiteKind::Between]),
        filters("resnet34", Level::High, &[SiteKind::Input, SiteKind::Output]),
        uneven,
        both,
        NetSpec::preset("mobilenet_v2", 4).unwrap().with_layer_gates(GateKind::Independent, |_| true),
    ]
}

/// Gives every tensor but the gates' values of its own: fresh batch norms would hide mistakes.
pub fn randomize(network: &Network, seed: u64) {
    for (number, entry) in network.tensors().iter().filter(|entry| entry.group != gumbel_gates::GATE_GROUP).enumerate()
    {
        let (shape, seed) = (entry.tensor.size(), derive_seed(seed, number as u64));
        let values = match entry.name.rsplit('.').next() {
            Some("running_var") => uniform(&shape, seed).unwrap() + 0.5,
            Some("weight") if shape.len() > 1 => {
                let fan_in: i64 = shape[1..].iter().product();
                normal(&shape, seed).unwrap() * (2.0 / fan_in as f64).sqrt()
            }
            _ => normal(&shape, seed).unwrap() * 0.3 + 0.5,
        };
        tch::no_grad(|| entry.tensor.shallow_clone().copy_(&values));
    }
}
