//! Random values that are a function of an explicit seed.

use crate::error::{Result, check};
use std::ffi::c_char;
use tch::Tensor;

unsafe extern "C" {
    fn torch_ext_random(
        size: *const i64,
        dimensions: usize,
        seed: u64,
        normal: bool,
        result: *mut *mut torch_sys::C_tensor,
    ) -> *mut c_char;
}

/// Uniform values in [0, 1): a float32 tensor on the CPU that is a function of shape and seed
/// alone. libtorch's global generator is neither read nor moved.
///
/// # Errors
/// If libtorch cannot make the tensor.
pub fn uniform(shape: &[i64], seed: u64) -> Result<Tensor> {
    draw(shape, seed, false)
}

/// Standard normal values; otherwise as [`uniform`].
///
/// # Errors
/// If libtorch cannot make the tensor.
pub fn normal(shape: &[i64], seed: u64) -> Result<Tensor> {
    draw(shape, seed, true)
}

fn draw(shape: &[i64], seed: u64, normal: bool) -> Result<Tensor> {
    let mut result = std::ptr::null_mut();
    // SAFETY: `shape` outlives the call; on success the shim stores a tensor that is ours to free,
    // which `from_ptr` takes over.
    unsafe {
        check(torch_ext_random(shape.as_ptr(), shape.len(), seed, normal, &mut result))?;
        Ok(Tensor::from_ptr(result))
    }
}

/// A seed for part number `part` of something that has the seed `seed`: SplitMix64's output
/// function over both, so that neighboring numbers give unrelated seeds.
pub fn derive_seed(seed: u64, part: u64) -> u64 {
    let mut z = seed.wrapping_add(part.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn values_are_a_function_of_the_seed() {
        assert_eq!(uniform(&[50], 3).unwrap(), uniform(&[50], 3).unwrap());
        assert_ne!(uniform(&[50], 3).unwrap(), uniform(&[50], 4).unwrap());
        assert!(uniform(&[-1], 3).unwrap_err().to_string().contains("negative dimension"));
    }

    #[test]
    fn values_have_their_distribution() {
        let (uniform, normal) = (uniform(&[100_000], 1).unwrap(), normal(&[100_000], 1).unwrap());
        assert!((uniform.mean(Kind::Double).double_value(&[]) - 0.5).abs() < 0.005);
        assert!(uniform.min().double_value(&[]) >= 0.0 && uniform.max().double_value(&[]) < 1.0);
        assert!(normal.mean(Kind::Double).double_value(&[]).abs() < 0.02);
        assert!((normal.std(false).double_value(&[]) - 1.0).abs() < 0.01);
    }

    #[test]
    fn derived_seeds_differ() {
        let seeds: std::collections::HashSet<u64> =
            (0..100).flat_map(|s| (0..100).map(move |p| derive_seed(s, p))).collect();
        assert_eq!(seeds.len(), 10_000);
    }
}
