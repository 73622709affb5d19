//! Networks as TorchScript give the logits and gate values of the network itself.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{Decision, Execution, NetSpec, Network, Pass, ScriptOptions};
use gumbel_gates::{GateKind, Policy};
use support::{decide, gated_networks, random_gate_values, randomize};
use tch::{Device, Tensor};
use torch_ext::{derive_seed, normal};

fn options(execution: Execution, fold_batch_norms: bool) -> ScriptOptions {
    ScriptOptions { policy: Policy::Argmax, execution, keep_gates: true, fold_batch_norms }
}

fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found - expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]).max(1e-6)
}

/// Asserts that every script of a network agrees with it.
fn assert_scripts_agree(network: &Network, seed: u64) {
    for count in [1, 4] {
        let images = normal(&[count, 3, 64, 64], seed).unwrap();
        let expected = tch::no_grad(|| network.forward(&images, Pass::inference(Policy::Argmax))).unwrap();
        for execution in [Execution::Masked, Execution::Skipping] {
            for fold in [false, true] {
                let script = network.script(&options(execution, fold)).unwrap();
                let found = script.call("forward_with_openings", &images).unwrap();
                let name = &network.spec().name;
                assert!(distance(&found[0], &expected.logits) < 1e-4, "{name} {execution:?} {fold}");
                assert_eq!(&found[1..], expected.gate_values.sites(), "{name} {execution:?} {fold}");
                assert_eq!(script.call("forward", &images).unwrap(), found[..1]);
                // Without the gates that ignore the image.
                let cut = ScriptOptions { keep_gates: false, ..options(execution, fold) };
                let found = network.script(&cut).unwrap().call("forward_with_openings", &images).unwrap();
                assert!(distance(&found[0], &expected.logits) < 1e-4, "{name} {execution:?} {fold} cut");
                let left = network.spec().gate_sites().filter(|(_, gates)| gates.kind == GateKind::Dependent);
                assert_eq!(found.len() - 1, left.count(), "{name}");
            }
        }
    }
}

#[test]
fn scripts_of_gated_networks_agree_with_them() {
    for (number, mut spec) in gated_networks().into_iter().enumerate() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        decide(&network, &random_gate_values(&spec, number as u64));
        assert_scripts_agree(&network, 1);
        // Gates that differ between the images of a batch.
        for gates in spec.blocks.iter_mut().flat_map(|block| &mut block.gates) {
            (gates.kind, gates.initial) = (GateKind::Dependent, (0.1, 0.1));
        }
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        assert_scripts_agree(&network, 2);
    }
}

#[test]
fn scripts_of_pruned_networks_agree_with_them() {
    for (number, spec) in gated_networks().into_iter().enumerate() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        // Some gates stay.
        let decisions: Vec<Decision> = (0..spec.gate_count())
            .map(|gate| {
                [Decision::Open, Decision::Closed, Decision::Undecided][derive_seed(4, gate as u64) as usize % 3]
            })
            .collect();
        assert_scripts_agree(&network.prune(&decisions).unwrap(), 3);
        decide(&network, &random_gate_values(&spec, number as u64));
        let decisions: Vec<Decision> =
            decisions.iter().map(|d| if *d == Decision::Closed { Decision::Closed } else { Decision::Open }).collect();
        assert_scripts_agree(&network.prune(&decisions).unwrap(), 4);
    }
}

#[test]
fn a_script_decides_by_its_policy() {
    let spec = NetSpec::preset("resnet18", 4).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let images = normal(&[3, 3, 64, 64], 1).unwrap();
    for policy in [0.871, 0.0, 1.0].map(Policy::Threshold).into_iter().chain([Policy::AlwaysOpen]) {
        let script = network.script(&ScriptOptions { policy, ..options(Execution::Skipping, false) }).unwrap();
        let expected = tch::no_grad(|| network.forward(&images, Pass::inference(policy))).unwrap();
        let found = script.call("forward_with_openings", &images).unwrap();
        assert!(distance(&found[0], &expected.logits) < 1e-4);
        // Where all gates are open none are left.
        let left = if policy == Policy::AlwaysOpen { &[] } else { expected.gate_values.sites() };
        assert_eq!(&found[1..], left);
    }
    let error = network.script(&ScriptOptions { policy: Policy::TopK(3), ..options(Execution::Masked, false) });
    assert!(error.unwrap_err().to_string().contains("not by topk=3"));
}

#[test]
fn the_source_reads_as_the_network_is_built() {
    let spec = NetSpec::preset("resnet18", 4).unwrap().with_layer_gates(GateKind::Dependent, |block| block == 3);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let source = network.script_source(&options(Execution::Skipping, true)).unwrap();
    for part in [
        "def layer2_1(self, x: Tensor, gate_values: List[Tensor]) -> Tensor:\n    block = getattr(self.layer2, \"1\")\n",
        "    rows = torch.nonzero(gate_open.view([-1])).view([-1])\n    if rows.size(0) == gate_open.size(0):\n        \
         output = self.layer2_1_open(x)\n    else:\n        output = x\n",
        "    conv1 = torch.conv2d(x, block.conv1.weight, block.conv1.bias, [1, 1], [1, 1], [1, 1], 1)\n    \
         conv1_relu = torch.relu_(conv1)\n",
        "    layer2_1_output = self.layer2_1(layer2_0_sum_relu, gate_values)\n",
        "def forward(self, images: Tensor) -> Tensor:\n",
    ] {
        assert!(source.contains(part), "{part} is not in:\n{source}");
    }
}
