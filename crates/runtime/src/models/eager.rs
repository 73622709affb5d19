//! This program's own forward pass.

use super::model::Model;
use crate::array::Array;
use crate::error::Result;
use arch::{Network, Pass};
use tch::Tensor;

/// A network in this program.
pub struct Eager {
    network: Network,
    pass: Pass,
    images: Tensor,
}

impl Eager {
    /// A network that runs as `pass` says.
    pub fn new(network: Network, pass: Pass) -> Self {
        Self { network, pass, images: Tensor::new() }
    }
}

impl Model for Eager {
    fn give(&mut self, images: &Array) -> Result<()> {
        // Channels last, as the loader delivers them.
        let images = images.tensor()?.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?;
        self.images = images.f_to_device(self.network.device())?;
        Ok(())
    }

    fn run(&mut self) -> Result<Array> {
        let output = tch::no_grad(|| self.network.forward(&self.images, self.pass))?;
        Array::of(&output.logits)
    }
}
