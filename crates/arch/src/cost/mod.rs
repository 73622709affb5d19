//! What a network costs: from its spec alone, and for the gate values of a pass.

mod macs;
mod meter;

pub use macs::{BlockCost, ConvCost, Cost};
pub use meter::Meter;
