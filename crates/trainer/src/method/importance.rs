//! How much a network relies on what each gate decides about, before any gate has learned.

use crate::error::Result;
use crate::events::{Listener, PassKind};
use crate::measure::pass::ImagePass;
use arch::{Mode, Network, Pass};
use gumbel_gates::Policy;
use std::sync::atomic::AtomicBool;
use tch::{Kind, Reduction, Tensor};

/// The Taylor term of Molchanov et al. (CVPR 2019, eq. 8) for gates: the mean over images of (∂
/// cross entropy / ∂ gate value)², with every gate open. To first order the root is what the cross
/// entropy changes by when the gate closes. One number per gate.
///
/// # Errors
/// If too many images are unusable, or the network cannot run.
pub(crate) fn taylor(
    network: &Network,
    pass: &ImagePass,
    listeners: &mut [Box<dyn Listener>],
    interrupt: &AtomicBool,
) -> Result<Vec<f64>> {
    let gates = network.spec().gate_count() as i64;
    let mut sums = Tensor::f_zeros([gates], (Kind::Double, network.device()))?;
    let counts = pass.run(PassKind::Importance, listeners, interrupt, |batch| {
        sums = sums.f_add(&squared_gradients(network, &batch.images, &batch.labels)?)?;
        Ok(())
    })?;
    let sums: Vec<f64> = Vec::try_from(sums.f_to_device(tch::Device::Cpu)?)?;
    Ok(sums.into_iter().map(|sum| sum / counts.images.max(1) as f64).collect())
}

/// (∂ cross entropy / ∂ gate value)² of every gate, summed over the images [N, 3, H, W] with labels
/// `[N]`: float64 `[gates]`.
fn squared_gradients(network: &Network, images: &Tensor, labels: &Tensor) -> Result<Tensor> {
    // The batch's statistics, as in training, and nothing changes. New gates are biased towards
    // open, so argmax opens them.
    let mode = Mode::Calibration { momentum: 0.0 };
    let open = Pass { mode, ..Pass::inference(Policy::StraightThrough { temperature: 1.0 }) };
    let output = network.forward(images, open)?;
    // The sum: each image has a gradient of its own.
    let loss = output.logits.f_cross_entropy_loss(labels, None::<&Tensor>, Reduction::Sum, -100, 0.0)?;
    let gradients = Tensor::f_run_backward(&[loss], output.gate_values.sites(), false, false)?;
    let squares = Tensor::f_cat(&gradients, 1)?.f_to_kind(Kind::Double)?.f_square()?;
    Ok(squares.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?)
}

/// As a share of the median, what an importance is at least taken for.
const LEAST: f64 = 1e-6;

/// Importance as numbers around 0 that margins can be moved by: the logarithm, with mean 0 and
/// standard deviation `spread`, cut off at three deviations.
pub(crate) fn margins(importance: &[f64], spread: f64) -> Vec<f64> {
    let mut positive: Vec<f64> = importance.iter().copied().filter(|value| *value > 0.0).collect();
    positive.sort_by(f64::total_cmp);
    let Some(median) = positive.get(positive.len() / 2) else { return vec![0.0; importance.len()] };
    // What counts for nothing has no logarithm, and what counts for next to nothing would make all
    // others look alike.
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
    use arch::NetSpec;
    use gumbel_gates::GateKind;
    use tch::Device;

    /// The last block of ResNet-20 has a gate. Every batch norm gives its bias alone: 1 behind the
    /// stem, 0 in the branches, but for the last one, which gives ½ in channel 30. The zero-padded
    /// shortcuts carry the stem's 16 channels to positions 24 to 39, so channel 30 holds 1 + ½ ·
    /// gate value, and the classifier makes twice that of it for the second of two classes.
    #[test]
    fn the_taylor_term_is_the_squared_derivative_of_the_cross_entropy() {
        let spec = NetSpec::preset("cifar-resnet20", 2).unwrap();
        let spec = spec.with_layer_gates(GateKind::Independent, |block| block == 8);
        let network = Network::build(&spec, Device::Cpu, 1).unwrap();
        let set = |name: &str, value: f64, at: &[i64]| {
            let mut tensor = network.tensors().get(name).unwrap().tensor.detach();
            at.iter().for_each(|&at| tensor = tensor.get(at));
            let _ = tensor.fill_(value);
        };
        let norms = spec
            .blocks
            .iter()
            .flat_map(|block| block.branch.iter().map(move |conv| format!("{}.{}", block.name, conv.norm)));
        for norm in norms.chain(["bn1".to_owned()]) {
            set(&format!("{norm}.weight"), 0.0, &[]);
            set(&format!("{norm}.bias"), if norm == "bn1" { 1.0 } else { 0.0 }, &[]);
        }
        set("layer3.2.bn2.bias", 0.5, &[30]);
        for part in ["weight", "bias"] {
            set(&format!("{}.{part}", spec.head.name), 0.0, &[]);
        }
        set(&format!("{}.weight", spec.head.name), 2.0, &[1, 30]);

        let images = torch_ext::normal(&[3, 3, 32, 32], 7).unwrap();
        let labels = Tensor::from_slice(&[1i64, 0, 1]);
        let found = squared_gradients(&network, &images, &labels).unwrap();
        // The logits are 0 and 2 · 1.5, and the derivative of the second by the gate value is 2 ·
        // ½.
        let probability = 1.0 / (1.0 + (-3.0f64).exp());
        let expected = 2.0 * (probability - 1.0).powi(2) + probability.powi(2);
        assert_eq!(found.size(), [1]);
        assert!((found.double_value(&[0]) - expected).abs() < 1e-6, "{found} and {expected}");
    }

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
