//! One module per command.

pub(crate) mod calibrate;
pub(crate) mod data;
pub(crate) mod eval;
pub(crate) mod fit;
pub(crate) mod inspect;
pub(crate) mod predict;

use std::fmt;

/// The command line asks for something that cannot be: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}
