//! How far a run is, how it ended and what came of it.

use super::evaluation::Evaluation;
use super::reach::Reach;
use crate::config::Config;
use crate::files::run_dir::RunDir;
use arch::Cost;

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Epochs that are done, with their evaluations.
    pub epochs: u64,
    /// Steps that are done in all.
    pub steps: u64,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All epochs are done.
    Finished(Box<Verdict>),
    /// It was interrupted; the state is saved in this folder.
    Interrupted(RunDir),
}

/// The result of a finished run.
#[derive(Debug)]
pub struct Verdict {
    /// The run's configuration.
    pub config: Config,
    /// Its folder.
    pub run: RunDir,
    /// What the network costs.
    pub cost: Cost,
    /// The last evaluation.
    pub evaluation: Evaluation,
    /// Per block its gates' mean target and open rate, `None` for blocks without a gate.
    pub blocks: Vec<Option<BlockVerdict>>,
    /// What the gates can reach, in the unit of their budget.
    pub reach: Reach,
    /// What the gates are held to and what they are in the last evaluation, `None` without gates.
    pub activation: Option<Activation>,
    /// Epoch (from 1) and value of the best evaluation, by `checkpoints.best_by`.
    pub best: (u64, f64),
    /// Whether the gates were more open then than they should be.
    pub best_is_over_budget: bool,
    /// Whether the gates, and what they close, were cut out of the network.
    pub is_cut: bool,
    /// MACs that training has computed since the run began: three times the network's for an image,
    /// and a teacher's answers; evaluations are left out.
    pub training_macs: f64,
    /// Those of an epoch of the network without gates and without a teacher.
    pub dense_epoch: f64,
    /// Images that could not be used, in training and validation together, in the last epoch.
    pub bad: usize,
    /// Wall time since the run was started or resumed.
    pub seconds: f64,
    /// Epochs done since then.
    pub epochs: u64,
}

/// The activation of a network and its target.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Activation {
    /// What it should be.
    pub target: f64,
    /// What it is: the open rate, or the share of the gated MACs that is used (`gates.weighting`).
    pub found: f64,
}

/// What became of a block's gates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlockVerdict {
    /// Mean share of images for which they should be open.
    pub target: f64,
    /// Mean share of images for which they are.
    pub open_rate: f64,
}
