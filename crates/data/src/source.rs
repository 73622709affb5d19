//! What a loader reads from.

use crate::sampler;
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

/// A set of labeled images that a [`crate::Loader`] makes batches of. [`crate::Split`] is the one
/// for folders and tar shards; implement it for a source of your own, such as a database or an
/// object store.
///
/// Images are known by their position, 0 to `len() - 1`, which must mean the same image for as long
/// as a run and its continuations last: order, augmentation and exact resume depend on it. At most
/// `u32::MAX` of them. A panic ends the run.
///
/// ```
/// use data::{Loader, LoaderOptions, Source};
/// use std::io;
/// use std::path::{Path, PathBuf};
/// use std::sync::Arc;
///
/// /// Encoded images in memory, all of one class.
/// #[derive(Debug)]
/// struct InMemory {
///     classes: Vec<String>,
///     images: Vec<Vec<u8>>,
/// }
///
/// impl Source for InMemory {
///     fn classes(&self) -> &[String] {
///         &self.classes
///     }
///     fn len(&self) -> usize {
///         self.images.len()
///     }
///     fn label(&self, _: usize) -> usize {
///         0
///     }
///     fn location(&self) -> &Path {
///         Path::new("memory")
///     }
///     fn name(&self, image: usize) -> PathBuf {
///         format!("image {image}").into()
///     }
///     fn read(&self, image: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
///         bytes.extend_from_slice(&self.images[image]);
///         Ok(())
///     }
/// }
///
/// // A gray pixel as a portable gray map.
/// let source = InMemory { classes: vec!["gray".into()], images: vec![b"P5 1 1 255\n\x80".to_vec()] };
/// let loader = Loader::new(Arc::new(source), LoaderOptions::default())?;
/// let batch = loader.epoch(0, 0)?.next().expect("one batch");
/// assert_eq!((batch.labels, batch.pixels.len()), (vec![0], 224 * 224 * 3));
/// # Ok::<(), data::Error>(())
/// ```
pub trait Source: Debug + Send + Sync {
    /// Class names, by label.
    fn classes(&self) -> &[String];

    /// Number of images.
    fn len(&self) -> usize;

    /// Whether it holds none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Position in [`Self::classes`] of an image, below their number.
    fn label(&self, image: usize) -> usize;

    /// What messages call the source: its folder, if it has one.
    fn location(&self) -> &Path;

    /// What reports call an image: its file below [`Self::location`], if it has one.
    fn name(&self, image: usize) -> PathBuf;

    /// What messages call an image.
    fn path(&self, image: usize) -> PathBuf {
        self.location().join(self.name(image))
    }

    /// Appends an image's encoded bytes, in any format that [`crate::decode()`] knows, to `bytes`.
    /// Several threads call it at once, for one image perhaps more than once; whoever drops an
    /// epoch's batches waits for the calls that are under way.
    ///
    /// # Errors
    /// If they cannot be read now; the image is then left out of its batch and counted.
    fn read(&self, image: usize, bytes: &mut Vec<u8>) -> io::Result<()>;

    /// The order of an epoch of training: every image exactly once, as a function of the seed. A
    /// source that is slow to jump about in may keep neighbors together.
    fn shuffled(&self, seed: u64, epoch: u64) -> Vec<u32> {
        sampler::shuffled(self.len(), seed, epoch)
    }

    /// Stands for which images there are, in what order and with which labels, so that a resumed
    /// run notices others: FNV-1a over names and labels, which stays the same where the source
    /// moves.
    fn fingerprint(&self) -> u64 {
        (0..self.len()).fold(FNV_OFFSET, |hash, image| {
            let name = fnv(fnv(hash, self.name(image).as_os_str().as_encoded_bytes()), &[0]);
            fnv(name, &(self.label(image) as u32).to_le_bytes())
        })
    }
}

/// Number of images per class, by label.
pub fn images_per_class(source: &dyn Source) -> Vec<usize> {
    let mut counts = vec![0; source.classes().len()];
    for image in 0..source.len() {
        counts[source.label(image)] += 1;
    }
    counts
}

/// A fingerprint of bytes, which is the same everywhere and for ever.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    fnv(FNV_OFFSET, bytes)
}

pub(crate) const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, which is the same everywhere and for ever.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
