//! The training loop.

use crate::batch::to_tensors;
use crate::checkpoint::{Checkpoint, Input, Training};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::evaluate::{BadImages, Evaluation, evaluate};
use crate::event::{Event, Listener, tell};
use crate::file::write_atomically;
use crate::objective::Objective;
use crate::optimizer::Sgd;
use crate::run_dir::RunDir;
use crate::totals::{Sums, Totals};
use arch::{Classifier, Cost, Network, Pass};
use data::{Batch, Dataset, Loader, Order, Split, Transform};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tch::Device;
use torch_ext::derive_seed;

/// A run that is ready to start: everything was checked, and its folder exists.
#[derive(Debug)]
pub struct Fit {
    config: Config,
    run: RunDir,
    network: Network,
    cost: Cost,
    optimizer: Sgd,
    objective: Objective,
    train: Loader,
    val: Loader,
    /// The block each gate sits in.
    blocks_of_gates: Vec<usize>,
    progress: Training,
    resumed: bool,
    notes: Vec<String>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done.
    Finished(Box<Verdict>),
    /// It was interrupted; the state is saved in this file.
    Interrupted(PathBuf),
}

/// What a finished run came to.
#[derive(Debug)]
pub struct Verdict {
    /// The run's configuration.
    pub config: Config,
    /// Its folder.
    pub run: RunDir,
    /// What the network costs.
    pub cost: Cost,
    /// The last evaluation.
    pub evaluation: Evaluation,
    /// Per block its target and opening rate, `None` for blocks without a gate.
    pub blocks: Vec<Option<BlockVerdict>>,
    /// Epoch (from 1) and top-1 of the best evaluation.
    pub best: (u64, f64),
    /// Wall time of this session of the run.
    pub seconds: f64,
}

/// What became of a block's gate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockVerdict {
    /// Share of images for which it should be open.
    pub target: f64,
    /// Share of images for which it is.
    pub rate: f64,
}

impl Fit {
    /// Checks and prepares everything: data, network, weights, the run's folder. `out` is the folder to make, by default the
    /// first free `runs/NAME`; with `resume` it is the folder of the run to continue.
    ///
    /// # Errors
    /// If anything is missing or does not fit; then nothing was written.
    pub fn prepare(config: Config, out: Option<PathBuf>, resume: bool, device: Device) -> Result<Self> {
        let mut notes = Vec::new();
        let path = config.data.path.clone().unwrap_or_default();
        let Dataset { train, val } = Dataset::open(&path)?;
        for split in [&train, &val] {
            if split.ignored > 0 {
                notes.push(format!(
                    "{}: {} files that are no images are left out",
                    split.root.display(),
                    split.ignored
                ));
            }
        }
        if train.items.len() < 2 {
            return Err(Error::TooFewImages { path: train.root, images: train.items.len() });
        }
        let spec = config.spec(train.classes.len())?;
        let size = config.data.image_size as usize;
        let cost = Cost::of(&spec, size, size)?;
        let network = Network::build(&spec, device, config.train.seed)?;
        if config.network.zero_init_residual {
            network.zero_init_residual()?;
        }
        let mut optimizer = Sgd::new(network.tensors(), &config.optimizer, &config.gates)?;

        let folder = out.unwrap_or_else(|| match resume {
            true => PathBuf::from("runs").join(&config.train.name),
            false => RunDir::free_path(&config.train.name),
        });
        let (run, progress) = if resume {
            let run = RunDir::existing(&folder);
            if !run.last().exists() {
                return Err(Error::NothingToResume { path: run.last() });
            }
            let checkpoint = Checkpoint::read(&run.last())?;
            let training = checkpoint.training.clone().ok_or_else(|| Error::NotACheckpoint {
                path: run.last(),
                reason: "it does not say where training stood".into(),
            })?;
            refuse_changes(&training.config, &config)?;
            refuse_other_classes(&checkpoint.classes, &train)?;
            checkpoint.load_into(&network)?;
            optimizer.load_state(&run.last(), checkpoint.momentum())?;
            notes.push(format!("resumed {} after step {}", run.last().display(), training.step));
            (run, training)
        } else {
            if let Some(path) = &config.network.weights {
                let loaded = network.load(&Checkpoint::read_weights(path)?, Classifier::MayBeFresh)?;
                let mut fresh = Vec::new();
                if loaded.fresh_gates {
                    fresh.push("the gates".to_owned());
                }
                if let Some(classes) = loaded.other_classes {
                    fresh.push(format!(
                        "the classifier (the file has {classes} classes, the data {})",
                        train.classes.len()
                    ));
                }
                let fresh = if fresh.is_empty() { String::new() } else { format!("; fresh: {}", fresh.join(" and ")) };
                notes.push(format!("loaded {}{fresh}", path.display()));
            }
            let progress = Training {
                config: config.clone(),
                epoch: 0,
                batch: 0,
                step: 0,
                evaluation: None,
                best: None,
                partial: Sums::default(),
            };
            (RunDir::existing(&folder), progress)
        };

        let data = &config.data;
        let input = Input::of(&config);
        let augment = Transform::RandomResizedCrop {
            size: data.image_size,
            scale: data.crop_scale,
            ratio: data.crop_ratio,
            flip: data.flip,
        };
        let order = Order::Shuffled(config.train.seed);
        let loader = |split, transform, order, batch_size| {
            Loader::new(split, transform, input.normalise(), order, batch_size, data.threads, data.batches_ahead)
        };
        let train = loader(train, augment, order, config.train.batch_size)?;
        let val = loader(val, input.transform(), Order::InOrder, config.train.eval_batch_size)?;

        // Last of all: from here on there is something on the disk.
        if !resume {
            RunDir::create(run.path())?;
            write_atomically(&run.config(), config.to_toml().as_bytes())?;
        }
        let gated = spec.blocks.iter().enumerate().flat_map(|(number, block)| block.gates.iter().map(move |_| number));
        Ok(Self {
            objective: Objective {
                label_smoothing: config.train.label_smoothing,
                activation: config.gates.loss,
                loss_on: config.gates.loss_on,
                temperature: config.gates.temperature,
                factor: config.gates.loss_factor,
            },
            blocks_of_gates: gated.collect(),
            config,
            run,
            network,
            cost,
            optimizer,
            train,
            val,
            progress,
            resumed: resume,
            notes,
        })
    }

    /// The run's folder.
    pub fn run_dir(&self) -> &RunDir {
        &self.run
    }

    /// The step the run was resumed after.
    pub fn resumed_after(&self) -> Option<u64> {
        self.resumed.then_some(self.progress.step)
    }

    /// A name for each gate, in the order of [`crate::Summary::rates`].
    pub fn gate_names(&self) -> Vec<String> {
        let sites = self.network.spec().gate_sites();
        sites.map(|(block, gate)| format!("{}.{}", block.name, gate.site.name())).collect()
    }

    /// What the network costs.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    fn steps_per_epoch(&self) -> usize {
        self.train.batches()
    }

    /// One target per gate at a step.
    fn targets(&self, step: u64) -> Vec<f64> {
        let epoch = step as f64 / self.steps_per_epoch() as f64;
        self.config.gates.target.per_gate(&self.blocks_of_gates, epoch)
    }

    fn mean_target(&self, step: u64) -> Option<f64> {
        let targets = self.targets(step);
        (!targets.is_empty()).then(|| targets.iter().sum::<f64>() / targets.len() as f64)
    }

    fn learning_rate(&self, step: u64) -> f64 {
        let factor = self.config.schedule.factor(step, self.steps_per_epoch() as u64, self.config.train.epochs);
        self.config.optimizer.learning_rate * factor
    }

    /// One step of gradient descent on one batch.
    fn step(&mut self, batch: &Batch, totals: &mut Totals) -> Result<()> {
        let step = self.progress.step;
        let (images, labels) = to_tensors(batch, self.config.data.image_size, self.network.device())?;
        let seed = derive_seed(self.config.train.seed, step);
        let output = self.network.forward(&images, Pass::training(self.config.gates.temperature, seed))?;
        let terms = self.objective.terms(&output, &labels, &self.targets(step))?;
        self.optimizer.zero_gradients();
        terms.total.f_backward()?;
        self.optimizer.step(self.learning_rate(step))?;
        let activation = match &terms.activation {
            Some(activation) => activation.shallow_clone(),
            None => terms.cross_entropy.f_zeros_like()?,
        };
        totals.add(&output, &labels, [&terms.total, &terms.cross_entropy, &activation], &self.cost)
    }

    fn save(&self, path: PathBuf, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let training = Some((&self.progress, &self.optimizer));
        let classes = &self.train.split().classes;
        Checkpoint::write(&path, &self.network, classes, Input::of(&self.config), training)?;
        tell(listeners, &Event::Saved(&path))
    }

    /// The training steps of one epoch; false if interrupted.
    fn train_epoch(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<bool> {
        let gates = self.blocks_of_gates.len();
        let mut totals = Totals::resume(&self.progress.partial, gates, self.network.device())?;
        let mut bad = BadImages::new(self.config.data.max_bad_share);
        let (epoch, first, batches) = (self.progress.epoch + 1, self.progress.batch, self.steps_per_epoch());
        tell(listeners, &Event::EpochStarted { epoch, first, batches, config: &self.config })?;
        let mut logged = self.progress.partial.clone();
        let mut since = Instant::now();
        for batch in self.train.epoch(self.progress.epoch, first)? {
            bad.add(&batch.bad, &self.train, listeners)?;
            // Batch norm cannot learn from a single image; only bad files can leave so few.
            if batch.labels.len() >= 2 {
                self.step(&batch, &mut totals)?;
            }
            self.progress.step += 1;
            self.progress.batch += 1;
            let (step, batch) = (self.progress.step, self.progress.batch);
            tell(listeners, &Event::Step { step, batch })?;
            if step % self.config.train.log_every == 0 || batch == batches {
                let sums = totals.read()?;
                let recent = sums.since(&logged).summary();
                refuse_not_finite(recent.loss, step)?;
                let images_per_second = recent.images as f64 / since.elapsed().as_secs_f64().max(1e-9);
                let (learning_rate, target) = (self.learning_rate(step - 1), self.mean_target(step - 1));
                tell(
                    listeners,
                    &Event::Logged { step, epoch, recent: &recent, learning_rate, target, images_per_second },
                )?;
                logged = sums;
                since = Instant::now();
            }
            if interrupt.load(Ordering::Relaxed) {
                self.progress.partial = totals.read()?;
                refuse_not_finite(self.progress.partial.summary().loss, step)?;
                return Ok(false);
            }
        }
        self.progress.partial = totals.read()?;
        Ok(true)
    }

    fn evaluate(&self, listeners: &mut [Box<dyn Listener>]) -> Result<Evaluation> {
        let (policy, share) = (self.config.train.policy.into(), self.config.data.max_bad_share);
        evaluate(&self.network, &self.cost, &self.val, self.config.data.image_size, policy, share, listeners)
    }

    /// Trains to the end, or until `interrupt` is set: then the step is finished and the state saved.
    ///
    /// # Errors
    /// If the loss leaves the finite numbers, too many images are bad, or a file cannot be written.
    pub fn run(mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Outcome> {
        let start = Instant::now();
        for note in std::mem::take(&mut self.notes) {
            tell(listeners, &Event::Note(&note))?;
        }
        let mut last = None;
        while self.progress.epoch < self.config.train.epochs {
            // A run interrupted after an epoch's last step goes on with its evaluation.
            let steps_left = self.progress.batch < self.steps_per_epoch();
            if steps_left && !self.train_epoch(listeners, interrupt)? {
                self.save(self.run.last(), listeners)?;
                return Ok(Outcome::Interrupted(self.run.last()));
            }
            let evaluation = self.evaluate(listeners)?;
            // The last step may have broken what its own loss did not show yet; such a network is never saved.
            refuse_not_finite(evaluation.summary.loss, self.progress.step)?;
            let train = std::mem::take(&mut self.progress.partial).summary();
            self.progress.epoch += 1;
            self.progress.batch = 0;
            self.progress.evaluation = Some(evaluation.summary.clone());
            let (step, epoch, top1) = (self.progress.step, self.progress.epoch, evaluation.summary.top1);
            let is_best = self.progress.best.is_none_or(|(_, best)| top1 > best);
            if is_best {
                self.progress.best = Some((epoch, top1));
            }
            let (learning_rate, target) = (self.learning_rate(step - 1), self.mean_target(step - 1));
            let event = Event::EpochEnded {
                step,
                epoch,
                train: &train,
                evaluation: &evaluation,
                learning_rate,
                target,
                is_best,
            };
            tell(listeners, &event)?;
            self.save(self.run.last(), listeners)?;
            if is_best {
                self.save(self.run.best(), listeners)?;
            }
            last = Some(evaluation);
            if interrupt.load(Ordering::Relaxed) && self.progress.epoch < self.config.train.epochs {
                return Ok(Outcome::Interrupted(self.run.last()));
            }
        }
        let evaluation = match last {
            Some(evaluation) => evaluation,
            // Resumed after the last epoch.
            None => self.evaluate(listeners)?,
        };
        let verdict = self.verdict(evaluation, start.elapsed().as_secs_f64());
        tell(listeners, &Event::Finished(&verdict))?;
        Ok(Outcome::Finished(Box::new(verdict)))
    }

    fn verdict(self, evaluation: Evaluation, seconds: f64) -> Verdict {
        let mut blocks = vec![None; self.network.spec().blocks.len()];
        let targets = self.targets(self.progress.step.saturating_sub(1));
        for ((&block, target), &rate) in self.blocks_of_gates.iter().zip(targets).zip(&evaluation.summary.rates) {
            blocks[block] = Some(BlockVerdict { target, rate });
        }
        let best = self.progress.best.unwrap_or((self.progress.epoch, evaluation.summary.top1));
        Verdict { config: self.config, run: self.run, cost: self.cost, evaluation, blocks, best, seconds }
    }
}

fn refuse_not_finite(loss: f64, step: u64) -> Result<()> {
    if loss.is_finite() { Ok(()) } else { Err(Error::NotFinite { step, loss }) }
}

/// A resumed run keeps its configuration, but data may have moved and machines differ.
fn refuse_changes(before: &Config, now: &Config) -> Result<()> {
    const MAY_CHANGE: [&str; 5] =
        ["data.path", "data.threads", "data.batches_ahead", "train.eval_batch_size", "network.weights"];
    let (before, now) = (before.flatten(), now.flatten());
    let changes: Vec<String> = now
        .iter()
        .filter(|(key, _)| !MAY_CHANGE.contains(&key.as_str()))
        .filter_map(|(key, value)| {
            let old = before.iter().find(|(name, _)| name == key).map(|(_, old)| old);
            (old != Some(value)).then(|| match old {
                Some(old) => format!("{key} is {value} and was {old}"),
                None => format!("{key} is {value} and was not set"),
            })
        })
        .collect();
    if changes.is_empty() { Ok(()) } else { Err(Error::ConfigChanged { changes }) }
}

/// A network tells classes by their number: the folder must give each number the same name.
///
/// # Errors
/// If it does not.
pub fn refuse_other_classes(classes: &[String], split: &Split) -> Result<()> {
    if classes == split.classes {
        return Ok(());
    }
    let shorten = |names: &[String]| {
        let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        if names.len() > 4 { format!("{shown}, … ({})", names.len()) } else { shown }
    };
    let (network, data) = (shorten(classes), shorten(&split.classes));
    Err(Error::OtherClasses { path: split.root.clone(), network, data })
}
