//! Whole runs on a small drawn set.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod budget;
mod health;
mod measuring;
mod states;
mod times;

use data::synth::{SampleSet, draw};
use data::{Dataset, Loader, LoaderOptions, Order, Source, Transform};
use gumbel_gates::GateKind;
use serde_json::Value;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tch::Device;
use trainer::config::{Granularity, Metric, parse};
use trainer::{
    Checkpoint, Config, Error, Evaluation, Event, Fit, Input, Listener, MetricsFile, Outcome, Position, Resume, RunDir,
    Verdict,
};

/// One drawn set for all tests.
fn sample_set() -> &'static Path {
    static SET: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SET.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("set");
        draw(&path, &SampleSet { train_per_class: 4, val_per_class: 2, seed: 3 }).expect("the set is drawn");
        (folder, path)
    });
    path
}

fn loader(source: Arc<dyn Source>, transform: Transform, input: &Input, order: Order) -> Loader {
    let (normalize, ahead) = (input.normalize(), Some(2));
    let options =
        LoaderOptions { transform, normalize, order, batch_size: 8, threads: 2, ahead, ..LoaderOptions::default() };
    Loader::new(source, options).expect("threads start")
}

fn config(extra: &str) -> Config {
    let text = format!(
        "[network]\narch = \"resnet18\"\n[data]\nimage_size = 32\nresize = 36\nthreads = 2\n\
         [optimizer]\nlearning_rate = 0.02\n[train]\nepochs = 2\nbatch_size = 8\nlog_every = 2\nseed = 5\n{extra}"
    );
    let mut config = parse("test", &text, &[]).expect("a valid configuration");
    config.data.path = Some(sample_set().to_owned());
    config
}

/// Sets a flag after some step.
struct InterruptAfter<'a>(u64, &'a AtomicBool);

impl Listener for InterruptAfter<'static> {
    fn on(&mut self, event: &Event) -> trainer::Result<()> {
        if let Event::Step { step, .. } = event
            && *step == self.0
        {
            self.1.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Keeps notes and bad images.
#[derive(Clone, Default)]
struct Notes(Rc<RefCell<Vec<String>>>);

impl Listener for Notes {
    fn on(&mut self, event: &Event) -> trainer::Result<()> {
        match event {
            Event::Note(text) => self.0.borrow_mut().push((*text).to_owned()),
            Event::BadImage(image) => self.0.borrow_mut().push(image.to_string()),
            _ => {}
        }
        Ok(())
    }
}

fn run(config: Config, out: &Path, resume: bool, interrupt_after: Option<u64>) -> trainer::Result<Option<Verdict>> {
    let interrupt: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let resume = if resume { Resume::Exactly } else { Resume::No };
    let fit = Fit::prepare(config, Some(out.to_owned()), resume, Device::Cpu)?;
    let metrics = MetricsFile::open(&fit.run_dir().metrics(), fit.resumed_after())?;
    let mut listeners: Vec<Box<dyn Listener>> = vec![Box::new(metrics)];
    if let Some(step) = interrupt_after {
        listeners.push(Box::new(InterruptAfter(step, interrupt)));
    }
    match fit.run(&mut listeners, interrupt)? {
        Outcome::Finished(verdict) => Ok(Some(*verdict)),
        Outcome::Interrupted(_) => Ok(None),
    }
}

/// The lines of metrics.jsonl without what a clock measured.
fn metrics(out: &Path) -> Vec<Value> {
    reference::metrics(&RunDir::at(out).metrics())
}

/// The lines of epochs.
fn epochs(out: &Path) -> Vec<Value> {
    metrics(out).into_iter().filter(|line| line["event"] == "epoch").collect()
}

fn weights(path: &Path) -> Vec<(String, Vec<u8>)> {
    Checkpoint::read_weights(path)
        .expect("a checkpoint")
        .tensors
        .into_iter()
        .map(|(name, tensor)| {
            let mut bytes = vec![0; 4 * tensor.numel()];
            tensor.copy_data_u8(&mut bytes, tensor.numel());
            (name, bytes)
        })
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let folder = tempfile::tempdir().unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| folder.path().join(name));
    run(config(""), &a, false, None).unwrap();
    run(config(""), &b, false, None).unwrap();
    let mut other = config("");
    other.train.seed = 6;
    run(other, &c, false, None).unwrap();
    // 5 steps an epoch, logged after steps 2, 4 and 5, 6, 8 and 10; two epochs.
    assert_eq!(metrics(&a).len(), 8);
    assert_eq!(metrics(&a), metrics(&b));
    assert_ne!(metrics(&a)[0], metrics(&c)[0]);
    assert_eq!(weights(&RunDir::at(&a).last()), weights(&RunDir::at(&b).last()));
}

#[test]
fn a_finished_run_leaves_what_the_verdict_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let verdict = run(config(""), &out, false, None).unwrap().unwrap();
    let run_dir = &verdict.run;
    assert_eq!(Config::read(&run_dir.config(), &[]).unwrap(), verdict.config);
    let checkpoint = Checkpoint::read(&run_dir.last()).unwrap();
    let training = checkpoint.training.as_ref().unwrap();
    assert_eq!((training.epoch, training.batch, training.step), (2, 0, 10));
    assert_eq!(training.evaluation.as_ref().unwrap(), &verdict.evaluation.summary);
    assert_eq!(training.best, Some(verdict.best));
    assert_eq!(checkpoint.classes.len(), 10);
    assert!(Checkpoint::read(&run_dir.best()).unwrap().network(Device::Cpu).is_ok());
    assert_eq!(verdict.blocks.len(), 8);
    assert!(verdict.blocks.iter().all(|block| block.is_some_and(|block| block.target == 0.6)));
    assert_eq!(verdict.evaluation.summary.images, 20);
    let left: Vec<_> = fs::read_dir(run_dir.path().join("checkpoints")).unwrap().collect();
    assert_eq!(left.len(), 3, "best, last and the one before, no scratch files");
}

#[test]
fn the_activation_loss_moves_gates_to_their_target() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("");
    config.train.epochs = 6;
    config.gates.loss_factor = trainer::Schedule::Constant(20.0);
    config.gates.target = trainer::ActivationTarget::Constant(0.3);
    config.gates.learning_rate_factor = 5.0;
    run(config, &folder.path().join("run"), false, None).unwrap();
    let epochs: Vec<f64> =
        epochs(&folder.path().join("run")).iter().filter_map(|epoch| epoch["train"]["open_rate"].as_f64()).collect();
    assert!(epochs[0] > 0.7, "gates start mostly open: {epochs:?}");
    assert!((epochs[5] - 0.3).abs() < 0.15, "and end near the target: {epochs:?}");
}

#[test]
fn networks_without_gates_train_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("");
    config.gates.granularity = Granularity::NONE;
    config.train.epochs = 1;
    let verdict = run(config, &folder.path().join("run"), false, None).unwrap().unwrap();
    assert!(verdict.blocks.iter().all(Option::is_none));
    assert_eq!(verdict.evaluation.summary.macs, verdict.cost.dense as f64);
}

/// Filter gates with everything about them that changes over a run.
const FILTERS: &str = "calibrate_batches = 3\n[gates]\ngranularity = \"low\"\nloss = \"batch\"\nweighting = \"macs\"\n\
     loss_factor = { from = 0.0, to = 2.0, epochs = 1 }\ntarget = { from = 1.0, to = 0.5, epochs = 1.5, shape = \"cosine\" }\n\
     temperature = { from = 1.0, to = 0.5, start = 1, epochs = 1 }\nweight_decay = { over_gates = 40.0 }";

#[test]
fn a_run_with_filter_gates_schedules_and_calibration_resumes_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let verdict = run(config(FILTERS), &whole, false, None).unwrap().unwrap();
    // After the last step of training, which calibration and evaluation follow, and in the middle.
    for step in [10, 7] {
        let parts = folder.path().join(format!("parts-{step}"));
        assert!(run(config(FILTERS), &parts, false, Some(step)).unwrap().is_none());
        let resumed = run(config(FILTERS), &parts, true, None).unwrap().unwrap();
        assert_eq!(
            resumed.evaluation,
            Evaluation { seconds: resumed.evaluation.seconds, ..verdict.evaluation.clone() }
        );
        assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()), "step {step}");
    }
    // The verdict speaks of the gated MACs.
    let (activation, summary, cost) = (verdict.activation.unwrap(), &verdict.evaluation.summary, &verdict.cost);
    assert_eq!(
        activation.target,
        0.5 + 0.25 * (1.0 + (std::f64::consts::PI * 1.8 / 1.5).min(std::f64::consts::PI).cos())
    );
    assert_eq!(activation.found, (summary.macs - cost.constant() as f64) / cost.gated() as f64);
    assert!((summary.block_macs.iter().sum::<f64>() - summary.macs).abs() < 0.1 * summary.macs);
    let first = &metrics(&whole)[0];
    assert_eq!([&first["loss_factor"], &first["temperature"]].map(Value::as_f64), [Some(0.4), Some(1.0)]);
    let names = ["gates.csv", "classes.csv", "images.csv", "summary.json"];
    let lines = |name: &str| fs::read_to_string(verdict.run.gates().join(name)).unwrap().lines().count();
    let gates = summary.rates.len();
    assert_eq!(names[..3].iter().map(|name| lines(name)).collect::<Vec<_>>(), [gates + 1, 11, 21]);
    assert!(lines(names[3]) > 10);
}

#[test]
fn every_shipped_configuration_trains() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(reference::repository().join("configs")).unwrap() {
        let path = entry.unwrap().path();
        let mut config = Config::read(&path, &[]).unwrap();
        if config.data.image_size > 64 {
            (config.data.image_size, config.data.resize) = (64, 72);
        }
        config.data.path = Some(sample_set().to_owned());
        config.schedule.warmup_epochs = config.schedule.warmup_epochs.min(0.5);
        (config.train.epochs, config.train.batch_size, config.train.log_every) = (1, 4, 5);
        config.train.calibrate_batches = config.train.calibrate_batches.min(2);
        config.gates.start_batches = 2;
        config.gates.freeze_after = config.gates.freeze_after.map(|_| 0.5);
        let is_layer = config.gates.granularity == Granularity::LAYER;
        let freezes = config.gates.freeze_after.is_some();
        let is_cut = freezes && config.gates.kind == GateKind::Independent;
        let notes = Notes::default();
        let out = folder.path().join(&config.train.name);
        let fit = Fit::prepare(config, Some(out), Resume::No, Device::Cpu).unwrap();
        let outcome = fit.run(&mut [Box::new(notes.clone())], &AtomicBool::new(false)).unwrap();
        let Outcome::Finished(verdict) = outcome else { panic!("nothing interrupts {}", path.display()) };
        assert!(verdict.evaluation.summary.loss.is_finite() && verdict.activation.is_some());
        // The line about the run and that of the decision, and no warning, but that half an epoch
        // is little to train on in, and that whole blocks of a network that has hardly learned
        // anything can only be decided roughly.
        let mut notes = notes.0.borrow().clone();
        let late = "gates freeze after epoch 0.5 of 1: less than an epoch is left";
        assert_eq!(notes.iter().any(|note| note.starts_with(late)), freezes, "{notes:?}");
        notes.retain(|note| !note.starts_with(late));
        notes.retain(|note| !(is_layer && note.starts_with("what is left could not be spent")));
        let decided = notes.iter().filter(|note| note.starts_with("gates are frozen")).count();
        let cut = notes.iter().filter(|note| note.starts_with("the network is cut")).count();
        assert_eq!((cut == 1, verdict.is_cut), (is_cut, is_cut), "{}: {notes:?}", path.display());
        assert_eq!(notes.len(), 1 + decided + cut, "{}: {notes:?}", path.display());
    }
}

#[test]
fn weights_of_another_run_and_another_number_of_classes_are_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let spec = arch::NetSpec::preset("resnet18", 7).unwrap();
    let network = arch::Network::build(&spec, Device::Cpu, 9).unwrap();
    let path = folder.path().join("w.safetensors");
    let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
    fs::write(&path, arch::state_dict::safetensors::to_bytes(tensors, ("k", String::new())).unwrap()).unwrap();
    let mut config = config("");
    config.train.epochs = 1;
    config.network.weights = Some(path);
    let notes = Notes::default();
    let fit = Fit::prepare(config, Some(folder.path().join("run")), Resume::No, Device::Cpu).unwrap();
    fit.run(&mut [Box::new(notes.clone())], &AtomicBool::new(false)).unwrap();
    let notes = notes.0.borrow();
    assert!(notes[0].contains("resnet18 with 8 gates on the CPU") && notes[0].contains("/run"), "{notes:?}");
    assert!(
        notes[1].contains("fresh: the gates and the classifier (the file has 7 classes, the data 10)"),
        "{notes:?}"
    );
}

/// What `prepare` refuses; it must leave nothing behind.
fn refusal(config: Config, resume: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let resume = if resume { Resume::Exactly } else { Resume::No };
    let error = Fit::prepare(config, Some(folder.path().join("run")), resume, Device::Cpu).unwrap_err();
    assert!(!folder.path().join("run").exists(), "nothing half-written");
    error.to_string()
}

#[test]
fn what_cannot_start_leaves_nothing_behind() {
    let mut absent = config("");
    absent.data.path = Some("/nowhere/at/all".into());
    assert!(refusal(absent, false).contains("cannot read /nowhere/at/all"));
    let mut weights = config("");
    weights.network.weights = Some("/nowhere.pth".into());
    assert!(refusal(weights, false).contains("cannot read /nowhere.pth"));
    assert!(refusal(config(""), true).contains("nothing to resume"));
}

/// Whoever makes a configuration in a program is told what parsing would have told.
#[test]
fn a_configuration_that_makes_no_sense_is_refused_before_anything_is_done() {
    let faulty = |change: fn(&mut Config)| {
        let mut config = config("");
        change(&mut config);
        let error = config.check().unwrap_err().to_string();
        assert_eq!(refusal(config, false), error);
        error
    };
    let message = faulty(|config| {
        config.train.batch_size = 0;
        config.train.log_every = 0;
    });
    assert!(message.contains("the configuration has 2 faults:"), "{message}");
    assert!(message.contains("train.batch_size: expected 2 to 1,048,576 images"), "{message}");
    assert!(message.contains("train.log_every: expected at least 1 step"), "{message}");
    assert!(faulty(|config| config.network.arch = "resnet51".into()).contains("network.arch: unknown architecture"));
    assert!(faulty(|config| config.optimizer.momentum = f64::NAN).contains("optimizer.momentum: expected"));
}

#[test]
fn an_output_folder_that_exists_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("mine"), "precious").unwrap();
    let error = Fit::prepare(config(""), Some(folder.path().to_owned()), Resume::No, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("exists; choose another --out, or continue that run with --resume"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn an_interrupted_evaluation_is_done_again() {
    struct DuringEvaluation(&'static AtomicBool);
    impl Listener for DuringEvaluation {
        fn on(&mut self, event: &Event) -> trainer::Result<()> {
            if matches!(event, Event::PassStarted { .. }) {
                self.0.store(true, Ordering::Relaxed);
            }
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let mut short = config("");
    short.train.epochs = 1;
    run(short.clone(), &whole, false, None).unwrap();
    let interrupt: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    let fit = Fit::prepare(short.clone(), Some(parts.clone()), Resume::No, Device::Cpu).unwrap();
    let outcome = fit.run(&mut [Box::new(DuringEvaluation(interrupt))], interrupt).unwrap();
    assert!(matches!(outcome, Outcome::Interrupted(_)));
    let resumed = run(short, &parts, true, None).unwrap().unwrap();
    let reference = Checkpoint::read(&RunDir::at(&whole).last()).unwrap().training.unwrap();
    assert_eq!(Some(resumed.evaluation.summary), reference.evaluation);
}

/// A copy of the sample set in which `bad` of the training images of one class are no images.
fn damaged_set(folder: &Path, bad: usize) -> PathBuf {
    let root = folder.join("set");
    draw(&root, &SampleSet { train_per_class: 4, val_per_class: 1, seed: 3 }).unwrap();
    for entry in fs::read_dir(root.join("train/disc")).unwrap().take(bad) {
        fs::write(entry.unwrap().path(), b"not an image").unwrap();
    }
    root
}

#[test]
fn a_few_bad_images_are_named_and_too_many_stop_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("");
    config.train.epochs = 1;
    config.data.max_bad_share = 0.05;
    config.data.path = Some(damaged_set(&folder.path().join("few"), 2));
    let notes = Notes::default();
    let fit = Fit::prepare(config.clone(), Some(folder.path().join("run")), Resume::No, Device::Cpu).unwrap();
    fit.run(&mut [Box::new(notes.clone())], &AtomicBool::new(false)).unwrap();
    assert_eq!(notes.0.borrow().iter().filter(|note| note.contains("train/disc")).count(), 2);

    config.data.path = Some(damaged_set(&folder.path().join("many"), 3));
    let fit = Fit::prepare(config, Some(folder.path().join("other")), Resume::No, Device::Cpu).unwrap();
    let error = fit.run(&mut [], &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(error, Error::TooManyBadImages { bad: 3, images: 40, .. }), "{error}");
}
