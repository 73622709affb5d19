use crate::error::Result;
use data::Batch;
use tch::{Device, Tensor};
use torch_ext::to_device;

/// A batch's images [N, 3, size, size], channels last in memory, and labels `[N]`, on `device`.
///
/// # Errors
/// If libtorch cannot make the tensors.
pub fn to_tensors(batch: &Batch, size: u32, device: Device) -> Result<(Tensor, Tensor)> {
    let (count, size) = (batch.labels.len() as i64, i64::from(size));
    let images = to_device(&Tensor::f_from_slice(&batch.pixels)?.f_view([count, size, size, 3])?, device)?;
    Ok((images.f_permute([0, 3, 1, 2])?, to_device(&Tensor::f_from_slice(&batch.labels)?, device)?))
}
