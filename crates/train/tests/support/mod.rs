//! What every test of the program needs, whichever binary it is in.

use std::path::Path;
use std::process::{Command, Stdio};

/// The program as this build made it.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    command.stdin(Stdio::null());
    command
}

/// A path as an argument.
pub fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
