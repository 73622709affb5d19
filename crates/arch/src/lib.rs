//! Networks as data. A [`NetSpec`] is plain, serialisable data: a stem, a list of blocks, a head. Everything else is a function
//! of it: [`Network::build`] makes the tensors, [`Network::forward`] the logits and gate openings, [`Cost::of`] the
//! multiply-accumulates, which a [`Meter`] counts for the openings of a pass.
//!
//! Tensor names are torchvision's (`layer1.0.conv1.weight`), so a state dict moves both ways without a translation table;
//! gates add `….gate.*` beside them.

mod block;
mod channels;
mod conv;
mod cost;
mod error;
mod gating;
mod meter;
mod network;
mod norms;
mod presets;
mod prune;
mod script;
mod spec;
pub mod state_dict;
mod weights;

pub use channels::Channels;
pub use cost::{BlockCost, Cost};
pub use error::{Error, Result};
pub use gating::{GateSite, GroupSizes, Groups, Place, Site};
pub use meter::Meter;
pub use network::{CLASSIFIER_GROUP, Execution, Mode, Network, Observe, Output, Pass};
pub use presets::{Level, PRESETS, Preset};
pub use prune::Decision;
pub use script::ScriptOptions;
pub use spec::{Activation, BlockSpec, ConvSpec, HeadSpec, NetSpec, PoolSpec, Shortcut, StemSpec};
pub use weights::{Classifier, Loaded};
