//! The third stage: gates learn, freeze within the budget and are cut, and what is left trains on.

use crate::error::{Error, Result};
use crate::shrink::plan::Done;
use crate::shrink::results::Learned;
use crate::shrink::shrinking::{Shrinking, file};
use std::fs;
use std::path::PathBuf;
use trainer::{Checkpoint, Config, Fit, Outcome, Resume, RunDir, Verdict};

impl Shrinking<'_> {
    /// Trains: gates learn, freeze within the budget and are cut, and what is left trains on.
    pub(super) fn learn(&mut self) -> Result<Learned> {
        if let Some(done) = &self.plan.learned {
            done.check(&self.folder.path)?;
            return Ok(done.found.clone());
        }
        let run = self.run_dir();
        let budget = self.shrink.asked.budget;
        let (config, resume) = match run.config().exists() {
            // It goes on with what it began with, its own copy of the table too.
            true => (Config::read_saved(&run.config(), &[])?, Resume::Exactly),
            false => {
                remove_unbegun(&run)?;
                (self.config()?, Resume::No)
            }
        };
        self.tell(&format!("learning what to keep within {budget}"));
        let fit = Fit::prepare(config, Some(run.path().to_owned()), resume, self.shrink.device)?;
        let mut listeners = fit.listeners()?;
        let verdict = match fit.run(&mut listeners, self.interrupt)? {
            Outcome::Finished(verdict) => verdict,
            Outcome::Interrupted(_) => return Err(trainer::Error::Interrupted.into()),
        };
        drop(listeners);
        let state = chosen(&verdict);
        let checkpoint = state.strip_prefix(&self.folder.path).unwrap_or(&state).to_string_lossy().into_owned();
        let read = Checkpoint::read(&state)?;
        let evaluation = read.training.as_ref().and_then(|training| training.evaluation.clone());
        let summary = evaluation.unwrap_or_else(|| verdict.evaluation.summary.clone());
        let learned = Learned {
            checkpoint: checkpoint.clone(),
            top1: summary.top1,
            macs: summary.macs,
            dense_epochs: verdict.training_macs / verdict.dense_epoch.max(1.0),
            seconds: verdict.seconds,
        };
        self.plan.learned = Some(Done::with(&self.folder.path, &[&checkpoint], learned.clone())?);
        self.plan.write(&self.folder.path)?;
        Ok(learned)
    }
}

/// Removes the folder of a run if a process ended while it made it: with nothing but an empty folder of
/// states.
fn remove_unbegun(run: &RunDir) -> Result<()> {
    if !run.path().exists() {
        return Ok(());
    }
    let failed = |source| file(run.path(), source);
    trainer::remove_scratch(run.path());
    let entries = fs::read_dir(run.path()).map_err(failed)?;
    let others = entries.flatten().filter(|entry| entry.path() != run.checkpoints()).count();
    let states = fs::read_dir(run.checkpoints()).map_or(0, Iterator::count);
    if others + states > 0 {
        let fault = "it holds a run without its config.toml; choose another --out, or remove it first".to_owned();
        return Err(Error::Content { path: run.path().to_owned(), fault });
    }
    fs::remove_dir_all(run.path()).map_err(failed)
}

/// The state of a run that is deployed: its best, unless it spends more than it should.
fn chosen(verdict: &Verdict) -> PathBuf {
    match verdict.run.best() {
        best if best.exists() && !verdict.best_is_over_budget => best,
        _ => verdict.run.last(),
    }
}
