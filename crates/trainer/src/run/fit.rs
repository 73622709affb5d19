//! The training loop.

use crate::config::Config;
use crate::error::Result;
use crate::events::{Event, Listener, tell};
use crate::files::atomic::write_atomically;
use crate::files::run_dir::RunDir;
use crate::learn::average::Average;
use crate::learn::clock::Clock;
use crate::learn::guard::Health;
use crate::learn::optimizer::Optimizer;
use crate::learn::step::is_at_hand;
use crate::learn::teacher::Teacher;
use crate::listeners::SiteName;
use crate::listeners::gate_report::write_gate_report;
use crate::measure::calibrate::Calibration;
use crate::measure::evaluate::{BadImages, Evaluation, Evaluator};
use crate::measure::totals::{Sums, Totals};
use crate::method::objective::Objective;
use crate::results::strategy::Strategy;
use crate::states::checkpoint::Training;
use arch::{BlockSpec, Cost, GateSite, Meter, Network};
use data::Loader;
use gumbel_gates::Policy;
use std::fs::File;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use torch_ext::derive_seed;

/// A run that is ready to start: everything was checked, and its folder exists.
#[derive(Debug)]
pub struct Fit {
    pub(crate) config: Config,
    pub(crate) run: RunDir,
    pub(crate) network: Network,
    /// What is evaluated and deployed, if weights are averaged.
    pub(crate) average: Option<Average>,
    pub(crate) health: Health,
    pub(crate) teacher: Option<Teacher>,
    pub(crate) cost: Cost,
    pub(crate) meter: Rc<Meter>,
    pub(crate) optimizer: Optimizer,
    pub(crate) objective: Objective,
    pub(crate) train: Loader,
    /// Training images prepared as in an evaluation.
    pub(crate) train_as_deployed: Loader,
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

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Epochs that are done, with their evaluations.
    pub epochs: u64,
    /// Steps that are done in all.
    pub steps: u64,
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

/// What an epoch's network came to on the validation images.
struct EpochEvaluations {
    /// As it is deployed: averaged, where weights are, with the policy of the configuration.
    deployed: Evaluation,
    /// The same with sampled gates, while gates learn.
    sampled: Option<Evaluation>,
    /// The weights that learn, where they are not what is deployed.
    unaveraged: Option<Evaluation>,
}

impl Fit {
    /// The run's folder.
    pub fn run_dir(&self) -> &RunDir {
        &self.run
    }

    /// Where the run was resumed.
    pub fn resumed_after(&self) -> Option<Position> {
        self.resumed.then_some(Position { epochs: self.progress.epoch, steps: self.progress.step })
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

    /// The training steps of one epoch, or what is left of it; `false` if interrupted.
    fn train_epoch(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<bool> {
        let mut totals = Totals::resume(&self.progress.partial, &self.meter)?;
        let mut bad = BadImages::resume(self.config.data.max_bad_share, self.progress.bad_images);
        let (epoch, first, batches) = (self.progress.epoch + 1, self.progress.batch, self.steps_per_epoch());
        // The pace is that of this process; what else is logged may have begun in an earlier one.
        let (mut since, mut images_since) = (Instant::now(), self.progress.partial.images());
        let mut saved = since;
        let mut clock = Clock::start(self.network.device());
        let mut images = self.train.epoch(self.progress.epoch, first)?;
        loop {
            clock.ask();
            let Some(batch) = images.next() else { break };
            let (step, number) = (self.progress.step + 1, self.progress.batch + 1);
            let is_logged = step % self.config.train.log_every == 0 || number == batches;
            clock.begin(is_logged);
            bad.add(&batch.bad, &self.train, listeners)?;
            self.progress.bad_images = bad.count;
            // Batch norm cannot learn from a single image; only bad files can leave so few.
            if batch.labels.len() >= 2 {
                let lesson = self.lesson(self.progress.step, &batch)?;
                if number == first + 1 {
                    tell(listeners, &Event::Images { step, images: &lesson.images })?;
                }
                self.step(&lesson, &mut totals, &mut clock)?;
            }
            if is_logged || is_at_hand(self.network.device()) {
                self.judge_health(listeners)?;
            }
            (self.progress.step, self.progress.batch) = (step, number);
            tell(listeners, &Event::Step { step, batch: number })?;
            if is_logged {
                let sums = totals.read()?;
                let recent = sums.since(&self.progress.logged).summary();
                let images_now = sums.images();
                let images_per_second = (images_now - images_since) as f64 / since.elapsed().as_secs_f64().max(1e-9);
                let (scheduled, time) = (self.scheduled(step - 1), clock.read());
                let logged = Event::Logged { step, epoch, recent: &recent, scheduled, images_per_second, time };
                let told = tell(listeners, &logged);
                self.progress.logged = sums.clone();
                if let Err(error) = told {
                    self.progress.partial = sums;
                    self.decide(step, &mut [])?;
                    return Err(self.keep_steps(error));
                }
                (since, images_since) = (Instant::now(), images_now);
            }
            // After the log, whose times it is no part of; before anything is saved, so that a resumed run finds it done.
            self.decide(step, listeners)?;
            let interrupted = interrupt.load(Ordering::Relaxed);
            if interrupted || (number < batches && self.save_is_due(saved)) {
                self.judge_health(listeners)?;
                self.progress.partial = totals.read()?;
                self.progress.health = self.health.state()?;
                if interrupted {
                    tell(
                        listeners,
                        &Event::Note(&format!("stopped after step {number} of {batches} in epoch {epoch}")),
                    )?;
                    return Ok(false);
                }
                self.save_last(&self.state()?, listeners)?;
                saved = Instant::now();
            }
        }
        self.progress.partial = totals.read()?;
        self.progress.health = self.health.state()?;
        Ok(true)
    }

    /// What is evaluated and deployed.
    pub(crate) fn deployed(&self) -> &Network {
        self.average.as_ref().map_or(&self.network, Average::network)
    }

    /// How what is deployed is evaluated after an epoch that ends with this step: with the policy of the configuration, and while gates
    /// learn as they are sampled in training too.
    pub(crate) fn policies(&self, step: u64) -> Vec<Policy> {
        let policy = self.config.train.policy;
        let samples = matches!(policy, Policy::Sample { .. });
        let learns = !self.blocks_of_gates.is_empty() && !self.is_decided(step) && !samples;
        let sampled = Policy::Sample { temperature: 1.0, seed: derive_seed(self.config.train.seed, step) };
        std::iter::once(policy).chain(learns.then_some(sampled)).collect()
    }

    /// The evaluations after an epoch, `None` if interrupted.
    fn evaluate(
        &self,
        listeners: &mut [Box<dyn Listener>],
        interrupt: &AtomicBool,
    ) -> Result<Option<EpochEvaluations>> {
        let strategies: Vec<_> = self.policies(self.progress.step).into_iter().map(Strategy::Policy).collect();
        let evaluator = Evaluator {
            network: self.deployed(),
            cost: &self.cost,
            loader: &self.val,
            image_size: self.config.data.image_size,
            seed: self.config.train.seed,
            max_bad_share: self.config.data.max_bad_share,
            // Any epoch may be the last of a run that can stop early.
            record: self.config.train.epochs <= self.progress.epoch + 1 || self.config.train.patience > 0,
        };
        let Some(found) = evaluator.run(&strategies, listeners, interrupt)? else { return Ok(None) };
        let mut found = found.into_iter();
        let (Some(deployed), sampled) = (found.next(), found.next()) else { return Ok(None) };
        let mut unaveraged = None;
        if self.average.is_some() {
            let evaluator = Evaluator { network: &self.network, record: false, ..evaluator };
            let Some(found) = evaluator.run(&strategies[..1], listeners, interrupt)? else { return Ok(None) };
            unaveraged = found.into_iter().next();
        }
        Ok(Some(EpochEvaluations { deployed, sampled, unaveraged }))
    }

    /// Re-estimates the batch norm statistics before an evaluation, if the configuration asks for it; `false` if interrupted.
    /// The batches are those of an epoch that training does not reach. Training itself uses the batches' own statistics, and
    /// those of decided gates stay, so it goes on as if nothing had happened.
    fn calibrate(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<bool> {
        let train = &self.config.train;
        if train.calibrate_batches == 0 {
            return Ok(true);
        }
        for network in std::iter::once(&self.network).chain(self.average.as_ref().map(Average::network)) {
            let pass = self.training_pass(train.calibrate_batches);
            let frozen_gates = self.is_decided(self.progress.step);
            let calibration = Calibration { network, policy: train.policy, frozen_gates, pass };
            if calibration.run(listeners, interrupt)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the last `train.patience` epochs brought nothing better. Before gates are decided there is nothing to compare.
    fn has_stalled(&self) -> bool {
        let patience = self.config.train.patience;
        let still_learning = self.decided_from().is_some_and(|from| self.progress.step < from);
        let (epoch, best) = (self.progress.epoch, self.progress.best);
        patience > 0 && !still_learning && best.is_some_and(|(best, _)| epoch >= best + patience)
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
            self.restart_average()?;
            self.decide(0, listeners)?;
        }
        let mut last = None;
        while self.progress.epoch < self.config.train.epochs && !self.has_stalled() {
            let Some((evaluation, bad)) = self.epoch(listeners, interrupt)? else {
                self.save_last(&self.state()?, listeners)?;
                return Ok(Outcome::Interrupted(self.run));
            };
            last = Some((evaluation, bad));
            if self.has_stalled() {
                let (patience, (best, _)) = (self.config.train.patience, self.progress.best.unwrap_or_default());
                let note =
                    format!("stopping: nothing was better than epoch {best} for {patience} epochs (train.patience)");
                tell(listeners, &Event::Note(&note))?;
                break;
            }
            if interrupt.load(Ordering::Relaxed) && self.progress.epoch < self.config.train.epochs {
                return Ok(Outcome::Interrupted(self.run));
            }
        }
        let (evaluation, bad) = match last {
            Some(last) => last,
            // Resumed after the last epoch.
            None => match self.evaluate(listeners, interrupt)? {
                Some(found) => {
                    let bad = found.deployed.bad;
                    (found.deployed, bad)
                }
                None => return Ok(Outcome::Interrupted(self.run)),
            },
        };
        let epochs = self.progress.epoch - first_epoch;
        write_gate_report(&self.run.gates(), self.network.spec(), &self.cost, self.val.source(), &evaluation)?;
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
        let (epoch, first, batches) = (self.progress.epoch + 1, self.progress.batch, self.steps_per_epoch());
        tell(listeners, &Event::EpochStarted { epoch, first, batches, config: &self.config })?;
        // A run interrupted after an epoch's last step goes on with its evaluation.
        if first < batches && !self.train_epoch(listeners, interrupt)? {
            return Ok(None);
        }
        if !self.calibrate(listeners, interrupt)? {
            return Ok(None);
        }
        let Some(found) = self.evaluate(listeners, interrupt)? else { return Ok(None) };
        let EpochEvaluations { deployed: evaluation, sampled, unaveraged } = found;
        // The last step may have broken what its own loss did not show yet; such a network is never saved.
        self.refuse_broken_evaluation(evaluation.summary.loss)?;
        let (step, ranking) = (self.progress.step, self.rank(epoch, &evaluation.summary));
        let bad_images = self.progress.bad_images + evaluation.bad;
        let ended = Event::EpochEnded {
            step,
            epoch,
            train: &self.progress.partial.summary(),
            evaluation: &evaluation,
            sampled: sampled.as_ref(),
            unaveraged: unaveraged.as_ref(),
            scheduled: self.scheduled(step - 1),
            is_best: ranking.is_best,
            bad_images,
        };
        // Told before it is saved: a run that is killed in between goes on from the state before and tells it again, one that has the new
        // state never would.
        if let Err(error) = tell(listeners, &ended) {
            return Err(self.keep_steps(error));
        }
        let progress = &mut self.progress;
        (progress.epoch, progress.batch, progress.bad_images) = (epoch, 0, 0);
        (progress.partial, progress.logged) = (Sums::default(), Sums::default());
        progress.evaluation = Some(evaluation.summary.clone());
        self.save_evaluated(ranking, listeners)?;
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
