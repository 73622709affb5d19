//! What an evaluation found.

use super::gate_use::GateUse;
use super::strategy::Strategy;
use super::summary::Summary;

/// How a network did with one strategy.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evaluation {
    /// How the network was used.
    pub strategy: Strategy,
    /// Means over the images, and over the runs of a stochastic strategy. The MACs of an ensemble
    /// are those of all its runs.
    pub summary: Summary,
    /// How much the runs of a stochastic strategy differ.
    pub deviation: Option<Deviation>,
    /// What each gate did, if that was to be recorded: for single policies of networks with gates.
    pub gate_use: Option<GateUse>,
    /// Images that could not be used.
    pub bad: usize,
    /// Wall time of the evaluation, all its strategies together.
    pub seconds: f64,
}

/// Standard deviations over runs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Deviation {
    /// Of top-1.
    pub top1: f64,
    /// Of top-5.
    pub top5: f64,
    /// Of the open rate.
    pub open_rate: f64,
    /// Of the MACs per image.
    pub macs: f64,
}
