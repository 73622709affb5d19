//! Batch norm statistics, estimated anew.

use crate::batch::to_tensors;
use crate::error::Result;
use crate::evaluate::BadImages;
use crate::event::{Event, ImagePass, Listener, tell};
use arch::{Mode, Network, Pass};
use data::Loader;
use gumbel_gates::Policy;
use std::sync::atomic::{AtomicBool, Ordering};

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
        tell(listeners, &Event::PassStarted { pass: ImagePass::Calibration, batches: self.batches })?;
        let mut used = 0;
        let mut epoch = self.epoch;
        let mut left = self.batches;
        while left > 0 {
            let mut bad = BadImages::new(self.max_bad_share);
            for batch in self.loader.epoch(epoch, 0)?.take(left) {
                bad.add(&batch.bad, self.loader, listeners)?;
                // A single image has no variance to tell; only bad files can leave so few.
                if batch.labels.len() >= 2 {
                    let (images, _) = to_tensors(&batch, self.image_size, self.network.device())?;
                    let mode = Mode::Calibration { momentum: 1.0 / (used as f64 + 1.0) };
                    let pass = Pass { mode, ..Pass::inference(self.policy.for_batch(used)) };
                    tch::no_grad(|| self.network.forward(&images, pass))?;
                    used += 1;
                }
                left -= 1;
                tell(listeners, &Event::PassStep { batch: self.batches - left })?;
                if interrupt.load(Ordering::Relaxed) {
                    return Ok(None);
                }
            }
            epoch += 1;
        }
        Ok(Some(used))
    }
}
