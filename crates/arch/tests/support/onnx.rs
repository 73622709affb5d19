//! Networks as ONNX files, and what ONNX Runtime makes of them.

use arch::{Execution, Network, OnnxInput, OnnxOptions, Pass, npz_bytes};
use gumbel_gates::{GateKind, Policy};
use reference::{PyTorch, skip};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tch::Tensor;
use torch_ext::{derive_seed, normal};

pub fn options(policy: Policy, side: i64) -> OnnxOptions {
    let metadata = vec![("about".to_owned(), "a test".to_owned())];
    OnnxOptions {
        policy,
        execution: Execution::Skipping,
        keep_gates: false,
        input: OnnxInput::Normalized,
        image_size: side as usize,
        metadata,
    }
}

/// Writes a network and what it gives for batches of 1, 2 and 7 images.
pub fn write(folder: &Path, name: &str, network: &Network, options: &OnnxOptions) {
    let (policy, side) = (options.policy, options.image_size as i64);
    fs::write(folder.join(format!("{name}.onnx")), network.onnx_bytes(options).unwrap()).unwrap();
    for count in [1, 2, 7] {
        let images = normal(&[count, 3, side, side], derive_seed(7, count as u64)).unwrap();
        let output = tch::no_grad(|| network.forward(&images, Pass::inference(policy))).unwrap();
        let left: Vec<&Tensor> = (network.spec().gate_sites().zip(output.gate_values.sites()))
            .filter(|((_, gates), _)| gates.kind == GateKind::Dependent || options.keep_gates)
            .filter(|_| policy != Policy::AlwaysOpen)
            .map(|(_, gate_values)| gate_values)
            .collect();
        let mut arrays = vec![("images", images), ("logits", output.logits)];
        // With gates of either kind in a block, what one kind closes may take others along.
        let independent = network.spec().gate_sites().any(|(_, gates)| gates.kind == GateKind::Independent);
        if !left.is_empty() && (options.keep_gates || !independent) {
            arrays.push(("gate_values", Tensor::cat(&left, 1)));
        }
        let arrays = arrays.iter().map(|(name, array)| (*name, array));
        fs::write(folder.join(format!("{name}-{count}.npz")), npz_bytes(arrays).unwrap()).unwrap();
    }
}

/// Runs all files of a folder and asserts that they agree; how many were run.
pub fn assert_all_agree(folder: &Path) -> Option<usize> {
    let pytorch = PyTorch::find()?;
    if !pytorch.command().args(["-c", "import onnx, onnxruntime"]).output().is_ok_and(|run| run.status.success()) {
        skip("no ONNX Runtime (make setup brings it)");
        return None;
    }
    let output = pytorch.script("onnx_differences.py").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: serde_json::Map<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    for (name, result) in &results {
        assert!(result["logits"].as_f64().unwrap() < 1e-4, "{name}: {result}");
        assert!(result["openvino"].as_f64().is_none_or(|difference| difference < 1e-4), "{name}: {result}");
        assert!(result["gates"].as_u64().unwrap_or(0) == 0, "{name}: {result}");
    }
    Some(results.len())
}
