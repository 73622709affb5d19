//! What the stages of a shrink find: plain data.

use serde::{Deserialize, Serialize};

/// What a network takes and gives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Share of the validation images whose class it tells right, in the runtime that it is for.
    pub top1: f64,
    /// Multiply-accumulates for an image, as a mean over those images.
    pub macs: f64,
    /// Learned numbers.
    pub parameters: u64,
    /// Size of its ONNX file.
    pub bytes: u64,
    /// Time for a batch in the runtime that it is for; absent before it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Spread>,
}

/// Times in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// A quarter of the runs took at most this.
    pub low: f64,
    /// Half of them did.
    pub median: f64,
    /// Three quarters did.
    pub high: f64,
}

impl Spread {
    /// Of times in seconds.
    pub fn of(mut seconds: Vec<f64>) -> Self {
        seconds.sort_by(f64::total_cmp);
        let last = seconds.len().saturating_sub(1);
        let at = |share: f64| 1e3 * seconds.get((share * last as f64).round() as usize).copied().unwrap_or_default();
        Self { low: at(0.25), median: at(0.5), high: at(0.75) }
    }
}

/// What training came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    /// The state that is exported, below the folder.
    pub checkpoint: String,
    /// Its top-1 in this program.
    pub top1: f64,
    /// MACs for an image, as a mean over the validation images.
    pub macs: f64,
    /// Training, in epochs of the dense network.
    pub dense_epochs: f64,
    /// Wall time of training since it was last begun, in seconds.
    pub seconds: f64,
}

/// What is known before training.
#[derive(Debug, Clone, PartialEq)]
pub struct Prospect {
    /// The dense network.
    pub dense: Side,
    /// What its gates can reach.
    pub reach: Option<String>,
    /// How long training would take, in seconds.
    pub seconds: f64,
}

/// What came of a shrink.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shrunk {
    /// The network as it was given.
    pub dense: Side,
    /// What was made of it.
    pub small: Side,
    /// The largest difference of a logit between the exported files and this program, as a share
    /// of the largest logit, by runtime.
    pub differences: Vec<(String, f64)>,
    /// Images that were classified.
    pub images: usize,
    /// The name of the processor.
    pub machine: String,
    /// Threads that the runtime had.
    pub threads: usize,
}

impl Shrunk {
    /// The smaller network's time as a share of the dense one's.
    pub fn time_share(&self) -> Option<f64> {
        Some(self.small.time?.median / self.dense.time?.median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_that_of_the_runs_in_milliseconds() {
        let spread = Spread::of(vec![0.005, 0.001, 0.003, 0.002, 0.004]);
        assert_eq!(spread, Spread { low: 2.0, median: 3.0, high: 4.0 });
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
