//! `[distillation]`: another network to learn from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Another network to learn from (Hinton et al. 2015).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DistillationConfig {
    /// Checkpoint of a network to learn from, or weights for `network.arch`. Without it labels
    /// alone teach.
    #[schemars(extend("x-unit" = "a path"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// Share of the teacher in the loss; the labels have the rest.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "a share"))]
    pub share: f64,
    /// Temperature of both networks' class probabilities.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub temperature: f64,
}

impl Default for DistillationConfig {
    fn default() -> Self {
        Self { teacher: None, share: 0.9, temperature: 4.0 }
    }
}
