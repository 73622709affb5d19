//! `[network]`: which network, and what it starts from.

use super::faults::Check;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NetworkConfig {
    /// The architecture: `resnet18`, `resnet34`, `resnet50`, `resnet101`, `resnet152`;
    /// `mobilenet_v2`, or with a width multiplier `mobilenet_v2_x0.5`; for images of 32 pixels
    /// `cifar-resnet20`, `cifar-resnet32`, `cifar-resnet44`, `cifar-resnet56`, `cifar-resnet110`.
    pub arch: String,
    /// Fresh networks: start every residual branch at zero, which can help training from scratch.
    pub zero_init_residual: bool,
    /// Weights to start from, a state dict or a checkpoint; `--weights` sets it. Without it a fresh
    /// network is trained.
    #[schemars(extend("x-unit" = "a path"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Checkpoint to go on from with its own network, pruned perhaps; `--checkpoint` sets it.
    /// `network.arch` and the keys that say where gates sit are then ignored.
    #[schemars(extend("x-unit" = "a path"))]
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
