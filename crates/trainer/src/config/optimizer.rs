//! `[optimizer]`: gradient descent.

use super::faults::{Check, not_negative, positive};
use serde::{Deserialize, Serialize};

/// Gradient descent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerConfig {
    /// How parameters move.
    pub algorithm: Algorithm,
    /// Learning rate before the schedule.
    pub learning_rate: f64,
    /// `sgd`: momentum.
    pub momentum: f64,
    /// `sgd`: Nesterov momentum.
    pub nesterov: bool,
    /// `adamw`: how much of the running means of the gradient and of its square stays in a step.
    pub betas: [f64; 2],
    /// `adamw`: added to the root of the mean square.
    pub epsilon: f64,
    /// Weight decay of convolutions and the classifier.
    pub weight_decay: f64,
    /// Whether batch norms and biases have it too.
    pub decay_all: bool,
    /// Largest norm of all gradients together; longer ones are scaled down to it. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

/// How parameters move along their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with decoupled weight decay.
    AdamW,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Sgd,
            learning_rate: 0.1,
            momentum: 0.9,
            nesterov: false,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 1e-4,
            decay_all: false,
            clip_norm: None,
        }
    }
}

impl OptimizerConfig {
    /// Reports what makes no sense.
    pub(super) fn check(&self, check: &mut Check) {
        check.require("optimizer.learning_rate", positive(self.learning_rate), "expected a number above 0");
        check.require("optimizer.momentum", (0.0..1.0).contains(&self.momentum), "expected a number from 0 to below 1");
        check.require("optimizer.weight_decay", not_negative(self.weight_decay), "expected a number of at least 0");
        check.require(
            "optimizer.nesterov",
            !self.nesterov || self.momentum > 0.0,
            "Nesterov momentum needs optimizer.momentum above 0",
        );
        check.require(
            "optimizer.betas",
            self.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "expected numbers from 0 to below 1",
        );
        check.require("optimizer.epsilon", positive(self.epsilon), "expected a number above 0");
        check.require("optimizer.clip_norm", self.clip_norm.is_none_or(positive), "expected a number above 0");
    }
}
