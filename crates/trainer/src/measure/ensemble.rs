//! Several sampled runs taken together: their votes, their mean and how much they differ.

use super::totals::hits;
use crate::error::Result;
use crate::results::evaluation::Deviation;
use crate::results::summary::Summary;
use tch::{Device, Kind, Reduction, Tensor};

/// What an ensemble got right, and its cross entropy: sums in float64 `[3]`.
pub(crate) struct Votes {
    runs: usize,
    sums: Tensor,
}

impl Votes {
    /// Of the first `runs` sampled runs, no batch counted yet.
    pub fn new(runs: usize, device: Device) -> Result<Self> {
        Ok(Self { runs, sums: Tensor::f_zeros([3], (Kind::Double, device))? })
    }

    /// Adds a batch, given the class logits [N, classes] of every sampled run.
    pub fn add(&mut self, logits: &[Tensor], labels: &Tensor) -> Result<()> {
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

    /// Replaces the mean over the runs by the result of their votes. The MACs are those of all
    /// runs.
    ///
    /// # Errors
    /// If the sums cannot be read.
    pub fn replace_hits(self, summary: &mut Summary) -> Result<()> {
        let sums: Vec<f64> = Vec::try_from(self.sums.f_to_device(Device::Cpu)?)?;
        let mean = |i: usize| sums.get(i).copied().unwrap_or(0.0) / summary.images.max(1) as f64;
        (summary.top1, summary.top5, summary.cross_entropy) = (mean(0), mean(1), mean(2));
        summary.loss = summary.cross_entropy;
        summary.macs *= self.runs as f64;
        for macs in &mut summary.block_macs {
            *macs *= self.runs as f64;
        }
        Ok(())
    }
}

/// The mean over runs, of which there is at least one.
pub(crate) fn mean(runs: &[Summary]) -> Summary {
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
pub(crate) fn deviation(runs: &[Summary]) -> Deviation {
    let deviation = |of: &dyn Fn(&Summary) -> f64| {
        let mean = runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let squares: f64 = runs.iter().map(|run| (of(run) - mean).powi(2)).sum();
        (squares / (runs.len() - 1).max(1) as f64).sqrt()
    };
    Deviation {
        top1: deviation(&|run| run.top1),
        top5: deviation(&|run| run.top5),
        open_rate: deviation(&Summary::open_rate),
        macs: deviation(&|run| run.macs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
