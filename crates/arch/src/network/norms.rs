//! What weights alone say about the importance of what gates decide about.

use super::net::Network;
use crate::error::Result;
use crate::spec::{BlockSpec, ConvSpec, GateSite, Shortcut, Site};
use tch::{Kind, Tensor};

impl Network {
    /// For every gate how large what it decides about is, by the squared norms of weights, the mean
    /// over its channels: the batch norm's scale of a channel, which is the deviation of its values
    /// (Liu et al. ICCV 2017), and within the branch times the weights that read it (Li et al. ICLR
    /// 2017); of an input channel only the latter. Weights at different sites have different sizes,
    /// so the filter gates of each site have a mean of 1, and so have all layer gates together.
    ///
    /// # Errors
    /// If libtorch refuses to read the weights.
    pub fn gate_norms(&self) -> Result<Vec<f64>> {
        let mut sites = Vec::new();
        for (block, gates) in self.spec().gate_sites() {
            let channels: Vec<f64> = Vec::try_from(self.channel_norms(block, gates.site)?)?;
            sites.push((gates.site, per_gate(gates, &channels)));
        }
        let mean = |norms: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = norms.fold((0.0, 0.0), |(sum, count), norm| (sum + norm, count + 1.0));
            if sum > 0.0 { sum / count } else { 1.0 }
        };
        let layers = sites.iter().filter(|(site, _)| *site == Site::Layer).flat_map(|(_, norms)| norms);
        let mean_of_layers = mean(&mut layers.copied());
        let relative = |(site, norms): (Site, Vec<f64>)| {
            let mean = if site == Site::Layer { mean_of_layers } else { mean(&mut norms.iter().copied()) };
            norms.into_iter().map(move |norm| norm / mean)
        };
        Ok(sites.into_iter().flat_map(relative).collect())
    }

    /// `[channels]` in float64, in the main memory.
    fn channel_norms(&self, block: &BlockSpec, site: Site) -> Result<Tensor> {
        let written = |conv: &ConvSpec| self.squares(&block.name, &conv.norm, Ok);
        // [outputs, inputs, kernel, kernel]; depthwise convolutions have no gates in front.
        let others = [0i64, 2, 3];
        let of_inputs = |weight: Tensor| Ok(weight.f_sum_dim_intlist(others.as_slice(), false, Kind::Double)?);
        let read = |conv: &ConvSpec| self.squares(&block.name, &conv.name, of_inputs);
        let branch = &block.branch;
        let nothing = || Ok(Tensor::from_slice(&[] as &[f64]));
        match (site, &block.shortcut) {
            (Site::Input, _) => branch.first().map_or_else(nothing, read),
            (Site::Between(position), _) => match (branch.get(position.wrapping_sub(1)), branch.get(position)) {
                (Some(before), Some(behind)) => Ok(written(before)?.f_mul(&read(behind)?)?),
                _ => nothing(),
            },
            (Site::Output, _) | (Site::Layer, _) => branch.last().map_or_else(nothing, written),
            (Site::Projection, Shortcut::Projection(conv)) => written(conv),
            (Site::Projection, _) => nothing(),
        }
    }

    fn squares(&self, block: &str, layer: &str, of: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Tensor> {
        let name = format!("{block}.{layer}.weight");
        let Some(entry) = self.tensors().get(&name) else { return Ok(Tensor::from_slice(&[] as &[f64])) };
        let squares = entry.tensor.f_detach()?.f_to_kind(Kind::Double)?.f_square()?;
        Ok(of(squares)?.f_to_device(tch::Device::Cpu)?)
    }
}

/// The mean over the channels each gate decides about; a layer gate decides about all.
fn per_gate(gates: &GateSite, channels: &[f64]) -> Vec<f64> {
    let of_channel = match gates.site {
        Site::Layer => vec![Some(0); channels.len()],
        _ => gates.gate_of_channel(),
    };
    let mut sums = vec![(0.0, 0.0); gates.count()];
    for (gate, norm) in of_channel.into_iter().zip(channels) {
        if let Some((sum, count)) = gate.and_then(|gate| sums.get_mut(gate)) {
            (*sum, *count) = (*sum + norm, *count + 1.0);
        }
    }
    sums.into_iter().map(|(sum, count)| if count > 0.0 { sum / count } else { 0.0 }).collect()
}
