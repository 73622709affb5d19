//! The loop: epochs of steps, each with its evaluation and its states.

use crate::error::{Error, Result};
use crate::events::{Event, Listener, notify};
use crate::files::atomic::write_atomically;
use crate::learn::batch::PreparedBatch;
use crate::learn::clock::Clock;
use crate::learn::guard::{Found, is_at_hand};
use crate::listeners::gate_report::write_gate_report;
use crate::measure::calibrate::Calibration;
use crate::measure::evaluate::Evaluator;
use crate::measure::pass::{BadImages, ImagePass};
use crate::measure::totals::Totals;
use crate::results::evaluation::Evaluation;
use crate::results::run::{Activation, BlockVerdict, Outcome, Verdict};
use crate::results::strategy::Strategy;
use crate::results::summary::Sums;
use crate::run::fit::Fit;
use data::Batch;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What was measured of an epoch's network on the validation images.
struct EpochEvaluations {
    /// As it is deployed: averaged, where weights are, with the policy of the configuration.
    deployed: Evaluation,
    /// The same with sampled gates, while gates learn.
    sampled: Option<Evaluation>,
    /// The weights that learn, where they are not what is deployed.
    unaveraged: Option<Evaluation>,
}

/// What is counted and timed while an epoch trains.
struct Counting {
    totals: Totals,
    bad: BadImages,
    clock: Clock,
    /// When the log was written last, and the images by then. The pace is that of this process;
    /// what else is logged may have begun in an earlier one.
    logged: Instant,
    images: u64,
}

/// What an epoch ended with.
struct EpochResult {
    evaluation: Evaluation,
    /// Images that could not be used, in training and validation together.
    bad: usize,
}

impl Fit {
    /// Trains to the end, or until `interrupt` is set: then the step is finished, or the evaluation
    /// dropped, and the state saved.
    ///
    /// # Errors
    /// If the loss leaves the finite numbers, too many images are bad, or a file cannot be written.
    pub fn run(mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Outcome> {
        let start = Instant::now();
        let first_epoch = self.progress.epoch;
        let last = match self.train(listeners, interrupt) {
            Ok(last) => last,
            // A listener that errs so is not asked for it: then steps may be half told.
            Err(Error::Interrupted) if interrupt.load(Ordering::Relaxed) => {
                self.save_interrupted(listeners)?;
                return Ok(Outcome::Interrupted(self.run));
            }
            Err(error) => return Err(error),
        };
        let epochs = self.progress.epoch - first_epoch;
        let source = self.images.val.source();
        write_gate_report(&self.run.gates(), self.spec(), &self.learner.cost, source, &last.evaluation)?;
        let verdict = self.verdict(last, start.elapsed().as_secs_f64(), epochs);
        notify(listeners, &Event::Finished(&verdict))?;
        Ok(Outcome::Finished(Box::new(verdict)))
    }

    /// All epochs that are left, and the last evaluation.
    fn train(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<EpochResult> {
        for note in std::mem::take(&mut self.notes) {
            notify(listeners, &Event::Note(&note))?;
        }
        if self.changed {
            // The state first: what it was saved with is what the configuration is compared with.
            self.save_last(listeners)?;
            write_atomically(&self.run.config(), self.config.to_toml()?.as_bytes())?;
        }
        if self.progress.step == 0 {
            self.advance_gates(0, listeners, interrupt)?;
        }
        let mut last = None;
        while self.progress.epoch < self.config.train.epochs && !self.has_stalled() {
            last = Some(self.epoch(listeners, interrupt)?);
            if self.has_stalled() {
                let patience = self.config.train.patience;
                let (best, _) = self.progress.best.unwrap_or_default();
                let note =
                    format!("stopping: nothing was better than epoch {best} for {patience} epochs (train.patience)");
                notify(listeners, &Event::Note(&note))?;
                break;
            }
            if interrupt.load(Ordering::Relaxed) && self.progress.epoch < self.config.train.epochs {
                return Err(Error::Interrupted);
            }
        }
        match last {
            Some(last) => Ok(last),
            // Resumed after the last epoch, or there is none.
            None => {
                if self.progress.step == 0 {
                    self.calibrate(listeners, interrupt)?;
                }
                let evaluation = self.evaluate(listeners, interrupt)?.deployed;
                if self.progress.step == 0 {
                    self.refuse_broken_evaluation(evaluation.summary.loss)?;
                    let ranking = self.rank(0, &evaluation.summary);
                    self.progress.evaluation = Some(evaluation.summary.clone());
                    self.save_evaluated(ranking, listeners)?;
                }
                Ok(EpochResult { bad: evaluation.bad, evaluation })
            }
        }
    }

    /// Whether the last `train.patience` epochs brought nothing better. Before gates freeze there
    /// is nothing to compare.
    fn has_stalled(&self) -> bool {
        let patience = self.config.train.patience;
        let still_learning = self.gates.will_freeze(self.progress.step);
        let best = self.progress.best;
        patience > 0 && !still_learning && best.is_some_and(|(best, _)| self.progress.epoch >= best + patience)
    }

    /// One epoch with its evaluation and checkpoints.
    fn epoch(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<EpochResult> {
        let epoch = self.progress.epoch + 1;
        let first = self.progress.batch;
        let batches = self.steps_per_epoch();
        notify(listeners, &Event::EpochStarted { epoch, first, batches, config: &self.config })?;
        // A run interrupted after an epoch's last step goes on with its evaluation.
        if first < batches {
            self.train_epoch(listeners, interrupt)?;
        }
        self.calibrate(listeners, interrupt)?;
        let found = self.evaluate(listeners, interrupt)?;
        let evaluation = found.deployed;
        // The last step may have broken what its own loss did not show yet; such a network is never
        // saved.
        self.refuse_broken_evaluation(evaluation.summary.loss)?;
        let step = self.progress.step;
        let ranking = self.rank(epoch, &evaluation.summary);
        let bad = self.progress.bad_images + evaluation.bad;
        let ended = Event::EpochEnded {
            step,
            epoch,
            train: &self.progress.partial.summary(),
            evaluation: &evaluation,
            sampled: found.sampled.as_ref(),
            unaveraged: found.unaveraged.as_ref(),
            scheduled: &self.scheduled(step - 1),
            is_best: ranking.is_best,
            bad_images: bad,
            training_macs: self.progress.training_macs,
        };
        // Notified before it is saved: a run that is killed in between goes on from the state
        // before and tells it again, one that has the new state never would.
        if let Err(error) = notify(listeners, &ended) {
            return Err(self.keep_steps(error));
        }
        let progress = &mut self.progress;
        progress.epoch = epoch;
        progress.batch = 0;
        progress.bad_images = 0;
        progress.partial = Sums::default();
        progress.logged = Sums::default();
        progress.evaluation = Some(evaluation.summary.clone());
        self.save_evaluated(ranking, listeners)?;
        Ok(EpochResult { evaluation, bad })
    }

    /// The training steps of one epoch, or what is left of it.
    fn train_epoch(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<()> {
        let first = self.progress.batch;
        let batches = self.steps_per_epoch();
        let device = self.learner.network.device();
        let mut counting = Counting {
            totals: Totals::resume(&self.progress.partial, &self.learner.meter)?,
            bad: BadImages::resume(self.config.data.max_bad_share, self.progress.bad_images),
            clock: Clock::start(device),
            logged: Instant::now(),
            images: self.progress.partial.images(),
        };
        let mut saved = counting.logged;
        let mut images = self.images.train.epoch(self.progress.epoch, first)?;
        loop {
            counting.clock.ask();
            let Some(batch) = images.next() else { break };
            let step = self.progress.step + 1;
            let number = self.progress.batch + 1;
            let is_logged = step.is_multiple_of(self.config.train.log_every) || number == batches;
            counting.clock.begin(is_logged);
            counting.bad.add(&batch.bad, &self.images.train, listeners)?;
            self.progress.bad_images = counting.bad.count;
            self.train_on(&batch, number == first + 1, &mut counting, listeners)?;
            if is_logged || is_at_hand(device) {
                self.check_guard(listeners)?;
            }
            self.progress.step = step;
            self.progress.batch = number;
            notify(listeners, &Event::Step { step, batch: number })?;
            if is_logged {
                self.log(&mut counting, listeners, interrupt)?;
            }
            // After the log, whose times it is no part of; before anything is saved, so that a
            // resumed run finds it done.
            self.advance_gates(step, listeners, interrupt)?;
            let interrupted = interrupt.load(Ordering::Relaxed);
            if interrupted || (number < batches && self.save_is_due(saved)) {
                self.check_guard(listeners)?;
                self.progress.partial = counting.totals.read()?;
                if interrupted {
                    let epoch = self.progress.epoch + 1;
                    let note = format!("stopped after step {number} of {batches} in epoch {epoch}");
                    notify(listeners, &Event::Note(&note))?;
                    return Err(Error::Interrupted);
                }
                self.save_last(listeners)?;
                saved = Instant::now();
            }
        }
        self.progress.partial = counting.totals.read()?;
        Ok(())
    }

    /// One step on a batch, unless it is too small: batch norm cannot learn from a single image,
    /// and only bad files can leave so few.
    fn train_on(
        &mut self,
        batch: &Batch,
        is_first: bool,
        counting: &mut Counting,
        listeners: &mut [Box<dyn Listener>],
    ) -> Result<()> {
        if batch.labels.len() < 2 {
            return Ok(());
        }
        let step = self.progress.step;
        let prepared = PreparedBatch::new(batch, &self.config, step, self.learner.network.device())?;
        if is_first {
            notify(listeners, &Event::Images { step: step + 1, images: &prepared.images })?;
        }
        let scheduled = self.scheduled(step);
        self.progress.training_macs += batch.labels.len() as f64 * self.learner.macs_per_image;
        self.learner.step(step, &prepared, &scheduled, &mut counting.totals, &mut counting.clock)
    }

    /// Writes what happened since the last log entry.
    fn log(
        &mut self,
        counting: &mut Counting,
        listeners: &mut [Box<dyn Listener>],
        interrupt: &AtomicBool,
    ) -> Result<()> {
        let step = self.progress.step;
        let sums = counting.totals.read()?;
        let images = sums.images() - counting.images;
        let seconds = counting.logged.elapsed().as_secs_f64();
        let logged = Event::Logged {
            step,
            epoch: self.progress.epoch + 1,
            recent: &sums.since(&self.progress.logged).summary(),
            scheduled: &self.scheduled(step - 1),
            images_per_second: images as f64 / seconds.max(1e-9),
            time: counting.clock.read(),
        };
        let notified = notify(listeners, &logged);
        counting.images = sums.images();
        self.progress.logged = sums.clone();
        if let Err(error) = notified {
            self.progress.partial = sums;
            // A state is saved after the gates went on; the first error is the one to tell.
            return Err(match self.advance_gates(step, &mut [], interrupt) {
                Ok(()) => self.keep_steps(error),
                Err(_) => error,
            });
        }
        counting.logged = Instant::now();
        Ok(())
    }

    /// Notifies of steps that were left out since the last call, and ends the run if they were too
    /// many. On a GPU it waits for the device.
    pub(super) fn check_guard(&mut self, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let step = match self.learner.guard.found()? {
            Found::Nothing => return Ok(()),
            Found::LeftOut(step) => step,
            Found::TooMany(step) => return Err(self.diagnose(step)?),
        };
        let note = format!(
            "the loss or the gradients of step {} are not finite numbers; it is left out ({} in all, train.max_bad_steps allows {})",
            step + 1,
            self.learner.guard.state()?.left_out,
            self.config.train.max_bad_steps
        );
        notify(listeners, &Event::Note(&note))
    }

    /// Why a step was too much, as the error that ends the run; its images are listed in the run's
    /// folder.
    fn diagnose(&mut self, step: u64) -> Result<Error> {
        let steps = self.steps_per_epoch() as u64;
        let batch = self.images.train.epoch(step / steps, (step % steps) as usize)?.next();
        let device = self.learner.network.device();
        let prepare = |batch: &Batch| PreparedBatch::new(batch, &self.config, step, device);
        let prepared = batch.as_ref().map(prepare).transpose()?;
        let scheduled = self.scheduled(step);
        let mut diagnosis = self.learner.diagnose(step, prepared.as_ref(), &scheduled)?;
        let items = batch.iter().flat_map(|batch| &batch.items);
        diagnosis.images = items.map(|&item| self.images.train.source().path(item)).collect();
        let list = self.run.images_of_step(step + 1);
        let lines = diagnosis.images.iter().flat_map(|path| [path.to_string_lossy().into_owned(), "\n".into()]);
        // The list is a help; that it cannot be written is not what the run ended of.
        diagnosis.list = write_atomically(&list, lines.collect::<String>().as_bytes()).ok().map(|()| list);
        let what = format!("training step {}", step + 1);
        Ok(Error::NotFinite { what, diagnosis: Box::new(diagnosis) })
    }

    /// Re-estimates the batch norm statistics before an evaluation, if the configuration asks for
    /// it. The batches are those of an epoch that training does not reach. Training itself uses the
    /// batches' own statistics, and those of frozen gates stay, so it goes on as if nothing had
    /// happened.
    fn calibrate(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<()> {
        let train = &self.config.train;
        if train.calibrate_batches == 0 {
            return Ok(());
        }
        for network in self.learner.networks() {
            let pass = self.training_pass(&self.images.train, train.calibrate_batches);
            let frozen_gates = self.gates.is_frozen(self.progress.step);
            let calibration = Calibration { network, policy: train.policy, frozen_gates, pass };
            calibration.run(listeners, interrupt)?;
        }
        Ok(())
    }

    /// The evaluations after an epoch.
    fn evaluate(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<EpochEvaluations> {
        let policies = self.policies(self.progress.step);
        let strategies: Vec<_> = policies.into_iter().map(Strategy::Policy).collect();
        let data = &self.config.data;
        let device = self.learner.network.device();
        let evaluator = Evaluator {
            network: self.learner.deployed(),
            cut: self.progress.cut.as_ref(),
            cost: &self.learner.cost,
            pass: ImagePass::once(&self.images.val, data.image_size, device, data.max_bad_share),
            seed: self.config.train.seed,
            // Any epoch may be the last of a run that can stop early.
            record: self.config.train.epochs <= self.progress.epoch + 1 || self.config.train.patience > 0,
        };
        let mut found = evaluator.run(&strategies, listeners, interrupt)?.into_iter();
        let deployed = found.next().unwrap_or_default();
        let sampled = found.next();
        let mut unaveraged = None;
        if self.learner.average.is_some() {
            let evaluator = Evaluator { network: &self.learner.network, record: false, ..evaluator };
            unaveraged = evaluator.run(&strategies[..1], listeners, interrupt)?.into_iter().next();
        }
        Ok(EpochEvaluations { deployed, sampled, unaveraged })
    }

    fn verdict(self, last: EpochResult, seconds: f64, epochs: u64) -> Verdict {
        let EpochResult { evaluation, bad } = last;
        let scheduled = self.scheduled(self.progress.step.saturating_sub(1));
        let activation = scheduled.target.map(|target| {
            let found = self.config.gates.weighting.activation(&evaluation.summary, &self.learner.spending);
            Activation { target, found }
        });
        let metric = self.config.checkpoints.best_by;
        let dense_epoch = 3.0 * self.learner.cost.dense as f64 * self.images_per_epoch();
        Verdict {
            blocks: self.blocks(&scheduled.targets, &evaluation.summary.rates),
            activation,
            best_is_over_budget: self.progress.best.is_some_and(|(best, _)| self.progress.over_budget.contains(&best)),
            best: self.progress.best.unwrap_or((self.progress.epoch, metric.of(&evaluation.summary))),
            evaluation,
            reach: self.reach,
            is_cut: self.progress.cut.is_some(),
            training_macs: self.progress.training_macs,
            dense_epoch,
            bad,
            seconds,
            epochs,
            cost: self.learner.cost,
            config: self.config,
            run: self.run,
        }
    }

    /// Per block the mean target and the mean rate of its gates, of which these are all.
    fn blocks(&self, targets: &[f64], rates: &[f64]) -> Vec<Option<BlockVerdict>> {
        let mut sums = vec![(0.0, 0.0, 0.0); self.spec().blocks.len()];
        for ((&block, target), &rate) in self.gates.blocks().iter().zip(targets).zip(rates) {
            let (gates, targets, rates) = &mut sums[block];
            *gates += 1.0;
            *targets += target;
            *rates += rate;
        }
        let mean = |(gates, targets, rates): (f64, f64, f64)| {
            (gates > 0.0).then(|| BlockVerdict { target: targets / gates, open_rate: rates / gates })
        };
        sums.into_iter().map(mean).collect()
    }
}
