//! Steps whose loss or gradients are not finite numbers: they are left out, and too many of them end the run. Everything is decided on
//! the device, so that the host need not wait for it.

use crate::error::Result;
use tch::{Device, Kind, Tensor};
use torch_ext::Tensors;

/// What float16 losses are multiplied by at first, how it changes, and after how many good steps it grows: `torch.amp.GradScaler`'s.
const FIRST_SCALE: f64 = 65536.0;
const GROWTH: f64 = 2.0;
const BACKOFF: f64 = 0.5;
const GROWTH_INTERVAL: i64 = 2000;

/// Judges every step.
#[derive(Debug)]
pub(crate) struct Health {
    /// Steps that may be left out.
    allowed: u64,
    /// Steps left out, float64 scalar.
    left_out: Tensor,
    /// The first of them since it was last read, float64 scalar; −1: none.
    first: Tensor,
    scale: Option<LossScale>,
    /// Batch norm statistics, and what they were before the step: those of a step that is left out do not count. Empty where such
    /// a step ends the run.
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

/// What a checkpoint keeps of it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct HealthState {
    /// Steps left out.
    pub left_out: u64,
    /// What the loss is multiplied by, and good steps since it last changed.
    pub scale: Option<(f64, i64)>,
}

impl Health {
    /// Judges the steps of the network with these tensors; goes on from `state`.
    pub fn new(allowed: u64, scaled: bool, tensors: &Tensors, state: &HealthState) -> Result<Self> {
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
        let left_out = scalar(state.left_out as f64, Kind::Double, device)?;
        Ok(Self { allowed, left_out, first: scalar(-1.0, Kind::Double, device)?, scale, statistics })
    }

    /// Remembers what a step that is left out must not have changed.
    pub fn before(&mut self) -> Result<()> {
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

    /// What gradients are multiplied by, if by anything: the scalar of this step, which later ones do not change.
    pub fn scale(&self) -> Result<Option<Tensor>> {
        Ok(self.scale.as_ref().map(|scale| scale.scale.f_add_scalar(0.0)).transpose()?)
    }

    /// Judges step `step` by its loss and the norm of its gradients, scaled ones perhaps: float32 scalar, 1 if it is to be left out. The
    /// batch norm statistics of such a step are put back. Past the allowed number every step is left out, so that the weights stay
    /// those of the step that was too much.
    pub fn judge(&mut self, step: u64, loss: &Tensor, norm: &Tensor) -> Result<Tensor> {
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
        let is_first = self.first.f_lt(0.0)?.f_logical_and(&counts)?;
        self.first = self.first.f_masked_fill(&is_first, step as f64)?;
        let skip = bad.f_logical_or(&self.left_out.f_gt(self.allowed as f64)?)?;
        for (own, kept) in &mut self.statistics {
            own.f_copy_(&kept.f_where_self(&skip, own)?)?;
        }
        Ok(skip.f_to_kind(Kind::Float)?)
    }

    /// What a checkpoint keeps. Waits for the device.
    pub fn state(&self) -> Result<HealthState> {
        let scale = match &self.scale {
            None => None,
            Some(LossScale { scale, good }) => Some((scale.f_double_value(&[])?, good.f_int64_value(&[])?)),
        };
        Ok(HealthState { left_out: self.left_out.f_double_value(&[])? as u64, scale })
    }

    /// The number of the first step that was left out since the last call, and whether too many were by now. Waits for the device.
    pub fn found(&mut self) -> Result<Option<(u64, bool)>> {
        let first = self.first.f_double_value(&[])?;
        if first < 0.0 {
            return Ok(None);
        }
        self.first = self.first.f_full_like(-1.0)?;
        Ok(Some((first as u64, self.left_out.f_double_value(&[])? > self.allowed as f64)))
    }
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

    fn judge(health: &mut Health, step: u64, loss: f32, norm: f32) -> bool {
        health.judge(step, &Tensor::from(loss), &Tensor::from(norm)).unwrap().double_value(&[]) == 1.0
    }

    #[test]
    fn a_step_out_of_the_finite_numbers_is_left_out_and_too_many_leave_out_all() {
        let (tensors, _) = tensors();
        let mut health = Health::new(1, false, &tensors, &HealthState::default()).unwrap();
        assert!(!judge(&mut health, 0, 1.0, 1.0));
        assert_eq!(health.found().unwrap(), None);
        assert!(judge(&mut health, 1, f32::NAN, 1.0));
        assert!(!judge(&mut health, 2, 1.0, 1.0));
        assert_eq!(health.found().unwrap(), Some((1, false)));
        assert_eq!(health.found().unwrap(), None);
        assert!(judge(&mut health, 3, 1.0, f32::INFINITY));
        assert!(judge(&mut health, 4, 1.0, 1.0));
        assert_eq!(health.found().unwrap(), Some((3, true)));
        assert_eq!(health.state().unwrap(), HealthState { left_out: 2, scale: None });
    }

    #[test]
    fn a_step_that_is_left_out_leaves_the_statistics() {
        let (tensors, norm) = tensors();
        let mut health = Health::new(1, false, &tensors, &HealthState::default()).unwrap();
        let mut step = |number, value: f32| {
            health.before().unwrap();
            let images = Tensor::from_slice(&[value, 1.0, 3.0, 3.0]).view([2, 2]);
            let _ = norm.forward(&images, Statistics::TRAINING).unwrap();
            let _ = health.judge(number, &Tensor::from(value), &Tensor::from(1.0f32)).unwrap();
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
        let mut health = Health::new(0, true, &tensors, &HealthState::default()).unwrap();
        assert_eq!(health.scaled(&Tensor::from(2.0f32)).unwrap().double_value(&[]), 2.0 * FIRST_SCALE);
        assert!(judge(&mut health, 0, 1.0, f32::INFINITY));
        assert!(!judge(&mut health, 1, 1.0, 1.0));
        assert_eq!(health.found().unwrap(), None, "a search for the scale is no fault");
        let state = health.state().unwrap();
        assert_eq!(state, HealthState { left_out: 0, scale: Some((FIRST_SCALE / 2.0, 1)) });
        let mut resumed = Health::new(0, true, &tensors, &state).unwrap();
        for step in 2..GROWTH_INTERVAL as u64 + 1 {
            assert!(!judge(&mut resumed, step, 1.0, 1.0));
        }
        assert_eq!(resumed.state().unwrap().scale, Some((FIRST_SCALE, 0)));
        // Where no scale helps, or the loss itself is broken, it is one.
        assert!(judge(&mut resumed, 3000, f32::NAN, 1.0));
        assert_eq!(resumed.found().unwrap(), Some((3000, true)));
        let state = HealthState { left_out: 0, scale: Some((1.0, 0)) };
        let mut unscaled = Health::new(0, true, &tensors, &state).unwrap();
        assert!(judge(&mut unscaled, 0, 1.0, f32::NAN));
        assert_eq!(unscaled.found().unwrap(), Some((0, true)));
    }
}
