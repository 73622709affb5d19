//! A run from its first check to its last file. [`fit`] holds what a run is made of; `prepare`
//! makes one, `epochs` trains it, with `gates` and `saving` below it.

mod changes;
pub(crate) mod classes;
pub(crate) mod dry_run;
mod epochs;
pub(crate) mod fit;
mod gates;
mod images;
mod origin;
mod prepare;
mod saving;
pub(crate) mod step_bench;
mod times;

pub use changes::{Resume, differences};
