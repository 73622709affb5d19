//! A network's tensors on their way into a smaller one.

use crate::error::{Error, Result};
use crate::network::{Classifier, Network, positions};
use crate::spec::{ConvSpec, NetSpec};
use crate::state_dict::StateDict;
use std::collections::HashMap;
use std::path::PathBuf;
use tch::{Device, Tensor};

/// A network's tensors on their way into a smaller one.
pub(super) struct Tensors {
    pub by_name: HashMap<String, Tensor>,
    pub device: Device,
}

impl Tensors {
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        // The network was built from its spec, so each of its names is there.
        self.by_name.get(name).ok_or_else(|| Error::Spec { faults: vec![format!("tensor '{name}' is missing")] })
    }

    /// Keeps the elements at these positions of a dimension.
    pub fn keep(&mut self, name: &str, dimension: i64, kept: &[usize]) -> Result<()> {
        let tensor = self.get(name)?;
        if tensor.size().get(dimension as usize) != Some(&(kept.len() as i64)) {
            let tensor = tensor.f_index_select(dimension, &positions(kept, self.device)?)?;
            self.by_name.insert(name.to_owned(), tensor);
        }
        Ok(())
    }

    /// Sets the elements at these positions of a dimension to zero.
    pub fn zero_at(&mut self, name: &str, dimension: i64, at: &[usize]) -> Result<()> {
        let zeroed = self.get(name)?.f_index_fill(dimension, &positions(at, self.device)?, 0.0)?;
        self.by_name.insert(name.to_owned(), zeroed);
        Ok(())
    }

    pub fn zero(&mut self, name: &str) -> Result<()> {
        let zeros = self.get(name)?.f_zeros_like()?;
        self.by_name.insert(name.to_owned(), zeros);
        Ok(())
    }

    /// Sets the weights of a convolution to zero for all input channels but those at these
    /// positions.
    pub fn zero_inputs(&mut self, weight: &str, kept: &[usize]) -> Result<()> {
        let tensor = self.get(weight)?;
        let mask = tensor.f_zeros_like()?.f_index_fill(1, &positions(kept, self.device)?, 1.0)?;
        let masked = tensor.f_mul(&mask)?;
        self.by_name.insert(weight.to_owned(), masked);
        Ok(())
    }

    pub fn keep_filters(&mut self, block: &str, conv: &ConvSpec, kept: &[usize]) -> Result<()> {
        self.keep(&format!("{block}.{}.weight", conv.name), 0, kept)?;
        ["weight", "bias", "running_mean", "running_var"]
            .iter()
            .try_for_each(|part| self.keep(&format!("{block}.{}.{part}", conv.norm), 0, kept))
    }

    /// `features` [1, C, 1, 1] of zeros behind a convolution of zeros, its batch norm and
    /// activation: [1, C', 1, 1].
    pub fn behind_nothing(&self, block: &str, conv: &ConvSpec) -> Result<Tensor> {
        let part = |part: &str| self.get(&format!("{block}.{}.{part}", conv.norm));
        let deviation = part("running_var")?.f_add_scalar(torch_ext::BatchNorm::EPSILON)?.f_sqrt()?;
        let scaled = part("running_mean")?.f_mul(part("weight")?)?.f_div(&deviation)?;
        conv.activation.apply(part("bias")?.f_sub(&scaled)?.f_view([1, -1, 1, 1])?)
    }

    pub fn into_network(self, spec: &NetSpec) -> Result<Network> {
        let network = Network::build(spec, self.device, 0)?;
        let mut by_name = self.by_name;
        let own = network.tensors().iter().filter_map(|entry| by_name.remove_entry(&entry.name)).collect();
        let weights = StateDict { origin: PathBuf::from("pruned"), tensors: own, metadata: HashMap::new() };
        network.load(&weights, Classifier::Required)?;
        Ok(network)
    }
}
