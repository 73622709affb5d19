//! Presets, gates in a network and cost.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use arch::{Cost, NetSpec, Network, Pass, Shortcut};
use gumbel_gates::{GateKind, Openings, Policy};
use tch::{Device, Kind, Tensor};
use torch_ext::normal;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

#[test]
fn presets_have_the_published_sizes() {
    // Parameters and MACs at 224: torchvision's documentation of the weights (GFLOPS there are MACs).
    for (name, parameters, giga_macs) in [
        ("resnet18", 11_689_512, 1.81),
        ("resnet34", 21_797_672, 3.66),
        ("resnet50", 25_557_032, 4.09),
        ("resnet101", 44_549_160, 7.80),
        ("resnet152", 60_192_808, 11.51),
    ] {
        let spec = NetSpec::preset(name, 1000).unwrap();
        let cost = Cost::of(&spec, 224, 224).unwrap();
        assert_eq!(cost.parameters, parameters, "{name}");
        assert!((cost.dense as f64 / 1e9 - giga_macs).abs() < 0.01, "{name}: {} MACs", cost.dense);
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
    for preset in arch::PRESETS.iter().filter(|preset| preset.name.ends_with("18") || preset.name.ends_with("20")) {
        let dense = NetSpec::preset(preset.name, 10).unwrap();
        let images = normal(&[2, 3, 32, 32], 1).unwrap();
        let logits = |spec: &NetSpec| {
            let network = Network::build(spec, Device::Cpu, 3).unwrap();
            tch::no_grad(|| network.forward(&images, Pass::inference(Policy::AlwaysOpen))).unwrap().logits
        };
        assert_eq!(
            logits(&dense),
            logits(&dense.clone().with_layer_gates(GateKind::Dependent, |_| true)),
            "{}",
            preset.name
        );
    }
}

#[test]
fn cost_counts_the_tensors_that_are_built() {
    for kind in [GateKind::Independent, GateKind::Dependent] {
        let spec = NetSpec::preset("resnet50", 10).unwrap().with_layer_gates(kind, |block| block % 2 == 0);
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
    let used: Vec<f64> = Vec::try_from(cost.used(&openings).unwrap()).unwrap();
    assert_eq!(used[0] as u64, cost.dense, "independent gates cost nothing");
    let closed: u64 = cost.blocks.iter().step_by(2).map(|block| block.branch).sum();
    assert_eq!(used[1] as u64, cost.dense - closed);
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
    let used = cost.used(&openings).unwrap();
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
    spec.head.inputs = 7;
    let error = Network::build(&spec, Device::Cpu, 0).unwrap_err().to_string();
    for part in
        ["'layer1.1.conv1' reads 65", "'layer2.0' adds", "'layer2.1' has a layer gate", "'layer3.0.conv2'", "head"]
    {
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
