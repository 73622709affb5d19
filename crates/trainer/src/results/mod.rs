//! What runs and evaluations found: plain data.

pub(crate) mod gate_use;
pub(crate) mod strategy;
