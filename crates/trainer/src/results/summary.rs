//! What was measured over the images of an epoch, or of a part of it.

use crate::config::{Metric, Weighting};
use arch::Spending;
use serde::{Deserialize, Serialize};

/// Means over the images of an epoch or a part of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many images were seen.
    pub images: u64,
    /// The objective: cross entropy + factor · activation loss. Of an evaluation the cross entropy.
    pub loss: f64,
    /// Cross entropy.
    pub cross_entropy: f64,
    /// Activation loss before its factor.
    pub activation_loss: f64,
    /// Share of images whose label is the most probable class.
    pub top1: f64,
    /// Share of images whose label is among the five most probable classes.
    pub top5: f64,
    /// MACs used per image, gates included.
    pub macs: f64,
    /// MACs used per image in each block, gates left out.
    pub block_macs: Vec<f64>,
    /// Share of images for which each gate was open, in the order of the spec's gate sites.
    pub rates: Vec<f64>,
}

impl Summary {
    /// Open rate of all gates; 1 without gates.
    pub fn open_rate(&self) -> f64 {
        if self.rates.is_empty() { 1.0 } else { self.rates.iter().sum::<f64>() / self.rates.len() as f64 }
    }
}

/// Sums over images, read from the device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub images: u64,
    /// How many of the values are MACs of blocks.
    pub blocks: usize,
    /// In the order of the fields of [`Summary`].
    pub values: Vec<f64>,
}

/// Sums before the blocks' MACs and the gates' rates, the images themselves left out.
pub(crate) const SCALARS: usize = 6;

impl Sums {
    pub fn summary(&self) -> Summary {
        let mean = |i: usize| self.values.get(i).copied().unwrap_or(0.0) / self.images.max(1) as f64;
        Summary {
            images: self.images,
            loss: mean(0),
            cross_entropy: mean(1),
            activation_loss: mean(2),
            top1: mean(3),
            top5: mean(4),
            macs: mean(5),
            block_macs: (SCALARS..SCALARS + self.blocks).map(mean).collect(),
            rates: (SCALARS + self.blocks..self.values.len()).map(mean).collect(),
        }
    }

    /// How many images they are of.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// What was added after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.values.iter().copied().chain(std::iter::repeat(0.0));
        let values = self.values.iter().zip(before).map(|(now, before)| now - before).collect();
        Self { images: self.images - earlier.images, blocks: self.blocks, values }
    }
}

impl Weighting {
    /// The activation of a network that used `summary`: what is held to the target. `spending` is
    /// of MACs, or by the table that is counted by.
    pub fn activation(self, summary: &Summary, spending: &Spending) -> f64 {
        match self {
            Self::Gates => summary.open_rate(),
            Self::Macs => (summary.macs - spending.least()) / spending.gated().max(1.0),
            Self::Network => summary.macs / spending.dense(),
            Self::CostTable => spending.of_rates(&summary.rates) / spending.dense(),
        }
    }
}

impl Metric {
    /// Its value in an evaluation.
    pub fn of(self, summary: &Summary) -> f64 {
        match self {
            Self::Top1 => summary.top1,
            Self::Top5 => summary.top5,
            Self::CrossEntropy => summary.cross_entropy,
        }
    }
}
