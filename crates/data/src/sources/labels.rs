//! Images in one folder, and a file that says which class each is of.

use crate::error::{Error, Result};
use crate::image_file::is_image;
use crate::sources::class_names::{class_order, look_alike};
use crate::sources::names::Names;
use crate::sources::natural_order::natural_order;
use crate::sources::split::Split;
use crate::sources::walk;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// The file of labels of the folder `root`. The names are the usual ones, for a split called `val`:
/// `val_annotations.txt` is Tiny ImageNet's, `LOC_val_solution.csv` that of ImageNet's copy on
/// Kaggle, `val.txt` Caffe's. One beside the folder counts only where images lie directly in it:
/// class folders tell their classes themselves.
pub(crate) fn find(root: &Path) -> Option<PathBuf> {
    let whole = fs::canonicalize(root).ok()?;
    let split = whole.file_name()?.to_string_lossy().into_owned();
    let (own, usual) = files(&split);
    let inside = own.iter().chain(&usual).map(|name| root.join(name)).find(|path| path.is_file());
    inside.or_else(|| {
        let mut entries = fs::read_dir(root).ok()?;
        entries
            .any(|entry| entry.is_ok_and(|entry| is_image(Path::new(&entry.file_name())) && entry.path().is_file()))
            .then_some(())?;
        usual.iter().map(|name| whole.with_file_name(name)).find(|path| path.is_file())
    })
}

/// Files of labels of a split of this name: in its folder, and in or beside it.
fn files(split: &str) -> ([String; 3], [String; 3]) {
    let own = ["txt", "csv", "tsv"].map(|ending| format!("labels.{ending}"));
    (own, [format!("{split}_annotations.txt"), format!("LOC_{split}_solution.csv"), format!("{split}.txt")])
}

/// The error of a folder with images directly in it and neither class folders nor labels.
pub(crate) fn missing(root: &Path, images: usize) -> Error {
    let whole = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let (own, usual) = files(&whole.file_name().unwrap_or_default().to_string_lossy());
    let files = format!(
        "{} in that folder, or {} in or beside it (docs/data.md has the forms)",
        own.join(", "),
        usual.join(", ")
    );
    Error::LooseImages { path: root.to_owned(), images, files }
}

/// The labels of a file by image, each with its line.
struct Labels<'a> {
    file: &'a Path,
    by_image: HashMap<&'a str, (&'a str, usize)>,
    first: &'a str,
}

impl<'a> Labels<'a> {
    /// One image a line: its name or path, then its class and whatever follows. Tabs separate them
    /// if there are any, else commas, else spaces, so that names with spaces are possible.
    fn of(file: &'a Path, text: &'a str) -> Result<Self> {
        let text = text.trim_start_matches('\u{feff}');
        let separator = ['\t', ','].into_iter().find(|&separator| text.contains(separator)).unwrap_or(' ');
        let mut labels = Self { file, by_image: HashMap::new(), first: "" };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let (image, rest) = line.trim().split_once(separator).unwrap_or((line, ""));
            let label = if separator == ' ' { rest } else { rest.split(separator).next().unwrap_or_default() };
            let image = image.trim();
            let label = label.trim();
            let line_number = number + 1;
            if image.is_empty() || label.is_empty() {
                return Err(Error::BadLabel { path: file.to_owned(), line: line_number, text: line.to_owned() });
            }
            let heading = ["imageid", "image", "name", "filename", "file"].contains(&&*image.to_ascii_lowercase());
            if number == 0 && heading {
                continue;
            }
            if labels.by_image.insert(image, (label, line_number)).is_some() {
                return Err(Error::LabeledTwice { path: file.to_owned(), line: line_number, image: image.to_owned() });
            }
            labels.first = if labels.first.is_empty() { image } else { labels.first };
        }
        Ok(labels)
    }

    /// The classes that are named, in natural order.
    fn classes(&self) -> Vec<String> {
        let mut names: Vec<&str> = self.by_image.values().map(|(label, _)| *label).collect();
        names.sort_by(|a, b| class_order(a, b));
        names.dedup();
        names.into_iter().map(str::to_owned).collect()
    }

    /// Takes out the label of the image at `path` below the split's folder: by that path, else by
    /// its name, both with and without their ending.
    fn take(&mut self, path: &Path) -> Option<(&'a str, usize)> {
        let stem = path.with_extension("");
        let name = path.file_name().map(Path::new);
        let keys = [Some(path), Some(&stem), name, path.file_stem().map(Path::new)];
        keys.into_iter().flatten().filter_map(Path::to_str).find_map(|key| self.by_image.remove(key))
    }
}

/// Indexes the images below `root` by the labels in `file`: classes by name or as numbers in the
/// order of the classes, which are those of the training split, if given, else all that the file
/// names.
pub(crate) fn open(root: &Path, file: &Path, classes: Option<&[String]>) -> Result<Split> {
    let text = fs::read_to_string(file).map_err(|source| Error::Read { path: file.to_owned(), source })?;
    let mut labels = Labels::of(file, &text)?;
    let classes = classes.map_or_else(|| labels.classes(), <[String]>::to_vec);
    let by_name: HashMap<&str, u32> = classes.iter().enumerate().map(|(label, name)| (&**name, label as u32)).collect();
    let class = |label: &str| {
        let number = |text: &str| text.parse().ok().filter(|&number: &u32| (number as usize) < classes.len());
        // Kaggle's solution has boxes behind the class.
        let word = label.split_whitespace().next().unwrap_or(label);
        by_name.get(label).or_else(|| by_name.get(word)).copied().or_else(|| number(word))
    };

    let mut images = Vec::new();
    let mut ignored = 0;
    for entry in walk::entries(root, WalkDir::new(root).sort_by_file_name()) {
        let Some(entry) = entry? else {
            ignored += 1;
            continue;
        };
        if entry.file_type().is_dir() || entry.path() == file {
            continue;
        }
        let below = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_owned();
        let usable = entry.file_type().is_file() && is_image(&below);
        match labels.take(&below).filter(|_| usable) {
            None => ignored += 1,
            Some((label, line)) => {
                let unknown = || Error::UnknownClass {
                    path: file.to_owned(),
                    line,
                    class: label.to_owned(),
                    classes: classes.len(),
                    alike: look_alike(label, &classes).unwrap_or_default(),
                };
                images.push((below, class(label).ok_or_else(unknown)?));
            }
        }
    }
    if images.is_empty() {
        let path = labels.file.to_owned();
        let root = root.to_owned();
        let first = labels.first.to_owned();
        return Err(Error::NoLabelMatches { path, root, first });
    }
    if let Some(image) = labels.by_image.into_keys().min() {
        return Err(Error::LabeledImageMissing {
            path: file.to_owned(),
            image: image.to_owned(),
            root: root.to_owned(),
        });
    }
    images.sort_by(|a, b| natural_order(a.0.as_os_str().as_encoded_bytes(), b.0.as_os_str().as_encoded_bytes()));
    let mut names = Names::default();
    images.iter().for_each(|(path, _)| names.push(path));
    let labels = images.into_iter().map(|(_, label)| label).collect();
    Ok(Split { root: root.to_owned(), classes, labels, names, shards: None, ignored, loose: 0 })
}
