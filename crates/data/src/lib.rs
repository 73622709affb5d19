//! Folders of images to batches of numbers. Knows nothing of networks.
//!
//! [`Dataset`] indexes a folder (class folders, tar shards, or images with a file of labels),
//! [`Transform`] crops and resizes as torchvision does, and [`Loader`] decodes whole batches ahead
//! on its own threads. What batch i of epoch e holds is a function of the seed alone, whatever the
//! number of threads. A [`Source`] is where images come from, one of your own included; [`synth`]
//! draws a sample set.

mod batches;
mod check;
mod decode;
mod error;
mod image_file;
mod parity;
mod sampler;
mod source;
mod sources;
pub mod synth;

pub use batches::color::ColorJitter;
pub use batches::loader::{Batch, Batches, LoadTime, Loader, LoaderOptions, Order, Pixels, Rank};
pub use batches::transform::{Normalize, Transform};
pub use check::{Check, check};
pub use decode::formats::{BadImage, decode};
pub use error::{Error, Result};
pub use image_file::IMAGE_ENDINGS;
pub use source::{Source, fingerprint, images_per_class};
pub use sources::archives::quoted as shell_quoted;
pub use sources::class_names::readable;
pub use sources::dataset::Dataset;
pub use sources::split::Split;
pub use sources::walk::images_below;
