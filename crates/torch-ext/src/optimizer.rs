//! Steps of optimizers, norms and averages over many tensors in one call.

use crate::error::{Error, Result, check};
use std::ffi::c_char;
use tch::Tensor;

/// The numbers of one step of stochastic gradient descent, as in `torch.optim.SGD` with dampening
/// 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Momentum; buffers start at zero.
    pub momentum: f64,
    /// Weight decay added to the gradient.
    pub weight_decay: f64,
    /// Nesterov momentum.
    pub nesterov: bool,
}

/// The numbers of one step of Adam with decoupled weight decay (Loshchilov and Hutter 2019), as in
/// `torch.optim.AdamW`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// How much of the running means of the gradient and of its square stays.
    pub betas: [f64; 2],
    /// Weight decay: the parameter shrinks by this times the learning rate.
    pub weight_decay: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
}

/// The gradients of one step.
#[derive(Debug, Clone, Copy)]
pub struct Gradients<'a> {
    /// One per parameter.
    pub values: &'a [Tensor],
    /// What they were multiplied by, float32 scalar: the step divides by it. Absent: nothing.
    pub scale: Option<&'a Tensor>,
    /// Float32 scalar: if it is 1, nothing changes. The host does not wait to know. Absent: never.
    pub skip: Option<&'a Tensor>,
}

impl<'a> From<&'a [Tensor]> for Gradients<'a> {
    fn from(values: &'a [Tensor]) -> Self {
        Self { values, scale: None, skip: None }
    }
}

unsafe extern "C" {
    fn torch_ext_norm(
        tensors: *const *const torch_sys::C_tensor,
        count: usize,
        result: *mut *mut torch_sys::C_tensor,
    ) -> *mut c_char;
    fn torch_ext_lerp(
        tensors: *const *const torch_sys::C_tensor,
        ends: *const *const torch_sys::C_tensor,
        count: usize,
        weight: f64,
    ) -> *mut c_char;
    fn torch_ext_fused_adamw(
        parameters: *const *const torch_sys::C_tensor,
        gradients: *const *const torch_sys::C_tensor,
        means: *const *const torch_sys::C_tensor,
        squares: *const *const torch_sys::C_tensor,
        count: usize,
        number: *const torch_sys::C_tensor,
        scale: *const torch_sys::C_tensor,
        skip: *const torch_sys::C_tensor,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
    fn torch_ext_fused_sgd(
        parameters: *const *const torch_sys::C_tensor,
        gradients: *const *const torch_sys::C_tensor,
        momenta: *const *const torch_sys::C_tensor,
        count: usize,
        scale: *const torch_sys::C_tensor,
        skip: *const torch_sys::C_tensor,
        learning_rate: f64,
        momentum: f64,
        weight_decay: f64,
        nesterov: bool,
    ) -> *mut c_char;
}

/// Updates `parameters` and `momenta` in place: `torch._fused_sgd_`, one kernel per device for all
/// of them.
///
/// Element i of each list belongs together: same shape, device and kind. Call it under
/// [`tch::no_grad`].
///
/// # Errors
/// If the lists differ in length, or libtorch refuses the tensors.
pub fn fused_sgd(parameters: &[Tensor], gradients: Gradients, momenta: &[Tensor], step: &SgdStep) -> Result<()> {
    refuse_unlike(parameters, &[("gradients", "gradient", gradients.values), ("momenta", "momentum", momenta)])?;
    if parameters.is_empty() {
        return Ok(());
    }
    let count = parameters.len();
    let (scale, skip) = (pointer(gradients.scale), pointer(gradients.skip));
    let parameters = pointers(parameters);
    let gradients = pointers(gradients.values);
    let momenta = pointers(momenta);
    // SAFETY: three arrays of `count` valid tensor pointers, and two pointers that are valid or
    // null; all outlive the call, and the shim keeps none of them.
    check(unsafe {
        torch_ext_fused_sgd(
            parameters.as_ptr(),
            gradients.as_ptr(),
            momenta.as_ptr(),
            count,
            scale,
            skip,
            step.learning_rate,
            step.momentum,
            step.weight_decay,
            step.nesterov,
        )
    })
}

/// Updates `parameters` and the running means of their gradients and squared gradients in place:
/// `torch._fused_adamw_`, one kernel per device for all of them.
///
/// Element i of each list belongs together: same shape, device and kind. `number` is that of the
/// step, from 1, a float32 scalar on their device: the first means are corrected for having started
/// at zero. Call it under [`tch::no_grad`].
///
/// # Errors
/// If the lists differ in length, or libtorch refuses the tensors.
pub fn fused_adamw(
    parameters: &[Tensor],
    gradients: Gradients,
    means: &[Tensor],
    squares: &[Tensor],
    number: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let lists =
        [("gradients", "gradient", gradients.values), ("means", "mean", means), ("squares", "mean square", squares)];
    refuse_unlike(parameters, &lists)?;
    if parameters.is_empty() {
        return Ok(());
    }
    let count = parameters.len();
    let (scale, skip) = (pointer(gradients.scale), pointer(gradients.skip));
    let [parameters, gradients, means, squares] = [parameters, gradients.values, means, squares].map(pointers);
    // SAFETY: four arrays of `count` valid tensor pointers, a valid pointer, and two that are valid
    // or null; all outlive the call, and the shim keeps none of them.
    check(unsafe {
        torch_ext_fused_adamw(
            parameters.as_ptr(),
            gradients.as_ptr(),
            means.as_ptr(),
            squares.as_ptr(),
            count,
            number.as_ptr(),
            scale,
            skip,
            step.learning_rate,
            step.betas[0],
            step.betas[1],
            step.weight_decay,
            step.epsilon,
        )
    })
}

/// The Euclidean norm of all `tensors` together, a scalar tensor on their device. It is a finite
/// number only if all their values are.
///
/// # Errors
/// If there are none, or libtorch refuses them.
pub fn norm(tensors: &[Tensor]) -> Result<Tensor> {
    let pointers = pointers(tensors);
    let mut result = std::ptr::null_mut();
    // SAFETY: an array of valid tensor pointers that outlives the call; on success the result is a
    // tensor of our own.
    check(unsafe { torch_ext_norm(pointers.as_ptr(), pointers.len(), &raw mut result) })?;
    // SAFETY: the shim made it with new and gave it away.
    Ok(unsafe { Tensor::from_ptr(result) })
}

/// Moves each of `tensors` the share `weight` of its way to that of `ends`, in place: one kernel
/// per device for all of them. Call it under [`tch::no_grad`].
///
/// # Errors
/// If the lists differ in length or shapes.
pub fn lerp(tensors: &[Tensor], ends: &[Tensor], weight: f64) -> Result<()> {
    refuse_unlike(tensors, &[("ends", "end", ends)])?;
    if tensors.is_empty() {
        return Ok(());
    }
    let (tensors, ends) = (pointers(tensors), pointers(ends));
    // SAFETY: two arrays of as many valid tensor pointers that outlive the call; the shim keeps
    // none of them.
    check(unsafe { torch_ext_lerp(tensors.as_ptr(), ends.as_ptr(), tensors.len(), weight) })
}

fn pointer(tensor: Option<&Tensor>) -> *const torch_sys::C_tensor {
    tensor.map_or(std::ptr::null(), Tensor::as_ptr)
}

fn pointers(tensors: &[Tensor]) -> Vec<*const torch_sys::C_tensor> {
    tensors.iter().map(Tensor::as_ptr).collect()
}

/// The CPU kernels walk raw memory: what they are given must really correspond. Lists as (name of
/// all, name of one, tensors).
fn refuse_unlike(parameters: &[Tensor], lists: &[(&'static str, &'static str, &[Tensor])]) -> Result<()> {
    let expected = parameters.len();
    for &(what, _, tensors) in lists {
        if tensors.len() != expected {
            return Err(Error::Count { what, expected, found: tensors.len() });
        }
    }
    for &(_, what, tensors) in lists {
        for (parameter, other) in parameters.iter().zip(tensors) {
            let same = other.defined()
                && layout(other) == layout(parameter)
                && (other.kind(), other.device()) == (parameter.kind(), parameter.device());
            if !same {
                return Err(Error::Unlike { what, parameter: parameter.size() });
            }
        }
    }
    Ok(())
}

/// Sizes, and strides where there is more than one element to stride over.
fn layout(tensor: &Tensor) -> (Vec<i64>, Vec<i64>) {
    let size = tensor.size();
    let strides = tensor.stride().into_iter().zip(&size).filter(|(_, size)| **size > 1).map(|(stride, _)| stride);
    let strides = strides.collect();
    (size, strides)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps by hand: v1 = g, v2 = m·v1 + g; p -= lr·v, with g = gradient + decay·p.
    #[test]
    fn two_steps_equal_the_formula() {
        let parameter = Tensor::from_slice(&[1.0f32, -2.0]);
        let momentum_buffer = Tensor::zeros_like(&parameter);
        let gradient = Tensor::from_slice(&[0.5f32, 0.25]);
        let step = SgdStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.01, nesterov: false };
        let one = |step: &SgdStep| {
            fused_sgd(
                &[parameter.shallow_clone()],
                [gradient.shallow_clone()].as_slice().into(),
                &[momentum_buffer.shallow_clone()],
                step,
            )
            .unwrap();
        };
        one(&step);
        one(&step);

        let (mut p, mut v) = ([1.0f64, -2.0], [0.0f64; 2]);
        for _ in 0..2 {
            for i in 0..2 {
                v[i] = 0.9 * v[i] + [0.5, 0.25][i] + 0.01 * p[i];
                p[i] -= 0.1 * v[i];
            }
        }
        for i in 0..2 {
            assert!((parameter.double_value(&[i as i64]) - p[i]).abs() < 1e-6);
            assert!((momentum_buffer.double_value(&[i as i64]) - v[i]).abs() < 1e-6);
        }
    }

    #[test]
    fn steps_without_momentum_and_with_nesterov_equal_the_formula() {
        // g = 0.5, p = 1: plain p − lr·g; Nesterov from v = 0: v = g, p − lr·(g + m·v).
        for (momentum, nesterov, expected) in [(0.0, false, 0.95), (0.9, true, 1.0 - 0.1 * (0.5 + 0.9 * 0.5))] {
            let parameter = Tensor::from_slice(&[1.0f32]);
            let step = SgdStep { learning_rate: 0.1, momentum, weight_decay: 0.0, nesterov };
            let gradient = Tensor::from_slice(&[0.5f32]);
            fused_sgd(&[parameter.shallow_clone()], [gradient].as_slice().into(), &[parameter.zeros_like()], &step)
                .unwrap();
            assert!((parameter.double_value(&[0]) - expected).abs() < 1e-6);
        }
    }

    /// m = β₁·m + (1 − β₁)·g, v = β₂·v + (1 − β₂)·g²; p ← p − lr·λ·p − lr · m/(1 − β₁ᵗ) / (√(v/(1 −
    /// β₂ᵗ)) + ε).
    #[test]
    fn steps_of_adam_equal_the_formula() {
        let [parameter, mean, square] = [[1.0f32, -2.0], [0.0; 2], [0.0; 2]].map(|values| Tensor::from_slice(&values));
        let (mut p, mut m, mut v) = ([1.0f64, -2.0], [0.0f64; 2], [0.0f64; 2]);
        for (number, gradient) in [(1, [0.5f32, 0.25]), (2, [-0.1, 0.4]), (3, [0.3, 0.0])] {
            let step = AdamWStep { learning_rate: 0.1, betas: [0.9, 0.99], weight_decay: 0.01, epsilon: 1e-3 };
            let [p_, m_, v_] = [&parameter, &mean, &square].map(Tensor::shallow_clone);
            fused_adamw(
                &[p_],
                [Tensor::from_slice(&gradient)].as_slice().into(),
                &[m_],
                &[v_],
                &Tensor::from(number as f32),
                &step,
            )
            .unwrap();
            for i in 0..2 {
                let g = f64::from(gradient[i]);
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.99 * v[i] + 0.01 * g * g;
                p[i] *= 1.0 - 0.1 * 0.01;
                let corrected = (v[i] / (1.0 - 0.99f64.powi(number))).sqrt();
                p[i] -= 0.1 * m[i] / (1.0 - 0.9f64.powi(number)) / (corrected + 1e-3);
                assert!((parameter.double_value(&[i as i64]) - p[i]).abs() < 1e-6, "step {number}");
            }
        }
    }

    #[test]
    fn scaled_gradients_are_divided_and_a_skipped_step_changes_nothing() {
        let values = [Tensor::from_slice(&[8.0f32])];
        let scale = Tensor::from(16.0f32);
        for (skip, expected) in [(0.0f32, 1.0 - 0.1 * 0.5), (1.0, 1.0)] {
            let skip = Tensor::from(skip);
            let gradients = Gradients { values: &values, scale: Some(&scale), skip: Some(&skip) };
            let [p, buffer] = [Tensor::from_slice(&[1.0f32]), Tensor::zeros([1], (tch::Kind::Float, tch::Device::Cpu))];
            let step = SgdStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0, nesterov: false };
            fused_sgd(&[p.shallow_clone()], gradients, &[buffer.shallow_clone()], &step).unwrap();
            assert!((p.double_value(&[0]) - expected).abs() < 1e-6);
            assert_eq!(buffer.double_value(&[0]) == 0.0, skip.double_value(&[]) == 1.0);
            let [p, mean, square] = [[1.0f32], [0.0], [0.0]].map(|value| Tensor::from_slice(&value));
            let values = [Tensor::from_slice(&[8.0f32])];
            let gradients = Gradients { values: &values, ..gradients };
            let step = AdamWStep { learning_rate: 0.1, betas: [0.9, 0.9], weight_decay: 0.0, epsilon: 0.5 };
            let number = 1.0 - &skip;
            fused_adamw(&[p.shallow_clone()], gradients, &[mean.shallow_clone()], &[square], &number, &step).unwrap();
            // The corrected mean is 0.5, the root of the corrected square too.
            let expected = if skip.double_value(&[]) == 1.0 { 1.0 } else { 1.0 - 0.1 * 0.5 };
            assert!((p.double_value(&[0]) - expected).abs() < 1e-6);
            assert_eq!(mean.double_value(&[0]) == 0.0, skip.double_value(&[]) == 1.0);
        }
    }

    #[test]
    fn the_norm_of_several_tensors_is_finite_only_if_all_their_values_are() {
        let of = |second: f32| {
            let tensors = [Tensor::from_slice(&[2.0f32, 3.0]), Tensor::from_slice(&[second, 6.0]).view([1, 2])];
            norm(&tensors).unwrap().double_value(&[])
        };
        assert_eq!(of(0.0), 7.0);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!of(broken).is_finite());
        }
    }

    #[test]
    fn tensors_move_a_share_of_their_way() {
        let [a, b] = [Tensor::from_slice(&[1.0f32, 2.0]), Tensor::from_slice(&[3.0f32, -2.0])];
        lerp(&[a.shallow_clone()], &[b.shallow_clone()], 0.25).unwrap();
        assert_eq!(Vec::<f32>::try_from(&a).unwrap(), [1.5, 1.0]);
        assert!(lerp(&[a], &[], 0.25).is_err());
    }

    #[test]
    fn tensors_that_do_not_correspond_are_refused() {
        let step = SgdStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0, nesterov: false };
        let matrix = Tensor::zeros([2, 3], (tch::Kind::Float, tch::Device::Cpu));
        for gradient in [
            matrix.to_kind(tch::Kind::Double),
            matrix.view([3, 2]),
            Tensor::zeros([3, 2], (tch::Kind::Float, tch::Device::Cpu)).tr(),
            Tensor::new(),
        ] {
            let error = fused_sgd(&[matrix.copy()], [gradient].as_slice().into(), &[matrix.copy()], &step);
            let error = error.unwrap_err().to_string();
            assert!(error.contains("gradient of a parameter of shape [2, 3]"), "{error}");
        }
    }

    #[test]
    fn lists_of_different_length_are_refused() {
        let tensor = Tensor::zeros([1], (tch::Kind::Float, tch::Device::Cpu));
        let step = SgdStep { learning_rate: 0.1, momentum: 0.9, weight_decay: 0.0, nesterov: false };
        let error = fused_sgd(&[tensor.shallow_clone()], [].as_slice().into(), &[tensor], &step).unwrap_err();
        assert_eq!(error.to_string(), "gradients: expected 1 tensors, found 0");
    }
}
