//! An observer sees every convolution and all features of a pass, and changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod support;

use arch::{ConvSpec, Cost, Error, Level, Meter, NetSpec, Preset, Result, Shortcut, Site, SiteKind};
use arch::{Execution, Mode, Network, Observer, Output, Pass};
use gumbel_gates::{GateKind, Policy};
use support::{decide, gated_networks, random_gate_values, randomize};
use tch::{Device, Tensor};
use torch_ext::normal;

/// A convolution as it was shown: name, input and output.
type Shown = (String, Tensor, Tensor);

/// Keeps everything it is shown.
#[derive(Default)]
struct Everything {
    features: Vec<(String, Vec<i64>)>,
    convolutions: Vec<Shown>,
}

impl Observer for Everything {
    fn features(&mut self, name: &str, features: &Tensor) -> Result<()> {
        self.features.push((name.to_owned(), features.size()));
        Ok(())
    }

    fn convolution(&mut self, name: &str, input: &Tensor, output: &Tensor) -> Result<()> {
        // Later layers may overwrite both.
        self.convolutions.push((name.to_owned(), input.detach().copy(), output.detach().copy()));
        Ok(())
    }
}

/// What a pass gives and shows.
fn observe(network: &Network, images: &Tensor, pass: Pass) -> (Output, Everything) {
    let mut seen = Everything::default();
    let output = network.forward_observed(images, pass, &mut seen).unwrap();
    (output, seen)
}

/// The convolutions of a network by their state dict names, in the order they run.
fn convolutions(spec: &NetSpec) -> Vec<(String, &ConvSpec)> {
    let mut found = vec![(spec.stem.conv.name.clone(), &spec.stem.conv)];
    for block in &spec.blocks {
        let projection = match &block.shortcut {
            Shortcut::Projection(conv) => Some(conv),
            _ => None,
        };
        let own = projection.into_iter().chain(&block.branch);
        found.extend(own.map(|conv| (format!("{}.{}", block.name, conv.name), conv)));
    }
    found
}

/// Asserts that all convolutions were shown once, each with the output that its input gives.
fn assert_convolutions(network: &Network, shown: &[Shown]) {
    let expected = convolutions(network.spec());
    let names: Vec<&str> = shown.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, expected.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    for ((name, input, output), (_, conv)) in shown.iter().zip(&expected) {
        let weight = network.tensors().get(&format!("{name}.weight")).unwrap().tensor.detach();
        let (stride, padding) = ([conv.stride as i64; 2], [conv.padding as i64; 2]);
        let groups = conv.groups as i64;
        let again = input.conv2d(&weight, None::<Tensor>, stride, padding, [1, 1], groups);
        assert_eq!(again.size(), output.size(), "{name}");
        let distance = (&again - output).abs().max().double_value(&[]);
        assert!(distance <= 1e-5 * again.abs().max().double_value(&[]), "{name}: {distance}");
    }
}

/// Asserts that the features behind the stem and all blocks were shown.
fn assert_features(spec: &NetSpec, images: i64, shown: &[(String, Vec<i64>)]) {
    let stem = (spec.stem.conv.name.as_str(), spec.stem.conv.outputs);
    let blocks = spec.blocks.iter().map(|block| (block.name.as_str(), block.outputs));
    let expected: Vec<_> = std::iter::once(stem).chain(blocks).collect();
    assert_eq!(shown.len(), expected.len());
    for ((name, size), (expected, channels)) in shown.iter().zip(expected) {
        assert_eq!((name.as_str(), &size[..2]), (expected, &[images, channels as i64][..]));
    }
}

/// A ResNet and a MobileNetV2 with filter gates, and a network for CIFAR with layer gates.
fn networks() -> Vec<NetSpec> {
    let filters = |name: &str| {
        let preset = Preset::named(name).unwrap();
        let sizes = preset.group_sizes(Level::Low);
        preset.spec(4).with_filter_gates(GateKind::Independent, &sizes, &SiteKind::ALL)
    };
    vec![filters("resnet50"), filters("mobilenet_v2_x0.35"), filters("cifar-resnet20"), layers()]
}

/// A network for CIFAR with layer gates.
fn layers() -> NetSpec {
    let spec = NetSpec::preset("cifar-resnet20", 4).unwrap();
    spec.with_layer_gates(GateKind::Independent, |_| true)
}

#[test]
fn every_convolution_is_shown_with_what_it_reads_and_makes() {
    let images = normal(&[3, 3, 64, 64], 1).unwrap();
    for (number, spec) in networks().into_iter().enumerate() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        randomize(&network, number as u64);
        decide(&network, &random_gate_values(&spec, number as u64));
        let modes = [Mode::Inference, Mode::Training { seed: 5 }, Mode::Calibration { momentum: 0.5 }];
        for mode in modes {
            // Where gates are closed, skipping leaves convolutions out.
            for (execution, policy) in [
                (Execution::Masked, Policy::Argmax),
                (Execution::Masked, Policy::AlwaysOpen),
                (Execution::Skipping, Policy::AlwaysOpen),
            ] {
                let pass = Pass { mode, execution, ..Pass::inference(policy) };
                // With gradients, other tensors are overwritten than without.
                let learns = mode != Mode::Inference && execution == Execution::Masked;
                let _without = (!learns).then(tch::no_grad_guard);
                let (output, seen) = observe(&network, &images, pass);
                assert_convolutions(&network, &seen.convolutions);
                assert_features(&spec, 3, &seen.features);
                let unobserved = network.forward(&images, pass).unwrap();
                assert_eq!(output.logits, unobserved.logits, "{} {pass:?}", spec.name);
            }
        }
    }
}

/// MACs of a convolution for one image, by the tensors it was shown with.
fn macs(conv: &ConvSpec, input: &Tensor, output: &Tensor) -> u64 {
    let read = if conv.is_depthwise() { 1 } else { input.size()[1] as u64 };
    output.numel() as u64 / output.size()[0] as u64 * read * (conv.kernel * conv.kernel) as u64
}

#[test]
fn while_skipping_what_is_shown_is_what_the_meter_counts() {
    // A site that is closed altogether is computed masked, in front of a batch norm.
    let never_starves =
        |spec: &NetSpec| spec.gate_sites().all(|(_, gates)| gates.site == Site::Layer || gates.fixed_open() > 0);
    let images = normal(&[2, 3, 64, 64], 1).unwrap();
    for (number, spec) in gated_networks().into_iter().filter(never_starves).enumerate() {
        let network = Network::build(&spec, Device::Cpu, 3).unwrap();
        decide(&network, &random_gate_values(&spec, number as u64));
        let _without = tch::no_grad_guard();
        let pass = Pass::skipping(Policy::Argmax);
        let (output, seen) = observe(&network, &images, pass);
        let convolutions = convolutions(&spec);
        let find = |name: &str| convolutions.iter().position(|(found, _)| found == name).unwrap();
        let order: Vec<usize> = seen.convolutions.iter().map(|(name, ..)| find(name)).collect();
        assert!(order.is_sorted_by(|a, b| a < b), "each once, in order");
        let shown: u64 = order
            .iter()
            .zip(&seen.convolutions)
            .map(|(&position, (_, input, output))| macs(convolutions[position].1, input, output))
            .sum();
        let meter = Meter::new(&Cost::of(&spec, 64, 64).unwrap().spending(), Device::Cpu).unwrap();
        let used = meter.used(&output.gate_values).unwrap().double_value(&[0]) as u64;
        assert_eq!(shown + (spec.head.inputs * spec.head.classes) as u64, used, "{}", spec.name);
        assert_eq!(output.logits, network.forward(&images, pass).unwrap().logits);
    }
}

#[test]
fn while_skipping_only_images_with_an_open_layer_are_shown() {
    let mut spec = layers();
    for gates in spec.blocks.iter_mut().flat_map(|block| &mut block.gates) {
        gates.initial = (0.0, 0.0);
    }
    let network = Network::build(&spec, Device::Cpu, 3).unwrap();
    let images = normal(&[8, 3, 32, 32], 1).unwrap();
    let _without = tch::no_grad_guard();
    // Drawn for each image.
    let policy = Policy::Sample { temperature: 1.0, seed: 8 };
    let (output, seen) = observe(&network, &images, Pass::skipping(policy));
    let sites = output.gate_values.sites().iter();
    let open: Vec<i64> = sites.map(|site| site.count_nonzero(None).int64_value(&[])).collect();
    assert!(open.iter().any(|&open| 0 < open && open < 8), "{open:?}");
    for (block, open) in spec.blocks.iter().zip(open) {
        for conv in &block.branch {
            let name = format!("{}.{}", block.name, conv.name);
            let shown = seen.convolutions.iter().find(|(found, ..)| *found == name);
            let images = shown.map_or(0, |(_, input, output)| {
                assert_eq!(input.size()[0], output.size()[0]);
                input.size()[0]
            });
            assert_eq!(images, open, "{name}");
        }
    }
}

#[test]
fn an_observer_can_end_a_pass() {
    struct Refuses;
    impl Observer for Refuses {
        fn convolution(&mut self, name: &str, _: &Tensor, _: &Tensor) -> Result<()> {
            match name {
                "layer2.0.conv1" => Err(Error::Spec { faults: vec![name.to_owned()] }),
                _ => Ok(()),
            }
        }
    }
    let network = Network::build(&layers(), Device::Cpu, 3).unwrap();
    let images = normal(&[1, 3, 32, 32], 1).unwrap();
    let pass = Pass::inference(Policy::AlwaysOpen);
    let error = network.forward_observed(&images, pass, &mut Refuses).unwrap_err();
    assert!(error.to_string().ends_with("layer2.0.conv1"), "{error}");
}
