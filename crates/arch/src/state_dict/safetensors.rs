//! Safetensors files, with their free-text metadata; [`super::StateDict::read`] reads them.

use crate::error::Result;
use ::safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// Tensors in the file's order, and metadata.
type Contents = (Vec<(String, Tensor)>, HashMap<String, String>);

pub(super) fn parse(bytes: &[u8]) -> std::result::Result<Contents, String> {
    let damaged = |error| format!("neither a file of torch.save nor an intact safetensors file ({error})");
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut tensors = Vec::with_capacity(file.len());
    for name in header.offset_keys() {
        let view = file.tensor(&name).map_err(damaged)?;
        let kind =
            kind(view.dtype()).ok_or_else(|| format!("tensor '{name}' has the unsupported type {:?}", view.dtype()))?;
        let shape = shape(view.shape())
            .ok_or_else(|| format!("tensor '{name}' has the impossible shape {:?}", view.shape()))?;
        let tensor =
            Tensor::f_from_data_size(view.data(), &shape, kind).map_err(|error| format!("tensor '{name}': {error}"))?;
        tensors.push((name, tensor));
    }
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

/// The bytes of a safetensors file with one metadata entry. Equal content gives equal bytes.
///
/// # Errors
/// If a tensor's type has no place in the format.
pub fn to_bytes<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: (&str, String),
) -> Result<Vec<u8>> {
    let mut contents = Vec::new();
    for (name, tensor) in tensors {
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let kind = tensor.kind();
        let dtype = dtype(kind).ok_or_else(|| tch::TchError::Kind(format!("{kind:?} cannot be saved ('{name}')")))?;
        let mut bytes = vec![0; tensor.numel() * kind.elt_size_in_bytes()];
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        let shape: Vec<usize> = tensor.size().into_iter().map(|size| size as usize).collect();
        contents.push((name, dtype, shape, bytes));
    }
    let mut views = Vec::with_capacity(contents.len());
    for (name, dtype, shape, bytes) in &contents {
        let view = TensorView::new(*dtype, shape.clone(), bytes)
            .map_err(|error| tch::TchError::Convert(format!("'{name}': {error}")))?;
        views.push((*name, view));
    }
    let metadata = HashMap::from([(metadata.0.to_owned(), metadata.1)]);
    ::safetensors::serialize(views, Some(metadata))
        .map_err(|error| tch::TchError::Convert(format!("safetensors: {error}")).into())
}

/// A tensor's shape, if its number of elements fits an address.
fn shape(sizes: &[usize]) -> Option<Vec<i64>> {
    sizes.iter().try_fold(1i64, |product, &size| product.checked_mul(i64::try_from(size).ok()?))?;
    sizes.iter().map(|&size| i64::try_from(size).ok()).collect()
}

const KINDS: [(Dtype, Kind); 9] = [
    (Dtype::F32, Kind::Float),
    (Dtype::F16, Kind::Half),
    (Dtype::BF16, Kind::BFloat16),
    (Dtype::F64, Kind::Double),
    (Dtype::I64, Kind::Int64),
    (Dtype::I32, Kind::Int),
    (Dtype::I16, Kind::Int16),
    (Dtype::U8, Kind::Uint8),
    (Dtype::BOOL, Kind::Bool),
];

fn kind(dtype: Dtype) -> Option<Kind> {
    KINDS.iter().find(|(known, _)| *known == dtype).map(|&(_, kind)| kind)
}

fn dtype(kind: Kind) -> Option<Dtype> {
    KINDS.iter().find(|(_, known)| *known == kind).map(|&(dtype, _)| dtype)
}
