//! Measuring a network on a split.

use crate::batch::to_tensors;
use crate::error::{Error, Result};
use crate::event::{Event, Listener, tell};
use crate::totals::{Summary, Totals};
use arch::{Cost, Network, Pass};
use data::{BadImage, Batch, Loader};
use gumbel_gates::Policy;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tch::{Reduction, Tensor};

/// How a network did.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// How gates decided.
    pub policy: Policy,
    /// Means over the images.
    pub summary: Summary,
    /// Images that could not be used.
    pub bad: usize,
    /// Wall time.
    pub seconds: f64,
}

/// Counts the bad images of one pass and stops it past the allowed share.
#[derive(Debug)]
pub(crate) struct BadImages {
    share: f64,
    pub count: usize,
}

impl BadImages {
    pub fn new(share: f64) -> Self {
        Self { share, count: 0 }
    }

    pub fn add(&mut self, bad: &[BadImage], loader: &Loader, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        for image in bad {
            tell(listeners, &Event::BadImage(image))?;
        }
        self.count += bad.len();
        let split = loader.split();
        match bad.last() {
            Some(last) if self.count as f64 > self.share * split.items.len() as f64 => Err(Error::TooManyBadImages {
                path: split.root.clone(),
                bad: self.count,
                images: split.items.len(),
                share: self.share,
                last: last.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// Measures a network on all images of a loader.
#[derive(Debug, Clone, Copy)]
pub struct Evaluator<'a> {
    /// The network.
    pub network: &'a Network,
    /// What it costs.
    pub cost: &'a Cost,
    /// The images.
    pub loader: &'a Loader,
    /// Side of the loader's images in pixels.
    pub image_size: u32,
    /// How gates decide.
    pub policy: Policy,
    /// Share of the images that may be unusable.
    pub max_bad_share: f64,
}

impl Evaluator<'_> {
    /// Runs the network in evaluation mode over the images; `None` if `interrupt` was set meanwhile.
    ///
    /// # Errors
    /// If too many images are unusable, or the network cannot run.
    pub fn run(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Option<Evaluation>> {
        let start = Instant::now();
        let mut totals = Totals::new(self.network.spec().gate_count(), self.network.device())?;
        let mut bad = BadImages::new(self.max_bad_share);
        tell(listeners, &Event::EvaluationStarted { batches: self.loader.batches() })?;
        for batch in self.loader.epoch(0, 0)? {
            bad.add(&batch.bad, self.loader, listeners)?;
            if !batch.labels.is_empty() {
                self.batch(&batch, &mut totals)?;
            }
            tell(listeners, &Event::EvaluationStep { batch: batch.number + 1 })?;
            if interrupt.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        let summary = totals.read()?.summary();
        let seconds = start.elapsed().as_secs_f64();
        Ok(Some(Evaluation { policy: self.policy, summary, bad: bad.count, seconds }))
    }

    fn batch(&self, batch: &Batch, totals: &mut Totals) -> Result<()> {
        let (images, labels) = to_tensors(batch, self.image_size, self.network.device())?;
        let pass = Pass::inference(self.policy.for_batch(batch.number));
        tch::no_grad(|| {
            let output = self.network.forward(&images, pass)?;
            let loss = output.logits.f_cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)?;
            totals.add(&output, &labels, [&loss, &loss, &loss.f_zeros_like()?], self.cost)
        })
    }
}
