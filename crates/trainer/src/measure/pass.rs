//! Looking at training images without a step of training.

use crate::error::Result;
use crate::events::{Event, ImagePass, Listener, tell};
use crate::measure::batch::to_tensors;
use crate::measure::evaluate::BadImages;
use data::Loader;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Tensor};

/// A pass over some training batches, prepared as its loader prepares them.
#[derive(Debug, Clone, Copy)]
pub struct TrainingPass<'a> {
    /// Training images.
    pub loader: &'a Loader,
    /// Side of the loader's images in pixels.
    pub image_size: u32,
    /// Where they are wanted.
    pub device: Device,
    /// How many batches; past the end of an epoch another one begins.
    pub batches: usize,
    /// The epoch whose order and augmentation are used.
    pub epoch: u64,
    /// Share of the images that may be unusable.
    pub max_bad_share: f64,
}

impl TrainingPass<'_> {
    /// Hands images [N, 3, size, size], labels `[N]` and the number of batches used so far to `each`. Returns how many batches
    /// were used, or `None` if `interrupt` was set meanwhile.
    ///
    /// # Errors
    /// If too many images are unusable, or `each` fails.
    pub(crate) fn run(
        &self,
        pass: ImagePass,
        listeners: &mut [Box<dyn Listener>],
        interrupt: &AtomicBool,
        mut each: impl FnMut(&Tensor, &Tensor, usize) -> Result<()>,
    ) -> Result<Option<usize>> {
        tell(listeners, &Event::PassStarted { pass, batches: self.batches })?;
        let mut used = 0;
        let mut epoch = self.epoch;
        let mut left = self.batches;
        while left > 0 {
            let mut bad = BadImages::new(self.max_bad_share);
            for batch in self.loader.epoch(epoch, 0)?.take(left) {
                bad.add(&batch.bad, self.loader, listeners)?;
                // A single image has no variance to tell; only bad files can leave so few.
                if batch.labels.len() >= 2 {
                    let (images, labels) = to_tensors(&batch, self.image_size, self.device)?;
                    each(&images, &labels, used)?;
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
