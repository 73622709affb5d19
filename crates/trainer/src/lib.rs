//! Training and evaluation of gated networks.
//!
//! A [`Config`] says everything about a run; [`Fit`] trains it and notifies [`Listener`]s of what
//! happens; [`Evaluator`] measures a network; a [`Checkpoint`] carries the spec, so whatever was
//! trained loads without further words. Schedules are pure functions of the step, randomness of
//! (seed, step): a resumed run needs nothing but its checkpoint.
//!
//! The rooms, from the top floor down: `run` (a run from its first check to its last file), `learn`
//! (a step), `method` (objective, budget and the life of gates), `measure` (passes that do not
//! train), `listeners`, `states` (checkpoints), then plain data: `results`, `files`, `config`.
//! docs/layout.md has the map.
//!
//! # Example
//! Three steps on images that are drawn here:
//!
//! ```
//! use data::synth::{SampleSet, draw};
//! use std::sync::atomic::AtomicBool;
//! use trainer::{Fit, Outcome, Resume, config};
//!
//! let folder = tempfile::tempdir()?;
//! let images = folder.path().join("images");
//! // Ten classes of three images to train on: three batches of ten.
//! draw(&images, &SampleSet { train_per_class: 3, val_per_class: 1, seed: 0 })?;
//! let text = r#"
//!     [network]
//!     arch = "cifar-resnet20"
//!     [data]
//!     image_size = 32
//!     resize = 32
//!     [gates]
//!     granularity = "layer"
//!     target = 0.6
//!     [train]
//!     epochs = 1
//!     batch_size = 10
//! "#;
//! let mut config = config::parse("example", text, &[])?;
//! config.data.path = Some(images);
//!
//! let out = Some(folder.path().join("run"));
//! let fit = Fit::prepare(config, out, Resume::No, tch::Device::Cpu)?;
//! let Outcome::Finished(verdict) = fit.run(&mut [], &AtomicBool::new(false))? else {
//!     unreachable!("nothing interrupts it")
//! };
//! let used = verdict.evaluation.summary.macs;
//! assert!(verdict.run.best().exists() && used <= verdict.cost.dense as f64 * 1.01);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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
pub use error::{Diagnosis, Error, Result};
pub use events::{Event, Listener, PassKind};
pub use files::atomic::{remove_scratch, write_atomically};
pub use files::run_dir::RunDir;
pub use learn::optimizer::{Optimizer, Update};
pub use listeners::gate_report::write_gate_report;
pub use listeners::{MetricsFile, Progress, TensorBoard, duration};
pub use measure::calibrate::Calibration;
pub use measure::evaluate::Evaluator;
pub use measure::pass::{Extent, ImagePass, to_tensors};
pub use method::agreement::{GateObserver, Unanimity, independent_decisions};
pub use method::objective::{Labels, Objective, Terms};
pub use method::repair::repair;
pub use results::evaluation::{Deviation, Evaluation};
pub use results::gate_use::{GateState, GateUse, ImageUse, Polarization};
pub use results::names::{SiteName, gate_names};
pub use results::reach::Reach;
pub use results::run::{Activation, BlockVerdict, Outcome, Position, Verdict};
pub use results::scheduled::Scheduled;
pub use results::step_time::StepTime;
pub use results::strategy::Strategy;
pub use results::summary::Summary;
pub use run::classes::{note_on_class_order, refuse_other_classes};
pub use run::dry_run::{DryRun, dry_run};
pub use run::fit::Fit;
pub use run::step_bench::{BenchedStep, StepBench};
pub use run::{Resume, differences};
pub use states::checkpoint::{Checkpoint, is_checkpoint, state_of};
pub use states::export::{About, Expected, OnnxExport, check_path, export_onnx, export_script, onnx_check_path};
pub use states::input::Input;
pub use states::training::Training;
