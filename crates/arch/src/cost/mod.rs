//! What a network costs: from its spec alone, and for the gate values of a pass; what it takes on a
//! device, as measured; and what a budget buys.

mod allocate;
mod macs;
mod meter;
mod spending;
mod table;

pub use allocate::Allocation;
pub use macs::{BlockCost, ConvCost, Cost};
pub use meter::Meter;
pub use spending::Spending;
pub use table::{CostTable, Measured, TableBlock, TableGrid};
