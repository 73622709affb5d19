//! Training and evaluation of gated networks.
//!
//! A [`Config`] says everything about a run; [`Fit`] trains it and tells its [`Listener`]s what happens; [`Evaluator`] measures
//! a network; a [`Checkpoint`] carries the spec, so whatever was trained loads without further words. Schedules are pure
//! functions of the step, randomness of (seed, step): a resumed run needs nothing but its checkpoint.

pub mod config;
mod error;
mod events;
mod files;
mod learn;
mod listeners;
mod measure;
mod method;
mod parity;
mod results;
mod run;
mod states;

pub use config::Config;
pub use config::schedule::{ActivationTarget, LearningRate, Ramp, RampShape, Schedule};
pub use error::{Error, Result};
pub use events::{Event, ImagePass, Listener, Scheduled};
pub use files::atomic::write_atomically;
pub use files::run_dir::RunDir;
pub use learn::clock::StepTime;
pub use learn::diagnose::Diagnosis;
pub use learn::optimizer::{Optimizer, Update};
pub use listeners::gate_report::{gate_names, write_gate_report};
pub use listeners::{MetricsFile, Progress, SiteName, TensorBoard, duration};
pub use measure::batch::to_tensors;
pub use measure::calibrate::Calibration;
pub use measure::evaluate::{Deviation, Evaluation, Evaluator};
pub use measure::pass::TrainingPass;
pub use measure::totals::Summary;
pub use method::agreement::{Agreement, Watch, independent_decisions};
pub use method::objective::{Answers, Objective, Pull, Terms};
pub use results::gate_use::{GateState, GateUse, ImageUse, Polarisation};
pub use results::strategy::Strategy;
pub use run::dry_run::{DryRun, StepBench, dry_run};
pub use run::fit::{Activation, BlockVerdict, Fit, Outcome, Position, Verdict};
pub use run::prepare::{Resume, note_on_class_order, refuse_other_classes};
pub use states::checkpoint::{Checkpoint, Input, Training, is_checkpoint};
pub use states::export::{About, check_path, export_script};
