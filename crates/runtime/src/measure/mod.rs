//! What a network costs on this device by the widths of its layers: each block is timed in small
//! networks that repeat it, so that it is computed as in the network itself, at several widths.
//!
//! A [`Plan`] names those networks; they are timed in turn with the whole network
//! ([`crate::Worker::rounds`]),
//! and [`Plan::table`] makes the table of costs of what was [`Timed`].

mod alignment;
mod plan;
mod portable;
mod probe;
mod shapes;
mod times;

pub use plan::{Group, GroupGrid, Plan, Sampling};
pub use probe::{Change, Probe};
pub use times::Timed;
