//! The Gumbel-max trick with a straight-through gradient.
//!
//! With G = −log(−log U), U uniform in (0, 1), the larger of `closed + G₀` and `open + G₁` is
//! "open" with probability softmax(closed, open)₁ (Gumbel 1954; Jang et al. 2017, eq. 1). The
//! forward value is that hard choice; the gradient is the one of softmax((logits + G) /
//! temperature).

use crate::error::{Error, Result};
use tch::Tensor;

/// Largest float32 below 1.
const BELOW_ONE: f64 = 1.0 - f32::EPSILON as f64 / 2.0;

/// Standard Gumbel noise −log(−log u) from uniform values, elementwise.
///
/// Finite for every `u` in [0, 1], the ends included: `u` is first moved to the nearest float32
/// strictly inside, which bounds the noise by −4.5 and 16.7.
///
/// # Errors
/// If libtorch refuses the tensor.
pub fn gumbel(uniform: &Tensor) -> Result<Tensor> {
    let inside = uniform.f_clamp(f64::from(f32::MIN_POSITIVE), BELOW_ONE)?;
    Ok(inside.f_log()?.f_neg()?.f_log()?.f_neg()?)
}

/// Samples gate values from `logits` with noise that is a function of `seed` alone, the same on
/// every device; see [`sample_with`].
///
/// # Errors
/// As [`sample_with`].
pub fn sample(logits: &Tensor, temperature: f64, seed: u64) -> Result<Tensor> {
    let uniform = torch_ext::to_device(&torch_ext::uniform(&logits.size(), seed)?, logits.device())?;
    sample_with(logits, &uniform, temperature)
}

/// Samples gate values from `logits` [N, n, 2] (closed, open) with the noise of `uniform` [N, n,
/// 2].
///
/// Returns [N, n]: exactly 0 (closed) or 1 (open), with the gradient of the softmax: for p the
/// softmax probability of "open" with the noise added, ∂gate value/∂open = p(1 − p) / temperature
/// and ∂gate value/∂closed its negative.
///
/// # Errors
/// If the shapes are others.
pub fn sample_with(logits: &Tensor, uniform: &Tensor, temperature: f64) -> Result<Tensor> {
    straight_through(&margin(&logits.f_add(&gumbel(uniform)?)?)?, temperature)
}

/// The decision without noise, open if that is more probable, for `logits` [N, n, 2]: [N, n],
/// exactly 0 or 1 as [`crate::Policy::Argmax`] decides, but with the straight-through gradient of
/// [`sample_with`]. An activation loss on these gate values pulls on what a deployed network will
/// do.
///
/// # Errors
/// If the shape is another.
pub fn decide(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    straight_through(&margin(logits)?, temperature)
}

/// Value: 1 where `margin` is above 0, else 0. Gradient: that of sigmoid(margin / temperature),
/// which is the softmax over two choices as a function of their difference.
fn straight_through(margin: &Tensor, temperature: f64) -> Result<Tensor> {
    let soft = margin.f_divide_scalar(temperature)?.f_sigmoid()?;
    let hard = margin.f_gt(0.0)?.f_to_kind(soft.kind())?;
    // soft − soft is exactly 0, so the value is exactly `hard`.
    Ok(soft.f_sub(&soft.f_detach()?)?.f_add(&hard)?)
}

/// The probability of "open", softmax(logits)₁, for `logits` [N, n, 2]: [N, n].
///
/// # Errors
/// If the shape is another.
pub fn probability(logits: &Tensor) -> Result<Tensor> {
    Ok(margin(logits)?.f_sigmoid()?)
}

/// Open minus closed, for `logits` [N, n, 2]: [N, n]. A gate's probability of "open" is the sigmoid
/// of its margin.
///
/// # Errors
/// If the shape is another.
pub fn margin(logits: &Tensor) -> Result<Tensor> {
    let size = logits.size();
    if size.len() != 3 || size[2] != 2 {
        return Err(Error::Shape { what: "gate logits", expected: "[N, n, 2]", found: size });
    }
    Ok(logits.f_select(2, 1)?.f_sub(&logits.f_select(2, 0)?)?)
}
