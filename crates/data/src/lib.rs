//! Folders of images to batches of numbers. Knows nothing of networks.
//!
//! [`Dataset`] indexes a folder in ImageNet layout (`train/CLASS/…`, `val/CLASS/…`), [`Transform`] crops and resizes as
//! torchvision does, and [`Loader`] decodes whole batches ahead on its own threads. What batch i of epoch e holds is a function
//! of the seed alone, whatever the number of threads. [`synth`] draws a sample set.

mod check;
mod colour;
mod decode;
mod error;
mod index;
mod loader;
mod sampler;
pub mod synth;
mod transform;

pub use check::{Check, check};
pub use colour::ColourJitter;
pub use decode::{BadImage, decode};
pub use error::{Error, Result};
pub use index::{Dataset, IMAGE_ENDINGS, Item, Split};
pub use loader::{Batch, Batches, Loader, Order};
pub use transform::{Normalise, Transform};
