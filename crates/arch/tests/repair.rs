//! Repairing what was cut: blocks give again what they gave.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{Decision, Error, GroupSizes, NetSpec, Network, Pass, Preset, SiteKind};
use gumbel_gates::{GateKind, Policy};
use std::collections::HashMap;
use support::{gated_networks, random_gate_values, randomize};
use tch::{Device, Kind, Tensor};
use torch_ext::normal;

/// Images in four batches.
fn batches(size: i64) -> Vec<Tensor> {
    (0..4).map(|batch| normal(&[8, 3, size, size], batch).unwrap()).collect()
}

fn logits(network: &Network, images: &Tensor) -> Tensor {
    tch::no_grad(|| network.forward(images, Pass::inference(Policy::AlwaysOpen))).unwrap().logits
}

fn distance(a: &Network, b: &Network, images: &Tensor) -> f64 {
    let (a, b) = (logits(a, images), logits(b, images));
    (&a - &b).square().sum(Kind::Double).double_value(&[]) / b.square().sum(Kind::Double).double_value(&[])
}

fn decisions(open: &[bool]) -> Vec<Decision> {
    open.iter().map(|&open| if open { Decision::Open } else { Decision::Closed }).collect()
}

/// The network that ends behind the first blocks of a larger one, whose wide layers take long.
fn beginning(mut spec: NetSpec) -> NetSpec {
    spec.blocks.truncate(4);
    spec.head.inputs = spec.blocks[spec.blocks.len() - 1].outputs;
    spec
}

/// Single filters between the convolutions of a preset with two classes.
fn between(name: &str) -> NetSpec {
    let preset = Preset::named(name).unwrap();
    let sizes: Vec<_> = preset.spec(2).blocks.iter().map(|_| Some(GroupSizes::uniform(1, 0))).collect();
    beginning(preset.spec(2).with_filter_gates(GateKind::Independent, &sizes, &[SiteKind::Between]))
}

/// Makes the second filter of every convolution but a branch's last the twin of the first.
fn twin(network: &Network) {
    for block in &network.spec().blocks {
        let convs = &block.branch[..block.branch.len() - 1];
        for conv in convs {
            let norm = ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{}.{part}", conv.norm));
            for name in norm.iter().chain([&format!("{}.weight", conv.name)]) {
                let tensor = network.tensors().get(&format!("{}.{name}", block.name)).unwrap().tensor.detach();
                tensor.get(1).copy_(&tensor.get(0));
            }
        }
    }
}

#[test]
fn filters_that_others_can_stand_in_for_are_made_up_for_in_blocks_of_every_kind() {
    for (name, size) in [("cifar-resnet20", 32), ("resnet50", 64), ("mobilenet_v2_x0.35", 64)] {
        let spec = between(name);
        let whole = Network::build(&spec, Device::Cpu, 1).unwrap();
        randomize(&whole, 1);
        twin(&whole);
        let open: Vec<bool> = spec
            .gate_sites()
            .flat_map(|(_, gates)| (0..gates.count()).map(|gate| gate != 1).collect::<Vec<_>>())
            .collect();
        let pruned = whole.prune(&decisions(&open)).unwrap();
        let unseen = normal(&[4, 3, size, size], 99).unwrap();
        let before = distance(&pruned, &whole, &unseen);
        let repaired = pruned.repair(&whole, &open, &batches(size)).unwrap();
        assert_eq!(repaired.len(), spec.blocks.len());
        for block in &repaired {
            assert!(block.after <= 1e-2, "{name} {block:?}");
        }
        let after = distance(&pruned, &whole, &unseen);
        assert!(after < 1e-2 && after < before / 10.0, "{name}: {before} before, {after} after");
    }
}

#[test]
fn what_repair_leaves_is_never_farther_off_where_it_was_solved() {
    for (number, spec) in gated_networks().into_iter().map(beginning).enumerate() {
        let whole = Network::build(&spec, Device::Cpu, 2).unwrap();
        randomize(&whole, number as u64);
        let mut open: Vec<bool> = random_gate_values(&spec, number as u64).concat();
        // Something must be left.
        open.iter_mut().take(1).for_each(|open| *open = true);
        let pruned = whole.prune(&decisions(&open)).unwrap();
        let images = batches(32);
        let repaired = pruned.repair(&whole, &open, &images).unwrap();
        for block in repaired {
            assert!(block.after <= block.before * 1.05 + 1e-6, "{} {block:?}", spec.name);
        }
        for entry in pruned.tensors() {
            assert!(entry.tensor.isfinite().all().int64_value(&[]) == 1, "{} {}", spec.name, entry.name);
        }
    }
}

#[test]
fn what_cannot_be_repaired_is_told() {
    let spec = between("cifar-resnet20");
    let whole = Network::build(&spec, Device::Cpu, 1).unwrap();
    let open = vec![true; spec.gate_count()];
    let pruned = whole.prune(&decisions(&open)).unwrap();
    assert!(matches!(whole.repair(&whole, &open, &batches(32)), Err(Error::GatesLeft { .. })));
    assert!(matches!(pruned.repair(&whole, &open[1..], &batches(32)), Err(Error::DecisionCount { .. })));
    assert!(matches!(pruned.repair(&whole, &open, &[]), Err(Error::NoImages)));
}

#[test]
fn what_goes_along_with_parameters_is_cut_as_they_are() {
    for (number, spec) in gated_networks().into_iter().enumerate() {
        let network = Network::build(&spec, Device::Cpu, 2).unwrap();
        randomize(&network, number as u64);
        let open: Vec<bool> = random_gate_values(&spec, 7 + number as u64).concat();
        let twice: HashMap<String, Tensor> =
            network.tensors().parameters().map(|entry| (entry.name.clone(), entry.tensor.detach() * 2.0)).collect();
        let (pruned, along) = network.prune_along(&decisions(&open), vec![twice]).unwrap();
        let known = network.tensors().parameters().map(|entry| entry.name.as_str()).collect::<Vec<_>>();
        let left: Vec<_> = pruned.tensors().parameters().filter(|entry| known.contains(&&*entry.name)).collect();
        assert_eq!(along[0].len(), left.len(), "{}", spec.name);
        for entry in left {
            assert_eq!(along[0][&entry.name], entry.tensor.detach() * 2.0, "{} {}", spec.name, entry.name);
        }
    }
}
