//! Walks below a folder: what is left out wherever images are files of their own.

use crate::error::{Error, Result};
use crate::image_file::is_image;
use crate::sources::natural_order::natural_order;
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// The folders and files that `walk` of `root` finds. Links are followed; names that start with a
/// dot are left out. `None` is a link that loops or points nowhere, which is no image.
///
/// # Errors
/// Of an entry: if it cannot be read.
pub(crate) fn entries(root: &Path, walk: WalkDir) -> impl Iterator<Item = Result<Option<DirEntry>>> {
    let hidden = |entry: &DirEntry| entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
    let entries = walk.follow_links(true).into_iter().filter_entry(move |entry| !hidden(entry));
    entries.map(move |entry| match entry {
        Ok(entry) => Ok(Some(entry)),
        Err(error) if error.loop_ancestor().is_some() || error.path().is_some_and(Path::is_symlink) => Ok(None),
        Err(error) => {
            let path = error.path().unwrap_or(root).to_owned();
            Err(Error::Read { path, source: error.into() })
        }
    })
}

/// The images below a folder at any depth, by their endings, in natural order. Links are followed;
/// names that start with a dot are left out.
///
/// # Errors
/// If a folder cannot be read.
pub fn images_below(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in entries(root, WalkDir::new(root)) {
        if let Some(entry) = entry?.filter(|entry| entry.file_type().is_file() && is_image(entry.path())) {
            found.push(entry.into_path());
        }
    }
    found.sort_by(|a, b| natural_order(a.as_os_str().as_encoded_bytes(), b.as_os_str().as_encoded_bytes()));
    Ok(found)
}
