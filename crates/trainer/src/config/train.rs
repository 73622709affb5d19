//! `[train]`: the run itself.

use super::faults::Check;
use gumbel_gates::Policy;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use torch_ext::Half;

/// What convolutions and matrix products compute in. Weights, their gradients and updates, batch
/// norm statistics, the logits of gates and classes and all losses are float32 throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    Float32,
    /// 16 bits with the range of float32, under autocast.
    Bfloat16,
    /// 16 bits under autocast; the loss is scaled so that its gradients stay in range. Meant for
    /// CUDA: processors compute it slowly.
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainConfig {
    /// Name of the run; its folder is `runs/NAME`.
    pub name: String,
    /// Passes over the training split. With 0 no weight learns: gates start, freeze and are cut
    /// where `gates.freeze_after` is 0, and the network is evaluated and saved.
    #[schemars(range(min = 0, max = 1_000_000), extend("x-unit" = "epochs"))]
    pub epochs: u64,
    /// Images per step. Images that do not fill a last batch wait for the next epoch.
    #[schemars(range(min = 2, max = 1_048_576), extend("x-unit" = "images"), extend("x-why" = "batch norm needs two"))]
    pub batch_size: usize,
    /// Parts that a step's images go through the network in, one after the other, in the memory of
    /// one part; their gradients are added up. Batch norms and the batch activation loss see one
    /// part at a time.
    #[schemars(range(min = 1), extend("x-unit" = "parts"))]
    pub accumulate: usize,
    /// What convolutions and matrix products compute in. Gates, losses, batch norm statistics and
    /// weights stay in float32.
    pub precision: Precision,
    /// CUDA: whether float32 products may be rounded to TF32.
    pub tf32: bool,
    /// Exponential moving average of the weights: the share that stays in each step, such as
    /// 0.9999. The averaged network is evaluated, ranked and deployed, the other one evaluated
    /// beside it; 0 for no average.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub average_decay: f64,
    /// Images per step of an evaluation.
    #[schemars(range(min = 1, max = 1_048_576), extend("x-unit" = "images"))]
    pub eval_batch_size: usize,
    /// Share of the label spread evenly over all classes.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub label_smoothing: f64,
    /// Decides initial values, order, augmentation and sampled gates.
    #[schemars(range(max = 9_223_372_036_854_775_807u64))]
    pub seed: u64,
    /// Steps between two entries of the log.
    #[schemars(range(min = 1), extend("x-unit" = "steps"))]
    pub log_every: u64,
    /// Steps whose loss or gradients are not finite numbers that are left out before the run stops
    /// and says what broke first.
    pub max_bad_steps: u64,
    /// Epochs without a better evaluation after which the run stops early; 0 for never.
    pub patience: u64,
    /// How gates decide in the evaluation after each epoch: `argmax`, `always-open`, `sample`,
    /// `threshold=P` (open above that probability) or `topk=K` (the K most probable gates of the
    /// network, for each image).
    #[schemars(with = "String", extend("x-unit" = "a policy"))]
    pub policy: Policy,
    /// Training batches that batch norm statistics are re-estimated over, with gates by
    /// `train.policy`, before each evaluation; 0 keeps the statistics of the training.
    #[schemars(range(max = 1_000_000), extend("x-unit" = "batches"))]
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
    /// Reports what its keys mean together.
    pub(super) fn check(&self, check: &mut Check) {
        // What is saved is read again.
        let policy = String::from(self.policy);
        let survives = policy.parse().is_ok_and(|read: Policy| read == self.policy);
        check.require("train.policy", survives, &format!("'{policy}' is no policy that could be read again"));
        let plain = !self.name.is_empty() && !self.name.starts_with('.') && !self.name.contains(['/', '\\']);
        check.require("train.name", plain, "expected a folder name without separators");
        check.require(
            "train.accumulate",
            self.accumulate <= (self.batch_size / 2).max(1),
            "expected 1 to half of train.batch_size: batch norm needs two images in every part",
        );
    }
}
