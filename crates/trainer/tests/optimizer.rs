//! The optimiser against PyTorch's formula, on the network's own gradients.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use arch::{NetSpec, Network, Pass};
use gumbel_gates::GateKind;
use tch::{Device, Tensor};
use torch_ext::normal;
use trainer::config::GateDecay;
use trainer::{Config, Sgd};

#[test]
fn every_parameter_moves_by_the_formula_whatever_its_layout() {
    let mut config = Config::default();
    config.optimizer.weight_decay = 0.01;
    config.gates.learning_rate_factor = 5.0;
    config.gates.weight_decay = GateDecay::Constant(0.002);
    let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let network = Network::build(&spec, Device::Cpu, 1).unwrap();
    let mut optimizer = Sgd::new(network.tensors(), spec.gate_count(), &config.optimizer, &config.gates).unwrap();
    // Channels last, as the loader delivers: gradients may then come in that layout too.
    let images = normal(&[4, 32, 32, 3], 1).unwrap().permute([0, 3, 1, 2]);
    let mut momenta: Vec<Tensor> = network.tensors().parameters().map(|e| e.tensor.detach().zeros_like()).collect();
    for step in 0..2 {
        let output = network.forward(&images, Pass::training(1.0, step)).unwrap();
        optimizer.zero_gradients();
        output.logits.cross_entropy_for_logits(&Tensor::from_slice(&[1i64, 2, 3, 4])).backward();
        let before: Vec<Tensor> = network.tensors().parameters().map(|entry| entry.tensor.detach().copy()).collect();
        optimizer.step(0.1, true).unwrap();
        for ((entry, before), momentum) in network.tensors().parameters().zip(&before).zip(&mut momenta) {
            let gate = entry.name.contains(".gate.");
            let decay = if gate {
                0.002
            } else if before.dim() > 1 {
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
