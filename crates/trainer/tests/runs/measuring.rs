//! Passes that measure a network: calibration, strategies, and gates that agree for every image.

use super::{config, loader, run, sample_set};
use arch::Decision;
use data::{Dataset, Order};
use gumbel_gates::{GateKind, Policy};
use std::sync::atomic::AtomicBool;
use tch::Device;
use torch_ext::Role;
use trainer::{
    Calibration, Checkpoint, Error, Evaluation, Evaluator, Extent, GateObserver, ImagePass, Input, RunDir, Strategy,
    Unanimity,
};

#[test]
fn calibration_changes_statistics_alone_and_the_same_way_whatever_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let verdict = run(config(""), &out, false, None).unwrap().unwrap();
    let network = Checkpoint::read(&RunDir::at(&out).last()).unwrap().network(Device::Cpu).unwrap();
    let copies = |role| {
        let entries = network.tensors().iter().filter(move |entry| entry.role == role);
        entries.map(|entry| entry.tensor.detach().copy()).collect::<Vec<_>>()
    };
    let (parameters, statistics) = (copies(Role::Parameter), copies(Role::Buffer));
    let (config, input) = (&verdict.config, Input::of(&verdict.config));
    let split = Dataset::open(sample_set()).unwrap().train;
    let loader = loader(split, config.data.augmentation(), &input, Order::Shuffled(1));
    for policy in [Policy::Argmax, Policy::TopK(3), Policy::Sample { temperature: 1.0, seed: 4 }] {
        let pass = ImagePass {
            loader: &loader,
            image_size: 32,
            device: Device::Cpu,
            // More than an epoch of 5.
            extent: Extent::Batches { count: 7, epoch: 0 },
            max_bad_share: 0.0,
        };
        let calibration = Calibration { network: &network, policy, frozen_gates: false, pass };
        assert_eq!(calibration.run(&mut [], &AtomicBool::new(false)).unwrap(), 7);
        let first = copies(Role::Buffer);
        assert_ne!(first, statistics);
        calibration.run(&mut [], &AtomicBool::new(false)).unwrap();
        assert_eq!(copies(Role::Buffer), first, "{policy}");
    }
    assert_eq!(copies(Role::Parameter), parameters);
}

#[test]
fn strategies_are_what_their_runs_come_to() {
    let spec = arch::NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let network = arch::Network::build(&spec, Device::Cpu, 9).unwrap();
    let cost = arch::Cost::of(&spec, 32, 32).unwrap();
    let input = Input::of(&config(""));
    let split = Dataset::open(sample_set()).unwrap().val;
    let loader = loader(split, input.transform(), &input, Order::InOrder);
    let pass = ImagePass::once(&loader, 32, Device::Cpu, 0.0);
    let evaluator = Evaluator { network: &network, cut: None, cost: &cost, pass, seed: 7, record: true };
    let evaluate = |names: &[&str]| {
        let strategies: Vec<Strategy> = names.iter().map(|name| name.parse().unwrap()).collect();
        evaluator.run(&strategies, &mut [], &AtomicBool::new(false)).unwrap()
    };
    let found = evaluate(&["argmax", "stochastic=3", "ensemble=3", "topk=5", "threshold=0.0", "ensemble=1"]);
    let sample = |run| Strategy::Policy(Policy::Sample { temperature: 1.0, seed: torch_ext::derive_seed(7, run) });
    let runs = evaluator.run(&[sample(0), sample(1), sample(2)], &mut [], &AtomicBool::new(false)).unwrap();
    let of_runs = |of: fn(&Evaluation) -> f64| runs.iter().map(of).sum::<f64>();
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9 * b.abs().max(1.0), "{a} and {b}");
    close(found[1].summary.top1, of_runs(|run| run.summary.top1) / 3.0);
    close(found[1].summary.macs, of_runs(|run| run.summary.macs) / 3.0);
    assert!(found[1].deviation.unwrap().macs > 0.0);
    close(found[2].summary.macs, of_runs(|run| run.summary.macs));
    close(found[2].summary.open_rate(), found[1].summary.open_rate());
    close(found[3].summary.open_rate(), 5.0 / 8.0);
    close(found[4].summary.open_rate(), 1.0);
    // An ensemble of one is that run.
    assert_eq!(found[5].summary.top1, runs[0].summary.top1);
    // Up to float32.
    assert!((found[5].summary.cross_entropy - runs[0].summary.cross_entropy).abs() < 1e-5);
    // A strategy measures the same alone and in company, and what gates did is kept for single
    // policies.
    assert_eq!(evaluate(&["topk=5"])[0].summary, found[3].summary);
    assert_eq!(found[0].gate_use.as_ref().unwrap().images.len(), 20);
    assert!(found[1].gate_use.is_none() && found[2].gate_use.is_none());
    assert!(found[3].gate_use.as_ref().unwrap().images.iter().all(|image| image.open == 5));
}

#[test]
fn gates_are_decided_by_how_many_images_agree() {
    // Dependent gates whose logits are their biases: probabilities 0.9, 0.4 and 0.02 of "open" for
    // every image.
    let gated = |block: usize| block < 3;
    let spec = arch::NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, gated);
    let network = arch::Network::build(&spec, Device::Cpu, 9).unwrap();
    let set = |name: &str, value: tch::Tensor| {
        tch::no_grad(|| network.tensors().get(name).unwrap().tensor.shallow_clone().copy_(&value));
    };
    for (block, p) in [("layer1.0", 0.9f64), ("layer1.1", 0.4), ("layer2.0", 0.02)] {
        let zeros = tch::Tensor::zeros([2, 16], (tch::Kind::Float, Device::Cpu));
        set(&format!("{block}.gate.fc2.weight"), zeros);
        set(&format!("{block}.gate.fc2.bias"), tch::Tensor::from_slice(&[0.0f32, (p / (1.0 - p)).ln() as f32]));
    }
    let input = Input::of(&config(""));
    let split = Dataset::open(sample_set()).unwrap().val;
    let loader = loader(split, input.transform(), &input, Order::InOrder);
    let pass = ImagePass::once(&loader, 32, Device::Cpu, 0.0);
    let observe = |policy, confidence| {
        let unanimity = Unanimity { share: 1.0, confidence };
        let observer = GateObserver { network: &network, pass, policy, unanimity };
        observer.run(&mut [], &AtomicBool::new(false)).unwrap()
    };
    let (open, closed, undecided) = (Decision::Open, Decision::Closed, Decision::Undecided);
    assert_eq!(observe(Policy::Argmax, None), [open, closed, closed]);
    assert_eq!(observe(Policy::Threshold(0.3), None), [open, open, closed]);
    assert_eq!(observe(Policy::Argmax, Some(0.95)), [undecided, undecided, closed]);

    // A gate that follows the image: open for some. Its logit is what the block's first channels
    // say.
    set("layer1.0.gate.fc2.bias", tch::Tensor::zeros([2], (tch::Kind::Float, Device::Cpu)));
    set("layer1.0.gate.fc2.weight", torch_ext::normal(&[2, 16], 4).unwrap());
    set("layer1.0.gate.bn.running_mean", torch_ext::normal(&[16], 5).unwrap());
    let strategies = [Strategy::Policy(Policy::Argmax)];
    let cost = arch::Cost::of(&spec, 32, 32).unwrap();
    let evaluator = Evaluator { network: &network, cut: None, cost: &cost, pass, seed: 0, record: false };
    let rate = evaluator.run(&strategies, &mut [], &AtomicBool::new(false)).unwrap()[0].summary.rates[0];
    let share = |share| {
        let unanimity = Unanimity { share, confidence: None };
        let policy = Policy::Argmax;
        let observer = GateObserver { network: &network, pass, policy, unanimity };
        observer.run(&mut [], &AtomicBool::new(false)).unwrap()[0]
    };
    let major = rate.max(1.0 - rate);
    assert_eq!(share(major), if rate > 0.5 { open } else { closed });
    assert_eq!(share((major + 0.05).min(1.0)), if major == 1.0 { share(1.0) } else { undecided });
}

#[test]
fn strategies_without_runs_and_interrupted_passes_are_errors() {
    let spec = arch::NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Dependent, |_| true);
    let network = arch::Network::build(&spec, Device::Cpu, 9).unwrap();
    let cost = arch::Cost::of(&spec, 32, 32).unwrap();
    let input = Input::of(&config(""));
    let split = Dataset::open(sample_set()).unwrap().val;
    let loader = loader(split, input.transform(), &input, Order::InOrder);
    let pass = ImagePass::once(&loader, 32, Device::Cpu, 0.0);
    let evaluator = Evaluator { network: &network, cut: None, cost: &cost, pass, seed: 7, record: false };
    for strategy in [Strategy::Stochastic { runs: 0 }, Strategy::Ensemble { runs: 0 }] {
        let error = evaluator.run(&[strategy], &mut [], &AtomicBool::new(false)).unwrap_err();
        assert_eq!(error.to_string(), format!("'{strategy}': expected 1 to 1000 runs"));
    }
    let interrupted = |error: Error| matches!(error, Error::Interrupted);
    let flag = AtomicBool::new(true);
    assert!(interrupted(evaluator.run(&[Strategy::default()], &mut [], &flag).unwrap_err()));
    let unanimity = Unanimity { share: 1.0, confidence: None };
    let policy = Policy::Argmax;
    let observer = GateObserver { network: &network, pass, policy, unanimity };
    assert!(interrupted(observer.run(&mut [], &flag).unwrap_err()));
}
