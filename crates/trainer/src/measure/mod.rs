//! Passes over images that do not train, and what they count.

pub(crate) mod calibrate;
pub(crate) mod cut;
pub(crate) mod ensemble;
pub(crate) mod evaluate;
pub(crate) mod gate_use;
pub(crate) mod pass;
pub(crate) mod totals;
