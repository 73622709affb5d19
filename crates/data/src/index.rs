//! What lies in a folder of images.

use crate::error::{Error, Result};
use rayon::prelude::*;
use std::cmp::Ordering;
use std::fs;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// File name endings of images, compared without regard to case. torchvision's list.
pub const IMAGE_ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp"];

/// One image file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it lies.
    pub path: PathBuf,
    /// Position in [`Split::classes`].
    pub class: usize,
}

/// A folder of class folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The folder.
    pub root: PathBuf,
    /// Class folder names in natural order (`n2` before `n10`).
    pub classes: Vec<String>,
    /// Every image, by class, then in natural order of its path.
    pub items: Vec<Item>,
    /// Files in class folders that do not end like an image, which are left out.
    pub ignored: usize,
}

/// A training and a validation split with the same classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// `train/`
    pub train: Split,
    /// `val/`
    pub val: Split,
}

impl Dataset {
    /// Indexes `root/train` and `root/val`.
    ///
    /// # Errors
    /// If a split is missing or empty, or a class is in one split only.
    pub fn open(root: &Path) -> Result<Self> {
        let open = |split: &'static str| {
            let path = root.join(split);
            // A missing root reads better as itself than as a missing split.
            fs::metadata(root).map_err(|source| Error::Read { path: root.to_owned(), source })?;
            if path.is_dir() { Split::open(&path) } else { Err(Error::NoSplit { root: root.to_owned(), split }) }
        };
        let (train, val) = (open("train")?, open("val")?);
        let only = |a: &Split, b: &Split| -> Vec<String> {
            a.classes.iter().filter(|class| !b.classes.contains(class)).cloned().collect()
        };
        let (only_train, only_val) = (only(&train, &val), only(&val, &train));
        if !only_train.is_empty() || !only_val.is_empty() {
            return Err(Error::ClassesDiffer { root: root.to_owned(), only_train, only_val });
        }
        Ok(Self { train, val })
    }

    /// Class names, by label.
    pub fn classes(&self) -> &[String] {
        &self.train.classes
    }
}

impl Split {
    /// Indexes a folder of class folders. Images may lie deeper inside a class folder; links are followed; names that start
    /// with a dot are left out.
    ///
    /// # Errors
    /// If the folder cannot be read, or it or a class holds no images.
    pub fn open(root: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: root.to_owned(), source };
        let mut classes = Vec::new();
        for entry in fs::read_dir(root).map_err(read)? {
            let entry = entry.map_err(read)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && entry.path().is_dir() {
                classes.push((name, entry.path()));
            }
        }
        classes.sort_by(|a, b| natural_order(&a.0, &b.0));
        let found = classes.par_iter().map(|(_, path)| class_images(path)).collect::<Result<Vec<_>>>()?;

        if found.iter().all(|(images, _)| images.is_empty()) {
            return Err(Error::NoImages { path: root.to_owned() });
        }
        let empty = found.iter().zip(&classes).filter(|((images, _), _)| images.is_empty());
        let empty: Vec<String> = empty.map(|(_, (_, path))| path.display().to_string()).collect();
        if !empty.is_empty() {
            return Err(Error::EmptyClasses { classes: empty });
        }
        let ignored = found.iter().map(|(_, ignored)| ignored).sum();
        let items = found
            .into_iter()
            .enumerate()
            .flat_map(|(class, (images, _))| images.into_iter().map(move |path| Item { path, class }))
            .collect();
        Ok(Self { root: root.to_owned(), classes: classes.into_iter().map(|(name, _)| name).collect(), items, ignored })
    }

    /// A fingerprint of the images' names below the split's folder, in order: FNV-1a, so it stays the same everywhere.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for item in &self.items {
            let name = item.path.strip_prefix(&self.root).unwrap_or(&item.path).to_string_lossy();
            for byte in name.bytes().chain([0]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        hash
    }

    /// Number of images per class, by label.
    pub fn images_per_class(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes.len()];
        for item in &self.items {
            counts[item.class] += 1;
        }
        counts
    }
}

/// The images below a class folder in natural order, and the number of other files.
fn class_images(folder: &Path) -> Result<(Vec<PathBuf>, usize)> {
    let (mut images, mut ignored) = (Vec::new(), 0);
    let hidden = |entry: &walkdir::DirEntry| entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.');
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(|entry| !hidden(entry)) {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) if is_image(entry.path()) => images.push(entry.into_path()),
            Ok(_) => ignored += 1,
            // A link that loops or points nowhere is no image.
            Err(error) if error.loop_ancestor().is_some() || error.path().is_some_and(Path::is_symlink) => ignored += 1,
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                return Err(Error::Read { path, source: error.into() });
            }
        }
    }
    images.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
    Ok((images, ignored))
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| IMAGE_ENDINGS.contains(&ending.as_str()))
}

/// Compares runs of digits by their value and everything else byte by byte; equal values by plain order, so that no two
/// different names are equal.
fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a.as_bytes(), b.as_bytes());
    while let (Some(&first_a), Some(&first_b)) = (rest_a.first(), rest_b.first()) {
        if first_a.is_ascii_digit() && first_b.is_ascii_digit() {
            let (digits_a, digits_b) = (take_digits(&mut rest_a), take_digits(&mut rest_b));
            match digits_a.len().cmp(&digits_b.len()).then_with(|| digits_a.cmp(digits_b)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        } else if first_a == first_b {
            (rest_a, rest_b) = (&rest_a[1..], &rest_b[1..]);
        } else {
            return first_a.cmp(&first_b);
        }
    }
    rest_a.len().cmp(&rest_b.len()).then_with(|| a.cmp(b))
}

/// Takes a run of digits off the front; returns it without leading zeros.
fn take_digits<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    *rest = after;
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["n10", "n9", "n010", "n1", "m", "n1b", "n", "n99999999999999999999999", "n2"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["m", "n", "n1", "n1b", "n2", "n9", "n010", "n10", "n99999999999999999999999"]);
    }
}
