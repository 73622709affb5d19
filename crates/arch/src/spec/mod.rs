//! What a network is, as plain data: its layers, the sites where gates sit, and the published
//! architectures. Nothing here knows a tensor.

mod channels;
mod gating;
mod net;
mod presets;
mod published;
mod sites;
mod validate;

pub use channels::Channels;
pub(crate) use gating::OpenChannels;
pub(crate) use net::in_block;
pub use net::{Activation, BlockSpec, ConvSpec, HeadSpec, NetSpec, PoolSpec, Shortcut, StemSpec};
pub use presets::{Level, PRESETS, Preset};
pub use published::renamed;
pub(crate) use published::{fits, weights_of};
pub use sites::{GateSite, GroupSizes, Groups, Site, SiteKind};
