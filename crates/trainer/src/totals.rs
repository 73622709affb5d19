//! Sums over the batches of an epoch.

use crate::error::Result;
use arch::{Cost, Output};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Means over the images of an epoch or a part of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many images were seen.
    pub images: u64,
    /// The objective: cross entropy + factor · activation loss. Of an evaluation the cross entropy.
    pub loss: f64,
    /// Cross entropy.
    pub cross_entropy: f64,
    /// Activation loss before its factor.
    pub activation_loss: f64,
    /// Share of images whose label is the most probable class.
    pub top1: f64,
    /// Share of images whose label is among the five most probable classes.
    pub top5: f64,
    /// MACs used per image, gates included.
    pub macs: f64,
    /// Share of images for which each gate was open, in the order of the spec's gate sites.
    pub rates: Vec<f64>,
}

impl Summary {
    /// Mean opening of all gates; 1 without gates.
    pub fn opening(&self) -> f64 {
        if self.rates.is_empty() { 1.0 } else { self.rates.iter().sum::<f64>() / self.rates.len() as f64 }
    }
}

/// Sums over images, read from the device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sums {
    images: u64,
    /// In the order of the fields of [`Summary`].
    values: Vec<f64>,
}

/// Sums before the gates' rates.
const SCALARS: usize = 6;

impl Sums {
    pub fn summary(&self) -> Summary {
        let mean = |i: usize| self.values.get(i).copied().unwrap_or(0.0) / self.images.max(1) as f64;
        Summary {
            images: self.images,
            loss: mean(0),
            cross_entropy: mean(1),
            activation_loss: mean(2),
            top1: mean(3),
            top5: mean(4),
            macs: mean(5),
            rates: (SCALARS..self.values.len()).map(mean).collect(),
        }
    }

    /// What was added after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let before = earlier.values.iter().copied().chain(std::iter::repeat(0.0));
        let values = self.values.iter().zip(before).map(|(now, before)| now - before).collect();
        Self { images: self.images - earlier.images, values }
    }
}

/// Running sums. They stay on the device: reading them would make the host wait for it.
#[derive(Debug)]
pub(crate) struct Totals {
    images: u64,
    /// Float64 [SCALARS + gates].
    values: Tensor,
}

impl Totals {
    pub fn new(gates: usize, device: Device) -> Result<Self> {
        Ok(Self { images: 0, values: Tensor::f_zeros([(SCALARS + gates) as i64], (Kind::Double, device))? })
    }

    /// Continues where `sums` were read.
    pub fn resume(sums: &Sums, gates: usize, device: Device) -> Result<Self> {
        if sums.values.len() != SCALARS + gates {
            return Self::new(gates, device);
        }
        Ok(Self { images: sums.images, values: Tensor::f_from_slice(&sums.values)?.f_to_device(device)? })
    }

    /// Adds a batch with labels `[N]` and its mean (loss, cross entropy, activation loss).
    pub fn add(&mut self, output: &Output, labels: &Tensor, losses: [&Tensor; 3], cost: &Cost) -> Result<()> {
        let logits = output.logits.f_detach()?;
        let (count, classes) = (labels.size1()?, logits.size2()?.1);
        let (_, best) = logits.f_topk(classes.min(5), 1, true, true)?;
        let hits = best.f_eq_tensor(&labels.f_unsqueeze(1)?)?.f_to_kind(Kind::Double)?;
        let mut scalars = Vec::with_capacity(SCALARS);
        for loss in losses {
            scalars.push(loss.f_detach()?.f_to_kind(Kind::Double)?.f_mul_scalar(count as f64)?);
        }
        scalars.push(hits.f_select(1, 0)?.f_sum(Kind::Double)?);
        scalars.push(hits.f_sum(Kind::Double)?);
        let gated = !output.openings.is_empty();
        scalars.push(if gated {
            cost.used(&output.openings)?.f_detach()?.f_sum(Kind::Double)?
        } else {
            Tensor::f_full(Vec::<i64>::new(), (cost.dense * count as u64) as f64, (Kind::Double, logits.device()))?
        });
        let mut parts = vec![Tensor::f_stack(&scalars, 0)?];
        if gated {
            let rates = output.openings.rates()?.f_detach()?.f_to_kind(Kind::Double)?;
            parts.push(rates.f_mul_scalar(count as f64)?);
        }
        self.values = self.values.f_add(&Tensor::f_cat(&parts, 0)?)?;
        self.images += count as u64;
        Ok(())
    }

    /// Waits for the device.
    pub fn read(&self) -> Result<Sums> {
        Ok(Sums { images: self.images, values: Vec::try_from(self.values.f_to_device(Device::Cpu)?)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::NetSpec;
    use gumbel_gates::{GateKind, Openings};

    #[test]
    fn means_are_over_images_and_hits_are_counted_by_rank() {
        let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Independent, |block| block < 2);
        let cost = Cost::of(&spec, 32, 32).unwrap();
        let mut totals = Totals::new(2, Device::Cpu).unwrap();
        let mut add = |labels: &[i64], loss: f64, open: [f32; 2]| {
            let count = labels.len() as i64;
            // Class 9 is the most probable, then 8, and so on.
            let logits = Tensor::arange(10, (Kind::Float, Device::Cpu)).repeat([count, 1]);
            let site = |open: f32| Tensor::full([count, 1], f64::from(open), (Kind::Float, Device::Cpu));
            let openings = Openings::new(vec![site(open[0]), site(open[1])]).unwrap();
            let output = Output { logits, gate_logits: Vec::new(), openings };
            let [total, entropy, activation] = [loss, loss / 2.0, loss / 4.0].map(Tensor::from);
            totals.add(&output, &Tensor::from_slice(labels), [&total, &entropy, &activation], &cost).unwrap();
        };
        add(&[9, 5, 4], 1.0, [1.0, 0.0]);
        add(&[9], 5.0, [1.0, 1.0]);
        let sums = totals.read().unwrap();
        let summary = sums.summary();
        assert_eq!((summary.images, summary.top1, summary.top5), (4, 0.5, 0.75));
        assert_eq!((summary.loss, summary.cross_entropy, summary.activation_loss), (2.0, 1.0, 0.5));
        assert_eq!((summary.rates.as_slice(), summary.opening()), (&[1.0, 0.25][..], 0.625));
        assert_eq!(summary.macs, cost.dense as f64 - 0.75 * cost.blocks[1].branch as f64);
        // What came after the first batch, as the log shows it.
        let mut first = Totals::new(2, Device::Cpu).unwrap().read().unwrap();
        assert_eq!(sums.since(&first), sums);
        first = sums.clone();
        assert_eq!(sums.since(&first).summary().loss, 0.0);
    }
}
