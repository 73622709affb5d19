//! Training and evaluation of gated networks.
//!
//! A [`Config`] says everything about a run; [`Fit`] trains it and tells its [`Listener`]s what happens; [`Evaluator`] measures
//! a network; a [`Checkpoint`] carries the spec, so whatever was trained loads without further words. Schedules are pure
//! functions of the step, randomness of (seed, step): a resumed run needs nothing but its checkpoint.

mod batch;
mod checkpoint;
pub mod config;
mod engine;
mod error;
mod evaluate;
mod event;
mod file;
mod listeners;
mod objective;
mod optimizer;
mod prepare;
mod run_dir;
mod schedule;
mod totals;

pub use batch::to_tensors;
pub use checkpoint::{Checkpoint, Input, Training, is_checkpoint};
pub use config::Config;
pub use engine::{BlockVerdict, Fit, Outcome, Verdict};
pub use error::{Error, Result};
pub use evaluate::{Evaluation, Evaluator};
pub use event::{Event, Listener};
pub use file::write_atomically;
pub use listeners::{MetricsFile, Progress, TensorBoard};
pub use objective::{Objective, Terms};
pub use optimizer::Sgd;
pub use prepare::refuse_other_classes;
pub use run_dir::RunDir;
pub use schedule::{ActivationTarget, LearningRate};
pub use totals::Summary;
