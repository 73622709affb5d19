//! Networks as ONNX files give the logits and gate values of the network itself in ONNX Runtime.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{Decision, Execution, NetSpec, Network, OnnxInput, OnnxOptions, Pass, ScriptOptions, npz_bytes};
use gumbel_gates::{GateKind, Policy};
use std::fs;
use std::path::Path;
use support::{decide, gated_networks, onnx, random_gate_values, randomize};
use tch::{Device, Kind, Tensor};
use torch_ext::uniform;

const SIDE: i64 = 64;

fn options(policy: Policy) -> OnnxOptions {
    onnx::options(policy, SIDE)
}

fn write(folder: &Path, name: &str, network: &Network, policy: Policy) {
    onnx::write(folder, name, network, &options(policy));
}

#[test]
fn files_of_gated_networks_agree_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let specs = gated_networks();
    let count = specs.len();
    for (number, mut spec) in specs.into_iter().enumerate() {
        // Gates that ignore the image are cut away.
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        decide(&network, &random_gate_values(&spec, number as u64));
        write(folder.path(), &format!("independent{number}"), &network, Policy::Argmax);
        let kept = OnnxOptions { keep_gates: true, ..options(Policy::Argmax) };
        onnx::write(folder.path(), &format!("kept{number}"), &network, &kept);
        for gates in spec.blocks.iter_mut().flat_map(|block| &mut block.gates) {
            (gates.kind, gates.initial) = (GateKind::Dependent, (0.1, 0.1));
        }
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        for (name, policy) in
            [("argmax", Policy::Argmax), ("threshold", Policy::Threshold(0.4)), ("open", Policy::AlwaysOpen)]
        {
            write(folder.path(), &format!("{name}{number}"), &network, policy);
        }
        let masked = OnnxOptions { execution: Execution::Masked, ..options(Policy::Argmax) };
        onnx::write(folder.path(), &format!("masked{number}"), &network, &masked);
    }
    if let Some(run) = onnx::assert_all_agree(folder.path()) {
        assert_eq!(run, 3 * 6 * count);
    }
}

#[test]
fn constants_that_closed_branches_leave_are_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let preset = NetSpec::preset("cifar-resnet20", 10).unwrap();
    let sizes = vec![Some(arch::GroupSizes::uniform(4, 0)); preset.blocks.len()];
    let spec = preset.with_filter_gates(GateKind::Independent, &sizes, &[arch::SiteKind::Between]);
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    randomize(&network, 1);
    // Two blocks that follow each other, and one that changes the shape.
    let closed = ["layer1.1", "layer1.2", "layer3.0"];
    let decide = |block: &str| if closed.contains(&block) { Decision::Closed } else { Decision::Open };
    let decisions: Vec<Decision> =
        spec.gate_sites().flat_map(|(block, gates)| vec![decide(&block.name); gates.count()]).collect();
    let pruned = network.prune(&decisions).unwrap();
    assert_eq!(pruned.spec().blocks.iter().filter(|block| block.bias && block.branch.is_empty()).count(), 3);
    write(folder.path(), "closed", &pruned, Policy::Argmax);
    onnx::assert_all_agree(folder.path());
}

#[test]
fn files_of_pruned_networks_agree_with_them() {
    let folder = tempfile::tempdir().unwrap();
    for (number, mut spec) in gated_networks().into_iter().enumerate() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        let decided = random_gate_values(&spec, 5 + number as u64);
        let decision = |open: bool| if open { Decision::Open } else { Decision::Closed };
        let decisions: Vec<Decision> = decided.iter().flatten().map(|&open| decision(open)).collect();
        write(folder.path(), &format!("all{number}"), &network.prune(&decisions).unwrap(), Policy::Argmax);
        // Some of the gates remain.
        for gates in spec.blocks.iter_mut().flat_map(|block| &mut block.gates) {
            (gates.kind, gates.initial) = (GateKind::Dependent, (0.1, 0.1));
        }
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        let some: Vec<Decision> =
            (0..).zip(&decisions).map(|(i, &d)| if i % 2 == 0 { d } else { Decision::Undecided }).collect();
        write(folder.path(), &format!("some{number}"), &network.prune(&some).unwrap(), Policy::Argmax);
    }
    assert!(onnx::assert_all_agree(folder.path()).is_none_or(|run| run > 12));
}

#[test]
fn torchscript_converts_to_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, network: &Network, options: &ScriptOptions| {
        write(folder.path(), name, network, Policy::Argmax);
        fs::remove_file(folder.path().join(format!("{name}.onnx"))).unwrap();
        let script = network.script(options).unwrap().save().unwrap();
        fs::write(folder.path().join(format!("{name}.pt")), script).unwrap();
    };
    let mut count = 0;
    for (number, mut spec) in gated_networks().into_iter().enumerate() {
        let fold_batch_norms = number % 2 == 0;
        let options = |execution, keep_gates| {
            let policy = Policy::Argmax;
            ScriptOptions { policy, execution, keep_gates, fold_batch_norms }
        };
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        decide(&network, &random_gate_values(&spec, 9 + number as u64));
        write(&format!("cut{number}"), &network, &options(Execution::Skipping, false));
        if number % 3 == 0 {
            write(&format!("kept{number}"), &network, &options(Execution::Skipping, true));
        }
        for gates in spec.blocks.iter_mut().flat_map(|block| &mut block.gates) {
            (gates.kind, gates.initial) = (GateKind::Dependent, (0.1, 0.1));
        }
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        let (name, execution) =
            if number % 3 == 0 { ("masked", Execution::Masked) } else { ("skipping", Execution::Skipping) };
        write(&format!("{name}{number}"), &network, &options(execution, false));
        count += if number % 3 == 0 { 3 } else { 2 };
    }
    if let Some(run) = onnx::assert_all_agree(folder.path()) {
        assert_eq!(run, 3 * count);
    }
}

#[test]
fn files_of_published_networks_agree_with_them_and_take_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["resnet18", "resnet50", "mobilenet_v2", "mobilenet_v2_x0.5", "cifar-resnet20"] {
        let network = Network::build(&NetSpec::preset(name, 10).unwrap(), Device::Cpu, 1).unwrap();
        randomize(&network, 1);
        write(folder.path(), &name.replace('.', "_"), &network, Policy::Argmax);
    }
    let network = Network::build(&NetSpec::preset("resnet18", 10).unwrap(), Device::Cpu, 1).unwrap();
    randomize(&network, 2);
    let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let bytes = (uniform(&[2, SIDE, SIDE, 3], 4).unwrap() * 255.99).to_kind(Kind::Uint8);
    let [means, stds] = [mean, std].map(|values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]));
    let seen = (bytes.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0 - means) / stds;
    let output = tch::no_grad(|| network.forward(&seen, Pass::inference(Policy::Argmax))).unwrap();
    let options = OnnxOptions { input: OnnxInput::Bytes { mean, std }, ..options(Policy::Argmax) };
    fs::write(folder.path().join("bytes.onnx"), network.onnx_bytes(&options).unwrap()).unwrap();
    let check = npz_bytes([("images", &bytes), ("logits", &output.logits)]).unwrap();
    fs::write(folder.path().join("bytes-2.npz"), check).unwrap();
    assert!(onnx::assert_all_agree(folder.path()).is_none_or(|run| run == 16));
}

#[test]
fn policies_that_a_file_cannot_follow_are_refused() {
    let spec = NetSpec::preset("cifar-resnet20", 2).unwrap().with_layer_gates(GateKind::Independent, |_| true);
    let network = Network::build(&spec, Device::Cpu, 0).unwrap();
    for policy in [Policy::TopK(3), Policy::Sample { temperature: 1.0, seed: 0 }] {
        let error = network.onnx_bytes(&options(policy)).unwrap_err().to_string();
        assert!(error.contains("decide by argmax, threshold=P or always-open"), "{error}");
    }
    assert_eq!(
        network.onnx_bytes(&options(Policy::Argmax)).unwrap(),
        network.onnx_bytes(&options(Policy::Argmax)).unwrap()
    );
}
