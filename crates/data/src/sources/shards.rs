//! Which images tar files hold, as WebDataset and others pack them, and of which classes.

use crate::error::{Error, Result};
use crate::sources::archives::{self, Compression};
use crate::sources::chunks::Shards;
use crate::sources::class_names::class_order;
use crate::sources::indexed::{Indexed, Stamp};
use crate::sources::members::{Member, members};
use crate::sources::names::Names;
use crate::sources::natural_order::natural_order;
use crate::sources::split::Split;
use rayon::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

/// The tar files of a folder, in natural order.
pub(crate) fn find(root: &Path) -> Result<Vec<PathBuf>> {
    files(root, archives::has_tar_ending)
}

/// The files of a folder with such names, in natural order.
fn files(root: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let read = |source| Error::Read { path: root.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(read)? {
        let name = PathBuf::from(entry.map_err(read)?.file_name());
        if wanted(&name) && !name.as_os_str().as_encoded_bytes().starts_with(b".") && root.join(&name).is_file() {
            found.push(name);
        }
    }
    found.sort_by(|a, b| natural_order(a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes()));
    Ok(found)
}

/// Refuses compressed tar files where there is nothing else to read.
///
/// # Errors
/// If there are any.
pub(crate) fn refuse_compressed(root: &Path) -> Result<()> {
    let found = files(root, |name| Compression::of_name(name).is_some())?;
    let Some(compression) = found.first().and_then(|first| Compression::of_name(first)) else { return Ok(()) };
    let alike = |file: &&Path| Compression::of_name(file) == Some(compression);
    let command = compression.unpack_all(root, &found.iter().map(PathBuf::as_path).filter(alike).collect::<Vec<_>>());
    let path = root.join(&found[0]);
    Err(Error::CompressedShard { path, compression: compression.name, command })
}

/// Indexes the shards `files` of `root`, all at once. An image's class is in the member beside it
/// that ends in `.cls`, or the folder it lies in within the shard.
pub(crate) fn open(root: &Path, files: Vec<PathBuf>) -> Result<Indexed> {
    let sources =
        ["", "classes.txt", "../classes.txt"].map(Path::new).into_iter().chain(files.iter().map(PathBuf::as_path));
    // Before anything is read, so that whatever changes later shows.
    let stamps = sources.map(|path| Stamp::of(root, path)).collect();
    let found: Vec<_> = files.par_iter().map(|file| members(&root.join(file))).collect();
    // Of several faulty shards the first in their order is told, whichever was read first.
    let found = found.into_iter().collect::<Result<Vec<_>>>()?;
    if found.iter().all(|(members, _)| members.is_empty()) {
        return Err(Error::NoImages { path: root.to_owned() });
    }
    let classes = class_names(root, found.iter().flat_map(|(members, _)| members))?;
    let by_name: HashMap<&str, u32> = classes.iter().enumerate().map(|(label, name)| (&**name, label as u32)).collect();
    let mut names = Names::default();
    let mut labels = Vec::new();
    let mut places = Vec::new();
    // Compressed tar files beside plain ones are not read.
    let mut ignored = self::files(root, |name| Compression::of_name(name).is_some())?.len();
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
    Ok(Indexed { split: Split { root: root.to_owned(), classes, labels, names, shards, ignored, loose: 0 }, stamps })
}

/// The classes of a set of shards: those of `classes.txt` in or beside the folder; else the numbers
/// up to the largest, where all members that tell a class tell numbers; else the names met.
fn class_names<'a>(root: &Path, members: impl Iterator<Item = &'a Member>) -> Result<Vec<String>> {
    let files = [root.join("classes.txt"), root.with_file_name("classes.txt")];
    if let Some(path) = files.into_iter().find(|path| path.is_file()) {
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
        return Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect());
    }
    let mut told = true;
    let mut met = BTreeSet::new();
    for member in members {
        told &= member.told;
        met.insert(&*member.class);
    }
    let mut names: Vec<&str> = met.into_iter().collect();
    names.sort_by(|a, b| class_order(a, b));
    let number = |name: &&str| name.parse().ok().filter(|&number: &u32| told && number < 1 << 20);
    let numbers: Option<Vec<u32>> = names.iter().map(number).collect();
    Ok(match numbers.and_then(|numbers| numbers.into_iter().max()) {
        Some(last) => (0..=last).map(|label| label.to_string()).collect(),
        None => names.into_iter().map(str::to_owned).collect(),
    })
}
