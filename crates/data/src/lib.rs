//! Folders of images to batches of numbers. Knows nothing of networks.
//!
//! [`Dataset`] indexes a folder (class folders, tar shards, or images with a file of labels), [`Transform`] crops and resizes as
//! torchvision does, and [`Loader`] decodes whole batches ahead on its own threads. What batch i of epoch e holds is a function
//! of the seed alone, whatever the number of threads. A [`Source`] is where images come from, one of your own included; [`synth`]
//! draws a sample set.

mod check;
mod colour;
mod decode;
mod error;
mod folder;
mod index;
mod index_cache;
mod jpeg;
mod labels;
mod loader;
mod memory;
mod names;
mod natural_order;
mod parity;
mod sampler;
mod shards;
mod source;
pub mod synth;
mod transform;

pub use check::{Check, check};
pub use colour::ColourJitter;
pub use decode::{BadImage, decode};
pub use error::{Error, Result};
pub use index::{Dataset, IMAGE_ENDINGS, Split};
pub use loader::{Batch, Batches, LoadTime, Loader, LoaderOptions, Order, Pixels, Rank};
pub use source::{Source, images_per_class};
pub use transform::{Normalise, Transform};
