//! Processes of this program that run networks.

use runtime::{Runtime, Worker};
use std::io;
use std::process::Command;

/// How this program is started once more to serve a runtime ([`runtime::serve()`]).
#[derive(Debug, Clone, Copy)]
pub struct Workers {
    command: fn(Runtime, &str) -> io::Result<Command>,
}

impl Workers {
    /// `command` serves a runtime, libtorch on the device that it names.
    pub fn new(command: fn(Runtime, &str) -> io::Result<Command>) -> Self {
        Self { command }
    }

    /// Starts a process for a runtime, with as many threads as libtorch has here.
    ///
    /// # Errors
    /// If it cannot be started, or the runtime is not there.
    pub fn start(&self, runtime: Runtime, device: &str) -> runtime::Result<Worker> {
        let command = (self.command)(runtime, device)?;
        Worker::start(runtime, threads(), || command)
    }
}

/// Threads that libtorch has here, and each runtime that is started.
pub(crate) fn threads() -> usize {
    usize::try_from(tch::get_num_threads()).unwrap_or(1)
}
