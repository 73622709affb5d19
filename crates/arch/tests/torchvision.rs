//! Parity with torchvision; scripts/torchvision_reference.py makes the numbers. Skips where that
//! Python is not set up.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use arch::state_dict::StateDict;
use arch::{Classifier, Level, Mode, NetSpec, Network, Pass, Preset, SiteKind};
use gumbel_gates::{GateKind, Policy};
use reference::PyTorch;
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

struct Reference {
    folder: tempfile::TempDir,
    values: StateDict,
}

impl Reference {
    /// What torchvision computes for `name`; `None` without a Python that has torchvision.
    fn of(name: &str) -> Option<Self> {
        let pytorch = PyTorch::find()?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let status = pytorch
            .script("torchvision_reference.py")
            .args([name.as_ref(), folder.path().as_os_str()])
            .status()
            .expect("Python starts");
        assert!(status.success(), "torchvision_reference.py failed");
        let values = StateDict::read(&folder.path().join("reference.pth")).expect("the reference is readable");
        Some(Self { folder, values })
    }

    fn weights(&self) -> PathBuf {
        self.folder.path().join("weights.pth")
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.values.tensors.iter().find(|(found, _)| found == name).expect("the reference holds it").1
    }
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

/// Evaluation logits, and loss, gradient and statistics of a training pass.
fn network_equals_torchvision(name: &str) {
    let Some(reference) = Reference::of(name) else { return };
    let preset = Preset::named(name).unwrap();
    let mut spec = preset.spec(1000);
    spec.head.dropout = 0.0;
    let filters = preset.group_sizes(Level::Low);
    let weights = StateDict::read(&reference.weights()).unwrap();
    let images = reference.get("images");

    // With gates, all open, the network is the ungated one.
    for spec in [
        spec.clone(),
        spec.clone().with_layer_gates(GateKind::Dependent, |_| true),
        spec.with_filter_gates(GateKind::Independent, &filters, &SiteKind::ALL),
    ] {
        let gated = spec.gate_count() > 0;
        let network = Network::build(&spec, Device::Cpu, 1).unwrap();
        let loaded = network.load(&weights, Classifier::Required).unwrap();
        assert_eq!(loaded.fresh_gates, gated);
        let output = tch::no_grad(|| network.forward(images, Pass::inference(Policy::AlwaysOpen))).unwrap();
        assert!(distance(&output.logits, reference.get("logits")) < 1e-4);
        if !gated {
            let output = network
                .forward(images, Pass { mode: Mode::Training { seed: 0 }, ..Pass::inference(Policy::AlwaysOpen) })
                .unwrap();
            let loss = output.logits.cross_entropy_for_logits(&Tensor::from_slice(&[3i64, 7]));
            loss.backward();
            assert!(distance(&loss, reference.get("loss")) < 1e-4);
            let tensor = |name: String| &network.tensors().get(&name).unwrap().tensor;
            let gradient = reference.get("gradient");
            let scale = gradient.abs().max().double_value(&[]);
            let stem = &spec.stem.conv;
            assert!(distance(&tensor(format!("{}.weight", stem.name)).grad(), gradient) < 1e-3 * scale);
            assert!(distance(tensor(format!("{}.running_mean", stem.norm)), reference.get("running_mean")) < 1e-5);
        }
    }
}

#[test]
fn resnet18_equals_torchvision() {
    network_equals_torchvision("resnet18");
}

#[test]
fn resnet50_equals_torchvision() {
    network_equals_torchvision("resnet50");
}

#[test]
fn resnet101_equals_torchvision() {
    network_equals_torchvision("resnet101");
}

#[test]
fn mobilenet_v2_equals_torchvision() {
    network_equals_torchvision("mobilenet_v2");
}

#[test]
fn fresh_networks_are_drawn_as_torchvision_draws_them() {
    // He normal, fan out; torch.nn.Linear's uniform: compare the deviations over many values.
    let network = Network::build(&NetSpec::preset("resnet18", 1000).unwrap(), Device::Cpu, 4).unwrap();
    let deviation = |name| network.tensors().get(name).unwrap().tensor.std(false).double_value(&[]);
    let close = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 0.02, "{found} and {expected}");
    close(deviation("layer4.0.conv2.weight"), (2.0 / (512.0 * 9.0f64)).sqrt());
    close(deviation("fc.weight"), 1.0 / (3.0 * 512.0f64).sqrt());
    assert_eq!(network.tensors().get("bn1.weight").unwrap().tensor, Tensor::ones([64], (Kind::Float, Device::Cpu)));
}
