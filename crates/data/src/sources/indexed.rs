//! What indexing a folder gives: the split, and stamps by which a later start sees whether it
//! still holds.

use crate::sources::split::Split;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A split, and what has to be the same for it to be used again.
pub(crate) struct Indexed {
    pub split: Split,
    pub stamps: Vec<Stamp>,
}

/// When a folder or shard changed last, and a shard's size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Below the split's folder; absent if it is no text.
    path: Option<String>,
    /// Nanoseconds since 1970.
    modified: u64,
    length: u64,
}

impl Stamp {
    /// The stamp of `below`, a folder or file below the split's folder `root`, as it is now.
    pub(crate) fn of(root: &Path, below: &Path) -> Self {
        let found = fs::metadata(root.join(below)).ok();
        let modified = found.as_ref().and_then(|found| found.modified().ok()).map_or(0, nanoseconds);
        let length = found.map_or(0, |found| if found.is_file() { found.len() } else { 0 });
        Self { path: below.to_str().map(str::to_owned), modified, length }
    }

    /// Whether nothing changed since.
    pub(crate) fn still_holds(&self, root: &Path) -> bool {
        self.path.as_ref().is_some_and(|path| Self::of(root, Path::new(path)) == *self)
    }

    /// Whether it has a name that can be written, and did not change at `time` or later.
    pub(crate) fn settled_before(&self, time: SystemTime) -> bool {
        self.path.is_some() && self.modified < nanoseconds(time)
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
