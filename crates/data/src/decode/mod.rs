//! Encoded images to pixels.

pub(crate) mod formats;
mod jpeg;
mod jpeg_rare;
mod jpeg_scans;
mod jpeg_tables;
mod jpeg_walk;
pub(crate) mod part;
