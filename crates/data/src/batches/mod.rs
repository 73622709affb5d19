//! Images to batches: how each is cropped, resized and recolored, and the threads that do it ahead.

pub(crate) mod color;
pub(crate) mod loader;
mod memory;
pub(crate) mod transform;
