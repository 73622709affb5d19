//! From weights and a budget to a smaller network that was run where it will run.
//!
//! [`shrink`] joins everything below it: it measures a network in the runtime that it is for,
//! trains what to keep, exports it, and runs the exported files. [`Stopwatch`] measures tables of
//! times, [`verify`] runs exported files.

mod error;
mod network_file;
pub mod report;
pub mod shrink;
mod stopwatch;
pub mod verify;
mod workers;

pub use error::{Error, Result};
pub use network_file::write_for;
pub use stopwatch::{Note, SECONDS, Stopwatch, best_alignment, processor, without_gates};
pub use workers::Workers;
