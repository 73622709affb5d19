//! Where images are in tar files, and how they are read: in chunks, so that a network disk sees few
//! large reads.

use crate::sampler::order_generator;
use rand::seq::SliceRandom;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What is read at once, in bytes.
const CHUNK: u64 = 8 << 20;
/// Chunks of which the images are shuffled together: 256 MiB, some 2,000 images of ImageNet from as
/// many places of the set.
const WINDOW: usize = 32;
/// Chunks kept in memory at most: a window, and the beginning of the next.
const KEPT: usize = WINDOW + WINDOW / 2;

/// Where images are in tar files.
#[derive(Debug)]
pub(crate) struct Shards {
    /// Below the split's folder.
    files: Vec<PathBuf>,
    root: PathBuf,
    /// Of every image: its shard, its first byte in it and its length.
    places: Vec<(u32, u64, u32)>,
    /// The first image of every chunk.
    chunks: Vec<u32>,
    kept: Mutex<Kept>,
}

/// A chunk's bytes, or why they could not be read, once one thread has read them.
type Chunk = Arc<OnceLock<Result<Vec<u8>, String>>>;

#[derive(Debug, Default)]
struct Kept {
    /// By number: the chunk, its reads left until nobody needs it, and when it was used last.
    chunks: HashMap<usize, (Chunk, usize, u64)>,
    clock: u64,
}

impl Shards {
    /// Images at `places` (shard, first byte, length) of `files` below `root`.
    pub(crate) fn new(root: &Path, files: Vec<PathBuf>, places: Vec<(u32, u64, u32)>) -> Self {
        Self::in_chunks(root, files, places, CHUNK)
    }

    /// The same with chunks of another size.
    fn in_chunks(root: &Path, files: Vec<PathBuf>, places: Vec<(u32, u64, u32)>, chunk: u64) -> Self {
        let mut chunks = Vec::new();
        let mut current = None;
        for (image, &(shard, start, length)) in places.iter().enumerate() {
            let fits = current.is_some_and(|(of, from)| of == shard && start + u64::from(length) - from <= chunk);
            if !fits {
                chunks.push(image as u32);
                current = Some((shard, start));
            }
        }
        Self { files, root: root.to_owned(), places, chunks, kept: Mutex::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    pub(crate) fn places(&self) -> impl Iterator<Item = (u32, u64, u32)> {
        self.places.iter().copied()
    }

    /// The file an image is in, below the split's folder.
    pub(crate) fn file_of(&self, image: usize) -> &Path {
        &self.files[self.places[image].0 as usize]
    }

    /// The images of a chunk.
    fn images(&self, chunk: usize) -> std::ops::Range<u32> {
        self.chunks[chunk]..self.chunks.get(chunk + 1).copied().unwrap_or(self.places.len() as u32)
    }

    /// Appends an image's bytes to `bytes`. Its whole chunk is read with it and kept until all its
    /// images were read.
    pub(crate) fn read(&self, image: usize, bytes: &mut Vec<u8>) -> io::Result<()> {
        let number = self.chunks.partition_point(|&first| first as usize <= image) - 1;
        let images = self.images(number);
        let chunk = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.take(number, images.len())
        };
        let first = self.places[images.start as usize].1;
        let read = || {
            let changed = |error: io::Error| match error.kind() {
                io::ErrorKind::UnexpectedEof => "the shard is shorter than when it was indexed".to_owned(),
                _ => error.to_string(),
            };
            self.read_chunk(images).map_err(changed)
        };
        let (_, start, length) = self.places[image];
        let from = (start - first) as usize;
        match chunk.get_or_init(read) {
            Ok(content) => bytes.extend_from_slice(&content[from..from + length as usize]),
            Err(reason) => return Err(io::Error::other(reason.clone())),
        }
        Ok(())
    }

    fn read_chunk(&self, images: std::ops::Range<u32>) -> io::Result<Vec<u8>> {
        let first = images.start as usize;
        let last = images.end as usize - 1;
        let (start, (_, end, length)) = (self.places[first].1, self.places[last]);
        let mut content = vec![0; (end + u64::from(length) - start) as usize];
        let mut file = File::open(self.root.join(self.file_of(first)))?;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut content)?;
        Ok(content)
    }

    /// The order of an epoch: chunks are shuffled over all shards, then the images of some chunks
    /// at a time.
    pub(crate) fn shuffled(&self, seed: u64, epoch: u64) -> Vec<u32> {
        let mut rng = order_generator(seed, epoch);
        let mut chunks: Vec<usize> = (0..self.chunks.len()).collect();
        chunks.shuffle(&mut rng);
        let mut order = Vec::with_capacity(self.len());
        for window in chunks.chunks(WINDOW) {
            let from = order.len();
            order.extend(window.iter().flat_map(|&chunk| self.images(chunk)));
            order[from..].shuffle(&mut rng);
        }
        order
    }
}

impl Kept {
    /// The chunk of this number, of which one of `images` images is about to be read. The last one
    /// takes it out; beyond [`KEPT`] chunks the one used longest ago goes.
    fn take(&mut self, number: usize, images: usize) -> Chunk {
        self.clock += 1;
        let clock = self.clock;
        let entry = self.chunks.entry(number).or_insert_with(|| (Chunk::default(), images, clock));
        entry.1 -= 1;
        entry.2 = clock;
        // What could not be read is tried again for the next image.
        if entry.0.get().is_some_and(Result::is_err) {
            entry.0 = Chunk::default();
        }
        let chunk = Arc::clone(&entry.0);
        let left = entry.1;
        if left == 0 {
            self.chunks.remove(&number);
        }
        if self.chunks.len() > KEPT
            && let Some(oldest) = self.chunks.iter().min_by_key(|(_, (_, _, used))| *used).map(|(number, _)| *number)
        {
            self.chunks.remove(&oldest);
        }
        chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Three files of 70 images of 300 bytes, which hold their number, in chunks of three.
    fn shards(root: &Path) -> Shards {
        let files: Vec<PathBuf> = (0..3).map(|shard| format!("{shard}.tar").into()).collect();
        let mut places = Vec::new();
        for (shard, file) in files.iter().enumerate() {
            let content: Vec<u8> = (0..70).flat_map(|image| [(70 * shard + image) as u8; 300]).collect();
            fs::write(root.join(file), content).unwrap();
            places.extend((0..70).map(|image| (shard as u32, 300 * image, 300)));
        }
        Shards::in_chunks(root, files, places, 1000)
    }

    fn kept(shards: &Shards) -> usize {
        shards.kept.lock().unwrap().chunks.len()
    }

    #[test]
    fn every_image_comes_once_from_chunks_that_are_given_up_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let shards = shards(folder.path());
        // 70 images make 23 chunks of three and one of one.
        assert_eq!(shards.chunks.len(), 72);
        let order = shards.shuffled(5, 0);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..210).collect::<Vec<u32>>());
        assert_eq!(order, shards.shuffled(5, 0));
        assert_ne!(order, shards.shuffled(5, 1));
        // A window has images of all three shards, and its chunks are done before the next one's
        // begin.
        let window = &order[..90];
        assert!((0..3).all(|shard| window.iter().any(|image| image / 70 == shard)));
        for &image in &order {
            let mut bytes = vec![9];
            shards.read(image as usize, &mut bytes).unwrap();
            assert_eq!(bytes[1..], [image as u8; 300]);
            assert!(kept(&shards) <= WINDOW + 1);
        }
        assert_eq!(kept(&shards), 0);
    }

    #[test]
    fn memory_is_bounded_whatever_the_order_and_failures_are_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let shards = shards(folder.path());
        // The first image of every chunk: none is ever read to its end.
        for &first in &shards.chunks {
            shards.read(first as usize, &mut Vec::new()).unwrap();
            assert!(kept(&shards) <= KEPT);
        }
        assert_eq!(kept(&shards), KEPT);
        let whole = fs::read(folder.path().join("0.tar")).unwrap();
        fs::write(folder.path().join("0.tar"), b"").unwrap();
        let error = shards.read(0, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "the shard is shorter than when it was indexed");
        fs::write(folder.path().join("0.tar"), whole).unwrap();
        let mut bytes = Vec::new();
        shards.read(1, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 300]);
    }
}
