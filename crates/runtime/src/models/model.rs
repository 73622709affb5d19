//! What all runtimes have in common.

use crate::array::Array;
use crate::error::Result;

/// A network that was loaded.
pub trait Model {
    /// Takes the images that the next runs compute: normalized [N, 3, H, W], or what the file says.
    ///
    /// # Errors
    /// If the network does not take such images.
    fn give(&mut self, images: &Array) -> Result<()>;

    /// The logits [N, classes] of the images given last.
    ///
    /// # Errors
    /// If none were given, or the runtime fails.
    fn run(&mut self) -> Result<Array>;
}
