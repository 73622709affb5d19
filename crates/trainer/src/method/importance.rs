//! How much a network relies on what each gate decides about, before any gate has learned.

use crate::error::Result;
use crate::events::{ImagePass, Listener};
use crate::measure::pass::TrainingPass;
use arch::{Mode, Network, Pass};
use gumbel_gates::Policy;
use std::sync::atomic::AtomicBool;
use tch::{Kind, Reduction, Tensor};

/// The Taylor term of Molchanov et al. (CVPR 2019, eq. 8) for gates: the mean over images of (∂ cross entropy / ∂ opening)², with
/// every gate open. To first order the root is what the cross entropy changes by when the gate closes. One number per gate.
///
/// # Errors
/// If too many images are unusable, or the network cannot run.
pub(crate) fn taylor(
    network: &Network,
    pass: &TrainingPass,
    listeners: &mut [Box<dyn Listener>],
    interrupt: &AtomicBool,
) -> Result<Option<Vec<f64>>> {
    let gates = network.spec().gate_count() as i64;
    let mut sums = Tensor::f_zeros([gates], (Kind::Double, network.device()))?;
    let mut images = 0;
    let done = pass.run(ImagePass::Importance, listeners, interrupt, |batch, labels, _| {
        // The batch's statistics, as in training, and nothing changes. New gates are biased towards open, so argmax opens them.
        let mode = Mode::Calibration { momentum: 0.0 };
        let open = Pass { mode, ..Pass::inference(Policy::StraightThrough { temperature: 1.0 }) };
        let output = network.forward(batch, open)?;
        let loss = output.logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::Sum, -100, 0.0)?;
        let gradients = Tensor::f_run_backward(&[loss], output.openings.sites(), false, false)?;
        let squares = Tensor::f_cat(&gradients, 1)?.f_to_kind(Kind::Double)?.f_square()?;
        sums = sums.f_add(&squares.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?)?;
        images += batch.size()[0];
        Ok(())
    })?;
    let sums: Vec<f64> = Vec::try_from(sums.f_to_device(tch::Device::Cpu)?)?;
    Ok(done.map(|_| sums.into_iter().map(|sum| sum / images.max(1) as f64).collect()))
}

/// As a share of the median, what an importance is at least taken for.
const LEAST: f64 = 1e-6;

/// Importance as numbers around 0 that margins can be moved by: the logarithm, with mean 0 and standard deviation `spread`, cut off
/// at three deviations.
pub(crate) fn margins(importance: &[f64], spread: f64) -> Vec<f64> {
    let mut positive: Vec<f64> = importance.iter().copied().filter(|value| *value > 0.0).collect();
    positive.sort_by(f64::total_cmp);
    let Some(median) = positive.get(positive.len() / 2) else { return vec![0.0; importance.len()] };
    // What counts for nothing has no logarithm, and what counts for next to nothing would make all others look alike.
    let least = LEAST * median;
    let logs: Vec<f64> = importance.iter().map(|value| value.max(least).ln()).collect();
    let mean = logs.iter().sum::<f64>() / logs.len() as f64;
    let deviation = (logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / logs.len() as f64).sqrt();
    if deviation < 1e-12 {
        return vec![0.0; importance.len()];
    }
    logs.into_iter().map(|log| spread * ((log - mean) / deviation).clamp(-3.0, 3.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_rank_by_importance_around_zero() {
        // Logarithms: 0, 2, 1 and 1 times ln 10; standard deviation √½ ln 10.
        let margins = margins(&[1.0, 100.0, 10.0, 10.0], 3.0);
        let expected = [-3.0 * 2.0f64.sqrt(), 3.0 * 2.0f64.sqrt(), 0.0, 0.0];
        assert!(margins.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9), "{margins:?}");
    }

    #[test]
    fn what_counts_for_nothing_comes_last_and_nothing_is_endless() {
        let found = margins(&[0.0, 1e-30, 1.0, 2.0], 1.0);
        assert_eq!(found[0], found[1]);
        assert!(found.iter().all(|margin| margin.abs() <= 3.0) && found[1] < found[2]);
        // A few dead filters leave the others as far apart as they are.
        let mut many = vec![1e-35; 5];
        many.extend((0..95).map(|i| 10f64.powf(f64::from(i) / 95.0)));
        let found = margins(&many, 1.0);
        assert!(found[99] - found[5] > 0.5, "{}", found[99] - found[5]);
        assert_eq!(margins(&[0.0, 0.0], 1.0), [0.0, 0.0]);
        assert_eq!(margins(&[2.0, 2.0], 1.0), [0.0, 0.0]);
    }
}
