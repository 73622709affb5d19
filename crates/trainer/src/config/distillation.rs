//! `[distillation]`: another network to learn from.

use super::faults::{Check, is_share, positive};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Another network to learn from (Hinton et al. 2015).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DistillationConfig {
    /// Checkpoint of the teacher, or weights for `network.arch`; absent, labels alone teach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// Share of the teacher in the loss; the labels have the rest.
    pub share: f64,
    /// Temperature of both networks' class probabilities.
    pub temperature: f64,
}

impl Default for DistillationConfig {
    fn default() -> Self {
        Self { teacher: None, share: 0.9, temperature: 4.0 }
    }
}

impl DistillationConfig {
    /// Reports what makes no sense.
    pub(super) fn check(&self, check: &mut Check) {
        check.require("distillation.share", is_share(self.share), "expected a share from 0 to 1");
        check.require("distillation.temperature", positive(self.temperature), "expected a number above 0");
    }
}
