//! Networks as data. A [`NetSpec`] is plain, serialisable data: a stem, a list of blocks, a head. Everything else is a function
//! of it: [`Network::build`] makes the tensors, [`Network::forward`] the logits and gate openings, [`Cost::of`] the
//! multiply-accumulates.
//!
//! Tensor names are torchvision's (`layer1.0.conv1.weight`), so a state dict moves both ways without a translation table;
//! gates add `….gate.*` beside them.

mod block;
mod conv;
mod cost;
mod error;
mod network;
mod presets;
mod spec;
pub mod state_dict;
mod weights;

pub use cost::{BlockCost, Cost};
pub use error::{Error, Result};
pub use network::{CLASSIFIER_GROUP, Network, Output, Pass};
pub use presets::{PRESETS, Preset};
pub use spec::{Activation, BlockSpec, ConvSpec, GateSite, HeadSpec, NetSpec, PoolSpec, Shortcut, Site, StemSpec};
pub use weights::{Classifier, Loaded};
