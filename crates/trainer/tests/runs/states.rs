//! Runs that stop and go on, and the states they leave.

use super::*;

#[test]
fn a_resumed_run_ends_as_if_nothing_had_happened() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    run(config(""), &whole, false, None).unwrap();
    // In the middle of an epoch, at the end of its last step, and in the second epoch.
    for step in [3, 5, 7] {
        let parts = folder.path().join(format!("parts-{step}"));
        assert!(run(config(""), &parts, false, Some(step)).unwrap().is_none());
        run(config(""), &parts, true, None).unwrap().unwrap();
        assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()), "step {step}");
        assert_eq!(metrics(&parts), metrics(&whole), "step {step}");
    }
}

#[test]
fn a_run_with_adam_clipping_and_mixed_images_resumes_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let adam = "[optimizer]\nalgorithm = \"adamw\"\nlearning_rate = 0.001\nclip_norm = 0.5";
    let config = || {
        let mut config = Config { optimizer: parse("test", adam, &[]).unwrap().optimizer, ..config("") };
        (config.data.erase, config.data.mixup, config.data.cutmix) = (0.5, 0.2, 1.0);
        config
    };
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    run(config(), &whole, false, None).unwrap();
    assert!(run(config(), &parts, false, Some(3)).unwrap().is_none());
    run(config(), &parts, true, None).unwrap().unwrap();
    assert_eq!(weights(&RunDir::at(&parts).last()), weights(&RunDir::at(&whole).last()));
    let mut other = config();
    other.optimizer.algorithm = trainer::config::Algorithm::Sgd;
    let error = Fit::prepare(other, Some(parts), Resume::WithChanges, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("another optimizer: optimizer.algorithm is \"sgd\" and was \"adamw\""), "{error}");
}

#[test]
fn a_run_goes_on_with_another_configuration_only_if_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    assert!(run(config(""), &out, false, Some(3)).unwrap().is_none());
    let go_on = |config: &Config, resume| Fit::prepare(config.clone(), Some(out.clone()), resume, Device::Cpu);
    let mut slower = config("");
    slower.optimizer.learning_rate = 0.01;
    slower.train.epochs = 3;
    let error = go_on(&slower, Resume::Exactly).unwrap_err().to_string();
    assert!(error.contains("optimizer.learning_rate is 0.01 and was 0.02, train.epochs is 3 and was 2"), "{error}");
    assert!(error.contains("add --allow-changes"), "{error}");
    let mut larger = config("");
    larger.train.batch_size = 4;
    let error = go_on(&larger, Resume::WithChanges).unwrap_err().to_string();
    assert!(error.contains("another batch size: train.batch_size is 4 and was 8"), "{error}");
    for (key, what) in
        [("checkpoints.best_by", "measure of what is best"), ("gates.freeze_after", "freezing of its gates")]
    {
        let mut other = config("");
        match key {
            "gates.freeze_after" => other.gates.freeze_after = Some(1.0),
            _ => other.checkpoints.best_by = Metric::Top5,
        }
        let error = go_on(&other, Resume::WithChanges).unwrap_err().to_string();
        assert!(error.contains(&format!("another {what}: {key} is")), "{error}");
    }
    let mut filters = config(FILTERS);
    filters.train = config("").train;
    let error = go_on(&filters, Resume::WithChanges).unwrap_err().to_string();
    assert!(error.contains("cannot go on with another network: gates.granularity"), "{error}");

    // Until the state says so too, the run's own configuration is what it was.
    drop(go_on(&slower, Resume::WithChanges).unwrap());
    assert!(go_on(&config(""), Resume::Exactly).is_ok());
    let notes = Notes::default();
    let outcome = go_on(&slower, Resume::WithChanges)
        .unwrap()
        .run(&mut [Box::new(notes.clone())], &AtomicBool::new(false))
        .unwrap();
    let Outcome::Finished(verdict) = outcome else { panic!("nothing interrupts it") };
    assert_eq!(verdict.config, slower);
    assert!(notes.0.borrow().iter().any(|note| note.contains("goes on with changes: optimizer.learning_rate is 0.01")));
    // From now on it is the run's own.
    assert_eq!(Config::read(&verdict.run.config(), &[]).unwrap(), slower);
    assert!(go_on(&slower, Resume::Exactly).is_ok());
}

#[test]
fn a_run_does_not_go_on_with_other_images() {
    let folder = tempfile::tempdir().unwrap();
    let (out, moved) = (folder.path().join("run"), folder.path().join("moved"));
    let mut config = config("");
    draw(&moved, &SampleSet { train_per_class: 4, val_per_class: 2, seed: 3 }).unwrap();
    config.data.path = Some(moved.clone());
    assert!(run(config.clone(), &out, false, Some(3)).unwrap().is_none());
    // The same images in another place are the same; one less is not.
    let elsewhere = folder.path().join("elsewhere");
    fs::rename(&moved, &elsewhere).unwrap();
    config.data.path = Some(elsewhere.clone());
    assert!(run(config.clone(), &out, true, Some(4)).unwrap().is_none());
    let image = fs::read_dir(elsewhere.join("train/disc")).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(image).unwrap();
    let error = run(config, &out, true, None).unwrap_err().to_string();
    assert!(error.contains("(60 training and validation images then, 59 now)"), "{error}");
}

#[test]
fn a_run_belongs_to_one_process_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    assert!(run(config(""), &out, false, Some(1)).unwrap().is_none());
    let first = Fit::prepare(config(""), Some(out.clone()), Resume::Exactly, Device::Cpu).unwrap();
    let error = Fit::prepare(config(""), Some(out.clone()), Resume::Exactly, Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("another process is training in"), "{error}");
    drop(first);
    assert!(Fit::prepare(config(""), Some(out), Resume::Exactly, Device::Cpu).is_ok());
}

#[test]
fn damaged_and_foreign_checkpoints_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut short = config("");
    short.train.epochs = 1;
    run(short.clone(), &out, false, None).unwrap();
    let path = RunDir::at(&out).last();
    let bytes = fs::read(&path).unwrap();

    let mut other = short.clone();
    other.network.arch = "resnet34".into();
    let error = run(other, &out, true, None).unwrap_err().to_string();
    assert!(error.contains("network.arch is \"resnet34\" and was \"resnet18\""), "{error}");

    for length in [0, 7, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let error = run(short.clone(), &out, true, None).unwrap_err().to_string();
        assert!(error.contains("last.safetensors is not"), "{length} bytes: {error}");
    }
    // The weights of one architecture are no start for another.
    fs::write(&path, &bytes).unwrap();
    let mut other = short;
    other.network.arch = "resnet50".into();
    other.network.weights = Some(path);
    assert!(refusal(other, false).contains("does not fit resnet50"));
}

#[test]
fn images_that_were_left_out_before_a_stop_still_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("");
    config.train.epochs = 1;
    config.data.max_bad_share = 0.1;
    config.data.path = Some(damaged_set(folder.path(), 3));
    let whole = folder.path().join("whole");
    run(config.clone(), &whole, false, None).unwrap();
    assert_eq!(epochs(&whole)[0]["bad_images"], 3);
    for step in [3, 5] {
        let parts = folder.path().join(format!("parts-{step}"));
        assert!(run(config.clone(), &parts, false, Some(step)).unwrap().is_none());
        run(config.clone(), &parts, true, None).unwrap().unwrap();
        assert_eq!(metrics(&parts), metrics(&whole), "step {step}");
    }
}

/// Cannot write down what the first epoch came to, or a log entry before that.
struct FullDisk {
    at_step: Option<u64>,
}

impl Listener for FullDisk {
    fn on(&mut self, event: &Event) -> trainer::Result<()> {
        let is_full = match event {
            Event::EpochEnded { .. } => true,
            Event::Logged { step, .. } => Some(*step) == self.at_step,
            _ => false,
        };
        let source = std::io::ErrorKind::StorageFull.into();
        if is_full { Err(Error::Write { path: "full".into(), bytes: None, source }) } else { Ok(()) }
    }
}

#[test]
fn steps_that_cannot_be_told_are_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    run(config(""), &whole, false, None).unwrap();
    for at_step in [None, Some(4)] {
        let out = folder.path().join(format!("run-{at_step:?}"));
        let fit = Fit::prepare(config(""), Some(out.clone()), Resume::No, Device::Cpu).unwrap();
        let metrics_file = MetricsFile::open(&fit.run_dir().metrics(), None).unwrap();
        let mut listeners: [Box<dyn Listener>; 2] = [Box::new(metrics_file), Box::new(FullDisk { at_step })];
        let failed = fit.run(&mut listeners, &AtomicBool::new(false)).unwrap_err();
        assert!(failed.to_string().contains("full"), "{failed}");
        let training = Checkpoint::read(&RunDir::at(&out).last()).unwrap().training.unwrap();
        // Of the epoch its steps are done, its evaluation is to come.
        assert_eq!((training.step, training.epoch), (at_step.unwrap_or(5), 0));
        run(config(""), &out, true, None).unwrap().unwrap();
        assert_eq!(metrics(&out), metrics(&whole), "{at_step:?}");
        assert_eq!(weights(&RunDir::at(&out).last()), weights(&RunDir::at(&whole).last()), "{at_step:?}");
    }
}

#[test]
fn class_folders_that_torchvision_numbers_otherwise_are_remarked_on() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    draw(&root, &SampleSet { train_per_class: 2, val_per_class: 1, seed: 3 }).unwrap();
    let note = || {
        let source = Dataset::open(&root).unwrap().train;
        trainer::note_on_class_order(&*source)
    };
    assert_eq!(note(), None);
    for split in ["train", "val"] {
        fs::rename(root.join(split).join("disc"), root.join(split).join("9")).unwrap();
        fs::rename(root.join(split).join("ring"), root.join(split).join("10")).unwrap();
    }
    assert!(note().unwrap().contains("'9' before '10'"), "{:?}", note());
}

#[test]
fn a_damaged_last_state_leaves_the_one_before_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, out) = (folder.path().join("whole"), folder.path().join("run"));
    run(config(""), &whole, false, None).unwrap();
    // After the first epoch, then in the middle of the second.
    assert!(run(config(""), &out, false, Some(7)).unwrap().is_none());
    let last = RunDir::at(&out).last();
    let bytes = fs::read(&last).unwrap();
    // Multiples of the golden ratio fill the file evenly and hit no boundary on purpose.
    for length in (0..50).map(|cut| (bytes.len() as f64 * (f64::from(cut) * 0.618_034).fract()) as usize) {
        let cut = folder.path().join(format!("cut-{length}"));
        fs::create_dir_all(cut.join("checkpoints")).unwrap();
        for file in ["config.toml", "metrics.jsonl", "checkpoints/last-2.safetensors"] {
            fs::copy(out.join(file), cut.join(file)).unwrap();
        }
        fs::write(RunDir::at(&cut).last(), &bytes[..length]).unwrap();
        let fit = Fit::prepare(config(""), Some(cut.clone()), Resume::Exactly, Device::Cpu).unwrap();
        assert_eq!(fit.resumed_after(), Some(Position { epochs: 1, steps: 5 }), "{length} bytes");
        let aside = RunDir::at(&cut).last().with_extension("damaged-1");
        assert_eq!(fs::read(aside).unwrap(), &bytes[..length], "it is kept");
        drop(fit);
        assert!(Fit::prepare(config(""), Some(cut), Resume::Exactly, Device::Cpu).is_ok(), "and not in the way");
    }
    // One stopped between moving the last state back and writing the next.
    fs::remove_file(&last).unwrap();
    let notes = Notes::default();
    let fit = Fit::prepare(config(""), Some(out.clone()), Resume::Exactly, Device::Cpu).unwrap();
    fit.run(&mut [Box::new(notes.clone())], &AtomicBool::new(false)).unwrap();
    assert!(notes.0.borrow()[1].contains("last-2.safetensors after step 5"), "{:?}", notes.0.borrow());
    assert!(!RunDir::at(&out).last_but(2).exists());
    assert_eq!(weights(&last), weights(&RunDir::at(&whole).last()));
}

#[test]
fn states_are_kept_as_the_configuration_says() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let policy = "[checkpoints]\nevery_steps = 3\nkeep_last = 3\nkeep_best = 2\nbest_by = \"cross-entropy\"\n\
         keep_every_epochs = 2";
    let mut config = config(policy);
    config.train.epochs = 4;
    config.gates.target = trainer::ActivationTarget::Constant(1.0);
    let verdict = run(config, &out, false, None).unwrap().unwrap();
    assert!(!verdict.best_is_over_budget);
    let training = |path: PathBuf| Checkpoint::read(&path).unwrap().training.unwrap();
    let run_dir = &verdict.run;
    // Epochs end after steps 5, 10, 15 and 20; step 15 is the end of an epoch anyway.
    let steps: Vec<u64> = (0..3).map(|places| training(run_dir.last_but(places)).step).collect();
    assert_eq!(steps, [20, 18, 15]);
    assert!(!run_dir.last_but(3).exists());
    assert_eq!([2, 4].map(|epoch| training(run_dir.after_epoch(epoch)).epoch), [2, 4]);
    let mut losses: Vec<(u64, f64)> = Vec::new();
    for line in epochs(&out) {
        losses.push((line["epoch"].as_u64().unwrap(), line["val"]["cross_entropy"].as_f64().unwrap()));
    }
    losses.sort_by(|a, b| a.1.total_cmp(&b.1));
    let last = training(run_dir.last());
    assert_eq!((last.best, last.runners_up), (Some(losses[0]), vec![losses[1]]));
    assert_eq!(training(run_dir.best()).epoch, losses[0].0);
    for (rank, &(epoch, _)) in losses.iter().enumerate() {
        assert_eq!(run_dir.best_of_epoch(epoch).exists(), rank < 2, "epoch {epoch}");
    }
}

#[test]
fn a_best_state_with_gates_above_their_target_is_said_to_be_so() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut config = config("");
    config.train.epochs = 2;
    config.gates.target = trainer::ActivationTarget::Constant(0.0);
    let verdict = run(config, &out, false, None).unwrap().unwrap();
    assert!(verdict.activation.unwrap().found > 0.02 && verdict.best_is_over_budget);
    let training = Checkpoint::read(&verdict.run.last()).unwrap().training.unwrap();
    assert_eq!(training.over_budget, [1, 2]);
}

/// Writes a state as the program did before keys were renamed: format 2, with the old names.
fn age(state: &Path) {
    let mut file = arch::state_dict::StateDict::read(state).unwrap();
    let text = file.metadata.remove("gumbel-gates").unwrap();
    let mut description: Value = serde_json::from_str(&text).unwrap();
    description["format"] = 2.into();
    let training = description["training"].as_object_mut().unwrap();
    for (now, before) in [("frozen", "decided"), ("guard", "health")] {
        let value = training.remove(now).unwrap();
        training.insert(before.to_owned(), value);
    }
    for (section, now, before) in [
        ("gates", "freeze_after", "decide_after"),
        ("gates", "polarization", "polarisation"),
        ("data", "color_jitter", "colour_jitter"),
    ] {
        let section = training["config"][section].as_object_mut().unwrap();
        let value = section.remove(now).unwrap();
        section.insert(before.to_owned(), value);
    }
    let tensors = file.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    let bytes = arch::state_dict::safetensors::to_bytes(tensors, ("gumbel-gates", description.to_string())).unwrap();
    fs::write(state, bytes).unwrap();
}

#[test]
fn a_run_that_was_stopped_before_keys_were_renamed_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let gates = "[gates]\ngranularity = 1\nsites = [\"between\"]\nkind = \"independent\"\nloss = \"batch\"\nweighting = \"network\"\n\
                 target = 0.7\nstart = \"norms\"\npolarization = 0.1\nfreeze_after = 1";
    let config = || {
        let mut config = config(gates);
        config.data.color_jitter = [0.1; 4];
        config
    };
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    run(config(), &whole, false, None).unwrap();
    assert!(run(config(), &parts, false, Some(7)).unwrap().is_none());
    let dir = RunDir::at(&parts);
    age(&dir.last());
    let text = fs::read_to_string(dir.config()).unwrap();
    let old = text.replace("freeze_after", "decide_after").replace("polarization", "polarisation");
    fs::write(dir.config(), old.replace("color_jitter", "colour_jitter")).unwrap();

    assert_eq!(Config::read_saved(&dir.config(), &[]).unwrap(), config());
    let checkpoint = Checkpoint::read(&dir.last()).unwrap();
    let training = checkpoint.training.as_ref().unwrap();
    assert!(training.frozen && training.config == config());
    let saved = Config::read_saved(&dir.config(), &[]).unwrap();
    run(saved, &parts, true, None).unwrap().unwrap();
    assert_eq!(weights(&dir.last()), weights(&RunDir::at(&whole).last()));
    assert_eq!(metrics(&parts), metrics(&whole));
}
