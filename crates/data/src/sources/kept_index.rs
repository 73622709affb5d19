//! Indices kept for the next start: walking a million files takes minutes on a network disk.

use crate::error::Result;
use crate::source::{FNV_OFFSET, Source, fnv};
use crate::sources::chunks::Shards;
use crate::sources::indexed::{Indexed, Stamp};
use crate::sources::names::Names;
use crate::sources::split::Split;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// An index that takes no time is not worth a file.
const FEWEST_IMAGES: usize = 20_000;
/// First bytes of a kept index; the number changes with what follows.
const MAGIC: &[u8] = b"gumbel-gates index 2\n";
/// A folder that changed so shortly before it was walked may change again without showing another
/// time.
const TOO_FRESH: Duration = Duration::from_secs(2);

/// What stands before the blocks of numbers and names.
#[derive(Serialize, Deserialize)]
struct Header {
    root: PathBuf,
    classes: Vec<String>,
    ignored: usize,
    loose: usize,
    stamps: Vec<Stamp>,
    shards: Option<Vec<PathBuf>>,
    images: usize,
    name_bytes: usize,
}

/// The index of `root` that was kept, if nothing changed since, else what `walk` finds, which is
/// kept if it is large.
pub(crate) fn cached(root: &Path, walk: impl FnOnce() -> Result<Indexed>) -> Result<Split> {
    cached_in(folder().as_deref(), FEWEST_IMAGES, root, walk)
}

fn cached_in(
    cache: Option<&Path>,
    fewest: usize,
    root: &Path,
    walk: impl FnOnce() -> Result<Indexed>,
) -> Result<Split> {
    let file = cache.and_then(|cache| {
        let whole = fs::canonicalize(root).ok()?;
        Some(cache.join(format!("{:016x}", fnv(FNV_OFFSET, whole.as_os_str().as_encoded_bytes()))))
    });
    if let Some(split) = file.as_ref().and_then(|file| load(file, root)) {
        return Ok(split);
    }
    let settled = SystemTime::now() - TOO_FRESH;
    let Indexed { split, stamps } = walk()?;
    let settled = stamps.iter().all(|stamp| stamp.settled_before(settled));
    if let Some(file) = file.filter(|_| settled && split.len() >= fewest) {
        // A cache that cannot be written costs time, not the run.
        let _ = save(&file, &split, stamps);
    }
    Ok(split)
}

/// `$XDG_CACHE_HOME/gumbel-gates/index`, by default below `~/.cache`.
fn folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("gumbel-gates/index"))
}

fn save(file: &Path, split: &Split, stamps: Vec<Stamp>) -> std::io::Result<()> {
    let (bytes, ends) = split.names.parts();
    let header = Header {
        root: fs::canonicalize(&split.root)?,
        classes: split.classes.clone(),
        ignored: split.ignored,
        loose: split.loose,
        stamps,
        shards: split.shards.as_ref().map(|shards| shards.files().to_vec()),
        images: split.len(),
        name_bytes: bytes.len(),
    };
    let header = serde_json::to_vec(&header)?;
    let mut content = MAGIC.to_vec();
    content.extend((header.len() as u64).to_le_bytes());
    content.extend(header);
    content.extend(split.labels.iter().flat_map(|label| label.to_le_bytes()));
    content.extend(ends.iter().flat_map(|end| end.to_le_bytes()));
    content.extend_from_slice(bytes);
    if let Some(shards) = &split.shards {
        content.extend(shards.places().flat_map(|(shard, start, length)| {
            let (shard, start, length) = (shard.to_le_bytes(), start.to_le_bytes(), length.to_le_bytes());
            shard.into_iter().chain(start).chain(length)
        }));
    }
    content.extend(fnv(FNV_OFFSET, &content).to_le_bytes());
    let parent = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut scratch = tempfile::NamedTempFile::new_in(parent)?;
    scratch.write_all(&content)?;
    scratch.persist(file).map(|_| ()).map_err(|error| error.error)
}

/// The index in `file`, if it is whole, of this folder and still true.
fn load(file: &Path, root: &Path) -> Option<Split> {
    let content = fs::read(file).ok()?;
    let (content, sum) = content.split_last_chunk::<8>()?;
    if fnv(FNV_OFFSET, content) != u64::from_le_bytes(*sum) {
        return None;
    }
    let (length, rest) = content.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    let (header, rest) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    if header.root != fs::canonicalize(root).ok()? || !header.stamps.par_iter().all(|stamp| stamp.still_holds(root)) {
        return None;
    }
    let (labels, rest) = rest.split_at_checked(4 * header.images)?;
    let (ends, rest) = rest.split_at_checked(8 * header.images)?;
    let (bytes, places) = rest.split_at_checked(header.name_bytes)?;
    let labels: Vec<u32> = labels.as_chunks().0.iter().map(|label| u32::from_le_bytes(*label)).collect();
    let ends = ends.as_chunks().0.iter().map(|end| u64::from_le_bytes(*end)).collect();
    let shards = match header.shards {
        None => None,
        Some(files) => {
            let places = places.as_chunks::<16>().0.iter().map(|place| {
                let number = |from: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| place[from + i]));
                (number(0), u64::from(number(4)) | u64::from(number(8)) << 32, number(12))
            });
            let shards = Shards::new(root, files, places.collect());
            (shards.len() == header.images).then_some(shards)?.into()
        }
    };
    let (classes, ignored, loose) = (header.classes, header.ignored, header.loose);
    let names = Names::from_parts(bytes.to_vec(), ends)?;
    let known = labels.iter().all(|&label| (label as usize) < classes.len());
    known.then(|| Split { root: root.to_owned(), classes, labels, names, shards, ignored, loose })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::{class_folders, shards};
    use std::cell::Cell;
    use std::fs::File;

    /// Long enough ago to be settled.
    fn age(path: &Path) {
        File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
    }

    fn put(root: &Path, names: &[&str]) {
        for name in names {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        }
        ["", "a", "b", "b/deep"].iter().for_each(|folder| age(&root.join(folder)));
    }

    fn paths(split: &Split) -> Vec<PathBuf> {
        (0..split.len()).map(|image| split.path(image)).collect()
    }

    #[test]
    fn an_index_is_used_again_until_a_folder_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (root, cache) = (folder.path().join("set"), folder.path().join("cache"));
        put(&root, &["a/1.jpg", "a/2.jpg", "b/deep/1.jpg", "b/notes.txt"]);
        let walks = Cell::new(0);
        let open = || {
            cached_in(Some(&cache), 1, &root, || {
                walks.set(walks.get() + 1);
                class_folders::open(&root)
            })
            .unwrap()
        };
        let (first, second) = (open(), open());
        assert_eq!((walks.get(), paths(&first), paths(&second)), (1, paths(&first), paths(&first)));
        assert_eq!((second.classes(), &second.labels, second.ignored), (first.classes(), &first.labels, 1));
        put(&root, &["b/deep/2.jpg"]);
        fs::write(root.join("b/deep/3.jpg"), b"x").unwrap();
        assert_eq!((open().len(), walks.get()), (5, 2), "a folder changed");
        // Changed just now: it may change again within the clock's step, so that nothing was kept.
        open();
        assert_eq!(walks.get(), 3);
        age(&root.join("b/deep"));
        open();
        open();
        assert_eq!(walks.get(), 4);
        // Whatever is in the cache, the answer is right.
        let file = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&file).unwrap();
        for length in (0..whole.len()).step_by(11) {
            fs::write(&file, &whole[..length]).unwrap();
            assert_eq!(load(&file, &root).map(|split| split.len()), None, "{length}");
        }
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 1;
        fs::write(&file, changed).unwrap();
        assert_eq!(open().len(), 5);
    }

    #[test]
    fn shards_are_kept_too_and_small_sets_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (root, cache) = (folder.path().join("set"), folder.path().join("cache"));
        fs::create_dir(&root).unwrap();
        let shard = root.join("shard-0.tar");
        let mut tar = tar::Builder::new(File::create(&shard).unwrap());
        for name in ["cat/1.jpg", "dog/2.jpg"] {
            let mut header = tar::Header::new_gnu();
            header.set_size(700);
            tar.append_data(&mut header, name, &[7; 700][..]).unwrap();
        }
        tar.into_inner().unwrap();
        [&shard, &root].into_iter().for_each(|path| age(path));
        let walk = || shards::open(&root, shards::find(&root).unwrap());
        let first = cached_in(Some(&cache), 1, &root, walk).unwrap();
        let second = cached_in(Some(&cache), 1, &root, || panic!("it was kept")).unwrap();
        assert_eq!((paths(&second), &second.labels), (paths(&first), &first.labels));
        let mut bytes = Vec::new();
        second.read(1, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 700]);
        let other = folder.path().join("other-cache");
        cached_in(Some(&other), 3, &root, walk).unwrap();
        assert!(!other.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn folders_whose_names_are_no_text_are_walked_every_time() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let (root, cache) = (folder.path().join("set"), folder.path().join("cache"));
        put(&root, &["a/1.jpg", "b/deep/1.jpg"]);
        let odd = root.join(std::ffi::OsStr::from_bytes(b"caf\xe8"));
        fs::rename(root.join("b"), &odd).unwrap();
        [&root, &odd, &odd.join("deep")].into_iter().for_each(|path| age(path));
        for _ in 0..2 {
            let split = cached_in(Some(&cache), 1, &root, || class_folders::open(&root)).unwrap();
            assert_eq!((split.classes(), split.label(1)), (&["a".to_owned(), r"caf\xE8".to_owned()][..], 1));
            assert!(!cache.exists());
        }
    }
}
