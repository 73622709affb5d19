//! Which images tar files hold, as WebDataset and others pack them, and of which classes.

use crate::error::{Error, Result};
use crate::image_file::{MOST_BYTES_OF_A_FILE, is_image};
use crate::sources::chunks::Shards;
use crate::sources::indexed::{Indexed, Stamp};
use crate::sources::names::Names;
use crate::sources::natural_order::natural_order;
use crate::sources::split::Split;
use rayon::prelude::*;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

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

/// Indexes the shards `files` of `root`, all at once. An image's class is in the member beside it
/// that ends in `.cls`, or the folder it lies in within the shard.
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
    let mut names = Names::default();
    let mut labels = Vec::new();
    let mut places = Vec::new();
    let mut ignored = 0;
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

/// The classes of a set of shards: those of `classes.txt` in or beside the folder; else the numbers
/// up to the largest, where all members that tell a class tell numbers; else the names met.
fn class_names<'a>(root: &Path, members: impl Iterator<Item = &'a Member>) -> Result<Vec<String>> {
    let files = [root.join("classes.txt"), root.with_file_name("classes.txt")];
    if let Some(path) = files.into_iter().find(|path| path.is_file()) {
        let text = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
        return Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect());
    }
    let mut told = true;
    let mut names = Vec::new();
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
    let mut images = Vec::new();
    let mut classes = HashMap::new();
    let mut ignored = 0;
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
