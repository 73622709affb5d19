//! Passes through a network: what they compute, and what they leave behind.

use arch::{Level, NetSpec, Network, Pass, SiteKind};
use gumbel_gates::{GateKind, Policy};
use tch::{Device, Kind, Tensor};
use torch_ext::normal;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

#[test]
fn zero_padded_shortcuts_pick_pixels_and_pad_channels_on_both_sides() {
    // With every branch closed the network is its stem, two zero-padded shortcuts, pooling and the
    // classifier.
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
            let gated = dense.clone().with_filter_gates(kind, &sizes, &SiteKind::ALL);
            assert!(gated.gate_count() > 0 && gated.validate().is_ok());
            assert_eq!(expected, logits(&gated), "{}: a factor of one changes no bit", preset.name);
        }
    }
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
fn a_seed_gives_the_same_network_and_the_same_pass() {
    let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let images = normal(&[4, 3, 32, 32], 1).unwrap();
    let run = || {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        network.forward(&images, Pass::training(1.0, 17)).unwrap().logits
    };
    assert_eq!(run(), run());
}
