//! The program as a user meets it: output, messages, exit codes, and that nothing is half-written.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

mod bench;
mod calls;
mod cut;
mod deploy;
mod fit;
mod fixture;
mod folders;
#[cfg(unix)]
mod interrupts;
mod measure;
mod networks;
mod results;
mod shrink;
#[path = "../support/mod.rs"]
mod support;
mod usage;
mod weights;
