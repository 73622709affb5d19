//! Batch norm statistics, estimated anew.

use crate::error::Result;
use crate::events::{Listener, PassKind};
use crate::measure::pass::ImagePass;
use arch::{Mode, Network, Pass};
use gumbel_gates::Policy;
use std::sync::atomic::AtomicBool;

/// Re-estimates the running statistics of every batch norm over training batches, with the gates
/// deciding as they will when deployed: the statistics of training belong to sampled gates. ECCV
/// 2020 takes about 210 batches. No weight changes.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// The network whose statistics change.
    pub network: &'a Network,
    /// How gates decide.
    pub policy: Policy,
    /// Whether gates are frozen: then their own statistics stay.
    pub frozen_gates: bool,
    /// The training images it looks at.
    pub pass: ImagePass<'a>,
}

impl Calibration<'_> {
    /// The statistics become the mean of the batches' own, whatever they were: running it twice
    /// gives the same. Returns how many batches were used.
    ///
    /// # Errors
    /// If too many images are unusable, the network cannot run, or `interrupt` was set meanwhile
    /// ([`crate::Error::Interrupted`]).
    pub fn run(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<usize> {
        let counts = self.pass.run(PassKind::Calibration, listeners, interrupt, |batch| {
            let mode = Mode::Calibration { momentum: 1.0 / (batch.used as f64 + 1.0) };
            let policy = self.policy.for_batch(batch.used);
            let pass = Pass { mode, frozen_gates: self.frozen_gates, ..Pass::inference(policy) };
            tch::no_grad(|| self.network.forward(&batch.images, pass))?;
            Ok(())
        })?;
        Ok(counts.batches)
    }
}
