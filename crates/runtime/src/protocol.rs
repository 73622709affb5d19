//! What a process that runs networks is asked and answers: a line of JSON each, on its standard
//! input and output.

use crate::array::Layout;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Request {
    /// Say whether the runtime is there.
    Ready,
    /// Load a network from a file; models count from 0. A checkpoint does not say whether what
    /// gates close is skipped.
    Load { file: PathBuf, skip: bool },
    /// Give a model images that lie in a file.
    Give { model: usize, file: PathBuf, layout: Layout },
    /// Compute logits once and write them to a file.
    Run { model: usize, file: PathBuf },
    /// Compute so many times without a clock at least, until the processor is awake, and then with
    /// one.
    Time { model: usize, warm: u32, timed: u32 },
    /// Compute models one after the other, each once a round, for about so many seconds.
    Rounds { models: Vec<usize>, seconds: f64 },
    /// Say what each operation takes.
    Operations { model: usize, runs: u32 },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Answer {
    /// Done; of what has a number, it.
    Done(usize),
    /// Logits were written.
    Written(Layout),
    /// Seconds of each timed run.
    Seconds(Vec<f64>),
    /// Seconds of each model's rounds.
    Rounds(Vec<Vec<f64>>),
    /// Seconds of each operation.
    Operations(Vec<(String, f64)>),
    /// The runtime is not there.
    Missing { why: String },
    /// It refused, in its own words.
    Refused { message: String },
}
