//! Class folders with images: `CLASS/…/IMAGE.jpg`.

use crate::error::{Error, Result};
use crate::image_file::is_image;
use crate::sources::class_names::{class_order, readable};
use crate::sources::indexed::{Indexed, Stamp};
use crate::sources::labels;
use crate::sources::names::Names;
use crate::sources::natural_order::natural_order;
use crate::sources::split::Split;
use crate::sources::walk;
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// What one class folder holds.
struct ClassFolder {
    /// Below the split's folder, in natural order.
    images: Names,
    ignored: usize,
    /// Of it and the folders in it.
    stamps: Vec<Stamp>,
}

/// What lies directly in a split's folder.
#[derive(Default)]
struct Found {
    /// Class and folder.
    classes: Vec<(String, PathBuf)>,
    /// Images that lie in no class folder.
    loose: usize,
    /// Other files.
    others: usize,
}

impl Found {
    fn of(root: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: root.to_owned(), source };
        let mut found = Self::default();
        for entry in fs::read_dir(root).map_err(read)? {
            let entry = entry.map_err(read)?;
            let (name, path) = (entry.file_name(), entry.path());
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if path.is_dir() {
                found.classes.push((readable(&name), path));
            } else if is_image(Path::new(&name)) && path.is_file() {
                found.loose += 1;
            } else {
                found.others += 1;
            }
        }
        Ok(found)
    }
}

/// Whether there are class folders.
pub(crate) fn has_folders(root: &Path) -> Result<bool> {
    Ok(!Found::of(root)?.classes.is_empty())
}

/// Indexes the class folders of `root`, all at once: on a network disk the time goes into waiting.
pub(crate) fn open(root: &Path) -> Result<Indexed> {
    // Before anything is listed, so that whatever changes later shows.
    let mut stamps = vec![Stamp::of(root, Path::new(""))];
    let Found { mut classes, loose, others } = Found::of(root)?;
    classes.sort_by(|a, b| class_order(&a.0, &b.0));
    let found: Vec<_> = classes.par_iter().map(|(_, path)| class_folder(root, path)).collect();
    // Of several faulty folders the first in their order is told, whichever was read first.
    let found = found.into_iter().collect::<Result<Vec<_>>>()?;

    if found.iter().all(|class| class.images.len() == 0) {
        return Err(match loose {
            0 => Error::NoImages { path: root.to_owned() },
            loose => labels::missing(root, loose),
        });
    }
    let empty = found.iter().zip(&classes).filter(|(class, _)| class.images.len() == 0);
    let empty: Vec<String> = empty.map(|(_, (_, path))| path.display().to_string()).collect();
    if !empty.is_empty() {
        return Err(Error::EmptyClasses { classes: empty });
    }
    let mut names = Names::default();
    let mut labels = Vec::new();
    let mut ignored = others + loose;
    for (label, class) in found.iter().enumerate() {
        names.extend(&class.images);
        labels.extend(std::iter::repeat_n(label as u32, class.images.len()));
        ignored += class.ignored;
    }
    names.shrink();
    stamps.extend(found.into_iter().flat_map(|class| class.stamps));
    let classes = classes.into_iter().map(|(name, _)| name).collect();
    Ok(Indexed { split: Split { root: root.to_owned(), classes, labels, names, shards: None, ignored, loose }, stamps })
}

/// The images below a class folder, and what else is there.
fn class_folder(root: &Path, folder: &Path) -> Result<ClassFolder> {
    let mut images = Vec::new();
    let mut ignored = 0;
    let mut stamps = Vec::new();
    let below = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
    for entry in walk::entries(folder, WalkDir::new(folder)) {
        match entry? {
            Some(entry) if entry.file_type().is_dir() => stamps.push(Stamp::of(root, &below(entry.path()))),
            // Opening a named pipe would wait for ever.
            Some(entry) if entry.file_type().is_file() && is_image(entry.path()) => images.push(below(entry.path())),
            _ => ignored += 1,
        }
    }
    images.par_sort_by(|a, b| natural_order(a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes()));
    let mut names = Names::default();
    images.iter().for_each(|image| names.push(image));
    Ok(ClassFolder { images: names, ignored, stamps })
}
