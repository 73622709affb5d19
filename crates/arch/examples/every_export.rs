//! Writes one preset with every kind and granularity of gates in every form, for
//! scripts/check_exports.sh.
//!
//! usage: every_export PRESET FOLDER
//!
//! FOLDER/NAME.onnx and NAME-I.npz are what scripts/onnx_differences.py reads. Prints the largest
//! difference of a logit of the TorchScript files, which are not kept, as a JSON object by NAME.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a tool for developers

#[path = "../tests/support/mod.rs"]
mod support;

use arch::{Execution, Level, Network, OnnxOptions, Pass, Preset, ScriptOptions, SiteKind};
use gumbel_gates::{GateKind, Policy};
use std::path::Path;
use support::{decide, onnx, random_gate_values, randomize};
use tch::Device;
use torch_ext::{Script, normal};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, folder] = &arguments[..] else { panic!("usage: every_export PRESET FOLDER") };
    let preset = Preset::named(name).unwrap();
    let mut differences = serde_json::Map::new();
    let granularities = [("layer", None), ("low", Some(Level::Low)), ("medium", Some(Level::Medium))];
    for (granularity, level) in granularities.into_iter().chain([("high", Some(Level::High))]) {
        for (kind_name, kind) in [("independent", GateKind::Independent), ("dependent", GateKind::Dependent)] {
            let spec = preset.spec(10);
            let mut spec = match level {
                None => spec.with_layer_gates(kind, |_| true),
                Some(level) => spec.with_filter_gates(kind, &preset.group_sizes(level), &SiteKind::ALL),
            };
            if kind == GateKind::Dependent {
                spec.blocks.iter_mut().flat_map(|block| &mut block.gates).for_each(|gates| gates.initial = (0.1, 0.1));
            }
            let network = Network::build(&spec, Device::Cpu, 1).unwrap();
            randomize(&network, 1);
            let forms = match kind {
                GateKind::Independent => {
                    decide(&network, &random_gate_values(&spec, 1));
                    [("cut", Execution::Skipping, false), ("kept", Execution::Masked, true)]
                }
                GateKind::Dependent => [("masked", Execution::Masked, false), ("skipping", Execution::Skipping, false)],
            };
            for (form, execution, keep_gates) in forms {
                let name = format!("{granularity}_{kind_name}_{form}");
                let side = if preset.image_size < 64 { 32 } else { 64 };
                let options = OnnxOptions { execution, keep_gates, ..onnx::options(Policy::Argmax, side) };
                onnx::write(Path::new(folder), &name, &network, &options);
                let difference = script_difference(&network, execution, keep_gates, side);
                differences.insert(name, difference.into());
            }
        }
    }
    println!("{}", serde_json::Value::from(differences));
}

/// The largest difference of a logit of a script that was written and read back.
fn script_difference(network: &Network, execution: Execution, keep_gates: bool, side: i64) -> f64 {
    let options = ScriptOptions { policy: Policy::Argmax, execution, keep_gates, fold_batch_norms: true };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("network.pt");
    std::fs::write(&path, network.script(&options).unwrap().save().unwrap()).unwrap();
    let images = normal(&[7, 3, side, side], 3).unwrap();
    let found = &Script::load(&path).unwrap().call("forward", &images).unwrap()[0];
    let expected = tch::no_grad(|| network.forward(&images, Pass::inference(Policy::Argmax))).unwrap().logits;
    (found - &expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[])
}
