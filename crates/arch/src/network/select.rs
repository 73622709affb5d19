//! Some channels and images of features, in their memory layout.

use crate::error::Result;
use crate::spec::Channels;
use tch::{Device, Tensor};

/// Positions as an index for libtorch.
pub(crate) fn positions(numbers: &[usize], device: Device) -> Result<Tensor> {
    let numbers: Vec<i64> = numbers.iter().map(|&number| number as i64).collect();
    Ok(Tensor::f_from_slice(&numbers)?.f_to_device(device)?)
}

/// Some channels of `input` [N, C, H, W], in its memory layout.
pub(super) fn select(input: &Tensor, channels: Option<&Channels>) -> Result<Tensor> {
    let Some(channels) = channels else { return Ok(input.shallow_clone()) };
    let run = |&(first, count): &(usize, usize)| input.f_narrow(1, first as i64, count as i64);
    let runs = channels.runs().iter().map(run).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Tensor::f_cat(&runs, 1)?)
}

/// Some images of `input` [N, C, H, W], in its memory layout.
pub(super) fn select_rows(input: &Tensor, rows: &Tensor) -> Result<Tensor> {
    if is_channels_last(input) {
        let selected = input.f_permute([0, 2, 3, 1])?.f_index_select(0, rows)?;
        return Ok(selected.f_permute([0, 3, 1, 2])?);
    }
    Ok(input.f_index_select(0, rows)?)
}

/// A copy in the same memory layout.
pub(crate) fn copy(input: &Tensor) -> Result<Tensor> {
    // Cloning preserves strides, which an out-of-place addition of nothing does too, with a
    // gradient.
    Ok(input.f_add_scalar(0.0)?)
}

/// Whether neighboring channels of a pixel are neighbors in memory.
fn is_channels_last(input: &Tensor) -> bool {
    input.stride().get(1) == Some(&1) && input.size().get(1).is_some_and(|&channels| channels > 1)
}
