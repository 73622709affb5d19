//! State dicts: named tensors in a file.
//!
//! Two formats are read, told apart by their first bytes: safetensors, and the zip files that `torch.save` writes. A pickle is
//! read as data: nothing in it is ever executed.

mod pickle;
pub mod safetensors;
mod torch_zip;

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Named tensors as they were found in a file, on the CPU.
#[derive(Debug)]
pub struct StateDict {
    /// The file they came from.
    pub origin: PathBuf,
    /// Name and tensor, in the file's order.
    pub tensors: Vec<(String, Tensor)>,
}

impl StateDict {
    /// Reads a `.safetensors` or a `.pth` file, whichever it turns out to be.
    ///
    /// # Errors
    /// If the file cannot be read, is of another format, or is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_file(path)?;
        let format = |reason: String| Error::Format { path: path.to_owned(), reason };
        let tensors = match bytes.as_slice() {
            [] => Err("the file is empty".to_owned()),
            [b'P', b'K', 3, 4, ..] => torch_zip::read(&bytes),
            [0x80, ..] => {
                Err("it is in PyTorch's older pickle format; load it in Python and torch.save it again".to_owned())
            }
            _ => safetensors::parse(&bytes).map(|file| file.tensors),
        };
        Ok(Self { origin: path.to_owned(), tensors: tensors.map_err(format)? })
    }
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}
