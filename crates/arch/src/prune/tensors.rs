//! A network's tensors on their way into a smaller one.

use crate::error::{Error, Result};
use crate::network::{Classifier, Network, positions};
use crate::spec::{ConvSpec, NetSpec};
use crate::state_dict::StateDict;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use tch::{Device, Tensor};

/// A network's tensors on their way into a smaller one.
pub(super) struct Tensors {
    pub by_name: HashMap<String, Tensor>,
    /// What goes along with parameters, by their names: cut as they are.
    pub along: Vec<HashMap<String, Tensor>>,
    pub device: Device,
}

impl Tensors {
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        // The network was built from its spec, so each of its names is there.
        self.by_name.get(name).ok_or_else(|| Error::Spec { faults: vec![format!("tensor '{name}' is missing")] })
    }

    /// Changes a tensor, and what goes along with it.
    fn change(&mut self, name: &str, change: impl Fn(&Tensor) -> Result<Tensor>) -> Result<()> {
        let changed = change(self.get(name)?)?;
        self.by_name.insert(name.to_owned(), changed);
        for along in &mut self.along {
            if let Some(tensor) = along.get_mut(name) {
                *tensor = change(tensor)?;
            }
        }
        Ok(())
    }

    /// Keeps the elements at these positions of a dimension.
    pub fn keep(&mut self, name: &str, dimension: i64, kept: &[usize]) -> Result<()> {
        if self.get(name)?.size().get(dimension as usize) == Some(&(kept.len() as i64)) {
            return Ok(());
        }
        let kept = positions(kept, self.device)?;
        self.change(name, |tensor| Ok(tensor.f_index_select(dimension, &kept)?))
    }

    /// Sets the elements at these positions of a dimension to zero.
    pub fn zero_at(&mut self, name: &str, dimension: i64, at: &[usize]) -> Result<()> {
        let at = positions(at, self.device)?;
        self.change(name, |tensor| Ok(tensor.f_index_fill(dimension, &at, 0.0)?))
    }

    pub fn zero(&mut self, name: &str) -> Result<()> {
        self.change(name, |tensor| Ok(tensor.f_zeros_like()?))
    }

    /// Sets the weights of a convolution to zero for all input channels but those at these
    /// positions.
    pub fn zero_inputs(&mut self, weight: &str, kept: &[usize]) -> Result<()> {
        let kept = positions(kept, self.device)?;
        self.change(weight, |tensor| Ok(tensor.f_mul(&tensor.f_zeros_like()?.f_index_fill(1, &kept, 1.0)?)?))
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

    /// The network of `spec`, and what goes along with its parameters.
    pub fn into_network(self, spec: &NetSpec) -> Result<(Network, Vec<HashMap<String, Tensor>>)> {
        let network = Network::build(spec, self.device, 0)?;
        let Self { mut by_name, mut along, .. } = self;
        let own: Vec<_> = network.tensors().iter().filter_map(|entry| by_name.remove_entry(&entry.name)).collect();
        let names: HashSet<&str> = own.iter().map(|(name, _)| name.as_str()).collect();
        along.iter_mut().for_each(|along| along.retain(|name, _| names.contains(name.as_str())));
        let weights = StateDict { origin: PathBuf::from("pruned"), tensors: own, metadata: HashMap::new() };
        network.load(&weights, Classifier::Required)?;
        Ok((network, along))
    }
}
