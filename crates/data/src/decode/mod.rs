//! Encoded images to pixels.

pub(crate) mod formats;
mod jpeg;
pub(crate) mod part;
