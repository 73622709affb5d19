//! libtorch's interpreter of scripts.

use super::model::Model;
use crate::array::Array;
use crate::error::{Error, Result};
use crate::kind::Runtime;
use std::path::Path;
use std::time::Instant;
use tch::Tensor;
use torch_ext::Script;

/// A TorchScript file: as it is, or frozen and optimized as `torch.jit.optimize_for_inference` does,
/// whichever is faster. The latter converts layouts around what is conditional.
pub struct TorchScript {
    forms: [Script; 2],
    /// The shape of images for which a form was chosen, and which.
    chosen: Option<(Vec<usize>, usize)>,
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
        let script = Script::load(path)?;
        let optimized = script.optimized()?;
        Ok(Self { forms: [script, optimized], chosen: None, images: Tensor::new() })
    }

    /// The form that computes the images given faster.
    fn faster(&self) -> Result<usize> {
        let mut seconds = [f64::INFINITY; 2];
        for _ in 0..TRIALS {
            for (form, best) in self.forms.iter().zip(&mut seconds) {
                let start = Instant::now();
                form.call("forward", &self.images)?;
                *best = best.min(start.elapsed().as_secs_f64());
            }
        }
        Ok(usize::from(seconds[1] < seconds[0]))
    }
}

impl Model for TorchScript {
    fn give(&mut self, images: &Array) -> Result<()> {
        self.images = images.tensor()?;
        if self.chosen.as_ref().is_none_or(|(shape, _)| *shape != images.shape) {
            self.chosen = Some((images.shape.clone(), self.faster()?));
        }
        Ok(())
    }

    fn run(&mut self) -> Result<Array> {
        let refused = |message: &str| Error::Refused { runtime: Runtime::TorchScript, message: message.into() };
        let (_, form) = self.chosen.as_ref().ok_or_else(|| refused("no images were given"))?;
        let logits = self.forms[*form].call("forward", &self.images)?;
        Array::of(logits.first().ok_or_else(|| refused("forward gave nothing"))?)
    }
}
