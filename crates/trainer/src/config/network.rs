//! `[network]`: which network, and what it starts from.

use super::faults::Check;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    /// Preset name, such as `resnet50`.
    pub arch: String,
    /// Fresh networks: start every residual branch at zero, which helps training from scratch.
    pub zero_init_residual: bool,
    /// Weights to start from; a fresh network if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Checkpoint to go on from with its own network, pruned perhaps; then `arch` and where gates sit have no say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { arch: "resnet50".into(), zero_init_residual: false, weights: None, checkpoint: None }
    }
}

impl NetworkConfig {
    /// Reports what makes no sense.
    pub(super) fn check(&self, check: &mut Check) {
        let both = self.checkpoint.is_some() && self.weights.is_some();
        let message = "network.checkpoint has weights of its own; give one of the two";
        check.require("network.weights", !both, message);
    }

    /// Whether a file gives it weights to start from.
    pub(super) fn has_learned(&self) -> bool {
        self.checkpoint.is_some() || self.weights.is_some()
    }
}
