//! The training loop.

use crate::batch::to_tensors;
use crate::calibrate::Calibration;
use crate::checkpoint::{Checkpoint, Input, Training};
use crate::config::{CheckpointsConfig, Config};
use crate::erase::erase;
use crate::error::{Error, Result};
use crate::evaluate::{BadImages, Evaluation, Evaluator};
use crate::event::{Event, Listener, Scheduled, tell};
use crate::file::write_atomically;
use crate::gate_report::write_gate_report;
use crate::keep::{Ranking, forget, ranked, write_last};
use crate::listeners::SiteName;
use crate::mix::Mix;
use crate::objective::{Answers, Objective, Pull};
use crate::optimizer::Optimizer;
use crate::run_dir::RunDir;
use crate::schedule::Schedule;
use crate::strategy::Strategy;
use crate::teacher::Teacher;
use crate::totals::{Summary, Totals};
use arch::{BlockSpec, Cost, GateSite, Meter, Network, Pass};
use data::{Batch, Loader};
use gumbel_gates::Policy;
use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tch::{Kind, Tensor};
use torch_ext::derive_seed;

/// Parts of a step's seed that no gate site has, nor dropout.
const MIXING: u64 = u64::MAX - 1;
const ERASING: u64 = u64::MAX - 2;

/// A run that is ready to start: everything was checked, and its folder exists.
#[derive(Debug)]
pub struct Fit {
    pub(crate) config: Config,
    pub(crate) run: RunDir,
    pub(crate) network: Network,
    pub(crate) teacher: Option<Teacher>,
    pub(crate) cost: Cost,
    pub(crate) meter: Rc<Meter>,
    pub(crate) optimizer: Optimizer,
    pub(crate) objective: Objective,
    pub(crate) train: Loader,
    pub(crate) val: Loader,
    /// The block each gate sits in.
    pub(crate) blocks_of_gates: Vec<usize>,
    pub(crate) progress: Training,
    /// Whether gates start in this run, and not where another one left them.
    pub(crate) fresh_gates: bool,
    pub(crate) resumed: bool,
    /// Whether it goes on with another configuration.
    pub(crate) changed: bool,
    pub(crate) notes: Vec<String>,
    /// Held as long as the run is.
    pub(crate) _lock: File,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done.
    Finished(Box<Verdict>),
    /// It was interrupted; the state is saved in this folder.
    Interrupted(RunDir),
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
    /// Per block its gates' mean target and opening, `None` for blocks without a gate.
    pub blocks: Vec<Option<BlockVerdict>>,
    /// What the gates are held to and what they came to in the last evaluation, `None` without gates.
    pub activation: Option<Activation>,
    /// Epoch (from 1) and value of the best evaluation, by `checkpoints.best_by`.
    pub best: (u64, f64),
    /// Images that could not be used, in training and validation together, in the last epoch.
    pub bad: usize,
    /// Wall time since the run was started or resumed.
    pub seconds: f64,
    /// Epochs done since then.
    pub epochs: u64,
}

/// The activation of a network and its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activation {
    /// What it should be.
    pub target: f64,
    /// What it is: the mean opening, or the share of the gated MACs that is used (`gates.weighting`).
    pub found: f64,
}

/// What became of a block's gates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockVerdict {
    /// Mean share of images for which they should be open.
    pub target: f64,
    /// Mean share of images for which they are.
    pub opening: f64,
}

impl Fit {
    /// The run's folder.
    pub fn run_dir(&self) -> &RunDir {
        &self.run
    }

    /// The step the run was resumed after.
    pub fn resumed_after(&self) -> Option<u64> {
        self.resumed.then_some(self.progress.step)
    }

    /// The gate sites, in the order of [`crate::Summary::rates`].
    pub fn sites(&self) -> Vec<SiteName> {
        let sites = self.network.spec().gate_sites();
        let name = |block: &BlockSpec, site: &GateSite| format!("{}.{}", block.name, site.site.name());
        sites.map(|(block, site)| SiteName { name: name(block, site), gates: site.count() }).collect()
    }

    /// What the network costs.
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    pub(crate) fn steps_per_epoch(&self) -> usize {
        self.train.batches()
    }

    /// What pulls on the gates at a step: once they are decided, nothing.
    pub(crate) fn pull(&self, step: u64) -> Pull {
        let (gates, epoch) = (&self.config.gates, step as f64 / self.steps_per_epoch() as f64);
        let weight = |weight: Schedule| if self.is_decided(step) { 0.0 } else { weight.at(epoch) };
        Pull {
            targets: gates.target.per_gate(&self.blocks_of_gates, epoch),
            factor: weight(gates.loss_factor),
            polarisation: weight(gates.polarisation),
            temperature: gates.temperature.at(epoch),
        }
    }

    fn learning_rate(&self, step: u64) -> f64 {
        let factor = self.config.schedule.factor(step, self.steps_per_epoch() as u64, self.config.train.epochs);
        self.config.optimizer.learning_rate * factor
    }

    fn scheduled(&self, step: u64) -> Scheduled {
        let Pull { targets, factor, temperature, .. } = self.pull(step);
        Scheduled {
            learning_rate: self.learning_rate(step),
            target: self.objective.mean_target(&targets),
            loss_factor: factor,
            temperature,
        }
    }

    /// One step of gradient descent on one batch.
    fn step(&mut self, batch: &Batch, totals: &mut Totals) -> Result<()> {
        let step = self.progress.step;
        let data = &self.config.data;
        let (mut images, labels) = to_tensors(batch, data.image_size, self.network.device())?;
        let seed = derive_seed(self.config.train.seed, step);
        let (pull, decided) = (self.pull(step), self.is_decided(step));
        let mut pass = Pass::training(pull.temperature, seed);
        if decided {
            pass.policy = Policy::Argmax;
        }
        if data.erase > 0.0 {
            erase(&images, data.erase, derive_seed(seed, ERASING))?;
        }
        let mut mixed = None;
        if let Some(mix) = Mix::draw(data.mixup, data.cutmix, data.image_size, derive_seed(seed, MIXING)) {
            images = mix.images(&images)?;
            mixed = Some((Mix::others(&labels)?, mix.share()));
        }
        let teacher = self.teacher.as_ref().map(|teacher| teacher.logits(&images)).transpose()?;
        let answers = Answers { labels, mixed, teacher };
        let output = self.network.forward(&images, pass)?;
        let terms = self.objective.terms(&output, &answers, &pull, &self.meter)?;
        self.optimizer.zero_gradients();
        terms.total.f_backward()?;
        self.progress.updates += 1;
        self.optimizer.step(self.progress.updates, self.learning_rate(step), !decided)?;
        let activation = match &terms.activation {
            Some(activation) => activation.shallow_clone(),
            None => terms.cross_entropy.f_zeros_like()?,
        };
        // Of mixed images a hit is the label that most of them is.
        let labels = match &answers.mixed {
            Some((others, share)) if *share < 0.5 => others,
            _ => &answers.labels,
        };
        totals.add(&output, labels, [&terms.total, &terms.cross_entropy, &activation])
    }

    fn save_last(&self, state: &[u8], listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        write_last(&self.run, self.config.checkpoints.keep_last, state)?;
        tell(listeners, &Event::Saved(&self.run.last()))
    }

    /// Files an evaluation among the best; returns which those are now.
    fn rank(&mut self, evaluation: &Summary) -> Ranking {
        let (epoch, step, config) = (self.progress.epoch, self.progress.step, &self.config.checkpoints);
        // Before gates are decided the network spends more; that is no match for one within its budget.
        let same_gates = |epoch: u64| self.is_decided(epoch * self.steps_per_epoch() as u64) == self.is_decided(step);
        let before = self.progress.best.into_iter().chain(self.progress.runners_up.iter().copied());
        let before: Ranking = before.filter(|&(epoch, _)| same_gates(epoch)).collect();
        let ranking = ranked(before, epoch, config.best_by.of(evaluation), config);
        self.progress.best = ranking.first().copied();
        self.progress.runners_up = ranking.iter().skip(1).copied().collect();
        ranking
    }

    /// Saves the state after an evaluation wherever it belongs, and says whether it is the best so far.
    fn save_evaluated(&mut self, evaluation: &Summary, listeners: &mut [Box<dyn Listener>]) -> Result<bool> {
        let (epoch, former) = (self.progress.epoch, self.progress.best);
        let ranking = self.rank(evaluation);
        let (is_good, is_best) = (ranking.iter().any(|best| best.0 == epoch), ranking[0].0 == epoch);
        let (config, state) = (&self.config.checkpoints, self.state()?);
        if config.keep_best > 1 {
            self.keep_former_best(former)?;
            if is_good {
                self.save(self.run.best_of_epoch(epoch), &state, listeners)?;
            }
        }
        if is_best {
            self.save(self.run.best(), &state, listeners)?;
        }
        forget(&self.run, &ranking);
        if config.keep_every_epochs > 0 && epoch.is_multiple_of(config.keep_every_epochs) {
            self.save(self.run.after_epoch(epoch), &state, listeners)?;
        }
        // After `best`, since it says that it exists.
        self.save_last(&state, listeners)?;
        Ok(is_best)
    }

    /// The best state so far by its epoch's name too, which it has not if only one was kept until now.
    fn keep_former_best(&self, former: Option<(u64, f64)>) -> Result<()> {
        let Some(path) = former.map(|(epoch, _)| self.run.best_of_epoch(epoch)) else { return Ok(()) };
        if path.exists() || !self.run.best().exists() {
            return Ok(());
        }
        let read = |source| Error::Read { path: self.run.best(), source };
        write_atomically(&path, &std::fs::read(self.run.best()).map_err(read)?)
    }

    /// Whether the state is to be saved in the middle of an epoch.
    fn save_is_due(&self, saved: Instant) -> bool {
        let CheckpointsConfig { every_steps, every_minutes, .. } = self.config.checkpoints;
        (every_steps > 0 && self.progress.step.is_multiple_of(every_steps))
            || (every_minutes > 0.0 && saved.elapsed().as_secs_f64() >= 60.0 * every_minutes)
    }

    fn save(&self, path: PathBuf, state: &[u8], listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        write_atomically(&path, state)?;
        tell(listeners, &Event::Saved(&path))
    }

    /// Everything that a run needs to go on, as a file's content.
    fn state(&self) -> Result<Vec<u8>> {
        let (classes, input) = (&self.train.split().classes, Input::of(&self.config));
        Checkpoint::to_bytes(&self.network, classes, input, Some(&self.progress), Some(&self.optimizer))
    }

    /// The training steps of one epoch: the number of images left out, `None` if interrupted.
    fn train_epoch(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Option<usize>> {
        let mut totals = Totals::resume(&self.progress.partial, &self.meter)?;
        let mut bad = BadImages::new(self.config.data.max_bad_share);
        let (epoch, first, batches) = (self.progress.epoch + 1, self.progress.batch, self.steps_per_epoch());
        tell(listeners, &Event::EpochStarted { epoch, first, batches, config: &self.config })?;
        let mut logged = self.progress.partial.clone();
        let (mut since, mut saved) = (Instant::now(), Instant::now());
        for batch in self.train.epoch(self.progress.epoch, first)? {
            bad.add(&batch.bad, &self.train, listeners)?;
            // Batch norm cannot learn from a single image; only bad files can leave so few.
            if batch.labels.len() >= 2 {
                self.step(&batch, &mut totals)?;
            }
            self.progress.step += 1;
            self.progress.batch += 1;
            let (step, batch) = (self.progress.step, self.progress.batch);
            // Before anything is saved, so that a resumed run finds it done.
            self.decide(step, listeners)?;
            tell(listeners, &Event::Step { step, batch })?;
            if step % self.config.train.log_every == 0 || batch == batches {
                let sums = totals.read()?;
                let recent = sums.since(&logged).summary();
                refuse_not_finite(recent.loss, step)?;
                let images_per_second = recent.images as f64 / since.elapsed().as_secs_f64().max(1e-9);
                let scheduled = self.scheduled(step - 1);
                tell(listeners, &Event::Logged { step, epoch, recent: &recent, scheduled, images_per_second })?;
                logged = sums;
                since = Instant::now();
            }
            let interrupted = interrupt.load(Ordering::Relaxed);
            if interrupted || (batch < batches && self.save_is_due(saved)) {
                self.progress.partial = totals.read()?;
                refuse_not_finite(self.progress.partial.summary().loss, step)?;
                self.refuse_broken_weights()?;
                if interrupted {
                    return Ok(None);
                }
                self.save_last(&self.state()?, listeners)?;
                saved = Instant::now();
            }
        }
        self.progress.partial = totals.read()?;
        Ok(Some(bad.count))
    }

    /// The last step may have broken what no loss has shown yet; such a state is never saved.
    fn refuse_broken_weights(&self) -> Result<()> {
        let norms = self.network.tensors().parameters().map(|entry| entry.tensor.f_detach()?.f_norm());
        let norms = norms.collect::<tch::Result<Vec<_>>>()?;
        refuse_not_finite(Tensor::f_stack(&norms, 0)?.f_sum(Kind::Double)?.f_double_value(&[])?, self.progress.step)
    }

    /// The evaluation with the configured policy, then, where gates still learn, with sampled gates.
    fn evaluate(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Option<Vec<Evaluation>>> {
        let evaluator = Evaluator {
            network: &self.network,
            cost: &self.cost,
            loader: &self.val,
            image_size: self.config.data.image_size,
            seed: self.config.train.seed,
            max_bad_share: self.config.data.max_bad_share,
            record: self.config.train.epochs <= self.progress.epoch + 1,
        };
        let mut strategies = vec![Strategy::Policy(self.config.train.policy)];
        let samples = matches!(self.config.train.policy, Policy::Sample { .. });
        if !self.blocks_of_gates.is_empty() && !self.is_decided(self.progress.step) && !samples {
            let seed = derive_seed(self.config.train.seed, self.progress.step);
            strategies.push(Strategy::Policy(Policy::Sample { temperature: 1.0, seed }));
        }
        evaluator.run(&strategies, listeners, interrupt)
    }

    /// Re-estimates the batch norm statistics before an evaluation, if the configuration asks for it; `false` if interrupted.
    /// The batches are those of an epoch that training does not reach. Training itself uses the batches' own statistics, so it
    /// goes on as if nothing had happened.
    fn calibrate(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<bool> {
        let train = &self.config.train;
        if train.calibrate_batches == 0 {
            return Ok(true);
        }
        let calibration = Calibration {
            network: &self.network,
            loader: &self.train,
            image_size: self.config.data.image_size,
            policy: train.policy,
            batches: train.calibrate_batches,
            epoch: train.epochs,
            max_bad_share: self.config.data.max_bad_share,
        };
        Ok(calibration.run(listeners, interrupt)?.is_some())
    }

    /// Trains to the end, or until `interrupt` is set: then the step is finished, or the evaluation dropped, and the state
    /// saved.
    ///
    /// # Errors
    /// If the loss leaves the finite numbers, too many images are bad, or a file cannot be written.
    pub fn run(mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Outcome> {
        let (start, first_epoch) = (Instant::now(), self.progress.epoch);
        for note in std::mem::take(&mut self.notes) {
            tell(listeners, &Event::Note(&note))?;
        }
        if self.changed {
            // The state first: what it was saved with is what the configuration is compared with.
            self.save_last(&self.state()?, listeners)?;
            write_atomically(&self.run.config(), self.config.to_toml().as_bytes())?;
        }
        if self.progress.step == 0 {
            if !self.start_gates(listeners, interrupt)? {
                self.save_last(&self.state()?, listeners)?;
                return Ok(Outcome::Interrupted(self.run));
            }
            self.decide(0, listeners)?;
        }
        let mut last = None;
        while self.progress.epoch < self.config.train.epochs {
            let Some((evaluation, bad)) = self.epoch(listeners, interrupt)? else {
                self.save_last(&self.state()?, listeners)?;
                return Ok(Outcome::Interrupted(self.run));
            };
            last = Some((evaluation, bad));
            if interrupt.load(Ordering::Relaxed) && self.progress.epoch < self.config.train.epochs {
                return Ok(Outcome::Interrupted(self.run));
            }
        }
        let (evaluation, bad) = match last {
            Some(last) => last,
            // Resumed after the last epoch.
            None => match self.evaluate(listeners, interrupt)?.and_then(|found| found.into_iter().next()) {
                Some(evaluation) => (evaluation, 0),
                None => return Ok(Outcome::Interrupted(self.run)),
            },
        };
        let epochs = self.progress.epoch - first_epoch;
        write_gate_report(&self.run.gates(), self.network.spec(), &self.cost, self.val.split(), &evaluation)?;
        let verdict = self.verdict(evaluation, bad, start.elapsed().as_secs_f64(), epochs);
        tell(listeners, &Event::Finished(&verdict))?;
        Ok(Outcome::Finished(Box::new(verdict)))
    }

    /// One epoch with its evaluation and checkpoints, and the number of images left out; `None` if interrupted.
    fn epoch(
        &mut self,
        listeners: &mut [Box<dyn Listener>],
        interrupt: &AtomicBool,
    ) -> Result<Option<(Evaluation, usize)>> {
        // A run interrupted after an epoch's last step goes on with its evaluation.
        let left_out = match self.progress.batch < self.steps_per_epoch() {
            true => self.train_epoch(listeners, interrupt)?,
            false => Some(0),
        };
        let Some(left_out) = left_out else { return Ok(None) };
        if !self.calibrate(listeners, interrupt)? {
            return Ok(None);
        }
        let Some(evaluations) = self.evaluate(listeners, interrupt)? else { return Ok(None) };
        let mut evaluations = evaluations.into_iter();
        let (Some(evaluation), sampled) = (evaluations.next(), evaluations.next()) else { return Ok(None) };
        // The last step may have broken what its own loss did not show yet; such a network is never saved.
        refuse_not_finite(evaluation.summary.loss, self.progress.step)?;
        let train = std::mem::take(&mut self.progress.partial).summary();
        self.progress.epoch += 1;
        self.progress.batch = 0;
        self.progress.evaluation = Some(evaluation.summary.clone());
        let (step, epoch) = (self.progress.step, self.progress.epoch);
        let is_best = self.save_evaluated(&evaluation.summary, listeners)?;
        let bad_images = left_out + evaluation.bad;
        tell(
            listeners,
            &Event::EpochEnded {
                step,
                epoch,
                train: &train,
                evaluation: &evaluation,
                sampled: sampled.as_ref(),
                scheduled: self.scheduled(step - 1),
                is_best,
                bad_images,
            },
        )?;
        Ok(Some((evaluation, bad_images)))
    }

    fn verdict(self, evaluation: Evaluation, bad: usize, seconds: f64, epochs: u64) -> Verdict {
        let targets = self.pull(self.progress.step.saturating_sub(1)).targets;
        let mut sums = vec![(0.0, 0.0, 0.0); self.network.spec().blocks.len()];
        for ((&block, target), &rate) in self.blocks_of_gates.iter().zip(&targets).zip(&evaluation.summary.rates) {
            let (gates, targets, rates) = &mut sums[block];
            (*gates, *targets, *rates) = (*gates + 1.0, *targets + target, *rates + rate);
        }
        let mean = |(gates, targets, rates): (f64, f64, f64)| {
            (gates > 0.0).then(|| BlockVerdict { target: targets / gates, opening: rates / gates })
        };
        let blocks = sums.into_iter().map(mean).collect();
        let activation = self.objective.mean_target(&targets).map(|target| {
            let found = self.config.gates.weighting.activation(&evaluation.summary, &self.cost);
            Activation { target, found }
        });
        let metric = self.config.checkpoints.best_by;
        let best = self.progress.best.unwrap_or((self.progress.epoch, metric.of(&evaluation.summary)));
        let (config, run, cost) = (self.config, self.run, self.cost);
        Verdict { config, run, cost, evaluation, blocks, activation, best, bad, seconds, epochs }
    }
}

fn refuse_not_finite(loss: f64, step: u64) -> Result<()> {
    if loss.is_finite() { Ok(()) } else { Err(Error::NotFinite { step, loss }) }
}
