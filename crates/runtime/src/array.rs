//! Numbers between runtimes.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use tch::{Kind, Tensor};

/// A dense array, its last dimension contiguous.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// Extents.
    pub shape: Vec<usize>,
    /// As many as the shape says.
    pub values: Values,
}

/// The elements of an [`Array`].
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// float32
    Floats(Vec<f32>),
    /// uint8
    Bytes(Vec<u8>),
}

/// What an array's file, of plain little-endian numbers, does not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Layout {
    pub shape: Vec<usize>,
    pub bytes: bool,
}

impl Array {
    /// A tensor's values: uint8 as such, others as float32.
    ///
    /// # Errors
    /// If libtorch cannot copy them.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let shape = tensor.size().into_iter().map(|extent| extent as usize).collect();
        let flat = tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_contiguous()?.f_view([-1])?;
        let values = match flat.kind() {
            Kind::Uint8 => Values::Bytes(Vec::try_from(flat)?),
            _ => Values::Floats(Vec::try_from(flat.f_to_kind(Kind::Float)?)?),
        };
        Ok(Self { shape, values })
    }

    /// The same as a tensor.
    ///
    /// # Errors
    /// If the shape does not fit the values.
    pub fn tensor(&self) -> Result<Tensor> {
        let shape: Vec<i64> = self.shape.iter().map(|&extent| extent as i64).collect();
        let flat = match &self.values {
            Values::Floats(values) => Tensor::f_from_slice(values)?,
            Values::Bytes(values) => Tensor::f_from_slice(values)?,
        };
        Ok(flat.f_view(&shape[..])?)
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout { shape: self.shape.clone(), bytes: matches!(self.values, Values::Bytes(_)) }
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let file = |source| Error::File { path: path.to_owned(), source };
        match &self.values {
            Values::Bytes(values) => fs::write(path, values).map_err(file),
            Values::Floats(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                fs::write(path, bytes).map_err(file)
            }
        }
    }

    pub(crate) fn read(path: &Path, layout: &Layout) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let values = match layout.bytes {
            true => Values::Bytes(bytes),
            false => {
                let (numbers, _) = bytes.as_chunks::<4>();
                Values::Floats(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
            }
        };
        Ok(Self { shape: layout.shape.clone(), values })
    }
}
