//! Runs whose gates are frozen: the budget holds when deployed.

use super::{Notes, config, epochs, loader, refusal, run, sample_set, weights};
use arch::{Cost, NetSpec};
use data::{Dataset, Order};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use tch::Device;
use trainer::config::Algorithm;
use trainer::{Checkpoint, Config, Error, Evaluator, Fit, ImagePass, Listener, Resume, RunDir, Strategy, Verdict};

/// Single filters that start by importance, decided after the first epoch.
const FILTERS: &str = "[gates]\ngranularity = 1\nsites = [\"between\"]\nkind = \"independent\"\nloss = \"batch\"\n\
     weighting = \"network\"\ntarget = 0.7\nstart = \"taylor\"\nstart_batches = 2\npolarization = 0.1\nfreeze_after = 1";

/// The same with gates that look at the image.
fn dependent() -> String {
    FILTERS.replace("independent", "dependent")
}

/// The same, and what frozen gates close stays in the network.
fn masked() -> String {
    format!("{FILTERS}\ncut_when_frozen = false")
}

fn finished(config: Config, out: &Path) -> Verdict {
    run(config, out, false, None).expect("a run").expect("that finishes")
}

#[test]
fn a_decided_run_deploys_what_its_target_says_and_keeps_its_gates() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let verdict = finished(config(FILTERS), &one);
    let found = verdict.evaluation.summary.macs / verdict.cost.dense as f64;
    assert!((0.68..=0.7).contains(&found), "{found}");
    assert_eq!(verdict.activation.unwrap().found, found);
    assert!(verdict.evaluation.summary.rates.iter().all(|rate| [0.0, 1.0].contains(rate)));
    // Decided later, the second epoch's gates are those of the first.
    let mut longer = config(FILTERS);
    longer.train.epochs = 3;
    let verdict = finished(longer, &two);
    let lines = epochs(&two);
    assert_eq!(lines[0]["rates"], lines[2]["rates"]);
    assert_eq!(verdict.evaluation.summary.macs, lines[0]["val"]["macs"].as_f64().unwrap());
}

#[test]
fn while_gates_learn_every_epoch_says_what_both_sampled_and_deployed_gates_spend() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let verdict = finished(config(&FILTERS.replace("freeze_after = 1", "freeze_after = 2")), &out);
    assert_eq!(verdict.best.0, 2, "an undecided network is no match for one within its budget");
    let lines = epochs(&out);
    let (sampled, deployed) = (&lines[0]["val_sampled"], &lines[0]["val"]);
    for means in [sampled, deployed] {
        assert!(means["top1"].is_f64() && means["macs"].as_f64().unwrap() > 0.0, "{means}");
    }
    assert_ne!(sampled["macs"], deployed["macs"]);
    assert!(lines[1]["val_sampled"].is_null(), "frozen gates are not sampled");
}

/// What a state's network spends on the training images, prepared as in an evaluation: the images
/// that gates which look at the input are held to the budget on.
fn spent_in_training(state: &Path) -> f64 {
    let checkpoint = Checkpoint::read(state).unwrap();
    let network = checkpoint.network(Device::Cpu).unwrap();
    let size = checkpoint.input.image_size as usize;
    let cost = Cost::of(network.spec(), size, size).unwrap();
    let split = Dataset::open(sample_set()).unwrap().train;
    let loader = loader(split, checkpoint.input.transform(), &checkpoint.input, Order::InOrder);
    let pass = ImagePass::once(&loader, 32, Device::Cpu, 0.0);
    let evaluator = Evaluator { network: &network, cut: None, cost: &cost, pass, seed: 0, record: false };
    let found = evaluator.run(&[Strategy::default()], &mut [], &AtomicBool::new(false)).unwrap();
    found[0].summary.macs / cost.dense as f64
}

#[test]
fn gates_that_look_at_the_image_meet_the_target_on_training_images() {
    let folder = tempfile::tempdir().unwrap();
    for decay in [0.0, 0.9] {
        let out = folder.path().join(format!("run-{decay}"));
        let mut config = config(&dependent());
        config.train.average_decay = decay;
        let verdict = finished(config, &out);
        // Held to the budget after the last step, and averaged weights too.
        let spent = spent_in_training(&RunDir::at(&out).last());
        assert!((0.69..=0.7001).contains(&spent), "{spent}");
        // The validation images are a few others.
        let found = verdict.activation.unwrap().found;
        assert!((0.6..0.75).contains(&found), "{found}");
    }
}

#[test]
fn runs_resume_exactly_before_at_and_after_the_decision() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("independent", FILTERS.to_owned()), ("dependent", dependent())] {
        let whole = folder.path().join(name);
        finished(config(&text), &whole);
        for step in [3, 5, 7] {
            let parts = folder.path().join(format!("{name}-{step}"));
            assert!(run(config(&text), &parts, false, Some(step)).unwrap().is_none());
            run(config(&text), &parts, true, None).unwrap().unwrap();
            assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()), "{name}, step {step}");
            assert_eq!(epochs(&parts), epochs(&whole), "{name}, step {step}");
        }
    }
}

#[test]
fn a_network_that_is_cut_learns_what_the_masked_one_learns_and_is_reported_alike() {
    let folder = tempfile::tempdir().unwrap();
    for algorithm in ["sgd", "adamw"] {
        let run = |text: &str, name: &str| {
            let mut config = config(&text.replace("[gates]", "average_decay = 0.9\n[gates]"));
            config.optimizer.algorithm = match algorithm {
                "sgd" => Algorithm::Sgd,
                _ => Algorithm::AdamW,
            };
            config.optimizer.learning_rate = 0.002;
            let out = folder.path().join(format!("{algorithm}-{name}"));
            (finished(config, &out), out)
        };
        let ((cut, cut_out), (masked, masked_out)) = (run(FILTERS, "cut"), run(&masked(), "masked"));
        // Steps after the cut differ by rounding alone: momentum and averages went along.
        let (a, b) = (&cut.evaluation.summary, &masked.evaluation.summary);
        assert!((a.cross_entropy - b.cross_entropy).abs() < 2e-4 * b.cross_entropy, "{a:?} {b:?}");
        assert_eq!((a.rates.as_slice(), a.macs, cut.best.0), (b.rates.as_slice(), b.macs, masked.best.0));
        assert_eq!(cut.blocks, masked.blocks);
        let gates = |out: &Path| std::fs::read_to_string(RunDir::at(out).gates().join("gates.csv")).unwrap();
        assert_eq!(gates(&cut_out), gates(&masked_out));
        let [small, large] = [&cut, &masked].map(|verdict| Checkpoint::read(&verdict.run.last()).unwrap());
        assert_eq!((small.spec.gate_count(), large.spec.gate_count()), (0, large.spec.gate_count()));
        let dense = |checkpoint: &Checkpoint| Cost::of(&checkpoint.spec, 32, 32).unwrap().dense as f64;
        assert_eq!(dense(&small), a.macs, "what is reported is what is left");
        assert_eq!(small.training.unwrap().cut.unwrap().spec, large.spec);
    }
}

#[test]
fn without_a_step_gates_start_freeze_and_are_cut_and_repair_makes_up_for_some_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let config = |text: &str| {
        let mut config = config(text);
        config.network.arch = "cifar-resnet20".into();
        config
    };
    let mut dense = config("[gates]\ngranularity = \"none\"");
    dense.train.epochs = 4;
    let dense = finished(dense, &folder.path().join("dense"));
    let run = |repair: bool| {
        let mut config = config(&FILTERS.replace("freeze_after = 1", "freeze_after = 0"));
        (config.train.epochs, config.gates.repair, config.gates.repair_images) = (0, repair, 40);
        config.network.weights = Some(dense.run.last());
        finished(config, &folder.path().join(format!("repair-{repair}")))
    };
    let (plain, repaired) = (run(false), run(true));
    assert_eq!(plain.evaluation.summary.rates, repaired.evaluation.summary.rates);
    assert!(plain.activation.unwrap().found <= 0.7);
    // Nearer to what the network was than without.
    let entropy = |verdict: &Verdict| verdict.evaluation.summary.cross_entropy;
    let [dense, plain, repaired] = [&dense, &plain, &repaired].map(entropy);
    assert!((repaired - dense).abs() < (plain - dense).abs(), "{dense} {plain} {repaired}");
}

/// Taylor gates that freeze before the first step, which does not come.
fn without_a_step(extra: &str) -> Config {
    let mut config = config(&(FILTERS.replace("freeze_after = 1", "freeze_after = 0") + extra));
    config.network.arch = "cifar-resnet20".into();
    config.train.epochs = 0;
    config
}

#[test]
fn a_finished_run_without_a_step_is_resumed_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for extra in ["", "\ncut_when_frozen = false", "\nrepair = true\nrepair_images = 12"] {
        let out = folder.path().join(format!("run{}", extra.len()));
        let first = finished(without_a_step(extra), &out);
        let before = weights(&first.run.last());
        let again = run(without_a_step(extra), &out, true, None).unwrap().unwrap();
        assert_eq!(weights(&again.run.last()), before, "{extra}");
        assert_eq!(again.evaluation.summary, first.evaluation.summary, "{extra}");
    }
}

#[test]
fn gates_that_do_not_fit_what_they_were_cut_from_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let verdict = finished(without_a_step(""), &folder.path().join("run"));
    let checkpoint = Checkpoint::read(&verdict.run.last()).unwrap();
    let network = checkpoint.network(Device::Cpu).unwrap();
    let forged = folder.path().join("forged.safetensors");
    let written = |forge: fn(&mut arch::CutGates)| {
        let mut training = checkpoint.training.clone().unwrap();
        forge(training.cut.as_mut().unwrap());
        Checkpoint::write(&forged, &network, &checkpoint.classes, checkpoint.input, Some(&training)).unwrap();
        Checkpoint::read(&forged).map(|_| ()).map_err(|error| error.to_string())
    };
    written(|_| {}).unwrap();
    for forge in [
        (|cut| cut.open.truncate(1)) as fn(&mut arch::CutGates),
        |cut| cut.spec.head.classes += 1,
        |cut| cut.spec.blocks[0].name = "other".into(),
        |cut| cut.spec.blocks[0].branch[0].kernel = 1 << 40,
    ] {
        let refusal = written(forge).unwrap_err();
        assert!(refusal.contains("cut out of its network does not fit it"), "{refusal}");
    }
}

#[test]
fn a_run_stopped_while_its_gates_start_starts_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    finished(config(FILTERS), &whole);
    let fit = Fit::prepare(config(FILTERS), Some(parts.clone()), Resume::No, Device::Cpu).unwrap();
    fit.run(&mut [], &AtomicBool::new(true)).unwrap();
    assert_eq!(Checkpoint::read(&RunDir::at(&parts).last()).unwrap().training.unwrap().step, 0);
    run(config(FILTERS), &parts, true, None).unwrap().unwrap();
    assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()));
}

#[test]
fn gates_of_another_run_are_no_fresh_start() {
    let folder = tempfile::tempdir().unwrap();
    let first = finished(config(&masked()), &folder.path().join("first"));
    // Decided already, they stay as they are.
    let mut second = config(&FILTERS.replace("freeze_after = 1", "freeze_after = 0"));
    second.network.checkpoint = Some(first.run.last());
    let second = finished(second, &folder.path().join("second"));
    assert_eq!(second.evaluation.summary.rates, first.evaluation.summary.rates);
}

#[test]
fn frozen_gates_keep_their_parameters_and_statistics_and_averages_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(&dependent());
    config.train.average_decay = 0.99;
    let out = folder.path().join("run");
    // Decided after step 5, and again after step 10, before which gates are those of the decision.
    assert!(run(config.clone(), &out, false, Some(6)).unwrap().is_none());
    let gates = |path: &Path| -> Vec<(String, Vec<u8>)> {
        weights(path).into_iter().filter(|(name, _)| name.contains(".gate.")).collect()
    };
    let before = gates(&RunDir::at(&out).last());
    let updates = |path: &Path| Checkpoint::read(path).unwrap().training.unwrap().updates;
    assert_eq!(updates(&RunDir::at(&out).last()), 1);
    config.checkpoints.every_steps = 9;
    run(config, &out, true, None).unwrap().unwrap();
    let ninth = RunDir::at(&out).last_but(1);
    assert_eq!(Checkpoint::read(&ninth).unwrap().training.unwrap().step, 9);
    assert_eq!(gates(&ninth), before);
    assert_eq!(updates(&ninth), 4);
}

#[test]
fn gates_that_cannot_be_told_apart_are_remarked_on() {
    let folder = tempfile::tempdir().unwrap();
    let first = finished(config("[gates]\ngranularity = \"none\""), &folder.path().join("first"));
    let mut alike = config(&FILTERS.replace("taylor", "alike"));
    alike.network.weights = Some(first.run.last());
    // Weights without gates are no reason to decide at once.
    alike.gates.freeze_after = Some(0.0);
    assert!(refusal(alike.clone(), false).contains("gates.freeze_after: new gates are all alike"));
    // After one step without a gradient they still are.
    (alike.gates.freeze_after, alike.gates.learning_rate_factor) = (Some(0.2), 0.0);
    let notes = Notes::default();
    let listeners: &mut [Box<dyn Listener>] = &mut [Box::new(notes.clone())];
    let fit = Fit::prepare(alike, Some(folder.path().join("alike")), Resume::No, Device::Cpu).unwrap();
    fit.run(listeners, &AtomicBool::new(false)).unwrap();
    let notes = notes.0.borrow().join("\n");
    assert!(notes.contains("gates are frozen: MACs") && notes.contains("can only be frozen alike"), "{notes}");
}

#[test]
fn a_target_below_what_no_gate_decides_about_is_refused() {
    let refusal = refusal(config(&FILTERS.replace("0.7", "0.01")), false);
    let spec = NetSpec::preset("resnet18", 10).unwrap();
    let spec = config(FILTERS).spec(spec.head.classes).unwrap();
    let cost = Cost::of(&spec, 32, 32).unwrap();
    let least = format!("{:.3} of them are spent with all gates closed", cost.constant() as f64 / cost.dense as f64);
    assert!(refusal.contains("gates.target: 0.01 of the network's MACs cannot be reached"), "{refusal}");
    assert!(refusal.contains(&least), "{refusal}");
}

#[test]
fn a_teacher_of_the_same_classes_and_images_changes_what_is_learned() {
    let folder = tempfile::tempdir().unwrap();
    let dense = finished(config("[gates]\ngranularity = \"none\""), &folder.path().join("dense"));
    let plain = finished(config(FILTERS), &folder.path().join("plain"));
    let mut taught = config(FILTERS);
    taught.distillation.teacher = Some(dense.run.last());
    let taught_run = finished(taught.clone(), &folder.path().join("taught"));
    assert_ne!(weights(&taught_run.run.last()), weights(&plain.run.last()));
    // A share of nothing is nothing.
    taught.distillation.share = 0.0;
    let not_taught = finished(taught, &folder.path().join("not-taught"));
    assert_eq!(weights(&not_taught.run.last()), weights(&plain.run.last()));

    let mut other = config(FILTERS);
    other.data.image_size = 36;
    other.distillation.teacher = Some(dense.run.last());
    assert!(refusal(other, false).contains("it sees images of 32 pixels"));
    let other_classes = folder.path().join("other");
    data::synth::draw(&other_classes, &data::synth::SampleSet { train_per_class: 2, val_per_class: 1, seed: 1 })
        .unwrap();
    for split in ["train", "val"] {
        std::fs::rename(other_classes.join(split).join("disc"), other_classes.join(split).join("dot")).unwrap();
    }
    let mut other = config(FILTERS);
    other.data.path = Some(other_classes);
    other.distillation.teacher = Some(dense.run.last());
    let error = Fit::prepare(other, Some(folder.path().join("never")), Resume::No, Device::Cpu).unwrap_err();
    assert!(matches!(error, Error::UnfitTeacher { .. }), "{error}");
    assert!(error.to_string().contains("it tells 10 other classes apart than the 10 of the images"), "{error}");
}
