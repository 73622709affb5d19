//! Measuring a network on a split.

use crate::batch::to_tensors;
use crate::error::{Error, Result};
use crate::event::{Event, Listener, tell};
use crate::totals::{Summary, Totals};
use arch::{Cost, Network, Pass};
use data::{BadImage, Loader};
use gumbel_gates::Policy;
use std::time::Instant;
use tch::Tensor;
use torch_ext::derive_seed;

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

/// Runs `network` in evaluation mode over all images of `loader`.
///
/// # Errors
/// If more than `max_bad_share` of the images are unusable, or the network cannot run.
pub fn evaluate(
    network: &Network,
    cost: &Cost,
    loader: &Loader,
    image_size: u32,
    policy: Policy,
    max_bad_share: f64,
    listeners: &mut [Box<dyn Listener>],
) -> Result<Evaluation> {
    let start = Instant::now();
    let mut totals = Totals::new(network.spec().gate_count(), network.device())?;
    let mut bad = BadImages::new(max_bad_share);
    tell(listeners, &Event::EvaluationStarted { batches: loader.batches() })?;
    for batch in loader.epoch(0, 0)? {
        bad.add(&batch.bad, loader, listeners)?;
        if !batch.labels.is_empty() {
            let (images, labels) = to_tensors(&batch, image_size, network.device())?;
            let policy = match policy {
                Policy::Sample { temperature, seed } => {
                    Policy::Sample { temperature, seed: derive_seed(seed, batch.number as u64) }
                }
                other => other,
            };
            tch::no_grad(|| -> Result<()> {
                let output = network.forward(&images, Pass::inference(policy))?;
                let loss =
                    output.logits.f_cross_entropy_loss(&labels, None::<&Tensor>, tch::Reduction::Mean, -100, 0.0)?;
                totals.add(&output, &labels, [&loss, &loss, &loss.f_zeros_like()?], cost)
            })?;
        }
        tell(listeners, &Event::EvaluationStep { batch: batch.number + 1 })?;
    }
    let summary = totals.read()?.summary();
    Ok(Evaluation { policy, summary, bad: bad.count, seconds: start.elapsed().as_secs_f64() })
}
