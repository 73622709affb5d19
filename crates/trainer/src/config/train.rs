//! `[train]`: the run itself.

use super::faults::Check;
use gumbel_gates::Policy;
use serde::{Deserialize, Serialize};
use torch_ext::Half;

/// What convolutions and matrix products compute in. Weights, their gradients and updates, batch norm statistics, the logits of gates and
/// classes and all losses are float32 throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    Float32,
    /// 16 bits with the range of float32, under autocast.
    Bfloat16,
    /// 16 bits under autocast; the loss is scaled so that its gradients stay in range. Meant for CUDA: processors compute it slowly.
    Float16,
}

impl Precision {
    /// The 16 bits, if it is not float32.
    pub fn half(self) -> Option<Half> {
        match self {
            Self::Float32 => None,
            Self::Bfloat16 => Some(Half::Bfloat16),
            Self::Float16 => Some(Half::Float16),
        }
    }
}

/// The run itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// Name of the run; its folder is `runs/NAME`.
    pub name: String,
    /// Passes over the training split.
    pub epochs: u64,
    /// Images per step.
    pub batch_size: usize,
    /// Parts that a step's images go through the network in, one after the other; their gradients are added up. The memory of a part is
    /// enough then. Batch norms and the batch activation loss see one part at a time.
    pub accumulate: usize,
    /// What convolutions and matrix products compute in.
    pub precision: Precision,
    /// CUDA: whether float32 products may be rounded to TF32.
    pub tf32: bool,
    /// Share of the averaged weights that stays in each step, 0.9999 for example; with it, averaged weights are evaluated and deployed. 0
    /// for no average.
    pub average_decay: f64,
    /// Images per step of an evaluation.
    pub eval_batch_size: usize,
    /// Share of the label spread evenly over all classes.
    pub label_smoothing: f64,
    /// Decides initial values, order, augmentation and sampled gates.
    pub seed: u64,
    /// Steps between two entries of the log.
    pub log_every: u64,
    /// Steps whose loss or gradients are not finite numbers that may be left out before the run stops.
    pub max_bad_steps: u64,
    /// Epochs without a better evaluation after which the run stops early; 0 for never.
    pub patience: u64,
    /// How gates decide in the evaluation after each epoch.
    pub policy: Policy,
    /// Training batches that batch norm statistics are re-estimated over, with that policy, before each evaluation; 0 keeps the
    /// statistics of the training.
    pub calibrate_batches: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            name: "run".into(),
            epochs: 100,
            batch_size: 256,
            accumulate: 1,
            precision: Precision::Float32,
            tf32: true,
            average_decay: 0.0,
            eval_batch_size: 256,
            label_smoothing: 0.0,
            seed: 0,
            log_every: 50,
            max_bad_steps: 0,
            patience: 0,
            policy: Policy::Argmax,
            calibrate_batches: 0,
        }
    }
}

impl TrainConfig {
    /// Reports what makes no sense.
    pub(super) fn check(&self, check: &mut Check) {
        let plain = !self.name.is_empty() && !self.name.starts_with('.') && !self.name.contains(['/', '\\']);
        check.require("train.name", plain, "expected a folder name without separators");
        check.require("train.epochs", (1..=1_000_000).contains(&self.epochs), "expected 1 to 1,000,000 epochs");
        check.require(
            "train.batch_size",
            (2..=1 << 20).contains(&self.batch_size),
            "expected at least 2 images: batch norm needs them",
        );
        check.require(
            "train.accumulate",
            self.accumulate >= 1 && self.accumulate <= self.batch_size / 2,
            "expected 1 to half of train.batch_size: batch norm needs two images in every part",
        );
        check.require(
            "train.average_decay",
            (0.0..1.0).contains(&self.average_decay),
            "expected a number from 0 to below 1, such as 0.9999",
        );
        check.require(
            "train.eval_batch_size",
            (1..=1 << 20).contains(&self.eval_batch_size),
            "expected at least 1 image",
        );
        check.require(
            "train.label_smoothing",
            (0.0..1.0).contains(&self.label_smoothing),
            "expected a number from 0 to below 1",
        );
        check.require(
            "train.calibrate_batches",
            self.calibrate_batches <= 1_000_000,
            "expected at most 1,000,000 batches",
        );
        check.require("train.log_every", self.log_every >= 1, "expected at least 1 step");
        check.require("train.seed", i64::try_from(self.seed).is_ok(), "expected a number below 2^63");
    }
}
