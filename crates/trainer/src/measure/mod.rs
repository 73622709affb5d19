//! Passes over images that do not train.

pub(crate) mod batch;
pub(crate) mod calibrate;
pub(crate) mod evaluate;
pub(crate) mod pass;
pub(crate) mod totals;
