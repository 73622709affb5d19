//! Pruning: smaller networks that compute the same.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{
    BlockSpec, Cost, Decision, GateSite, Level, Meter, NetSpec, Network, Pass, Preset, Shortcut, Site, SiteKind,
};
use gumbel_gates::{GateKind, Policy};
use support::{decide, decide_some, gated_networks, random_gate_values, randomize};
use tch::{Device, Kind, Tensor};
use torch_ext::{derive_seed, normal};

fn logits(network: &Network, images: &Tensor, pass: Pass) -> Tensor {
    tch::no_grad(|| network.forward(images, pass)).unwrap().logits
}

/// Asserts that two networks classify alike, masked and skipping.
fn assert_alike(pruned: &Network, masked: &Network, seed: u64) {
    let images = normal(&[3, 3, 64, 64], seed).unwrap().permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
    let expected = logits(masked, &images, Pass::inference(Policy::Argmax));
    for pass in [Pass::inference(Policy::Argmax), Pass::skipping(Policy::Argmax)] {
        let found = logits(pruned, &images, pass);
        let distance = (&found - &expected).abs().max().double_value(&[]);
        let scale = expected.abs().max().double_value(&[]);
        assert!(distance <= 1e-4 * scale, "{} {seed}: {distance} of {scale}", masked.spec().name);
    }
}

fn flat(gate_values: &[Vec<bool>]) -> Vec<Decision> {
    let decision = |&open: &bool| if open { Decision::Open } else { Decision::Closed };
    gate_values.iter().flatten().map(decision).collect()
}

/// Networks whose sites can close altogether, with decisions that make some of them do so.
fn closing_networks() -> Vec<(NetSpec, Vec<Vec<bool>>)> {
    let mut found = Vec::new();
    for (name, kinds) in [
        ("cifar-resnet20", &SiteKind::ALL[..]),
        ("cifar-resnet20", &[SiteKind::Between]),
        ("resnet50", &SiteKind::ALL),
        ("mobilenet_v2_x0.35", &SiteKind::ALL),
    ] {
        let preset = Preset::named(name).unwrap();
        // Two gates at most sites, so that both are often closed.
        let halves = |block: &BlockSpec| {
            let half = |channels: usize| channels.div_ceil(2);
            let between = half(block.branch[0].outputs);
            arch::GroupSizes { input: half(block.inputs), between, output: half(block.outputs), fixed_open: 0 }
        };
        let spec = preset.spec(4);
        let sizes: Vec<_> = spec.blocks.iter().map(|block| Some(halves(block))).collect();
        let spec = spec.with_filter_gates(GateKind::Independent, &sizes, kinds);
        for seed in 0..4 {
            let mut part = 0;
            let mut coin = || {
                part += 1;
                derive_seed(seed, part).is_multiple_of(2)
            };
            let gate_values =
                spec.gate_sites().map(|(_, gates)| (0..gates.count()).map(|_| coin()).collect()).collect();
            found.push((spec.clone(), gate_values));
        }
    }
    found
}

#[test]
fn pruned_networks_compute_what_masked_ones_do() {
    let random = gated_networks().into_iter().enumerate().flat_map(|(number, spec)| {
        (0..2).map(move |seed| (spec.clone(), random_gate_values(&spec, 10 * number as u64 + seed)))
    });
    for (number, (spec, gate_values)) in random.chain(closing_networks()).enumerate() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        decide(&network, &gate_values);
        let pruned = network.prune(&flat(&gate_values)).unwrap();
        assert_eq!(pruned.spec().gate_count(), 0);
        assert_alike(&pruned, &network, number as u64);
        // Padded, it computes the same.
        let padded = network.prune_padded(&flat(&gate_values), 8).unwrap();
        assert_alike(&padded, &network, number as u64);
        // Nothing is left to decide.
        let again = pruned.prune(&[]).unwrap();
        assert_eq!(again.spec(), pruned.spec());
        for (a, b) in again.tensors().iter().zip(pruned.tensors()) {
            assert_eq!(a.tensor, b.tensor);
        }
    }
}

#[test]
fn padded_networks_have_multiples_of_channels() {
    for name in ["cifar-resnet20", "resnet50", "mobilenet_v2"] {
        let preset = Preset::named(name).unwrap().spec(4);
        let sizes = vec![Some(arch::GroupSizes::uniform(1, 0)); preset.blocks.len()];
        let spec = preset.with_filter_gates(GateKind::Independent, &sizes, &SiteKind::ALL);
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        let drawn = torch_ext::uniform(&[spec.gate_count() as i64], 9).unwrap();
        let drawn: Vec<f32> = Vec::try_from(drawn).unwrap();
        let decisions: Vec<Decision> =
            drawn.iter().map(|value| if *value < 0.6 { Decision::Open } else { Decision::Closed }).collect();
        let padded = network.prune_padded(&decisions, 8).unwrap();
        assert_eq!(padded.spec().blocks.len(), spec.blocks.len());
        for block in &padded.spec().blocks {
            for conv in &block.branch {
                assert_eq!((conv.inputs % 8, conv.outputs % 8), (0, 0), "{name} {} {}", block.name, conv.name);
            }
        }
        let size = |network: &Network| Cost::of(network.spec(), 64, 64).unwrap().dense;
        let plain = network.prune(&decisions).unwrap();
        assert!(size(&plain) < size(&padded) && size(&padded) < size(&network), "{name}");
    }
}

#[test]
fn pruned_networks_cost_what_the_openings_did() {
    let never_empty = |spec: &NetSpec| spec.gate_sites().all(|(_, gates)| gates.fixed_open() > 0);
    for mut spec in gated_networks().into_iter().filter(never_empty) {
        // Closed input channels are still read where that is faster.
        for block in &mut spec.blocks {
            block.gates.retain(|gates| gates.site != Site::Input);
        }
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        let gate_values = random_gate_values(&spec, 5);
        decide(&network, &gate_values);
        let images = normal(&[1, 3, 64, 64], 1).unwrap();
        let made = tch::no_grad(|| network.forward(&images, Pass::inference(Policy::Argmax))).unwrap().gate_values;
        let used = Meter::new(&Cost::of(&spec, 64, 64).unwrap().spending(), Device::Cpu).unwrap().used(&made).unwrap();
        let pruned = network.prune(&flat(&gate_values)).unwrap();
        let cost = Cost::of(pruned.spec(), 64, 64).unwrap();
        assert_eq!(cost.dense, used.double_value(&[0]) as u64, "{}", spec.name);
        let held: u64 = pruned.tensors().parameters().map(|entry| entry.tensor.numel() as u64).sum();
        assert_eq!(held, cost.parameters);
    }
}

#[test]
fn undecided_gates_stay_and_decide_as_before() {
    for (number, mut spec) in gated_networks().into_iter().enumerate() {
        for kind in [GateKind::Independent, GateKind::Dependent] {
            for gates in spec.blocks.iter_mut().flat_map(|block| &mut block.gates) {
                (gates.kind, gates.initial) = (kind, (0.1, 0.1));
            }
            let network = Network::build(&spec, Device::Cpu, 3).unwrap();
            randomize(&network, number as u64);
            // A third each: open, closed, undecided.
            let decisions: Vec<Decision> = (0..spec.gate_count())
                .map(|gate| {
                    [Decision::Open, Decision::Closed, Decision::Undecided][derive_seed(9, gate as u64) as usize % 3]
                })
                .collect();
            decide_some(&network, &decisions, number as u64);
            let pruned = network.prune(&decisions).unwrap();
            assert!(pruned.spec().gate_count() > 0 && pruned.spec().gate_count() < spec.gate_count());
            assert_alike(&pruned, &network, number as u64);
            let undecided = vec![Decision::Undecided; pruned.spec().gate_count()];
            assert_eq!(pruned.prune(&undecided).unwrap().spec(), pruned.spec());
        }
    }
}

#[test]
fn input_channels_are_left_out_where_copying_pays() {
    let preset = Preset::named("resnet50").unwrap();
    let spec =
        preset.spec(4).with_filter_gates(GateKind::Independent, &preset.group_sizes(Level::Low), &[SiteKind::Input]);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    randomize(&network, 1);
    let gate_values = random_gate_values(&spec, 5);
    decide(&network, &gate_values);
    let pruned = network.prune(&flat(&gate_values)).unwrap();
    // Few filters read many pixels at first, many filters few pixels at last.
    let reads = |name: &str| pruned.spec().blocks.iter().find(|block| block.name == name).unwrap().reads.is_some();
    assert!(!reads("layer1.1") && reads("layer4.2"));
    assert_alike(&pruned, &network, 1);
}

#[test]
fn blocks_that_do_nothing_vanish() {
    let spec = NetSpec::preset("resnet18", 4).unwrap().with_layer_gates(GateKind::Independent, |_| true);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let closed: Vec<Vec<bool>> = (0..8).map(|block| vec![block % 2 == 0]).collect();
    decide(&network, &closed);
    let pruned = network.prune(&flat(&closed)).unwrap();
    let names: Vec<&str> = pruned.spec().blocks.iter().map(|block| block.name.as_str()).collect();
    assert_eq!(names, ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]);
    assert_alike(&pruned, &network, 1);
    // A block whose shortcut changes the shape stays as that shortcut.
    let closed: Vec<Vec<bool>> = (0..8).map(|block| vec![block != 2]).collect();
    decide(&network, &closed);
    let pruned = network.prune(&flat(&closed)).unwrap();
    let block = &pruned.spec().blocks[2];
    assert!(block.branch.is_empty() && matches!(block.shortcut, Shortcut::Projection(_)));
    assert_alike(&pruned, &network, 2);
}

#[test]
fn a_place_closed_in_front_of_a_batch_norm_leaves_its_constant() {
    let preset = Preset::named("cifar-resnet20").unwrap();
    let spec =
        preset.spec(4).with_filter_gates(GateKind::Independent, &preset.group_sizes(Level::Low), &[SiteKind::Between]);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    randomize(&network, 1);
    let gate_values: Vec<Vec<bool>> =
        spec.gate_sites().map(|(block, gates)| vec![block.name != "layer2.1"; gates.count()]).collect();
    decide(&network, &gate_values);
    let pruned = network.prune(&flat(&gate_values)).unwrap();
    let block = pruned.spec().blocks.iter().find(|block| block.name == "layer2.1").unwrap();
    assert!(block.branch.is_empty() && block.bias);
    assert!(pruned.tensors().get("layer2.1.bias").is_some());
    assert_alike(&pruned, &network, 1);
}

#[test]
fn what_cannot_be_pruned_is_told() {
    let spec = NetSpec::preset("resnet18", 4).unwrap().with_layer_gates(GateKind::Independent, |_| true);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    assert_eq!(network.prune(&[Decision::Open]).unwrap_err().to_string(), "1 decisions for 8 gates; give one per gate");
    let error = network.prune(&[Decision::Closed; 8]).unwrap_err().to_string();
    assert!(error.contains("every gate of resnet18 is closed"), "{error}");
    // A block without a path around it, with gates that could close it: only by hand.
    let mut spec = NetSpec::preset("mobilenet_v2", 4).unwrap();
    let outputs = spec.blocks[3].outputs;
    spec.blocks[3].gates =
        vec![GateSite::filters(Site::Output, GateKind::Independent, outputs, outputs / 2, 0).unwrap()];
    spec.blocks[4].gates = vec![GateSite::layer(GateKind::Independent)];
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let decisions = [Decision::Closed, Decision::Closed, Decision::Open];
    let error = network.prune(&decisions).unwrap_err().to_string();
    assert!(error.contains("every filter of block 'features.4' is closed and there is no path around it"), "{error}");
}

#[test]
fn pruned_networks_train() {
    let (spec, gate_values) = closing_networks().swap_remove(0);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let pruned = network.prune(&flat(&gate_values)).unwrap();
    let images = normal(&[4, 3, 32, 32], 1).unwrap();
    let output = pruned.forward(&images, Pass::training(1.0, 1)).unwrap();
    output.logits.square().sum(Kind::Float).backward();
    for entry in pruned.tensors().parameters() {
        let gradient = entry.tensor.grad();
        assert!(gradient.defined() && gradient.isfinite().all().int64_value(&[]) == 1, "{}", entry.name);
    }
}
