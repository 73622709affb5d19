//! The optimizer against PyTorch's formula, on the network's own gradients.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use arch::{NetSpec, Network, Pass};
use gumbel_gates::GateKind;
use tch::{Device, Kind, Tensor};
use torch_ext::normal;
use trainer::config::{Algorithm, GateDecay};
use trainer::{Config, Optimizer, Update};

fn update(optimizer: &Optimizer, learning_rate: f64) {
    let update = Update { learning_rate, gates: true, scale: None, skip: None };
    optimizer.step(&update, &optimizer.norm(true).unwrap()).unwrap();
}

#[test]
fn every_parameter_moves_by_the_formula_whatever_its_layout() {
    for decay_all in [false, true] {
        moves_by_the_formula(decay_all);
    }
}

fn moves_by_the_formula(decay_all: bool) {
    let mut config = Config::default();
    config.optimizer.decay_all = decay_all;
    config.optimizer.weight_decay = 0.01;
    config.gates.learning_rate_factor = 5.0;
    config.gates.weight_decay = GateDecay::Constant(0.002);
    let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let network = Network::build(&spec, Device::Cpu, 1).unwrap();
    let mut optimizer = Optimizer::new(network.tensors(), spec.gate_count(), &config.optimizer, &config.gates).unwrap();
    // Channels last, as the loader delivers: gradients may then come in that layout too.
    let images = normal(&[4, 32, 32, 3], 1).unwrap().permute([0, 3, 1, 2]);
    let mut momenta: Vec<Tensor> = network.tensors().parameters().map(|e| e.tensor.detach().zeros_like()).collect();
    for step in 0..2 {
        let output = network.forward(&images, Pass::training(1.0, step)).unwrap();
        optimizer.zero_gradients();
        output.logits.cross_entropy_for_logits(&Tensor::from_slice(&[1i64, 2, 3, 4])).backward();
        let before: Vec<Tensor> = network.tensors().parameters().map(|entry| entry.tensor.detach().copy()).collect();
        update(&optimizer, 0.1);
        for ((entry, before), momentum) in network.tensors().parameters().zip(&before).zip(&mut momenta) {
            let gate = entry.name.contains(".gate.");
            let decay = if gate {
                0.002
            } else if before.dim() > 1 || decay_all {
                0.01
            } else {
                0.0
            };
            let rate = if gate { 0.5 } else { 0.1 };
            *momentum = &*momentum * 0.9 + entry.tensor.grad() + before * decay;
            let expected = before - &*momentum * rate;
            let error = (entry.tensor.detach() - &expected).abs().max().double_value(&[]);
            assert!(error < 1e-5 * (1.0 + expected.abs().max().double_value(&[])), "{}: {error}", entry.name);
        }
    }
}

#[test]
fn adam_and_clipped_gradients_move_as_pytorch_moves_them() {
    for clip_norm in [None, Some(1e-3), Some(1e9)] {
        let mut config = Config::default();
        config.optimizer.algorithm = Algorithm::AdamW;
        config.optimizer.clip_norm = clip_norm;
        config.optimizer.epsilon = 1e-3;
        let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Independent, |_| true);
        let network = Network::build(&spec, Device::Cpu, 1).unwrap();
        let mut optimizer =
            Optimizer::new(network.tensors(), spec.gate_count(), &config.optimizer, &config.gates).unwrap();
        let images = normal(&[4, 3, 32, 32], 1).unwrap();
        let output = network.forward(&images, Pass::training(1.0, 1)).unwrap();
        optimizer.zero_gradients();
        output.logits.cross_entropy_for_logits(&Tensor::from_slice(&[1i64, 2, 3, 4])).backward();
        let copies = |of: &dyn Fn(&Tensor) -> Tensor| -> Vec<Tensor> {
            network.tensors().parameters().map(|entry| of(&entry.tensor).detach().copy()).collect()
        };
        let (before, gradients) = (copies(&Tensor::shallow_clone), copies(&Tensor::grad));
        let total =
            gradients.iter().map(|gradient| gradient.square().sum(Kind::Double).double_value(&[])).sum::<f64>().sqrt();
        assert!((1e-2..1e6).contains(&total));
        let scale = clip_norm.map_or(1.0, |norm| (norm / (total + 1e-6)).min(1.0));
        // A step that is left out moves nothing and does not count.
        let skipped = Update { learning_rate: 0.01, gates: true, scale: None, skip: Some(&Tensor::from(1.0f32)) };
        optimizer.step(&skipped, &optimizer.norm(true).unwrap()).unwrap();
        assert_eq!(copies(&Tensor::shallow_clone), before);
        if clip_norm.is_some() {
            // Clipped in place: anew.
            for (entry, gradient) in network.tensors().parameters().zip(&gradients) {
                entry.tensor.grad().copy_(gradient);
            }
        }
        update(&optimizer, 0.01);
        for ((entry, before), gradient) in network.tensors().parameters().zip(&before).zip(&gradients) {
            // After one step the corrected means are the gradient and its square.
            let gradient = gradient * scale;
            let decay = if before.dim() > 1 && !entry.name.contains(".gate.") { 1e-4 } else { 0.0 };
            let expected: Tensor = before * (1.0 - 0.01 * decay) - 0.01 * &gradient / (gradient.abs() + 1e-3);
            let error = (entry.tensor.detach() - expected).abs().max().double_value(&[]);
            assert!(error < 1e-5, "{} with {clip_norm:?}: {error}", entry.name);
        }
    }
}
