//! Measuring a network on a split.

use crate::error::{Error, Result};
use crate::events::{Event, ImagePass, Listener, tell};
use crate::measure::batch::to_tensors;
use crate::measure::totals::{Summary, Totals, hits};
use crate::results::gate_use::{GateUse, GateUseSums};
use crate::results::strategy::Strategy;
use arch::{Cost, Meter, Network, Pass};
use data::{BadImage, Batch, Loader};
use gumbel_gates::Policy;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tch::{Kind, Reduction, Tensor};
use torch_ext::derive_seed;

/// How a network did with one strategy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// How the network was used.
    pub strategy: Strategy,
    /// Means over the images, and over the runs of a stochastic strategy. The MACs of an ensemble are those of all its runs.
    pub summary: Summary,
    /// How much the runs of a stochastic strategy differ.
    pub deviation: Option<Deviation>,
    /// What each gate did, if that was to be recorded: for single policies of networks with gates.
    pub gate_use: Option<GateUse>,
    /// Images that could not be used.
    pub bad: usize,
    /// Wall time of the evaluation, all its strategies together.
    pub seconds: f64,
}

/// Standard deviations over runs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Deviation {
    /// Of top-1.
    pub top1: f64,
    /// Of top-5.
    pub top5: f64,
    /// Of the mean opening.
    pub opening: f64,
    /// Of the MACs per image.
    pub macs: f64,
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
            tell(listeners, &Event::BadImage(image))?;
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
    /// Seed of the runs of stochastic strategies and ensembles.
    pub seed: u64,
    /// Share of the images that may be unusable.
    pub max_bad_share: f64,
    /// Whether to record what each gate did.
    pub record: bool,
}

/// One way through the network for every batch.
struct Run {
    policy: Policy,
    totals: Totals,
    gate_use: Option<GateUseSums>,
}

/// What an ensemble got right, and its cross entropy: sums in float64 `[3]`.
struct Votes {
    runs: usize,
    sums: Tensor,
}

impl Votes {
    /// Adds a batch, given the class logits [N, classes] of every sampled run.
    fn add(&mut self, logits: &[Tensor], labels: &Tensor) -> Result<()> {
        let logits = &logits[..self.runs];
        let (count, classes) = logits[0].size2()?;
        let mut votes = Tensor::f_zeros([count, classes], (Kind::Double, logits[0].device()))?;
        let mut mean = votes.f_zeros_like()?;
        let ones = Tensor::f_ones([count, 1], (Kind::Double, logits[0].device()))?;
        for run in logits {
            votes = votes.f_scatter_add(1, &run.f_argmax(1, true)?, &ones)?;
            mean = mean.f_add(&run.f_softmax(1, Kind::Double)?.f_div_scalar(self.runs as f64)?)?;
        }
        // A mean probability is less than one vote, so it only tells equals apart.
        let (top1, top5) = hits(&votes.f_add(&mean.f_mul_scalar(0.5)?)?, labels)?;
        let log = mean.f_clamp_min(f64::MIN_POSITIVE)?.f_log()?;
        let entropy = log.f_nll_loss(labels, None::<&Tensor>, Reduction::Sum, -100)?;
        self.sums = self.sums.f_add(&Tensor::f_stack(&[top1, top5, entropy], 0)?)?;
        Ok(())
    }
}

impl Evaluator<'_> {
    /// Runs the network in evaluation mode over the images, each batch with every strategy: one evaluation per strategy, or
    /// `None` if `interrupt` was set meanwhile.
    ///
    /// # Errors
    /// If too many images are unusable, or the network cannot run.
    pub fn run(
        &self,
        strategies: &[Strategy],
        listeners: &mut [Box<dyn Listener>],
        interrupt: &AtomicBool,
    ) -> Result<Option<Vec<Evaluation>>> {
        let start = Instant::now();
        let device = self.network.device();
        let meter = Rc::new(Meter::new(self.cost, device)?);
        let mut runs = Vec::new();
        let mut run = |policy, record| -> Result<()> {
            let gate_use = match record && self.network.spec().gate_count() > 0 {
                true => Some(GateUseSums::new(self.network)?),
                false => None,
            };
            runs.push(Run { policy, totals: Totals::new(&meter)?, gate_use });
            Ok(())
        };
        // The sampled runs come first, shared by all strategies that need them.
        let sampled = strategies.iter().map(|strategy| strategy.runs()).max().unwrap_or(0);
        for number in 0..sampled {
            run(Policy::Sample { temperature: 1.0, seed: derive_seed(self.seed, number as u64) }, false)?;
        }
        let mut votes = Vec::new();
        for strategy in strategies {
            match *strategy {
                Strategy::Policy(policy) => run(policy, self.record)?,
                Strategy::Stochastic { .. } => {}
                Strategy::Ensemble { runs } => {
                    votes.push(Votes { runs, sums: Tensor::f_zeros([3], (Kind::Double, device))? });
                }
            }
        }

        let mut bad = BadImages::new(self.max_bad_share);
        tell(listeners, &Event::PassStarted { pass: ImagePass::Evaluation, batches: self.loader.batches() })?;
        for batch in self.loader.epoch(0, 0)? {
            bad.add(&batch.bad, self.loader, listeners)?;
            if !batch.labels.is_empty() {
                tch::no_grad(|| self.batch(&batch, &meter, &mut runs, sampled, &mut votes))?;
            }
            tell(listeners, &Event::PassStep { batch: batch.number + 1 })?;
            if interrupt.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }

        let mut own_runs = runs.split_off(sampled).into_iter();
        let samples = runs.iter().map(|run| Ok(run.totals.read()?.summary())).collect::<Result<Vec<_>>>()?;
        let mut votes = votes.into_iter();
        let (bad, seconds) = (bad.count, start.elapsed().as_secs_f64());
        let mut evaluations = Vec::with_capacity(strategies.len());
        for &strategy in strategies {
            let mut evaluation = Evaluation { strategy, bad, seconds, ..Evaluation::default() };
            match strategy {
                Strategy::Policy(_) => {
                    if let Some(run) = own_runs.next() {
                        evaluation.summary = run.totals.read()?.summary();
                        evaluation.gate_use = run.gate_use.map(GateUseSums::read).transpose()?;
                    }
                }
                Strategy::Stochastic { runs } => {
                    evaluation.summary = mean(&samples[..runs]);
                    evaluation.deviation = Some(deviation(&samples[..runs]));
                }
                Strategy::Ensemble { runs } => {
                    evaluation.summary = mean(&samples[..runs]);
                    if let Some(votes) = votes.next() {
                        let sums: Vec<f64> = Vec::try_from(votes.sums.f_to_device(tch::Device::Cpu)?)?;
                        evaluation.summary.vote(runs, &sums);
                    }
                }
            }
            evaluations.push(evaluation);
        }
        Ok(Some(evaluations))
    }

    fn batch(&self, batch: &Batch, meter: &Meter, runs: &mut [Run], sampled: usize, votes: &mut [Votes]) -> Result<()> {
        let (images, labels) = to_tensors(batch, self.image_size, self.network.device())?;
        let mut logits = Vec::with_capacity(sampled);
        for (number, run) in runs.iter_mut().enumerate() {
            let output = self.network.forward(&images, Pass::inference(run.policy.for_batch(batch.number)))?;
            let loss = output.logits.f_cross_entropy_loss(&labels, None::<&Tensor>, Reduction::Mean, -100, 0.0)?;
            run.totals.add(&output, &labels, [&loss, &loss, &loss.f_zeros_like()?], None)?;
            if let Some(gate_use) = &mut run.gate_use {
                gate_use.add(&output, &labels, &batch.items, meter)?;
            }
            if number < sampled {
                logits.push(output.logits);
            }
        }
        votes.iter_mut().try_for_each(|votes| votes.add(&logits, &labels))
    }
}

impl Summary {
    /// Makes the mean over `runs` runs what their votes came to.
    fn vote(&mut self, runs: usize, sums: &[f64]) {
        let mean = |i: usize| sums.get(i).copied().unwrap_or(0.0) / self.images.max(1) as f64;
        (self.top1, self.top5, self.cross_entropy) = (mean(0), mean(1), mean(2));
        self.loss = self.cross_entropy;
        self.macs *= runs as f64;
        for macs in &mut self.block_macs {
            *macs *= runs as f64;
        }
    }
}

fn mean(runs: &[Summary]) -> Summary {
    let mean = |of: &dyn Fn(&Summary) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let first = &runs[0];
    Summary {
        images: first.images,
        loss: mean(&|run| run.loss),
        cross_entropy: mean(&|run| run.cross_entropy),
        activation_loss: mean(&|run| run.activation_loss),
        top1: mean(&|run| run.top1),
        top5: mean(&|run| run.top5),
        macs: mean(&|run| run.macs),
        block_macs: (0..first.block_macs.len()).map(|i| mean(&|run| run.block_macs[i])).collect(),
        rates: (0..first.rates.len()).map(|i| mean(&|run| run.rates[i])).collect(),
    }
}

/// Standard deviations of the sample; 0 for a single run.
fn deviation(runs: &[Summary]) -> Deviation {
    let deviation = |of: &dyn Fn(&Summary) -> f64| {
        let mean = runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let squares: f64 = runs.iter().map(|run| (of(run) - mean).powi(2)).sum();
        (squares / (runs.len() - 1).max(1) as f64).sqrt()
    };
    Deviation {
        top1: deviation(&|run| run.top1),
        top5: deviation(&|run| run.top5),
        opening: deviation(&Summary::opening),
        macs: deviation(&|run| run.macs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn an_ensemble_counts_votes_and_then_probabilities() {
        let log = |probabilities: [f64; 3]| Tensor::from_slice(&probabilities.map(f64::ln)).view([1, 3]);
        // Two votes for class 0, one for class 2, which is by far the surest.
        let runs = [log([0.4, 0.35, 0.25]), log([0.4, 0.35, 0.25]), log([0.01, 0.01, 0.98])];
        let sums = |runs: &[Tensor], label: i64| {
            let mut votes = Votes { runs: runs.len(), sums: Tensor::zeros([3], (Kind::Double, Device::Cpu)) };
            votes.add(runs, &Tensor::from_slice(&[label])).unwrap();
            Vec::<f64>::try_from(votes.sums).unwrap()
        };
        assert_eq!(sums(&runs, 0)[0], 1.0);
        assert_eq!(sums(&runs, 2)[0], 0.0);
        assert!((sums(&runs, 2)[2] + ((0.25 + 0.25 + 0.98) / 3.0f64).ln()).abs() < 1e-9);
        // One vote each: the mean probability decides.
        assert_eq!(sums(&runs[1..], 2)[0], 1.0);
    }

    #[test]
    fn deviations_are_those_of_a_sample() {
        let run = |top1, macs| Summary { top1, macs, images: 10, ..Summary::default() };
        let runs = [run(0.5, 10.0), run(0.7, 14.0), run(0.6, 12.0)];
        let found = deviation(&runs);
        assert!((found.top1 - 0.1).abs() < 1e-12 && (found.macs - 2.0).abs() < 1e-12, "{found:?}");
        assert_eq!(deviation(&runs[..1]).macs, 0.0);
        assert!((mean(&runs).top1 - 0.6).abs() < 1e-12);
    }
}
