//! `[checkpoints]`: which states of a run are kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which states of a run are kept, beside the one after every epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CheckpointsConfig {
    /// Steps after which the state is saved in the middle of an epoch too; 0 for never.
    pub every_steps: u64,
    /// Minutes after which the state is saved in the middle of an epoch too; 0 for never.
    #[schemars(range(min = 0.0))]
    pub every_minutes: f64,
    /// How many of the last states are kept: from a damaged one a run falls back to the one before.
    #[schemars(range(min = 1, max = 1000), extend("x-unit" = "states"))]
    pub keep_last: usize,
    /// How many of the best states are kept; several as `best-epoch-N` beside `best`.
    #[schemars(range(min = 1, max = 1000), extend("x-unit" = "states"))]
    pub keep_best: usize,
    /// What makes a state the best.
    pub best_by: Metric,
    /// The state after every so many epochs is kept for good, as `epoch-N`; 0 for none.
    pub keep_every_epochs: u64,
}

/// What an evaluation measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
