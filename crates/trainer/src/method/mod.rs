//! The method: what training minimizes, and the life of the gates: how they start, freeze within
//! the budget, and whether they agree for every image.

pub(crate) mod agreement;
pub(crate) mod budget;
pub(crate) mod importance;
pub(crate) mod lifecycle;
pub(crate) mod objective;
pub(crate) mod repair;
