//! Images in one folder, and a file that says which class each is of.

use crate::error::{Error, Result};
use crate::index::{Split, is_image};
use crate::names::Names;
use crate::natural_order::natural_order;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// The file of labels of the folder `root`, in it or beside it. The names are the usual ones, for a split called `val`:
/// `val_annotations.txt` is Tiny ImageNet's, `LOC_val_solution.csv` that of ImageNet's copy on Kaggle, `val.txt` Caffe's.
pub(crate) fn find(root: &Path) -> Option<PathBuf> {
    let split = root.file_name()?.to_str()?;
    let inside = ["labels.txt", "labels.csv", "labels.tsv"].map(|name| root.join(name));
    let either = [format!("{split}_annotations.txt"), format!("LOC_{split}_solution.csv"), format!("{split}.txt")];
    let either = either.iter().flat_map(|name| [root.join(name), root.with_file_name(name)]);
    inside.into_iter().chain(either).find(|path| path.is_file())
}

/// Indexes the images below `root` by the labels in `file`: an image's name, with or without its ending, then its class, by
/// name or as a number in the order of the classes; comma, tab or space between them, and whatever follows. The classes are
/// those of the training split, if given, else all that the file names.
pub(crate) fn open(root: &Path, file: &Path, classes: Option<&[String]>) -> Result<Split> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    let mut labels = HashMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut fields = line.split([',', '\t', ' ']).filter(|field| !field.is_empty());
        let (Some(image), Some(label)) = (fields.next(), fields.next()) else {
            return Err(Error::BadLabel { path: file.to_owned(), line: number + 1, text: line.to_owned() });
        };
        // A heading.
        if number > 0 || !["imageid", "image", "name", "filename", "file"].contains(&&*image.to_ascii_lowercase()) {
            labels.insert(image, (label, number + 1));
        }
    }
    let classes: Vec<String> = match classes {
        Some(classes) => classes.to_vec(),
        None => {
            let mut names: Vec<&str> = labels.values().map(|(label, _)| *label).collect();
            names.sort_by(|a, b| natural_order(a.as_bytes(), b.as_bytes()));
            names.dedup();
            names.into_iter().map(str::to_owned).collect()
        }
    };
    let by_name: HashMap<&str, u32> = classes.iter().enumerate().map(|(label, name)| (&**name, label as u32)).collect();

    let (mut images, mut ignored) = (Vec::new(), 0);
    let hidden = |entry: &walkdir::DirEntry| entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
    for entry in WalkDir::new(root).follow_links(true).into_iter().filter_entry(|entry| !hidden(entry)) {
        let entry = match entry {
            Ok(entry) if entry.file_type().is_dir() || entry.path() == file => continue,
            Ok(entry) => entry,
            Err(error) if error.path().is_some_and(Path::is_symlink) => {
                ignored += 1;
                continue;
            }
            Err(error) => {
                return Err(Error::Read { path: error.path().unwrap_or(root).to_owned(), source: error.into() });
            }
        };
        let name = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_owned);
        let (whole, stem) = (name(entry.path().file_name()), name(entry.path().file_stem()));
        let found = [whole, stem].into_iter().flatten().find_map(|name| labels.remove_entry(&*name));
        match found {
            Some((_, (label, line))) if entry.file_type().is_file() && is_image(entry.path()) => {
                let number = || label.parse().ok().filter(|&number: &u32| (number as usize) < classes.len());
                let known = by_name.get(label).copied().or_else(number);
                let known = known.ok_or_else(|| Error::UnknownClass {
                    path: file.to_owned(),
                    line,
                    class: label.to_owned(),
                    classes: classes.len(),
                })?;
                images.push((entry.path().strip_prefix(root).unwrap_or(entry.path()).to_owned(), known));
            }
            _ => ignored += 1,
        }
    }
    if images.is_empty() {
        return Err(Error::NoImages { path: root.to_owned() });
    }
    if let Some(image) = labels.into_keys().min() {
        return Err(Error::LabelledImageMissing {
            path: file.to_owned(),
            image: image.to_owned(),
            root: root.to_owned(),
        });
    }
    images.sort_by(|a, b| natural_order(a.0.as_os_str().as_encoded_bytes(), b.0.as_os_str().as_encoded_bytes()));
    let mut names = Names::default();
    images.iter().for_each(|(path, _)| names.push(path));
    let labels = images.into_iter().map(|(_, label)| label).collect();
    Ok(Split { root: root.to_owned(), classes, labels, names, shards: None, ignored })
}
