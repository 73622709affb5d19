//! The pass over images that does not train: evaluating, calibrating and observing are all made of
//! it.

use crate::error::{Error, Result};
use crate::events::{Event, Listener, PassKind, notify};
use data::{BadImage, Batch, Loader};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Tensor};
use torch_ext::to_device;

/// A batch's images [N, 3, size, size], channels last in memory, and labels `[N]`, on `device`.
///
/// # Errors
/// If libtorch cannot make the tensors.
pub fn to_tensors(batch: &Batch, size: u32, device: Device) -> Result<(Tensor, Tensor)> {
    let count = batch.labels.len() as i64;
    let size = i64::from(size);
    let images = Tensor::f_from_slice(&batch.pixels)?.f_view([count, size, size, 3])?;
    let images = to_device(&images, device)?.f_permute([0, 3, 1, 2])?;
    Ok((images, to_device(&Tensor::f_from_slice(&batch.labels)?, device)?))
}

/// Counts the bad images of one pass and stops it past the allowed share of all images.
#[derive(Debug)]
pub(crate) struct BadImages {
    share: f64,
    pub count: usize,
}

impl BadImages {
    pub fn new(share: f64) -> Self {
        Self::resume(share, 0)
    }

    /// Goes on in a pass that had `count` of them before.
    pub fn resume(share: f64, count: usize) -> Self {
        Self { share, count }
    }

    pub fn add(&mut self, bad: &[BadImage], loader: &Loader, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        for image in bad {
            notify(listeners, &Event::BadImage(image))?;
        }
        self.count += bad.len();
        let source = loader.source();
        match bad.last() {
            Some(last) if self.count as f64 > self.share * source.len() as f64 => Err(Error::TooManyBadImages {
                path: source.location().to_owned(),
                bad: self.count,
                images: source.len(),
                share: self.share,
                last: last.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// A pass over the images of a loader, prepared as it prepares them, in which no weight learns.
#[derive(Debug, Clone, Copy)]
pub struct ImagePass<'a> {
    /// The images.
    pub loader: &'a Loader,
    /// Side of the loader's images in pixels.
    pub image_size: u32,
    /// Where they are wanted.
    pub device: Device,
    /// Which of them.
    pub extent: Extent,
    /// Share of the images that may be unusable.
    pub max_bad_share: f64,
}

/// Which images a pass sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every image once, as in an evaluation.
    Once,
    /// So many batches in the order and with the augmentation of training epoch `epoch`; past its
    /// end the next one follows. A batch of a single image is left out: it has no variance to tell.
    Batches {
        /// How many.
        count: usize,
        /// The first epoch.
        epoch: u64,
    },
}

/// A batch of a pass.
#[derive(Debug)]
pub(crate) struct PassBatch<'a> {
    /// [N, 3, size, size]
    pub images: Tensor,
    /// `[N]`
    pub labels: Tensor,
    /// Positions of the images in the split.
    pub items: &'a [usize],
    /// Its number within its epoch, from 0, those left out counted.
    pub number: usize,
    /// Batches that were used before it.
    pub used: usize,
}

/// What a whole pass counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PassCounts {
    /// Batches that were used.
    pub batches: usize,
    /// Images that were used.
    pub images: usize,
    /// Images that could not be.
    pub bad: usize,
}

impl<'a> ImagePass<'a> {
    /// A pass over every image of `loader`, whose images have a side of `image_size` pixels.
    pub fn once(loader: &'a Loader, image_size: u32, device: Device, max_bad_share: f64) -> Self {
        Self { loader, image_size, device, extent: Extent::Once, max_bad_share }
    }

    /// Hands every batch to `each`.
    ///
    /// # Errors
    /// If too many images are unusable, `each` fails, or `interrupt` was set meanwhile
    /// ([`Error::Interrupted`]).
    pub(crate) fn run(
        &self,
        kind: PassKind,
        listeners: &mut [Box<dyn Listener>],
        interrupt: &AtomicBool,
        mut each: impl FnMut(PassBatch) -> Result<()>,
    ) -> Result<PassCounts> {
        let (batches, mut epoch, fewest) = match self.extent {
            Extent::Once => (self.loader.batches(), 0, 1),
            Extent::Batches { count, epoch } => (count, epoch, 2),
        };
        notify(listeners, &Event::PassStarted { pass: kind, batches })?;
        let mut counts = PassCounts { batches: 0, images: 0, bad: 0 };
        let mut done = 0;
        while done < batches {
            let before = done;
            let mut bad = BadImages::new(self.max_bad_share);
            for batch in self.loader.epoch(epoch, 0)?.take(batches - done) {
                bad.add(&batch.bad, self.loader, listeners)?;
                if batch.labels.len() >= fewest {
                    let (images, labels) = to_tensors(&batch, self.image_size, self.device)?;
                    let (number, used) = (batch.number, counts.batches);
                    each(PassBatch { images, labels, items: &batch.items, number, used })?;
                    counts.batches += 1;
                    counts.images += batch.labels.len();
                }
                done += 1;
                notify(listeners, &Event::PassStep { batch: done })?;
                if interrupt.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
            }
            counts.bad += bad.count;
            epoch += 1;
            // A loader that has nothing to give has nothing to give in the next epoch.
            if done == before {
                break;
            }
        }
        Ok(counts)
    }
}
