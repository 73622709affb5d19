//! libtorch's interpreter of scripts.

use super::model::Model;
use crate::array::Array;
use crate::error::{Error, Result};
use crate::kind::Runtime;
use std::path::Path;
use std::time::Instant;
use tch::Tensor;
use torch_ext::Script;

/// A TorchScript file. Where it is timed it runs as it is, or frozen and optimized as
/// `torch.jit.optimize_for_inference` does, whichever is faster: the latter converts layouts around
/// what is conditional.
pub struct TorchScript {
    script: Script,
    optimized: Option<Script>,
    /// The shape of images for which the faster form was chosen, and whether it is the optimized
    /// one.
    chosen: Option<(Vec<i64>, bool)>,
    images: Tensor,
}

/// Runs of each form before one is chosen; the first ones compile.
const TRIALS: u32 = 4;

impl TorchScript {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is no TorchScript file.
    pub fn load(path: &Path) -> Result<Self> {
        Ok(Self { script: Script::load(path)?, optimized: None, chosen: None, images: Tensor::new() })
    }
}

/// The least seconds that a script takes.
fn least_seconds(script: &Script, images: &Tensor) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..TRIALS {
        let start = Instant::now();
        script.call("forward", images)?;
        least = least.min(start.elapsed().as_secs_f64());
    }
    Ok(least)
}

impl Model for TorchScript {
    fn give(&mut self, images: &Array) -> Result<()> {
        self.images = images.tensor()?;
        Ok(())
    }

    fn prepare(&mut self) -> Result<()> {
        let shape = self.images.size();
        if self.chosen.as_ref().is_some_and(|(chosen, _)| *chosen == shape) {
            return Ok(());
        }
        let optimized = match self.optimized.take() {
            Some(optimized) => optimized,
            None => self.script.optimized()?,
        };
        let faster = least_seconds(&optimized, &self.images)? < least_seconds(&self.script, &self.images)?;
        self.optimized = Some(optimized);
        self.chosen = Some((shape, faster));
        Ok(())
    }

    fn run(&mut self) -> Result<Array> {
        let faster = self.chosen.as_ref().is_some_and(|(shape, faster)| *faster && *shape == self.images.size());
        let script = self.optimized.as_ref().filter(|_| faster).unwrap_or(&self.script);
        let logits = script.call("forward", &self.images)?;
        let none = || Error::Refused { runtime: Runtime::TorchScript, message: "forward gave nothing".into() };
        Array::of(logits.first().ok_or_else(none)?)
    }
}
