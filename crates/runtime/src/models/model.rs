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

    /// Chooses the fastest way to compute the images given last, where there are several. Comes
    /// before runs that are timed.
    ///
    /// # Errors
    /// As [`Model::run`].
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    /// The logits [N, classes] of the images given last.
    ///
    /// # Errors
    /// If none were given, or the runtime fails.
    fn run(&mut self) -> Result<Array>;

    /// Seconds of each operation, by its name in the file, as a median over runs with the images
    /// given last; none where the runtime does not tell.
    ///
    /// # Errors
    /// As [`Model::run`].
    fn operations(&mut self, runs: u32) -> Result<Vec<(String, f64)>> {
        let _ = runs;
        Ok(Vec::new())
    }
}
