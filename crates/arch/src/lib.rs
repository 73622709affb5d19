//! Networks as data. A [`NetSpec`] is plain, serialisable data: a stem, a list of blocks, a head. Everything else is a function
//! of it: [`Network::build`] makes the tensors, [`Network::forward`] the logits and gate openings, [`Cost::of`] the
//! multiply-accumulates, which a [`Meter`] counts for the openings of a pass.
//!
//! Tensor names are torchvision's (`layer1.0.conv1.weight`), so a state dict moves both ways without a translation table;
//! gates add `….gate.*` beside them.

mod cost;
mod error;
mod export;
mod network;
mod prune;
mod spec;
pub mod state_dict;

pub use cost::{BlockCost, Cost, Meter};
pub use error::{Error, Result};
pub use export::ScriptOptions;
pub use network::{CLASSIFIER_GROUP, Classifier, Execution, Loaded, Mode, Network, Observer, Output, Pass};
pub use prune::Decision;
pub use spec::{
    Activation, BlockSpec, Channels, ConvSpec, GateSite, GroupSizes, Groups, HeadSpec, Level, NetSpec, PRESETS, Place,
    PoolSpec, Preset, Shortcut, Site, StemSpec,
};
