//! Products, activations, sums and means of features in one pass over memory.

use crate::error::{Result, check};
use std::ffi::c_char;
use tch::Tensor;

unsafe extern "C" {
    fn torch_ext_scale(
        features: *const torch_sys::C_tensor,
        factors: *const torch_sys::C_tensor,
        activation: i64,
        result: *mut *mut torch_sys::C_tensor,
    ) -> *mut c_char;
    fn torch_ext_scaled_sum(
        base: *const torch_sys::C_tensor,
        features: *const torch_sys::C_tensor,
        factors: *const torch_sys::C_tensor,
        activation: i64,
        result: *mut *mut torch_sys::C_tensor,
        means: *mut *mut torch_sys::C_tensor,
    ) -> *mut c_char;
}

/// A function of single values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pointwise {
    /// x
    Identity = 0,
    /// max(x, 0)
    Relu = 1,
    /// min(max(x, 0), 6)
    Relu6 = 2,
}

/// factors · activation(features), for features [N, C, H, W] and factors [N, C], or [N, 1] for all
/// channels of an image alike. In float32 on the CPU with channels last it takes one pass over
/// memory forward and one backward, and keeps the features alone.
///
/// # Errors
/// If the shapes are others.
pub fn scale(features: &Tensor, factors: &Tensor, activation: Pointwise) -> Result<Tensor> {
    let mut result = std::ptr::null_mut();
    // SAFETY: two valid tensors and a result that outlive the call.
    check(unsafe { torch_ext_scale(features.as_ptr(), factors.as_ptr(), activation as i64, &raw mut result) })?;
    // SAFETY: made with new, and ours now.
    Ok(unsafe { Tensor::from_ptr(result) })
}

/// activation(base + factors · features), for base and features [N, C, H, W]; the rest as
/// [`scale`]. Where it takes one pass over memory, the mean of each of its channels comes along,
/// [N, C].
///
/// # Errors
/// If the shapes are others.
pub fn scaled_sum(
    base: &Tensor,
    features: &Tensor,
    factors: &Tensor,
    activation: Pointwise,
) -> Result<(Tensor, Option<Tensor>)> {
    let (base, features, factors) = (base.as_ptr(), features.as_ptr(), factors.as_ptr());
    let mut results = [std::ptr::null_mut(); 2];
    let [sum, means] = &mut results;
    // SAFETY: three valid tensors and two results that outlive the call.
    check(unsafe { torch_ext_scaled_sum(base, features, factors, activation as i64, sum, means) })?;
    let [sum, means] = results;
    // SAFETY: made with new, and ours now.
    let own = |tensor| unsafe { Tensor::from_ptr(tensor) };
    Ok((own(sum), (!means.is_null()).then(|| own(means))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normal;
    use tch::Kind;

    const ALL: [Pointwise; 3] = [Pointwise::Identity, Pointwise::Relu, Pointwise::Relu6];

    fn activated(features: &Tensor, activation: Pointwise) -> Tensor {
        match activation {
            Pointwise::Identity => features.shallow_clone(),
            Pointwise::Relu => features.relu(),
            Pointwise::Relu6 => features.relu6(),
        }
    }

    /// Whole numbers around 0 and 6, many exactly these, channels last.
    fn features(seed: u64) -> Tensor {
        let values: Tensor = normal(&[3, 9, 11, 5], seed).unwrap() * 4.0;
        values.round().permute([0, 3, 1, 2])
    }

    fn close(a: &Tensor, b: &Tensor) {
        let error = (a - b).abs().max().double_value(&[]) / (1.0 + b.abs().max().double_value(&[]));
        assert!(error < 1e-5, "{error}");
    }

    /// Both ways with the same gradient: values, then the gradients of what was given.
    fn compare(given: &[Tensor], fused: impl Fn(&[Tensor]) -> Tensor, composed: impl Fn(&[Tensor]) -> Tensor) {
        let of = |run: &dyn Fn(&[Tensor]) -> Tensor| {
            let given: Vec<Tensor> = given.iter().map(|one| one.detach().set_requires_grad(true)).collect();
            let output = run(&given);
            (&output * normal(&output.size(), 9).unwrap()).sum(Kind::Float).backward();
            let mut found = vec![output.detach()];
            found.extend(given.iter().map(Tensor::grad));
            found
        };
        for (found, expected) in of(&fused).iter().zip(&of(&composed)) {
            close(found, expected);
        }
    }

    #[test]
    fn values_and_gradients_equal_those_of_the_single_operations() {
        for width in [1, 5] {
            // Some factors are exactly 0 and 1, as gates have them.
            let factors = normal(&[3, width], 3).unwrap().round();
            let mask = |factors: &Tensor| factors.view([3, width, 1, 1]);
            for activation in ALL {
                compare(
                    &[features(1), factors.copy()],
                    |given| scale(&given[0], &given[1], activation).unwrap(),
                    |given| activated(&given[0], activation) * mask(&given[1]),
                );
                compare(
                    &[features(1), features(2), factors.copy()],
                    |given| {
                        let (sum, means) = scaled_sum(&given[0], &given[1], &given[2], activation).unwrap();
                        sum + means.unwrap().square().view([3, 5, 1, 1])
                    },
                    |given| {
                        let sum = activated(&(&given[0] + &given[1] * mask(&given[2])), activation);
                        let means = sum.mean_dim([2i64, 3].as_slice(), true, Kind::Float);
                        sum + means.square()
                    },
                );
            }
        }
    }

    #[test]
    fn other_layouts_and_precisions_are_computed_too() {
        let (base, values, factors) = (features(1), features(2), normal(&[3, 5], 3).unwrap());
        let of = |convert: &dyn Fn(&Tensor) -> Tensor| {
            let [base, values] = [&base, &values].map(convert);
            scaled_sum(&base, &values, &factors, Pointwise::Relu).unwrap().0
        };
        let plain = of(&Tensor::shallow_clone);
        close(&of(&|tensor| tensor.contiguous()), &plain);
        let double = of(&|tensor| tensor.to_kind(Kind::Double));
        assert_eq!(double.kind(), Kind::Double);
        close(&double.to_kind(Kind::Float), &plain);
        let half = scale(&values.to_kind(Kind::BFloat16), &factors, Pointwise::Relu).unwrap();
        assert_eq!(half.kind(), Kind::BFloat16);
    }

    #[test]
    fn an_open_gate_changes_no_bit() {
        let (base, values) = (features(1), features(2));
        let ones = Tensor::ones([3, 1], (Kind::Float, tch::Device::Cpu));
        assert_eq!(scale(&values, &ones, Pointwise::Relu).unwrap(), values.relu());
        assert_eq!(scaled_sum(&base, &values, &ones, Pointwise::Relu).unwrap().0, (&base + &values).relu());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let (values, factors) = (features(1), normal(&[3, 4], 3).unwrap());
        let error = scale(&values, &factors, Pointwise::Relu).unwrap_err().to_string();
        assert!(error.contains("factors of shape [3, 4] do not scale features of shape [3, 5, 9, 11]"), "{error}");
        let (other, factors) = (normal(&[3, 5, 1, 1], 1).unwrap(), normal(&[3, 5], 3).unwrap());
        assert!(scaled_sum(&other, &values, &factors, Pointwise::Relu).is_err());
    }
}
