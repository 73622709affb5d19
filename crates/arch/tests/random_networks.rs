//! Random networks with random gates and decisions: masked, skipping, pruned and exported they
//! compute the same.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{
    Activation, BlockSpec, ConvSpec, Cost, Decision, Error, Execution, GateSite, HeadSpec, NetSpec, Network,
    OnnxOptions, Pass, ScriptOptions, Shortcut, Site, StemSpec,
};
use gumbel_gates::{GateKind, Policy};
use proptest::prelude::*;
use support::{decide_some, onnx, randomize};
use tch::{Device, Tensor};
use torch_ext::{derive_seed, normal};

fn conv(name: &str, [inputs, outputs]: [usize; 2], kernel: usize, stride: usize, groups: usize) -> ConvSpec {
    let activation = [Activation::Relu, Activation::Identity, Activation::Relu6][(inputs + outputs) % 3];
    let (name, norm) = (name.to_owned(), format!("{name}_norm"));
    ConvSpec { name, norm, inputs, outputs, kernel, stride, padding: kernel / 2, groups, activation }
}

/// A block of one to three convolutions, one of them depthwise perhaps.
fn block(number: usize, inputs: usize, seed: u64) -> BlockSpec {
    let draw = |part: u64, choices: usize| derive_seed(seed, part) as usize % choices;
    let outputs = if draw(0, 2) == 0 { inputs } else { inputs + 2 * draw(1, 4) };
    let middle = 4 + 3 * draw(2, 4);
    let stride = 1 + draw(3, 2);
    let branch = match draw(4, 4) {
        0 => vec![conv("a", [inputs, outputs], 3, stride, 1)],
        1 => vec![conv("a", [inputs, middle], 3, stride, 1), conv("b", [middle, outputs], 3, 1, 1)],
        2 => vec![
            conv("a", [inputs, middle], 1, 1, 1),
            conv("b", [middle, middle], 3, stride, middle),
            conv("c", [middle, outputs], 1, 1, 1),
        ],
        _ => vec![
            conv("a", [inputs, middle], 1, 1, 1),
            conv("b", [middle, middle], 3, stride, 1),
            conv("c", [middle, outputs], 1, 1, 1),
        ],
    };
    let shortcut = match (inputs == outputs && stride == 1, draw(5, 3)) {
        (true, 0 | 1) => Shortcut::Identity,
        (false, 0) => Shortcut::ZeroPadded { stride, outputs },
        _ => Shortcut::Projection(conv("around", [inputs, outputs], 1, stride, 1)),
    };
    let activation = [Activation::Relu, Activation::Identity, Activation::Relu6][draw(6, 3)];
    let mut block = BlockSpec {
        name: format!("stage{}.{number}", number / 2),
        inputs,
        outputs,
        branch,
        shortcut,
        reads: None,
        writes: None,
        projects: None,
        bias: false,
        activation,
        gates: Vec::new(),
    };
    let between = (1..block.branch.len()).map(Site::Between);
    let places = [Site::Layer, Site::Input, Site::Output, Site::Projection].into_iter().chain(between);
    for (part, site) in (10..).zip(places) {
        let kind = if draw(part + 40, 2) == 0 { GateKind::Independent } else { GateKind::Dependent };
        let gates = match site {
            Site::Layer => Some(GateSite::layer(kind)),
            Site::Input => GateSite::filters(site, kind, inputs, 1 + draw(part + 20, 5), draw(part + 30, 2)),
            Site::Between(_) => GateSite::filters(site, kind, middle, 1 + draw(part + 20, 5), draw(part + 30, 2)),
            Site::Output | Site::Projection => {
                GateSite::filters(site, kind, outputs, 1 + draw(part + 20, 5), draw(part + 30, 2))
            }
        };
        let Some(gates) = gates.filter(|_| draw(part, 3) > 0) else { continue };
        // Where no gates can sit the network says so.
        block.gates.push(gates);
        if with_block(&block).validate().is_err() {
            block.gates.pop();
        }
    }
    block
}

fn with_block(block: &BlockSpec) -> NetSpec {
    network_of(vec![block.clone()], block.inputs)
}

fn network_of(blocks: Vec<BlockSpec>, width: usize) -> NetSpec {
    let inputs = blocks.last().map_or(width, |block| block.outputs);
    let stem = StemSpec { conv: conv("stem", [3, width], 3, 1, 1), pool: None };
    let head = HeadSpec { name: "head".into(), inputs, classes: 3, dropout: 0.0 };
    NetSpec { name: "random".into(), stem, blocks, head }
}

fn random_spec(seed: u64) -> NetSpec {
    let width = 3 + derive_seed(seed, 1) as usize % 6;
    let mut blocks: Vec<BlockSpec> = Vec::new();
    for number in 0..2 + derive_seed(seed, 2) as usize % 3 {
        let inputs = blocks.last().map_or(width, |block| block.outputs);
        blocks.push(block(number, inputs, derive_seed(seed, 3 + number as u64)));
    }
    network_of(blocks, width)
}

fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found - expected).abs().max().double_value(&[]) / expected.abs().max().double_value(&[]).max(1e-3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_form_of_a_network_computes_the_same(seed in any::<u64>()) {
        let spec = random_spec(seed);
        let network = Network::build(&spec, Device::Cpu, seed).unwrap();
        randomize(&network, seed);
        let decisions: Vec<Decision> = (0..spec.gate_count())
            .map(|gate| {
                let choices = [Decision::Open, Decision::Closed, Decision::Closed, Decision::Undecided, Decision::Open];
                choices[derive_seed(seed, 1000 + gate as u64) as usize % choices.len()]
            })
            .collect();
        decide_some(&network, &decisions, seed);
        let images = normal(&[3, 3, 9, 8], seed).unwrap();
        let pass = |network: &Network, pass| tch::no_grad(|| network.forward(&images, pass)).unwrap();
        let expected = pass(&network, Pass::inference(Policy::Argmax));
        let skipping = pass(&network, Pass::skipping(Policy::Argmax));
        prop_assert!(distance(&skipping.logits, &expected.logits) < 1e-4);

        let mut forms = vec![network];
        if spec.gate_count() == 0 || decisions.iter().any(|decision| *decision != Decision::Closed) {
            let pruned = forms[0].prune(&decisions).unwrap();
            prop_assert!(Cost::of(pruned.spec(), 9, 8).unwrap().dense <= Cost::of(&spec, 9, 8).unwrap().dense);
            let undecided = vec![Decision::Undecided; pruned.spec().gate_count()];
            let again = pruned.prune(&undecided).unwrap();
            prop_assert_eq!(again.spec(), pruned.spec());
            forms.push(pruned);
        }
        for network in &forms {
            for form in [Pass::inference(Policy::Argmax), Pass::skipping(Policy::Argmax)] {
                prop_assert!(distance(&pass(network, form).logits, &expected.logits) < 1e-4, "{form:?}");
            }
            for execution in [Execution::Masked, Execution::Skipping] {
                let fold_batch_norms = seed.is_multiple_of(2);
                let options =
                    ScriptOptions { policy: Policy::Argmax, execution, keep_gates: seed % 3 == 0, fold_batch_norms };
                let script = match network.script(&options) {
                    Err(Error::AllClosed { .. }) if !options.keep_gates => continue,
                    script => script.unwrap(),
                };
                let found = script.call("forward", &images).unwrap();
                prop_assert!(distance(&found[0], &expected.logits) < 1e-4, "{options:?}");
            }
        }
    }
}

#[test]
fn random_networks_compute_the_same_in_onnx_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let mut written = 0;
    for seed in 0..60 {
        let spec = random_spec(seed);
        let network = Network::build(&spec, Device::Cpu, seed).unwrap();
        randomize(&network, seed);
        decide_some(&network, &vec![Decision::Undecided; spec.gate_count()], seed);
        let options = OnnxOptions {
            keep_gates: seed.is_multiple_of(3),
            execution: if seed.is_multiple_of(5) { Execution::Masked } else { Execution::Skipping },
            ..onnx::options(Policy::Argmax, 9)
        };
        match network.onnx_bytes(&options) {
            Err(Error::AllClosed { .. }) => {}
            bytes => {
                drop(bytes.unwrap());
                onnx::write(folder.path(), &format!("network{seed}"), &network, &options);
                written += 1;
            }
        }
    }
    assert!(written > 40);
    assert!(onnx::assert_all_agree(folder.path()).is_none_or(|run| run == 3 * written));
}
