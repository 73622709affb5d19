//! The method: what is minimized, and how gates are started, frozen and agreed on.

pub(crate) mod agreement;
pub(crate) mod budget;
pub(crate) mod importance;
pub(crate) mod objective;
