//! Networks as data. A [`NetSpec`] is plain, serializable data: a stem, a list of blocks, a head.
//! Everything else is a function of it: [`Network::build`] makes the tensors, [`Network::forward`]
//! the logits and gate values, [`Cost::of`] the multiply-accumulates, which a [`Meter`] counts for
//! the gate values of a pass.
//!
//! Tensor names are torchvision's (`layer1.0.conv1.weight`), so a state dict moves both ways
//! without a translation table; gates add `….gate.*` beside them.
//!
//! A network is built, counted and pruned so:
//!
//! ```
//! use arch::{Cost, Decision, NetSpec, Network};
//! use gumbel_gates::GateKind;
//! use tch::Device;
//!
//! // A gate over every block of a small network.
//! let spec = NetSpec::preset("cifar-resnet20", 10)?;
//! let spec = spec.with_layer_gates(GateKind::Independent, |_| true);
//! let network = Network::build(&spec, Device::Cpu, 1)?;
//! let cost = Cost::of(&spec, 32, 32)?;
//! assert_eq!((spec.gate_count(), cost.dense), (9, 40_551_040));
//!
//! // Say that training closed one gate and opened the others.
//! let mut decisions = [Decision::Open; 9];
//! decisions[1] = Decision::Closed;
//! let pruned = network.prune(&decisions)?;
//! let smaller = Cost::of(pruned.spec(), 32, 32)?;
//! assert_eq!(smaller.dense, cost.dense - cost.blocks[1].branch);
//! # Ok::<(), arch::Error>(())
//! ```

mod cost;
mod error;
mod export;
mod lower;
mod network;
mod prune;
mod spec;
pub mod state_dict;

pub use cost::{Allocation, BlockCost, ConvCost, Cost, Meter, Spending};
pub use cost::{CostTable, Measured, TableBlock, TableGrid};
pub use error::{Error, Result};
pub use export::{OnnxInput, OnnxOptions, ScriptOptions, npz_bytes};
pub use network::{CLASSIFIER_GROUP, Network};
pub use network::{Classifier, FreshClassifier, Loaded};
pub use network::{Execution, Mode, Observer, Output, Pass};
pub use prune::{CutGates, Decision, RepairedBlock};
pub use spec::{Activation, BlockSpec, ConvSpec, HeadSpec, NetSpec, PoolSpec, Shortcut, StemSpec};
pub use spec::{Channels, GateSite, GroupSizes, Groups, Site, SiteKind};
pub use spec::{Level, PRESETS, Preset, renamed};
