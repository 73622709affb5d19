//! Batch norms as part of the convolutions before them: w·γ/σ and β − μ·γ/σ.

use crate::error::{Error, Result};
use crate::network::Network;
use crate::spec::{ConvSpec, Shortcut};
use std::collections::HashMap;
use tch::Tensor;
use torch_ext::BatchNorm;

/// Weight and bias of each convolution with its batch norm folded in, by state dict path.
pub(crate) type Folded = HashMap<String, (Tensor, Tensor)>;

impl Network {
    /// The convolutions with their batch norms folded in: w·γ/σ and β − μ·γ/σ.
    pub(crate) fn folded(&self) -> Result<Folded> {
        let mut folded = Folded::new();
        let mut fold = |prefix: &str, conv: &ConvSpec| -> Result<()> {
            let get = |name: String| {
                let missing = || Error::Spec { faults: vec![format!("tensor '{name}' is missing")] };
                self.tensors().get(&name).map(|entry| entry.tensor.detach()).ok_or_else(missing)
            };
            let norm = |part: &str| get(format!("{prefix}{}.{part}", conv.norm));
            let scale = norm("weight")?.f_div(&norm("running_var")?.f_add_scalar(BatchNorm::EPSILON)?.f_sqrt()?)?;
            let name = format!("{prefix}{}", conv.name);
            let weight = get(format!("{name}.weight"))?.f_mul(&scale.f_view([-1, 1, 1, 1])?)?;
            let bias = norm("bias")?.f_sub(&norm("running_mean")?.f_mul(&scale)?)?;
            folded.insert(name, (weight, bias));
            Ok(())
        };
        fold("", &self.spec().stem.conv)?;
        for block in &self.spec().blocks {
            let prefix = format!("{}.", block.name);
            block.branch.iter().try_for_each(|conv| fold(&prefix, conv))?;
            if let Shortcut::Projection(conv) = &block.shortcut {
                fold(&prefix, conv)?;
            }
        }
        Ok(folded)
    }
}
