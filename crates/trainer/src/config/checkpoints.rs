//! `[checkpoints]`: which states of a run are kept.

use super::faults::{Check, not_negative};
use serde::{Deserialize, Serialize};

/// Which states of a run are kept, beside the one after every epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointsConfig {
    /// Steps after which the state is saved in the middle of an epoch too; 0: never.
    pub every_steps: u64,
    /// The same in minutes.
    pub every_minutes: f64,
    /// How many of the last states are kept; a damaged one then leaves the one before.
    pub keep_last: usize,
    /// How many of the best are kept.
    pub keep_best: usize,
    /// What makes one the best.
    pub best_by: Metric,
    /// The state after every so many epochs is kept for good; 0: none.
    pub keep_every_epochs: u64,
}

/// What an evaluation measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The larger the better.
    Top1,
    /// The larger the better.
    Top5,
    /// The smaller the better.
    CrossEntropy,
}

impl Metric {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Top1 => "top-1",
            Self::Top5 => "top-5",
            Self::CrossEntropy => "cross entropy",
        }
    }

    /// Whether larger values are better; they then are shares.
    pub fn is_better_high(self) -> bool {
        self != Self::CrossEntropy
    }
}

impl Default for CheckpointsConfig {
    fn default() -> Self {
        Self {
            every_steps: 0,
            every_minutes: 0.0,
            keep_last: 2,
            keep_best: 1,
            best_by: Metric::Top1,
            keep_every_epochs: 0,
        }
    }
}

impl CheckpointsConfig {
    /// Reports what makes no sense.
    pub(super) fn check(&self, check: &mut Check) {
        check.require("checkpoints.every_minutes", not_negative(self.every_minutes), "expected a number of at least 0");
        check.require("checkpoints.keep_last", (1..=1000).contains(&self.keep_last), "expected 1 to 1,000");
        check.require("checkpoints.keep_best", (1..=1000).contains(&self.keep_best), "expected 1 to 1,000");
    }
}
