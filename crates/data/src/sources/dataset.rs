//! A data set in a folder: its two splits, and how a split is opened, whatever its layout.

use crate::error::{Error, Result};
use crate::source::Source;
use crate::sources::class_names::look_alikes;
use crate::sources::split::Split;
use crate::sources::{class_folders, kept_index, labels, shards};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A training and a validation split with the same classes.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Of `train/`, if it is one in a folder.
    pub train: Arc<dyn Source>,
    /// Of `val/`.
    pub val: Arc<dyn Source>,
    /// What to know about them, for a log: what was left out.
    pub notes: Vec<String>,
}

impl Dataset {
    /// Indexes `root/train` and `root/val` (also `validation` or `test`). docs/data.md has the
    /// layouts.
    ///
    /// # Errors
    /// If a split is missing or empty, or a class is in one split only.
    pub fn open(root: &Path) -> Result<Self> {
        // A missing root reads better as itself than as a missing split.
        fs::metadata(root).map_err(|source| Error::Read { path: root.to_owned(), source })?;
        let find = |split: &'static str| {
            Split::folder(root, split).ok_or_else(|| Error::NoSplit { root: root.to_owned(), split })
        };
        let (train, val) = (find("train")?, find("val")?);
        let mut train = Split::open(&train)?;
        let mut val = Split::open_with_classes(&val, Some(&train.classes))?;
        unify_numbers(&mut train, &mut val);
        let only = |a: &Split, b: &Split| -> Vec<String> {
            a.classes.iter().filter(|class| !b.classes.contains(class)).cloned().collect()
        };
        if let Some(label) = (0..train.classes.len().max(val.classes.len()))
            .find(|&label| train.classes.get(label) != val.classes.get(label))
        {
            let root = root.to_owned();
            let only_train = only(&train, &val);
            let only_val = only(&val, &train);
            let class = |split: &Split| split.classes.get(label).cloned().unwrap_or_default();
            return Err(match only_train.is_empty() && only_val.is_empty() {
                true => Error::ClassOrder { root, label, train: class(&train), val: class(&val) },
                false => {
                    let alike = look_alikes(&only_train, &only_val);
                    Error::ClassesDiffer { root, only_train, only_val, alike }
                }
            });
        }
        let notes = [&train, &val].into_iter().filter_map(Split::note).collect();
        Ok(Self { train: Arc::new(train), val: Arc::new(val), notes })
    }

    /// Class names, by label.
    pub fn classes(&self) -> &[String] {
        self.train.classes()
    }
}

/// Classes that are only numbers, as shards have them, end with the largest that was met, which can
/// differ between splits.
fn unify_numbers(train: &mut Split, val: &mut Split) {
    let numbered = |split: &Split| {
        split.shards.is_some() && split.classes.iter().enumerate().all(|(label, name)| *name == label.to_string())
    };
    if numbered(train) && numbered(val) {
        let more = train.classes.len().max(val.classes.len());
        for split in [train, val] {
            split.classes = (0..more).map(|label| label.to_string()).collect();
        }
    }
}

impl Split {
    /// Indexes a folder of class folders, of tar shards, or of images with a file of labels
    /// (docs/data.md). Links are followed; names that start with a dot are left out. Large indices
    /// are kept under the user's cache folder and used again as long as no folder changed.
    ///
    /// # Errors
    /// If the folder cannot be read, or it or a class holds no images.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with_classes(root, None)
    }

    /// The folder of the split `name` in a data folder; `val` may also be called `validation` or
    /// `test`.
    pub fn folder(root: &Path, name: &str) -> Option<PathBuf> {
        let others: &[&str] = if name == "val" { &["validation", "test"] } else { &[] };
        [&[name], others].concat().into_iter().map(|name| root.join(name)).find(|path| path.is_dir())
    }

    /// As [`Self::open`]; a file of labels is read by these classes, those of the training split or
    /// of a network, where they are known.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with_classes(root: &Path, classes: Option<&[String]>) -> Result<Self> {
        if let Some(file) = labels::find(root) {
            return labels::open(root, &file, classes);
        }
        // Tar files beside class folders are what those were unpacked from.
        kept_index::cached(root, || match shards::find(root)? {
            _ if class_folders::has_folders(root)? => class_folders::open(root),
            tars if tars.is_empty() => {
                shards::refuse_compressed(root)?;
                class_folders::open(root)
            }
            tars => shards::open(root, tars),
        })
    }
}
