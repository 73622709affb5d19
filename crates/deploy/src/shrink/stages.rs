//! The stages of a shrink, one after the other; what is done already is not done again.

use crate::error::{Error, Result};
use crate::shrink::plan::Folder;
use crate::shrink::results::{Prospect, Shrunk};
use crate::shrink::shrinking::{Shrink, Shrinking};
use crate::stopwatch::Note;
use arch::NetSpec;
use std::sync::atomic::AtomicBool;

impl<'a> Shrink<'a> {
    /// Begins in a folder of its own, or goes on where the same command stopped.
    ///
    /// # Errors
    /// If the network is no preset without gates, the runtime is not there, or the folder holds
    /// something else.
    pub fn begin(self, interrupt: &'a AtomicBool, note: Note<'a>) -> Result<Shrinking<'a>> {
        let spec = self.dense.network.spec();
        let unfit = |why: &str| Error::Unfit { network: spec.name.clone(), why: why.to_owned() };
        if spec.gate_count() > 0 {
            return Err(unfit("it has gates already; train fit and train prune go on with those"));
        }
        if NetSpec::preset(&spec.name, spec.head.classes).is_ok_and(|preset| preset != *spec) {
            return Err(unfit("it was made smaller already; begin with the network that it was made from"));
        }
        // Before anything is computed that would be of no use without it.
        drop(self.workers.start(self.runtime, "cpu")?);
        let (folder, mut plan) = Folder::claim(self.out, self.asked.clone())?;
        if let Some(like) = self.like {
            folder.adopt(&mut plan, like)?;
        }
        Ok(Shrinking { shrink: self, folder, plan, interrupt, note })
    }
}

impl Shrinking<'_> {
    /// Measures the dense network and tells what is ahead; nothing is trained.
    ///
    /// # Errors
    /// If a stage fails, or the budget cannot be met.
    pub fn look_ahead(&mut self) -> Result<Prospect> {
        let dense = self.dense()?;
        let config = self.config()?;
        let found = trainer::dry_run(config, None, self.shrink.device)?;
        self.refuse_interruption()?;
        let reach = found.reach.as_ref().map(ToString::to_string);
        Ok(Prospect { dense, reach, seconds: found.projected() })
    }

    /// Does what is left to do.
    ///
    /// # Errors
    /// If a stage fails, the budget cannot be met, or somebody asked to stop; the same command
    /// goes on with the stages that are left.
    pub fn finish(&mut self) -> Result<Shrunk> {
        if self.plan.exported.as_ref().is_some_and(|done| done.is_missing(&self.folder.path)) {
            // They are made again from what was trained.
            (self.plan.exported, self.plan.shrunk) = (None, None);
        }
        if let Some(done) = &self.plan.shrunk {
            done.check(&self.folder.path)?;
            return Ok(done.found.clone());
        }
        let dense = self.dense()?;
        let learned = self.learn()?;
        let differences = self.export(&learned)?;
        self.verify(&dense, &learned, differences)
    }
}
