//! State dicts: named tensors in a file.
//!
//! Three formats are read, told apart by their first bytes: safetensors, the zip files that
//! `torch.save` writes, and the pickles that it wrote before PyTorch 1.6. A state dict may lie in a
//! dictionary among other things; where there are several, each tensor's name begins with the names
//! of the dictionaries it lies in. What wrappers such as `DataParallel` and `torch.compile` put
//! before all names is dropped. A pickle is read as data: nothing in it is ever executed.

mod foreign;
mod pickle;
pub mod safetensors;
mod torch_legacy;
mod torch_tensors;
mod torch_zip;
pub(crate) mod wrapped;

pub use torch_zip::to_bytes as torch_bytes;

use self::foreign::name_the_file;
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
        Self::parse(path, &bytes)
    }

    /// Reads the bytes of such a file; `origin` is its name for messages.
    ///
    /// # Errors
    /// If they are of another format or damaged.
    pub fn parse(origin: &Path, bytes: &[u8]) -> Result<Self> {
        let torch = |tensors| (tensors, HashMap::new());
        let contents = match bytes {
            [] => Err("the file is empty".to_owned()),
            // Eight bytes of length, which can be anything, then JSON: told apart first.
            [_, _, _, _, _, _, _, _, b'{', ..] => safetensors::parse(bytes),
            [b'P', b'K', 3, 4, ..] => torch_zip::read(bytes).map(torch),
            _ if torch_legacy::is_legacy(bytes) => torch_legacy::read(bytes).map(torch),
            [0x80, ..] => {
                Err("it is a pickle that torch.save did not write; save it with torch.save(model.state_dict(), …)"
                    .to_owned())
            }
            _ => match foreign::recognize(bytes) {
                Some(what) => Err(what.to_owned()),
                None => safetensors::parse(bytes),
            },
        };
        let (mut tensors, metadata) = contents
            .map_err(|reason| Error::Format { path: origin.to_owned(), reason: name_the_file(&reason, origin) })?;
        wrapped::unwrap(&mut tensors);
        Ok(Self { origin: origin.to_owned(), tensors, metadata })
    }
}
