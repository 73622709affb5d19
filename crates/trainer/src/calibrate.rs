//! Batch norm statistics, estimated anew.

use crate::error::Result;
use crate::event::{ImagePass, Listener};
use crate::training_pass::TrainingPass;
use arch::{Mode, Network, Pass};
use data::Loader;
use gumbel_gates::Policy;
use std::sync::atomic::AtomicBool;

/// Re-estimates the running statistics of every batch norm over training batches, with the gates deciding as they will when
/// deployed: the statistics of training belong to sampled gates. ECCV 2020 takes about 210 batches. No weight changes.
#[derive(Debug, Clone, Copy)]
pub struct Calibration<'a> {
    /// The network whose statistics change.
    pub network: &'a Network,
    /// Training images, augmented as in training.
    pub loader: &'a Loader,
    /// Side of the loader's images in pixels.
    pub image_size: u32,
    /// How gates decide.
    pub policy: Policy,
    /// How many batches; past the end of an epoch another one begins.
    pub batches: usize,
    /// The epoch whose order and augmentation are used.
    pub epoch: u64,
    /// Share of the images that may be unusable.
    pub max_bad_share: f64,
}

impl Calibration<'_> {
    /// The statistics become the mean of the batches' own, whatever they were: running it twice gives the same. Returns how many
    /// batches were used, or `None` if `interrupt` was set meanwhile.
    ///
    /// # Errors
    /// If too many images are unusable, or the network cannot run.
    pub fn run(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Option<usize>> {
        let pass = TrainingPass {
            loader: self.loader,
            image_size: self.image_size,
            device: self.network.device(),
            batches: self.batches,
            epoch: self.epoch,
            max_bad_share: self.max_bad_share,
        };
        pass.run(ImagePass::Calibration, listeners, interrupt, |images, _, used| {
            let mode = Mode::Calibration { momentum: 1.0 / (used as f64 + 1.0) };
            let pass = Pass { mode, ..Pass::inference(self.policy.for_batch(used)) };
            tch::no_grad(|| self.network.forward(images, pass))?;
            Ok(())
        })
    }
}
