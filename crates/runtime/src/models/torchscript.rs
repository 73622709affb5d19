//! libtorch's interpreter of scripts.

use super::model::Model;
use crate::array::Array;
use crate::error::{Error, Result};
use crate::protocol::Runtime;
use std::path::Path;
use tch::Tensor;
use torch_ext::Script;

/// A TorchScript file, frozen and optimized as `torch.jit.optimize_for_inference` does.
pub struct TorchScript {
    script: Script,
    images: Tensor,
}

impl TorchScript {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is no TorchScript file.
    pub fn load(path: &Path) -> Result<Self> {
        Ok(Self { script: Script::load(path)?.optimized()?, images: Tensor::new() })
    }
}

impl Model for TorchScript {
    fn give(&mut self, images: &Array) -> Result<()> {
        self.images = images.tensor()?;
        Ok(())
    }

    fn run(&mut self) -> Result<Array> {
        let logits = self.script.call("forward", &self.images)?;
        let none = || Error::Refused { runtime: Runtime::TorchScript, message: "forward gave nothing".into() };
        Array::of(logits.first().ok_or_else(none)?)
    }
}
