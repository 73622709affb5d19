//! What a network costs: from its spec alone, and for the gate values of a pass; and what a budget
//! buys.

mod allocate;
mod macs;
mod meter;

pub use allocate::Allocation;
pub use macs::{BlockCost, ConvCost, Cost};
pub use meter::Meter;
