//! Which states of a run are saved, and where.

use crate::config::CheckpointsConfig;
use crate::error::{Error, Result};
use crate::events::{Event, Listener, tell};
use crate::files::atomic::write_atomically;
use crate::learn::average::Average;
use crate::measure::totals::Summary;
use crate::run::fit::Fit;
use crate::states::checkpoint::{Checkpoint, Input};
use crate::states::retention::{Ranking, forget, ranked, write_last};
use std::path::PathBuf;
use std::time::Instant;

/// Where an evaluation stands among those before it.
pub(crate) struct Ranked {
    /// The best, it among them if it is.
    best: Ranking,
    /// Whether it is the best of all.
    pub is_best: bool,
}

impl Fit {
    pub(crate) fn save_last(&self, state: &[u8], listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        write_last(&self.run, self.config.checkpoints.keep_last, state)?;
        tell(listeners, &Event::Saved(&self.run.last()))
    }

    /// Saves the steps that are done, as far as that is possible, where something that is told of them failed with `error`.
    pub(crate) fn keep_steps(&mut self, error: Error) -> Error {
        let health = self.health.state().map(|health| self.progress.health = health);
        // The first error is the one to tell.
        let _ = health.and_then(|()| self.state()).and_then(|state| self.save_last(&state, &mut []));
        error
    }

    /// Files the evaluation after `epoch` among the best.
    pub(crate) fn rank(&self, epoch: u64, evaluation: &Summary) -> Ranked {
        let config = &self.config.checkpoints;
        // Before gates are decided the network spends more; that is no match for one within its budget.
        let is_decided = |epoch: u64| self.is_decided(epoch * self.steps_per_epoch() as u64);
        let before = self.progress.best.into_iter().chain(self.progress.runners_up.iter().copied());
        let before: Ranking = before.filter(|&(other, _)| is_decided(other) == is_decided(epoch)).collect();
        let best = ranked(before, epoch, config.best_by.of(evaluation), config);
        Ranked { is_best: best[0].0 == epoch, best }
    }

    /// Saves the state after an evaluation that was ranked so, wherever it belongs.
    pub(crate) fn save_evaluated(&mut self, ranked: Ranked, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let (epoch, former, Ranked { best: ranking, is_best }) = (self.progress.epoch, self.progress.best, ranked);
        self.progress.best = ranking.first().copied();
        self.progress.runners_up = ranking.iter().skip(1).copied().collect();
        let is_good = ranking.iter().any(|&(good, _)| good == epoch);
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
        self.save_last(&state, listeners)
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
    pub(crate) fn save_is_due(&self, saved: Instant) -> bool {
        let CheckpointsConfig { every_steps, every_minutes, .. } = self.config.checkpoints;
        (every_steps > 0 && self.progress.step.is_multiple_of(every_steps))
            || (every_minutes > 0.0 && saved.elapsed().as_secs_f64() >= 60.0 * every_minutes)
    }

    fn save(&self, path: PathBuf, state: &[u8], listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        write_atomically(&path, state)?;
        tell(listeners, &Event::Saved(&path))
    }

    /// Everything that a run needs to go on, as a file's content.
    ///
    /// # Errors
    /// If a weight is not a finite number.
    pub(crate) fn state(&self) -> Result<Vec<u8>> {
        self.refuse_broken_weights()?;
        let (classes, input) = (self.train.source().classes(), Input::of(&self.config));
        let average = self.average.as_ref().map(Average::network);
        Checkpoint::to_bytes(&self.network, average, classes, input, Some(&self.progress), Some(&self.optimizer))
    }
}
