//! One step of gradient descent, and what it works with.

pub(crate) mod average;
pub(crate) mod batch;
pub(crate) mod clock;
pub(crate) mod cut;
pub(crate) mod diagnose;
pub(crate) mod erase;
pub(crate) mod guard;
pub(crate) mod mix;
pub(crate) mod optimizer;
pub(crate) mod step;
pub(crate) mod teacher;
