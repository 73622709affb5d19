//! Sums over the batches of an epoch, kept on the device.

use crate::error::Result;
use crate::results::summary::{SCALARS, Sums};
use arch::{Meter, Output};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Running sums. They stay on the device: reading them would make the host wait for it.
#[derive(Debug)]
pub(crate) struct Totals {
    meter: Rc<Meter>,
    blocks: usize,
    /// The number of images, then float64 [SCALARS + blocks + gates].
    values: Tensor,
}

impl Totals {
    /// Sums of nothing, for a network that `meter` counts.
    pub fn new(meter: &Rc<Meter>) -> Result<Self> {
        let blocks = meter.dense().size1()?;
        let length = 1 + SCALARS as i64 + blocks + meter.gates()?;
        let values = Tensor::f_zeros([length], (Kind::Double, meter.dense().device()))?;
        Ok(Self { meter: Rc::clone(meter), blocks: blocks as usize, values })
    }

    /// Continues where `sums` were read.
    pub fn resume(sums: &Sums, meter: &Rc<Meter>) -> Result<Self> {
        let mut totals = Self::new(meter)?;
        if 1 + sums.values.len() == totals.values.size1()? as usize {
            let values: Vec<f64> = std::iter::once(sums.images as f64).chain(sums.values.iter().copied()).collect();
            totals.values = Tensor::f_from_slice(&values)?.f_to_device(totals.values.device())?;
        }
        Ok(totals)
    }

    /// Adds a batch with labels `[N]` and its mean (loss, cross entropy, activation loss), unless
    /// the scalar `skip` is 1.
    pub fn add(&mut self, output: &Output, labels: &Tensor, losses: [&Tensor; 3], skip: Option<&Tensor>) -> Result<()> {
        let logits = output.logits.f_detach()?;
        let count = labels.size1()?;
        let (top1, top5) = hits(&logits, labels)?;
        let gated = !output.gate_values.is_empty();
        let blocks = match gated {
            true => self.meter.per_block(&output.gate_values)?.f_detach()?.f_sum_dim_intlist(
                [0i64].as_slice(),
                false,
                Kind::Double,
            )?,
            false => self.meter.dense().f_mul_scalar(count)?,
        };
        let mut scalars = Vec::with_capacity(1 + SCALARS);
        scalars.push(top1.f_full_like(count as f64)?);
        for loss in losses {
            scalars.push(loss.f_detach()?.f_to_kind(Kind::Double)?.f_mul_scalar(count as f64)?);
        }
        scalars.extend([top1, top5]);
        scalars.push(blocks.f_sum(Kind::Double)?.f_add_scalar(self.meter.outside() * count as f64)?);
        let mut parts = vec![Tensor::f_stack(&scalars, 0)?, blocks];
        if gated {
            // Counted, not averaged: a gate that is always open has a rate of exactly 1.
            let open = output.gate_values.joined()?.f_detach()?.f_to_kind(Kind::Double)?;
            parts.push(open.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?);
        }
        let mut sums = Tensor::f_cat(&parts, 0)?;
        if let Some(skip) = skip {
            sums = sums.f_masked_fill(&skip.f_ne(0.0)?, 0.0)?;
        }
        self.values = self.values.f_add(&sums)?;
        Ok(())
    }

    /// Waits for the device.
    pub fn read(&self) -> Result<Sums> {
        let mut values: Vec<f64> = Vec::try_from(self.values.f_to_device(Device::Cpu)?)?;
        let images = values.remove(0) as u64;
        Ok(Sums { images, blocks: self.blocks, values })
    }
}

/// How many labels `[N]` are the class of the largest score, and among the five largest: scalars in
/// float64, for scores [N, classes].
pub(crate) fn hits(scores: &Tensor, labels: &Tensor) -> Result<(Tensor, Tensor)> {
    let (_, best) = scores.f_topk(scores.size2()?.1.min(5), 1, true, true)?;
    let hits = best.f_eq_tensor(&labels.f_unsqueeze(1)?)?.f_to_kind(Kind::Double)?;
    Ok((hits.f_select(1, 0)?.f_sum(Kind::Double)?, hits.f_sum(Kind::Double)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::{Cost, NetSpec};
    use gumbel_gates::{GateKind, GateValues};

    #[test]
    fn means_are_over_images_and_hits_are_counted_by_rank() {
        let spec = NetSpec::preset("resnet18", 10).unwrap().with_layer_gates(GateKind::Independent, |block| block < 2);
        let cost = Cost::of(&spec, 32, 32).unwrap();
        let meter = Rc::new(Meter::new(&cost.spending(), Device::Cpu).unwrap());
        let mut totals = Totals::new(&meter).unwrap();
        let mut add = |labels: &[i64], loss: f64, open: [f32; 2]| {
            let count = labels.len() as i64;
            // Class 9 is the most probable, then 8, and so on.
            let logits = Tensor::arange(10, (Kind::Float, Device::Cpu)).repeat([count, 1]);
            let site = |open: f32| Tensor::full([count, 1], f64::from(open), (Kind::Float, Device::Cpu));
            let gate_values = GateValues::new(vec![site(open[0]), site(open[1])]).unwrap();
            let output = Output { logits, gate_logits: Vec::new(), gate_values };
            let [total, entropy, activation] = [loss, loss / 2.0, loss / 4.0].map(Tensor::from);
            totals.add(&output, &Tensor::from_slice(labels), [&total, &entropy, &activation], None).unwrap();
        };
        add(&[9, 5, 4], 1.0, [1.0, 0.0]);
        add(&[9], 5.0, [1.0, 1.0]);
        let sums = totals.read().unwrap();
        let summary = sums.summary();
        assert_eq!((summary.images, summary.top1, summary.top5), (4, 0.5, 0.75));
        assert_eq!((summary.loss, summary.cross_entropy, summary.activation_loss), (2.0, 1.0, 0.5));
        assert_eq!((summary.rates.as_slice(), summary.open_rate()), (&[1.0, 0.25][..], 0.625));
        let branch = cost.blocks[1].branch as f64;
        assert_eq!(summary.macs, cost.dense as f64 - 0.75 * branch);
        assert_eq!(summary.block_macs[0], cost.blocks[0].macs() as f64);
        assert_eq!(summary.block_macs[1], cost.blocks[1].macs() as f64 - 0.75 * branch);
        // What came after the first batch, as the log shows it.
        let mut first = Totals::new(&meter).unwrap().read().unwrap();
        assert_eq!(sums.since(&first), sums);
        first = sums.clone();
        assert_eq!(sums.since(&first).summary().loss, 0.0);
    }

    #[test]
    fn without_gates_every_image_costs_the_dense_network() {
        let cost = Cost::of(&NetSpec::preset("resnet18", 3).unwrap(), 32, 32).unwrap();
        let meter = Rc::new(Meter::new(&cost.spending(), Device::Cpu).unwrap());
        let mut totals = Totals::new(&meter).unwrap();
        let logits = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let output = Output { logits, gate_logits: Vec::new(), gate_values: GateValues::default() };
        let loss = Tensor::from(0.0);
        totals.add(&output, &Tensor::from_slice(&[0i64, 1]), [&loss, &loss, &loss], None).unwrap();
        // A step that is left out counts for nothing, whatever it came to.
        let broken = Tensor::from(f64::NAN);
        let labels = Tensor::from_slice(&[0i64, 1]);
        totals.add(&output, &labels, [&broken, &loss, &loss], Some(&Tensor::from(1.0f32))).unwrap();
        let sums = totals.read().unwrap();
        assert_eq!(sums.summary().macs, cost.dense as f64);
        assert_eq!(Totals::resume(&sums, &meter).unwrap().read().unwrap(), sums);
    }
}
