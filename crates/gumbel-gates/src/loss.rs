//! Activation losses: how far the gates are from the compute they were given.

use crate::error::{Error, Result};
use crate::openings::Openings;
use tch::{Kind, Tensor};

/// The per-gate loss of adaptive inference graphs (ECCV 2018, eq. 5): the mean over gates of (tₗ − mean over the batch of gate
/// l)², a scalar tensor.
///
/// # Errors
/// If there are no gates, or not one target per gate.
pub fn per_gate(openings: &Openings, targets: &[f64]) -> Result<Tensor> {
    let rates = openings.rates()?;
    if rates.numel() != targets.len() {
        return Err(Error::TargetCount { targets: targets.len(), gates: rates.numel() });
    }
    let targets = Tensor::f_from_slice(targets)?.f_to_device(rates.device())?.f_to_kind(Kind::Float)?;
    Ok(rates.f_sub(&targets)?.f_square()?.f_mean(Kind::Float)?)
}

/// The batch activation loss (ECCV 2020, section 3.2): (t − a)², a scalar tensor.
///
/// `activation` is a scalar tensor: the mean opening ([`Openings::mean`]), or the share of the gated multiply-accumulates
/// that was used. Only the batch as a whole is held to the target, so gates and images are free to differ.
///
/// # Errors
/// If libtorch refuses the tensor.
pub fn batch(activation: &Tensor, target: f64) -> Result<Tensor> {
    Ok(activation.f_sub_scalar(target)?.f_square()?)
}
