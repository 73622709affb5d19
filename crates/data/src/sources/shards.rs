//! Images in tar files, as WebDataset and others pack them, so that a network disk sees few large reads.

use crate::error::{Error, Result};
use crate::sampler::order_generator;
use crate::sources::dataset::{MOST_BYTES_OF_A_FILE, Split, is_image};
use crate::sources::kept_index::{Indexed, Stamp};
use crate::sources::names::Names;
use crate::sources::natural_order::natural_order;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What is read at once, in bytes.
const CHUNK: u64 = 8 << 20;
/// Chunks of which the images are shuffled together: 256 MiB, some 2,000 images of ImageNet from as many places of the set.
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

/// The tar files of a folder, in natural order.
pub(crate) fn find(root: &Path) -> Result<Vec<PathBuf>> {
    let read = |source| Error::Read { path: root.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(read)? {
        let name = PathBuf::from(entry.map_err(read)?.file_name());
        let is_tar = name.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tar"));
        if is_tar && !name.to_string_lossy().starts_with('.') && root.join(&name).is_file() {
            found.push(name);
        }
    }
    found.sort_by(|a, b| natural_order(a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes()));
    Ok(found)
}

/// One image of a shard: its name in it, its place, and its class.
struct Member {
    name: PathBuf,
    start: u64,
    length: u32,
    class: String,
    /// Whether the class is that of a member beside it.
    told: bool,
}

/// Indexes the shards `files` of `root`, all at once. An image's class is in the member beside it that ends in `.cls`, or the
/// folder it lies in within the shard.
pub(crate) fn open(root: &Path, files: Vec<PathBuf>) -> Result<Indexed> {
    let sources =
        ["", "classes.txt", "../classes.txt"].map(Path::new).into_iter().chain(files.iter().map(PathBuf::as_path));
    // Before anything is read, so that whatever changes later shows.
    let stamps = sources.map(|path| Stamp::of(root, path)).collect();
    let found = files.par_iter().map(|file| members(&root.join(file))).collect::<Result<Vec<_>>>()?;
    if found.iter().all(|(members, _)| members.is_empty()) {
        return Err(Error::NoImages { path: root.to_owned() });
    }
    let classes = class_names(root, found.iter().flat_map(|(members, _)| members))?;
    let by_name: HashMap<&str, u32> = classes.iter().enumerate().map(|(label, name)| (&**name, label as u32)).collect();
    let (mut names, mut labels, mut places, mut ignored) = (Names::default(), Vec::new(), Vec::new(), 0);
    for (shard, (members, left_out)) in found.iter().enumerate() {
        ignored += left_out;
        for member in members {
            let label = by_name.get(&*member.class).copied();
            let label =
                label.or_else(|| member.class.parse().ok().filter(|&label: &u32| (label as usize) < classes.len()));
            labels.push(label.ok_or_else(|| Error::UnknownShardClass {
                path: root.join(&files[shard]).join(&member.name),
                class: member.class.clone(),
                classes: classes.len(),
            })?);
            names.push(&member.name);
            places.push((shard as u32, member.start, member.length));
        }
    }
    names.shrink();
    let shards = Some(Shards::new(root, files, places));
    Ok(Indexed { split: Split { root: root.to_owned(), classes, labels, names, shards, ignored }, stamps })
}

/// The classes of a set of shards: those of `classes.txt` in or beside the folder; else the numbers up to the largest, where all
/// members that tell a class tell numbers; else the names met.
fn class_names<'a>(root: &Path, members: impl Iterator<Item = &'a Member>) -> Result<Vec<String>> {
    let files = [root.join("classes.txt"), root.with_file_name("classes.txt")];
    if let Some(path) = files.into_iter().find(|path| path.is_file()) {
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
        return Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect());
    }
    let (mut told, mut names) = (true, Vec::new());
    for member in members {
        told &= member.told;
        names.push(&*member.class);
    }
    names.sort_by(|a, b| natural_order(a.as_bytes(), b.as_bytes()));
    names.dedup();
    let number = |name: &&str| name.parse().ok().filter(|&number: &u32| told && number < 1 << 20);
    let numbers: Option<Vec<u32>> = names.iter().map(number).collect();
    Ok(match numbers.and_then(|numbers| numbers.into_iter().max()) {
        Some(last) => (0..=last).map(|label| label.to_string()).collect(),
        None => names.into_iter().map(str::to_owned).collect(),
    })
}

/// The images of one tar file in their order, and the number of other files.
fn members(path: &Path) -> Result<(Vec<Member>, usize)> {
    let bad = |source: io::Error| Error::BadShard { path: path.to_owned(), reason: source.to_string() };
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let size = file.metadata().map_err(|source| Error::Read { path: path.to_owned(), source })?.len();
    let mut archive = tar::Archive::new(file);
    let (mut images, mut classes, mut ignored) = (Vec::new(), HashMap::new(), 0);
    for entry in archive.entries_with_seek().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path().map_err(bad)?.into_owned();
        let hidden = name.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && name.extension().is_some_and(|ending| ending == "cls") {
            let mut text = String::new();
            entry.by_ref().take(1024).read_to_string(&mut text).map_err(bad)?;
            classes.insert(key(&name), text.trim().to_owned());
        } else if !hidden && is_image(&name) {
            let (start, length) = (entry.raw_file_position(), entry.size());
            if start + length > size {
                return Err(bad(io::Error::other(format!("it ends within {}", name.display()))));
            }
            if length > MOST_BYTES_OF_A_FILE {
                return Err(bad(io::Error::other(format!(
                    "the {length} bytes of {} are more than an image has",
                    name.display()
                ))));
            }
            images.push(Member { name, start, length: length as u32, class: String::new(), told: false });
        } else {
            ignored += 1;
        }
    }
    for image in &mut images {
        let folder = image.name.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        let told = classes.get(&key(&image.name)).cloned();
        image.told = told.is_some();
        let class = told.or(folder);
        image.class = class.ok_or_else(|| {
            let member = image.name.display();
            bad(io::Error::other(format!(
                "{member} has no class; expected a member {}.cls or a class folder",
                key(&image.name)
            )))
        })?;
    }
    Ok((images, ignored))
}

/// What the members of one sample share: the name up to the first dot after its folder.
fn key(name: &Path) -> String {
    let file = name.file_name().map(|file| file.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = file.split('.').next().unwrap_or_default();
    name.with_file_name(stem).to_string_lossy().into_owned()
}

impl Shards {
    /// Images at `places` (shard, first byte, length) of `files` below `root`.
    pub(crate) fn new(root: &Path, files: Vec<PathBuf>, places: Vec<(u32, u64, u32)>) -> Self {
        Self::in_chunks(root, files, places, CHUNK)
    }

    /// The same with chunks of another size.
    fn in_chunks(root: &Path, files: Vec<PathBuf>, places: Vec<(u32, u64, u32)>, chunk: u64) -> Self {
        let (mut chunks, mut current) = (Vec::new(), None);
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

    /// Appends an image's bytes to `bytes`. Its whole chunk is read with it and kept until all its images were read.
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
        let (first, last) = (images.start as usize, images.end as usize - 1);
        let (start, (_, end, length)) = (self.places[first].1, self.places[last]);
        let mut content = vec![0; (end + u64::from(length) - start) as usize];
        let mut file = File::open(self.root.join(self.file_of(first)))?;
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut content)?;
        Ok(content)
    }

    /// The order of an epoch: chunks are shuffled over all shards, then the images of some chunks at a time.
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
    /// The chunk of this number, of which one of `images` images is about to be read. The last one takes it out; beyond
    /// [`KEPT`] chunks the one used longest ago goes.
    fn take(&mut self, number: usize, images: usize) -> Chunk {
        self.clock += 1;
        let clock = self.clock;
        let entry = self.chunks.entry(number).or_insert_with(|| (Chunk::default(), images, clock));
        (entry.1, entry.2) = (entry.1 - 1, clock);
        // What could not be read is tried again for the next image.
        if entry.0.get().is_some_and(Result::is_err) {
            entry.0 = Chunk::default();
        }
        let (chunk, left) = (Arc::clone(&entry.0), entry.1);
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
        // A window has images of all three shards, and its chunks are done before the next one's begin.
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
