//! One module per command.

pub(crate) mod bench;
pub(crate) mod calibrate;
pub(crate) mod config;
pub(crate) mod data;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod fit;
pub(crate) mod inspect;
pub(crate) mod measure;
pub(crate) mod predict;
pub(crate) mod prune;
pub(crate) mod report;
pub(crate) mod runtime_worker;
pub(crate) mod shrink;
pub(crate) mod sweep;
