//! Counts what gates do, batch by batch, on the device.

use crate::error::Result;
use crate::results::gate_use::{GateUse, ImageUse};
use arch::{Meter, NetSpec, Output};
use tch::{Device, Kind, Tensor};

/// Sums for [`GateUse`]. They stay on the device until the end.
#[derive(Debug)]
pub(crate) struct GateUseSums {
    /// Images of each class: float64 `[classes]`.
    class_images: Tensor,
    /// Gate values of each class and gate: float64 [classes, gates].
    class_gate_values: Tensor,
    items: Vec<usize>,
    /// Per batch float64 [N, 3]: predicted class, MACs, open gates.
    images: Vec<Tensor>,
}

impl GateUseSums {
    /// Sums of nothing, on `device`, for a network of `spec`.
    pub fn new(spec: &NetSpec, device: Device) -> Result<Self> {
        let classes = spec.head.classes as i64;
        let gates = spec.gate_count() as i64;
        let options = (Kind::Double, device);
        Ok(Self {
            class_images: Tensor::f_zeros([classes], options)?,
            class_gate_values: Tensor::f_zeros([classes, gates], options)?,
            items: Vec::new(),
            images: Vec::new(),
        })
    }

    /// Adds a batch with labels `[N]` of the split's `items`.
    pub fn add(&mut self, output: &Output, labels: &Tensor, items: &[usize], meter: &Meter) -> Result<()> {
        let gate_values = output.gate_values.joined()?.f_to_kind(Kind::Double)?;
        let ones = Tensor::f_ones([labels.size1()?], (Kind::Double, gate_values.device()))?;
        let _ = self.class_images.f_index_add_(0, labels, &ones)?;
        let _ = self.class_gate_values.f_index_add_(0, labels, &gate_values)?;
        let predicted = output.logits.f_argmax(1, false)?.f_to_kind(Kind::Double)?;
        let open = gate_values.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        self.images.push(Tensor::f_stack(&[predicted, meter.used(&output.gate_values)?, open], 1)?);
        self.items.extend_from_slice(items);
        Ok(())
    }

    /// Waits for the device.
    pub fn read(self) -> Result<GateUse> {
        let class_images: Vec<f64> = Vec::try_from(self.class_images.f_to_device(Device::Cpu)?)?;
        let sums: Vec<Vec<f64>> = Vec::try_from(self.class_gate_values.f_to_device(Device::Cpu)?)?;
        let rates = |(sums, images): (Vec<f64>, &f64)| sums.into_iter().map(|sum| sum / images.max(1.0)).collect();
        let class_rates = sums.into_iter().zip(&class_images).map(rates).collect();
        let images: Vec<Vec<f64>> = match self.images.is_empty() {
            true => Vec::new(),
            false => Vec::try_from(Tensor::f_cat(&self.images, 0)?.f_to_device(Device::Cpu)?)?,
        };
        let image = |(item, values): (usize, Vec<f64>)| ImageUse {
            item,
            predicted: values[0] as usize,
            macs: values[1],
            open: values[2] as usize,
        };
        Ok(GateUse {
            class_images: class_images.into_iter().map(|count| count as u64).collect(),
            class_rates,
            images: self.items.into_iter().zip(images).map(image).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::gate_use::Polarization;
    use arch::Cost;
    use gumbel_gates::{GateKind, GateValues};

    #[test]
    fn classes_images_and_states_are_counted() {
        let spec = NetSpec::preset("resnet18", 3).unwrap().with_layer_gates(GateKind::Independent, |block| block < 2);
        let cost = Cost::of(&spec, 32, 32).unwrap();
        let meter = Meter::new(&cost.spending(), Device::Cpu).unwrap();
        let mut sums = GateUseSums::new(&spec, Device::Cpu).unwrap();
        let mut add = |labels: &[i64], items: &[usize], open: [&[f32]; 2]| {
            let count = labels.len() as i64;
            let logits = Tensor::from_slice(&[0.0f32, 2.0, 1.0]).repeat([count, 1]);
            let sites = open.map(|open| Tensor::from_slice(open).view([count, 1]));
            let output =
                Output { logits, gate_logits: Vec::new(), gate_values: GateValues::new(sites.into()).unwrap() };
            sums.add(&output, &Tensor::from_slice(labels), items, &meter).unwrap();
        };
        add(&[0, 1], &[0, 1], [&[1.0, 1.0], &[0.0, 1.0]]);
        add(&[1], &[3], [&[1.0], &[0.0]]);
        let gate_use = sums.read().unwrap();
        assert_eq!(gate_use.class_images, [1, 2, 0]);
        assert_eq!(gate_use.class_rates, [[1.0, 0.0], [1.0, 0.5], [0.0, 0.0]]);
        let image = |item, open, macs| ImageUse { item, predicted: 1, macs, open };
        let (dense, branch) = (cost.dense as f64, cost.blocks[1].branch as f64);
        assert_eq!(gate_use.images, [image(0, 1, dense - branch), image(1, 2, dense), image(3, 1, dense - branch)]);
        let expected = Polarization { always_open: 1, always_closed: 2, conditional: 1 };
        assert_eq!(Polarization::of(&[1.0, 0.0, 0.5, 0.0]), expected);
    }
}
