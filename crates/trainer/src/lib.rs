//! Training and evaluation of gated networks.
//!
//! A [`Config`] says everything about a run; [`Fit`] trains it and tells its [`Listener`]s what happens; [`Evaluator`] measures
//! a network; a [`Checkpoint`] carries the spec, so whatever was trained loads without further words. Schedules are pure
//! functions of the step, randomness of (seed, step): a resumed run needs nothing but its checkpoint.

mod average;
mod batch;
mod budget;
mod calibrate;
mod checkpoint;
pub mod config;
mod decide;
mod diagnosis;
mod engine;
mod erase;
mod error;
mod evaluate;
mod event;
mod export;
mod file;
mod gate_report;
mod gate_stages;
mod gate_use;
mod health;
mod importance;
mod keep;
mod listeners;
mod mix;
mod objective;
mod optimizer;
mod parity;
mod prepare;
mod rehearsal;
mod run_dir;
mod saving;
mod schedule;
mod step;
mod strategy;
mod teacher;
mod timing;
mod totals;
mod training_pass;

pub use batch::to_tensors;
pub use calibrate::Calibration;
pub use checkpoint::{Checkpoint, Input, Training, is_checkpoint};
pub use config::Config;
pub use decide::{Agreement, Watch, independent_decisions};
pub use diagnosis::Diagnosis;
pub use engine::{Activation, BlockVerdict, Fit, Outcome, Position, Verdict};
pub use error::{Error, Result};
pub use evaluate::{Deviation, Evaluation, Evaluator};
pub use event::{Event, ImagePass, Listener, Scheduled};
pub use export::{About, check_path, export_script};
pub use file::write_atomically;
pub use gate_report::{gate_names, write_gate_report};
pub use gate_use::{GateState, GateUse, ImageUse, Polarisation};
pub use listeners::{MetricsFile, Progress, SiteName, TensorBoard, duration};
pub use objective::{Answers, Objective, Pull, Terms};
pub use optimizer::{Optimizer, Update};
pub use prepare::{Resume, note_on_class_order, refuse_other_classes};
pub use rehearsal::{DryRun, StepBench, dry_run};
pub use run_dir::RunDir;
pub use schedule::{ActivationTarget, LearningRate, Ramp, RampShape, Schedule};
pub use strategy::Strategy;
pub use timing::StepTime;
pub use totals::Summary;
pub use training_pass::TrainingPass;
