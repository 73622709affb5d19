//! The configuration of a run: plain data, read from TOML, each section in a file of its own with
//! its defaults and what makes sense for it.

mod checkpoints;
mod data;
mod distillation;
mod faults;
mod gates;
mod keys;
mod network;
mod optimizer;
mod parse;
mod ranges;
pub(crate) mod renamed;
pub(crate) mod schedule;
mod train;
mod whole;

pub use checkpoints::{CheckpointsConfig, Metric};
pub use data::{Augment, DataConfig};
pub use distillation::DistillationConfig;
pub use faults::{ConfigError, Fault, Faults};
pub use gates::{
    ActivationLoss, Align, GateDecay, GateStart, GatedBlocks, GatesConfig, Granularity, LossOn, NamedGranularity,
    PerSite, SharedDecay, Weighting,
};
pub use keys::{Key, json_schema, keys, markdown};
pub use network::NetworkConfig;
pub use optimizer::{Algorithm, OptimizerConfig};
pub use parse::parse;
pub use renamed::renamed_to;
pub use schedule::Shape;
pub use train::{Precision, TrainConfig};
pub use whole::Config;
pub(crate) use whole::{ALL_ALIKE, MOVES_MARGINS};
