//! Which states of a run are saved, and where.

use crate::config::CheckpointsConfig;
use crate::error::{Error, Result};
use crate::events::{Event, Listener, notify};
use crate::files::atomic::write_atomically;
use crate::learn::average::Average;
use crate::results::summary::Summary;
use crate::run::fit::Fit;
use crate::states::checkpoint::Saved;
use crate::states::input::Input;
use crate::states::retention::{Ranking, forget, ranked, write_last};
use crate::states::training::Training;
use std::path::PathBuf;
use std::time::Instant;

/// How far an activation may be above its target and count as within it: gates that still learn
/// move about it.
const OVER: f64 = 0.02;

/// Where an evaluation stands among those before it.
pub(crate) struct Ranked {
    /// The best, it among them if it is.
    best: Ranking,
    /// Whether it is the best of all.
    pub is_best: bool,
}

impl Fit {
    /// Saves the state that the run goes on from.
    pub(super) fn save_last(&mut self, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let state = self.state()?;
        self.write_last(&state, listeners)
    }

    /// Saves it unless it is on the disk already, because the run was interrupted.
    pub(super) fn save_interrupted(&mut self, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        if self.saved == Some(self.progress.position()) { Ok(()) } else { self.save_last(listeners) }
    }

    fn write_last(&mut self, state: &[u8], listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        write_last(&self.run, self.config.checkpoints.keep_last, state)?;
        self.saved = Some(self.progress.position());
        notify(listeners, &Event::Saved(&self.run.last()))
    }

    /// Saves the steps that are done, as far as that is possible, where something that is notified
    /// of them failed with `error`.
    pub(super) fn keep_steps(&mut self, error: Error) -> Error {
        // The first error is the one to tell.
        let _ = self.save_last(&mut []);
        error
    }

    /// Files the evaluation after `epoch` among the best.
    pub(super) fn rank(&mut self, epoch: u64, evaluation: &Summary) -> Ranked {
        if self.is_over_budget(evaluation) {
            self.progress.over_budget.push(epoch);
        }
        let config = &self.config.checkpoints;
        // Before gates freeze, or are where they should be, the network spends more; that is no
        // match for one within its budget.
        let standing = |epoch: u64| (self.gates.is_frozen_after(epoch), !self.progress.over_budget.contains(&epoch));
        let before = self.progress.best.into_iter().chain(self.progress.runners_up.iter().copied());
        let before: Ranking = before.filter(|&(other, _)| standing(other) >= standing(epoch)).collect();
        if before.iter().any(|&(other, _)| standing(other) > standing(epoch)) {
            return Ranked { best: before, is_best: false };
        }
        let best = ranked(before, epoch, config.best_by.of(evaluation), config);
        Ranked { is_best: best[0].0 == epoch, best }
    }

    /// Whether gates are clearly more open than they should be at the end of the run.
    fn is_over_budget(&self, evaluation: &Summary) -> bool {
        let last = self.config.train.epochs * self.steps_per_epoch() as u64;
        let target = self.scheduled(last.saturating_sub(1)).target;
        let found = self.config.gates.weighting.activation(evaluation, &self.learner.spending);
        target.is_some_and(|target| found > target + OVER)
    }

    /// Saves the state after an evaluation that was ranked so, wherever it belongs.
    pub(super) fn save_evaluated(&mut self, ranked: Ranked, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let Ranked { best: ranking, is_best } = ranked;
        let epoch = self.progress.epoch;
        let former = self.progress.best;
        self.progress.best = ranking.first().copied();
        self.progress.runners_up = ranking.iter().skip(1).copied().collect();
        let is_good = ranking.iter().any(|&(good, _)| good == epoch);
        let config = &self.config.checkpoints;
        let state = self.state()?;
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
        self.write_last(&state, listeners)
    }

    /// The best state so far by its epoch's name too, which it has not if only one was kept until
    /// now.
    fn keep_former_best(&self, former: Option<(u64, f64)>) -> Result<()> {
        let Some(path) = former.map(|(epoch, _)| self.run.best_of_epoch(epoch)) else { return Ok(()) };
        if path.exists() || !self.run.best().exists() {
            return Ok(());
        }
        let read = |source| Error::Read { path: self.run.best(), source };
        write_atomically(&path, &std::fs::read(self.run.best()).map_err(read)?)
    }

    /// Whether the state is to be saved in the middle of an epoch.
    pub(super) fn save_is_due(&self, saved: Instant) -> bool {
        let CheckpointsConfig { every_steps, every_minutes, .. } = self.config.checkpoints;
        (every_steps > 0 && self.progress.step.is_multiple_of(every_steps))
            || (every_minutes > 0.0 && saved.elapsed().as_secs_f64() >= 60.0 * every_minutes)
    }

    fn save(&self, path: PathBuf, state: &[u8], listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        write_atomically(&path, state)?;
        notify(listeners, &Event::Saved(&path))
    }

    /// Everything that a run needs to go on, as a file's content. Waits for the device.
    ///
    /// # Errors
    /// If a weight is not a finite number.
    pub(super) fn state(&self) -> Result<Vec<u8>> {
        self.refuse_broken_weights()?;
        let learner = &self.learner;
        let training = Training { guard: learner.guard.state()?, updates: learner.updates, ..self.progress.clone() };
        let saved = Saved {
            network: &learner.network,
            average: learner.average.as_ref().map(Average::network),
            classes: self.images.train.source().classes(),
            input: Input::of(&self.config),
            training: Some(&training),
        };
        saved.to_bytes(learner.optimizer.state())
    }
}
