//! Activation losses: how far the gates are from the compute they were given.

use crate::error::{Error, Result};
use crate::gate_values::GateValues;
use crate::sampling;
use tch::{Kind, Tensor};

/// Which side of a target is a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sides {
    /// Spending less than the target is a loss as spending more is: (t − a)².
    Both,
    /// Only spending more is: (a − t)² while a > t, else 0.
    Above,
}

/// The per-gate loss of adaptive inference graphs (ECCV 2018, eq. 5): the mean over gates l of (tₗ
/// − mean over the batch of gate l)², a scalar tensor. `weights` makes it a weighted mean, for
/// example by the multiply-accumulates behind each gate.
///
/// # Errors
/// If there are no gates, or not one target and weight per gate.
pub fn per_gate(gate_values: &GateValues, targets: &[f64], weights: Option<&[f64]>, sides: Sides) -> Result<Tensor> {
    let rates = gate_values.rates()?;
    for values in [Some(targets), weights].into_iter().flatten() {
        if rates.numel() != values.len() {
            return Err(Error::ValueCount { values: values.len(), gates: rates.numel() });
        }
    }
    let on_device = |values: &[f64]| -> Result<Tensor> {
        let values = Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?;
        Ok(torch_ext::to_device(&values, rates.device())?)
    };
    let losses = squared(&rates.f_sub(&on_device(targets)?)?, sides)?;
    match weights {
        None => Ok(losses.f_mean(Kind::Float)?),
        Some(weights) => {
            let sum: f64 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
            Ok(losses.f_mul(&on_device(&shares)?)?.f_sum(Kind::Float)?)
        }
    }
}

/// The batch activation loss (ECCV 2020, section 3.2): (t − a)², a scalar tensor.
///
/// `activation` is a scalar tensor: the open rate ([`GateValues::mean`]), or the share of the gated
/// multiply-accumulates that was used. Only the batch as a whole is held to the target, so gates
/// and images are free to differ.
///
/// # Errors
/// If libtorch refuses the tensor.
pub fn batch(activation: &Tensor, target: f64, sides: Sides) -> Result<Tensor> {
    squared(&activation.f_sub_scalar(target)?, sides)
}

/// How undecided gates are: the mean over gates and batch of p(1 − p) for p the probability of
/// "open", a scalar tensor between 0 and ¼. A gate that sampling and argmax treat alike has p near
/// 0 or 1. `logits` holds [N, n, 2] for each site.
///
/// # Errors
/// If there are no gates, or the shape is another.
pub fn indecision(logits: &[Tensor]) -> Result<Tensor> {
    if logits.is_empty() {
        return Err(Error::NoGates);
    }
    let sites = logits.iter().map(sampling::probability).collect::<Result<Vec<_>>>()?;
    let open = Tensor::f_cat(&sites, 1)?;
    Ok(open.f_mul(&open.f_neg()?.f_add_scalar(1.0)?)?.f_mean(Kind::Float)?)
}

fn squared(excess: &Tensor, sides: Sides) -> Result<Tensor> {
    Ok(match sides {
        Sides::Both => excess.f_square()?,
        Sides::Above => excess.f_relu()?.f_square()?,
    })
}
