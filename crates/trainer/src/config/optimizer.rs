//! `[optimizer]`: gradient descent.

use super::faults::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Gradient descent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OptimizerConfig {
    /// How parameters move along their gradients.
    pub algorithm: Algorithm,
    /// Learning rate before the schedule.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub learning_rate: f64,
    /// `sgd`: momentum.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1.0))]
    pub momentum: f64,
    /// `sgd`: Nesterov momentum.
    pub nesterov: bool,
    /// `adamw`: how much of the running means of the gradient and of its square stays in a step.
    #[schemars(extend("items" = { "type": "number", "minimum": 0.0, "exclusiveMaximum": 1.0 }))]
    pub betas: [f64; 2],
    /// `adamw`: added to the root of the mean square.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub epsilon: f64,
    /// Weight decay of convolutions and the classifier.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Whether batch norms and biases decay too, as in the published code of both papers; gates
    /// have `gates.weight_decay`.
    pub decay_all: bool,
    /// Largest norm of all gradients together; longer ones are scaled down to it. No limit, if
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub clip_norm: Option<f64>,
}

/// How parameters move along their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// Reports what its keys mean together.
    pub(super) fn check(&self, check: &mut Check) {
        let possible = !self.nesterov || self.momentum > 0.0;
        check.require("optimizer.nesterov", possible, "Nesterov momentum needs optimizer.momentum above 0");
    }
}
