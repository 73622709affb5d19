//! What runs and evaluations found: plain data, which knows nothing of devices.

pub(crate) mod evaluation;
pub(crate) mod gate_use;
pub(crate) mod names;
pub(crate) mod reach;
pub(crate) mod run;
pub(crate) mod scheduled;
pub(crate) mod step_time;
pub(crate) mod strategy;
pub(crate) mod summary;
