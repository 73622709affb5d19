//! State dicts: named tensors in a file.
//!
//! Two formats are read, told apart by their first bytes: safetensors, and the zip files that `torch.save` writes. A pickle is
//! read as data: nothing in it is ever executed.

mod pickle;
pub mod safetensors;
mod torch_zip;

use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Named tensors as they were found in a file, on the CPU.
#[derive(Debug)]
pub struct StateDict {
    /// The file they came from.
    pub origin: PathBuf,
    /// Name and tensor, in the file's order.
    pub tensors: Vec<(String, Tensor)>,
    /// Free text by key, which only safetensors files have.
    pub metadata: HashMap<String, String>,
}

impl StateDict {
    /// Reads a `.safetensors` or a `.pth` file, whichever it turns out to be.
    ///
    /// # Errors
    /// If the file cannot be read, is of another format, or is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let torch = |tensors| (tensors, HashMap::new());
        let contents = match bytes.as_slice() {
            [] => Err("the file is empty".to_owned()),
            // Eight bytes of length, which can be anything, then JSON: told apart first.
            [_, _, _, _, _, _, _, _, b'{', ..] => safetensors::parse(&bytes),
            [b'P', b'K', 3, 4, ..] => torch_zip::read(&bytes).map(torch),
            [0x80, ..] => {
                Err("it is in PyTorch's older pickle format; load it in Python and torch.save it again".to_owned())
            }
            _ => safetensors::parse(&bytes),
        };
        let (tensors, metadata) = contents.map_err(|reason| Error::Format { path: path.to_owned(), reason })?;
        Ok(Self { origin: path.to_owned(), tensors, metadata })
    }
}
