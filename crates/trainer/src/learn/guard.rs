//! Steps whose loss or gradients are not finite numbers: they are left out, and too many of them
//! end the run. Everything is decided on the device, so that the host need not wait for it.

use crate::error::Result;
use crate::states::training::GuardState;
use tch::{Device, Kind, Tensor};
use torch_ext::Tensors;

/// What float16 losses are multiplied by at first, how it changes, and after how many good steps it
/// grows: `torch.amp.GradScaler`'s.
const FIRST_SCALE: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: i64 = 2000;

/// Leaves out steps that are not finite numbers.
#[derive(Debug)]
pub(crate) struct NonFiniteGuard {
    /// Steps that may be left out; those that were before the run was resumed always may.
    allowed: u64,
    /// Steps left out, float64 scalar.
    left_out: Tensor,
    /// The first of them since it was last read, and the one that was too much; float64 scalars,
    /// −1: none.
    first: Tensor,
    too_much: Tensor,
    scale: Option<LossScale>,
    /// Batch norm statistics, and what they were before the step: those of a step that is left out
    /// do not count. Empty where such a step ends the run.
    statistics: Vec<(Tensor, Tensor)>,
}

/// What the loss is multiplied by, so that float16 can hold its gradients.
#[derive(Debug)]
struct LossScale {
    /// Float32 scalar.
    scale: Tensor,
    /// Good steps since it last changed, int32 scalar.
    good: Tensor,
}

/// What became of the steps, whose numbers are from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// All were good.
    Nothing,
    /// Some were left out, this one first.
    LeftOut(u64),
    /// This one was too much; it and all after it were left out.
    TooMany(u64),
}

impl NonFiniteGuard {
    /// Guards the steps of the network with these tensors; goes on from `state`.
    pub fn new(allowed: u64, scaled: bool, tensors: &Tensors, state: &GuardState) -> Result<Self> {
        let device = tensors.device();
        let scale = match scaled {
            false => None,
            true => {
                let (scale, good) = state.scale.unwrap_or((FIRST_SCALE, 0));
                let good = Tensor::f_full([], good, (Kind::Int, device))?;
                Some(LossScale { scale: scalar(scale, Kind::Float, device)?, good })
            }
        };
        let mut statistics = Vec::new();
        if allowed > 0 || scaled {
            for buffer in tensors.iter().filter(|entry| entry.role == torch_ext::Role::Buffer) {
                statistics.push((buffer.tensor.shallow_clone(), buffer.tensor.f_zeros_like()?));
            }
        }
        let number = |value: f64| scalar(value, Kind::Double, device);
        let allowed = allowed.max(state.left_out);
        let left_out = number(state.left_out as f64)?;
        let first = number(-1.0)?;
        let too_much = number(-1.0)?;
        Ok(Self { allowed, left_out, first, too_much, scale, statistics })
    }

    /// Remembers what a step that is left out must not have changed.
    pub fn remember(&mut self) -> Result<()> {
        for (own, kept) in &mut self.statistics {
            kept.f_copy_(own)?;
        }
        Ok(())
    }

    /// The loss as it is to be differentiated.
    pub fn scaled(&self, loss: &Tensor) -> Result<Tensor> {
        Ok(match &self.scale {
            None => loss.shallow_clone(),
            Some(scale) => loss.f_mul(&scale.scale)?,
        })
    }

    /// What gradients are multiplied by, if by anything: the scalar of this step, which later ones
    /// do not change.
    pub fn scale(&self) -> Result<Option<Tensor>> {
        Ok(self.scale.as_ref().map(|scale| scale.scale.f_add_scalar(0.0)).transpose()?)
    }

    /// Checks step `step` by its loss and the norm of its gradients, scaled ones perhaps: float32
    /// scalar, 1 if it is to be left out. The batch norm statistics of such a step are put back.
    /// Past the allowed number every step is left out, so that the weights stay those of the step
    /// that was too much.
    pub fn check(&mut self, step: u64, loss: &Tensor, norm: &Tensor) -> Result<Tensor> {
        let is_bad = |value: &Tensor| value.f_detach()?.f_isfinite()?.f_logical_not();
        let (loss, gradients) = (is_bad(loss)?, is_bad(norm)?);
        let bad = loss.f_logical_or(&gradients)?;
        let counts = match &mut self.scale {
            None => bad.shallow_clone(),
            Some(LossScale { scale, good }) => {
                // Gradients out of range are how a scale is found, unless they are so without one.
                let unscaled = scale.f_le(1.0)?.f_logical_and(&gradients)?;
                let found = bad.f_to_kind(Kind::Float)?;
                let _ = scale.f_internal_amp_update_scale_(good, &found, GROWTH, BACKOFF, GROWTH_INTERVAL)?;
                loss.f_logical_or(&unscaled)?
            }
        };
        self.left_out = self.left_out.f_add(&counts.f_to_kind(Kind::Double)?)?;
        let too_many = self.left_out.f_gt(self.allowed as f64)?;
        for (number, holds) in [(&mut self.first, &counts), (&mut self.too_much, &too_many)] {
            let is_new = number.f_lt(0.0)?.f_logical_and(holds)?;
            *number = number.f_masked_fill(&is_new, step as f64)?;
        }
        let skip = bad.f_logical_or(&too_many)?;
        for (own, kept) in &mut self.statistics {
            own.f_copy_(&kept.f_where_self(&skip, own)?)?;
        }
        Ok(skip.f_to_kind(Kind::Float)?)
    }

    /// What a checkpoint keeps. Waits for the device.
    pub fn state(&self) -> Result<GuardState> {
        let scale = match &self.scale {
            None => None,
            Some(LossScale { scale, good }) => Some((scale.f_double_value(&[])?, good.f_int64_value(&[])?)),
        };
        Ok(GuardState { left_out: self.left_out.f_double_value(&[])? as u64, scale })
    }

    /// What was found since the last call. Waits for the device.
    pub fn found(&mut self) -> Result<Found> {
        let numbers = Tensor::f_stack(&[&self.first, &self.too_much], 0)?.f_to_device(Device::Cpu)?;
        let [first, too_much] = [numbers.f_double_value(&[0])?, numbers.f_double_value(&[1])?];
        if too_much >= 0.0 {
            return Ok(Found::TooMany(too_much as u64));
        }
        if first < 0.0 {
            return Ok(Found::Nothing);
        }
        self.first = self.first.f_full_like(-1.0)?;
        Ok(Found::LeftOut(first as u64))
    }
}

/// Whether waiting for a device costs nothing.
pub(crate) fn is_at_hand(device: Device) -> bool {
    device == Device::Cpu
}

fn scalar(value: f64, kind: Kind, device: Device) -> Result<Tensor> {
    Ok(Tensor::f_full([], value, (kind, device))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use torch_ext::{BatchNorm, Statistics};

    fn tensors() -> (Tensors, BatchNorm) {
        let mut tensors = Tensors::new(Device::Cpu, 0);
        let norm = BatchNorm::build(&mut tensors.root(), 2).unwrap();
        (tensors, norm)
    }

    fn check(guard: &mut NonFiniteGuard, step: u64, loss: f32, norm: f32) -> bool {
        guard.check(step, &Tensor::from(loss), &Tensor::from(norm)).unwrap().double_value(&[]) == 1.0
    }

    #[test]
    fn a_step_out_of_the_finite_numbers_is_left_out_and_too_many_leave_out_all() {
        let (tensors, _) = tensors();
        let mut guard = NonFiniteGuard::new(1, false, &tensors, &GuardState::default()).unwrap();
        assert!(!check(&mut guard, 0, 1.0, 1.0));
        assert_eq!(guard.found().unwrap(), Found::Nothing);
        assert!(check(&mut guard, 1, f32::NAN, 1.0));
        assert!(!check(&mut guard, 2, 1.0, 1.0));
        assert_eq!(guard.found().unwrap(), Found::LeftOut(1));
        assert_eq!(guard.found().unwrap(), Found::Nothing);
        assert!(check(&mut guard, 3, 1.0, f32::INFINITY));
        assert!(check(&mut guard, 4, 1.0, 1.0));
        assert_eq!(guard.found().unwrap(), Found::TooMany(3));
        let state = guard.state().unwrap();
        assert_eq!(state, GuardState { left_out: 2, scale: None });
        // Fewer are allowed from now on: what was left out before is no fault, the next one is.
        let mut stricter = NonFiniteGuard::new(0, false, &tensors, &state).unwrap();
        assert!(!check(&mut stricter, 5, 1.0, 1.0) && check(&mut stricter, 6, f32::NAN, 1.0));
        assert_eq!(stricter.found().unwrap(), Found::TooMany(6));
    }

    #[test]
    fn of_several_bad_steps_between_two_looks_the_one_that_was_too_much_is_named() {
        let (tensors, _) = tensors();
        let mut guard = NonFiniteGuard::new(1, false, &tensors, &GuardState::default()).unwrap();
        for (step, loss) in [(0, 1.0), (1, f32::NAN), (2, 1.0), (3, f32::NAN), (4, f32::NAN)] {
            check(&mut guard, step, loss, 1.0);
        }
        assert_eq!(guard.found().unwrap(), Found::TooMany(3));
    }

    #[test]
    fn a_step_that_is_left_out_leaves_the_statistics() {
        let (tensors, norm) = tensors();
        let mut guard = NonFiniteGuard::new(1, false, &tensors, &GuardState::default()).unwrap();
        let mut step = |number, value: f32| {
            guard.remember().unwrap();
            let images = Tensor::from_slice(&[value, 1.0, 3.0, 3.0]).view([2, 2]);
            let _ = norm.forward(&images, Statistics::TRAINING).unwrap();
            let _ = guard.check(number, &Tensor::from(value), &Tensor::from(1.0f32)).unwrap();
            Vec::<f32>::try_from(&tensors.get("running_mean").unwrap().tensor).unwrap()
        };
        let moved = step(0, 1.0);
        assert!((moved[0] - 0.2).abs() < 1e-6);
        assert_eq!(step(1, f32::NAN), moved);
        assert_ne!(step(2, 1.0), moved);
    }

    #[test]
    fn the_scale_falls_with_gradients_out_of_range_and_a_run_goes_on_with_it() {
        let (tensors, _) = tensors();
        let mut guard = NonFiniteGuard::new(0, true, &tensors, &GuardState::default()).unwrap();
        assert_eq!(guard.scaled(&Tensor::from(2.0f32)).unwrap().double_value(&[]), 2.0 * FIRST_SCALE);
        assert!(check(&mut guard, 0, 1.0, f32::INFINITY));
        assert!(!check(&mut guard, 1, 1.0, 1.0));
        assert_eq!(guard.found().unwrap(), Found::Nothing, "a search for the scale is no fault");
        let state = guard.state().unwrap();
        assert_eq!(state, GuardState { left_out: 0, scale: Some((FIRST_SCALE / 2.0, 1)) });
        let mut resumed = NonFiniteGuard::new(0, true, &tensors, &state).unwrap();
        for step in 2..GROWTH_INTERVAL as u64 + 1 {
            assert!(!check(&mut resumed, step, 1.0, 1.0));
        }
        assert_eq!(resumed.state().unwrap().scale, Some((FIRST_SCALE, 0)));
        // Where no scale helps, or the loss itself is broken, it is one.
        assert!(check(&mut resumed, 3000, f32::NAN, 1.0));
        assert_eq!(resumed.found().unwrap(), Found::TooMany(3000));
        let state = GuardState { left_out: 0, scale: Some((1.0, 0)) };
        let mut unscaled = NonFiniteGuard::new(0, true, &tensors, &state).unwrap();
        assert!(check(&mut unscaled, 0, 1.0, f32::NAN));
        assert_eq!(unscaled.found().unwrap(), Found::TooMany(0));
    }
}
