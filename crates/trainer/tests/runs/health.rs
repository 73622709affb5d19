//! Runs that leave the finite numbers, and runs in 16 bits, in parts and with averaged weights.

use super::{Notes, config, epochs, run, sample_set, weights};
use data::Dataset;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tch::{Device, Kind};
use trainer::config::{Augment, Granularity, Precision};
use trainer::{Checkpoint, Config, Error, Event, Fit, Listener, Resume, RunDir};

/// Breaks the first images of every epoch.
struct Poison;

impl Listener for Poison {
    fn on(&mut self, event: &Event) -> trainer::Result<()> {
        if let Event::Images { images, .. } = event {
            let _ = images.shallow_clone().f_fill_(f64::NAN)?;
        }
        Ok(())
    }
}

fn run_with(config: Config, out: &Path, listeners: &mut [Box<dyn Listener>]) -> trainer::Result<()> {
    let fit = Fit::prepare(config, Some(out.to_owned()), Resume::No, Device::Cpu)?;
    fit.run(listeners, &AtomicBool::new(false)).map(drop)
}

fn all_finite(path: &Path) -> bool {
    let tensors = Checkpoint::read_weights(path).unwrap().tensors;
    tensors.iter().all(|(_, tensor)| tensor.isfinite().all().int64_value(&[]) == 1)
}

#[test]
fn a_diverging_run_stops_and_says_where_its_numbers_ended() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut config = config("");
    config.optimizer.learning_rate = 1e6;
    let error = run(config, &out, false, None).unwrap_err();
    let Error::NotFinite { diagnosis, .. } = &error else { panic!("{error}") };
    assert_eq!(diagnosis.images.len(), 8);
    assert!(diagnosis.first.is_some() && diagnosis.margins.is_some(), "{error}");
    let message = error.to_string();
    for part in
        ["training step ", "the first values that are not finite numbers are", "learning rate is 1000000", ".jpg"]
    {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
    let list = fs::read_to_string(diagnosis.list.as_ref().unwrap()).unwrap();
    assert_eq!(list.lines().count(), 8);
    assert!(!RunDir::at(&out).last().exists(), "nothing that is not finite is saved");
}

#[test]
fn poisoned_images_end_a_run_unless_so_many_steps_may_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let (out, other) = (folder.path().join("run"), folder.path().join("other"));
    let error = run_with(config(""), &out, &mut [Box::new(Poison)]).unwrap_err().to_string();
    // The images themselves are sound, so the second look says so.
    assert!(error.contains("training step 1 gave") && error.contains("a second look finds only finite"), "{error}");
    assert!(!RunDir::at(&out).last().exists());

    let mut config = config("");
    // One in each of two epochs.
    config.train.max_bad_steps = 2;
    let notes = Notes::default();
    run_with(config.clone(), &out.with_extension("2"), &mut [Box::new(Poison), Box::new(notes.clone())]).unwrap();
    let last = RunDir::at(&out.with_extension("2")).last();
    assert!(all_finite(&last));
    let told: Vec<String> = notes.0.borrow().iter().filter(|note| note.contains("left out")).cloned().collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[1].contains("step 6") && told[1].contains("2 in all"), "{told:?}");
    // Means are over the steps that counted.
    let training = Checkpoint::read(&last).unwrap().training.unwrap();
    assert!(training.evaluation.unwrap().loss.is_finite());

    config.train.max_bad_steps = 1;
    let error = run_with(config, &other, &mut [Box::new(Poison)]).unwrap_err().to_string();
    assert!(error.contains("training step 6"), "{error}");
    assert!(all_finite(&RunDir::at(&other).last()));
}

#[test]
fn images_that_are_not_finite_are_named_as_what_broke_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("");
    config.data.std = [1e-40; 3];
    let error = run(config, &folder.path().join("run"), false, None).unwrap_err().to_string();
    assert!(error.contains("are those of the images;"), "{error}");
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut one_epoch = config("");
    one_epoch.train.epochs = 1;
    run(one_epoch, &out, false, None).unwrap();
    let checkpoint = Checkpoint::read(&RunDir::at(&out).last()).unwrap();
    let network = checkpoint.network(Device::Cpu).unwrap();
    let _ = tch::no_grad(|| network.tensors().get("layer2.0.conv1.weight").unwrap().tensor.get(3).fill_(f64::NAN));
    let file = folder.path().join("broken.safetensors");
    Checkpoint::write(&file, &network, &checkpoint.classes, checkpoint.input, None).unwrap();
    let mut config = config("");
    config.network.weights = Some(file);
    let fresh = folder.path().join("fresh");
    let error = run(config, &fresh, false, None).unwrap_err().to_string();
    assert!(
        error.contains("broken.safetensors") && error.contains("not finite numbers: layer2.0.conv1.weight"),
        "{error}"
    );
    assert!(!fresh.exists());
}

fn top1(epoch: &Value, key: &str) -> f64 {
    epoch[key]["top1"].as_f64().unwrap()
}

#[test]
fn sixteen_bits_train_as_thirty_two_do_and_resume_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let loss = |precision, name: &str| {
        let mut config = config("");
        config.train.precision = precision;
        let (whole, parts) = (folder.path().join(name), folder.path().join(format!("{name}-parts")));
        run(config.clone(), &whole, false, None).unwrap();
        if precision != Precision::Float32 {
            assert!(run(config.clone(), &parts, false, Some(3)).unwrap().is_none());
            run(config, &parts, true, None).unwrap().unwrap();
            assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()), "{name}");
        }
        for (name, tensor) in Checkpoint::read_weights(&RunDir::at(&whole).last()).unwrap().tensors {
            assert_eq!(tensor.kind(), Kind::Float, "{name}");
        }
        epochs(&whole).iter().map(|epoch| epoch["train"]["loss"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let float32 = loss(Precision::Float32, "float32");
    for (precision, name) in [(Precision::Bfloat16, "bfloat16"), (Precision::Float16, "float16")] {
        let found = loss(precision, name);
        assert_ne!(found, float32, "{name} is not float32");
        assert!((found[0] - float32[0]).abs() < 0.1 * float32[0], "{name}: {found:?} against {float32:?}");
    }
}

/// A set in which every image is the same, whatever its class: batch norm then sees the same in
/// every part of a batch.
fn one_image_many_labels(folder: &Path) -> PathBuf {
    let set = folder.join("set");
    let image = image::open(Dataset::open(sample_set()).unwrap().train.path(0)).unwrap();
    // Square, so that no crop can differ.
    let image = image.resize_exact(32, 32, image::imageops::FilterType::Triangle);
    for split in ["train", "val"] {
        for (class, number) in (0..5).flat_map(|class| (0..8).map(move |number| (class, number))) {
            let class = set.join(split).join(format!("class-{class}"));
            fs::create_dir_all(&class).unwrap();
            image.save(class.join(format!("{number}.png"))).unwrap();
        }
    }
    set
}

#[test]
fn a_batch_in_parts_is_one_step_with_the_mean_of_their_gradients() {
    let folder = tempfile::tempdir().unwrap();
    let set = one_image_many_labels(folder.path());
    let learned = |accumulate, name: &str| {
        let mut config = config("");
        config.gates.granularity = Granularity::NONE;
        // Its last features have pixels left, without which a batch norm over equal images has
        // nothing to tell apart.
        config.network.arch = "cifar-resnet20".into();
        config.data.path = Some(set.clone());
        (config.data.augment, config.data.padding, config.data.flip) = (Augment::PaddedCrop, 0, 0.0);
        config.data.resize = 32;
        (config.train.batch_size, config.train.epochs, config.train.accumulate) = (40, 1, accumulate);
        let out = folder.path().join(name);
        run(config, &out, false, None).unwrap();
        let checkpoint = Checkpoint::read(&RunDir::at(&out).last()).unwrap();
        assert_eq!(checkpoint.training.as_ref().unwrap().step, 1);
        let network = checkpoint.network(Device::Cpu).unwrap();
        network.tensors().get("linear.weight").unwrap().tensor.detach().copy()
    };
    // Three parts of forty images are of two sizes.
    let (whole, parts, other) = (learned(1, "whole"), learned(3, "parts"), learned(4, "other"));
    for parts in [parts, other] {
        let error = (&whole - &parts).abs().max().double_value(&[]) / whole.abs().max().double_value(&[]);
        assert!(error < 1e-5, "{error}");
    }
}

#[test]
fn averaged_weights_are_what_is_evaluated_deployed_and_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let mut config = config("");
    config.train.epochs = 3;
    config.train.average_decay = 0.9;
    run(config.clone(), &whole, false, None).unwrap();
    assert!(run(config.clone(), &parts, false, Some(8)).unwrap().is_none());
    run(config.clone(), &parts, true, None).unwrap().unwrap();
    assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()));
    assert_eq!(epochs(&parts).last(), epochs(&whole).last());
    let last = epochs(&whole).pop().unwrap();
    assert_ne!(last["val"], last["val_unaveraged"]);
    let checkpoint = Checkpoint::read(&RunDir::at(&whole).last()).unwrap();
    assert!(checkpoint.is_averaged());
    let best = checkpoint.training.as_ref().unwrap().best.unwrap();
    let of_epochs: Vec<f64> = epochs(&whole).iter().map(|epoch| top1(epoch, "val")).collect();
    assert_eq!(best.1, of_epochs.iter().copied().fold(0.0, f64::max));
    // The network of the checkpoint is the averaged one, and so are its weights for another run.
    let network = checkpoint.network(Device::Cpu).unwrap();
    let averaged = Checkpoint::read_weights(&RunDir::at(&whole).last()).unwrap();
    let tensor = |name: &str| averaged.tensors.iter().find(|(found, _)| found == name).unwrap().1.copy();
    assert_eq!(network.tensors().get("fc.weight").unwrap().tensor.detach(), tensor("fc.weight"));
    // Without averaging the same run learns the same weights.
    let plain = folder.path().join("plain");
    config.train.average_decay = 0.0;
    run(config, &plain, false, None).unwrap();
    let (plain, averaged) = (epochs(&plain), epochs(&whole));
    assert_eq!(plain[2]["val"]["top1"], averaged[2]["val_unaveraged"]["top1"]);
}

#[test]
fn a_run_that_gets_no_better_stops_early_and_stays_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut config = config("");
    config.train.epochs = 50;
    // Nothing is learned.
    config.optimizer.learning_rate = 1e-12;
    config.train.patience = 2;
    let notes = Notes::default();
    run_with(config.clone(), &out, &mut [Box::new(notes.clone())]).unwrap();
    let epoch = Checkpoint::read(&RunDir::at(&out).last()).unwrap().training.unwrap().epoch;
    assert!((3..20).contains(&epoch), "{epoch}");
    assert!(notes.0.borrow().iter().any(|note| note.contains("stopping") && note.contains("train.patience")));
    let gates = RunDir::at(&out).gates().join("gates.csv");
    assert!(gates.exists());
    fs::remove_file(&gates).unwrap();
    let verdict = run(config, &out, true, None).unwrap().unwrap();
    assert_eq!(verdict.epochs, 0);
    assert!(gates.exists(), "what the gates did is told again");
}
