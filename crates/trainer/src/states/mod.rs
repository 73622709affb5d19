//! States of networks and runs in files.

pub(crate) mod checkpoint;
pub(crate) mod export;
pub(crate) mod input;
pub(crate) mod retention;
pub(crate) mod training;
