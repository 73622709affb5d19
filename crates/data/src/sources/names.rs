//! The names of a million images.

use std::ffi::OsStr;
use std::path::Path;

/// Many short names in one piece of memory: a path of its own for each of a million images would
/// cost more than the images' labels, offsets and order together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// One name after the other.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u64>,
}

impl Names {
    pub(crate) fn push(&mut self, name: &Path) {
        self.bytes.extend_from_slice(name.as_os_str().as_encoded_bytes());
        self.ends.push(self.bytes.len() as u64);
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        let start = self.bytes.len() as u64;
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| start + end));
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn get(&self, number: usize) -> &Path {
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        path(&self.bytes[start as usize..self.ends[number] as usize])
    }

    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// The names as they lie in memory and their ends.
    pub(crate) fn parts(&self) -> (&[u8], &[u64]) {
        (&self.bytes, &self.ends)
    }

    /// Of [`Self::parts`]; `None` if the ends do not fit the bytes.
    pub(crate) fn from_parts(bytes: Vec<u8>, ends: Vec<u64>) -> Option<Self> {
        let fit = ends.is_sorted() && ends.last().copied().unwrap_or(0) == bytes.len() as u64;
        fit.then_some(Self { bytes, ends })
    }
}

#[cfg(unix)]
fn path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(OsStr::from_bytes(bytes))
}

#[cfg(not(unix))]
fn path(bytes: &[u8]) -> &Path {
    // Names that are no text cannot be told from others here; they will not be found.
    Path::new(OsStr::new(std::str::from_utf8(bytes).unwrap_or_default()))
}
