//! A network as TorchScript: its tensors, batch norms folded in if asked for, and its source in one
//! module.

use super::source::{ScriptOptions, source};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::spec::{ConvSpec, Shortcut};
use std::collections::{HashMap, HashSet};
use tch::Tensor;
use torch_ext::{BatchNorm, Role, Script};

impl Network {
    /// The TorchScript source of this network's methods: `forward(images) -> logits` and
    /// `forward_with_openings(images) -> (logits, gate_values)`.
    ///
    /// # Errors
    /// If the policy draws noise or ranks gates: a script decides each gate by its own probability.
    pub fn script_source(&self, options: &ScriptOptions) -> Result<String> {
        source(self.spec(), options)
    }

    /// The network as a TorchScript module on the CPU. Tensors have the state dict's names; with
    /// folded batch norms a convolution has a `bias` and its batch norm is gone.
    ///
    /// # Errors
    /// As [`Network::script_source`], or if libtorch cannot compile it.
    pub fn script(&self, options: &ScriptOptions) -> Result<Script> {
        let mut script = Script::new("Network")?;
        let folded = if options.fold_batch_norms { self.folded()? } else { Folded::default() };
        for entry in self.tensors() {
            let (owner, _) = entry.name.rsplit_once('.').unwrap_or(("", &entry.name));
            if folded.norms.contains(owner) {
                continue;
            }
            match folded.convs.get(owner) {
                None => script.tensor(&entry.name, &on_cpu(&entry.tensor)?, entry.role == Role::Buffer)?,
                Some((weight, bias)) => {
                    script.tensor(&entry.name, &on_cpu(weight)?, false)?;
                    script.tensor(&format!("{owner}.bias"), &on_cpu(bias)?, false)?;
                }
            }
        }
        script.define(&self.script_source(options)?)?;
        Ok(script)
    }

    /// The convolutions with their batch norms folded in: w·γ/σ and β − μ·γ/σ.
    fn folded(&self) -> Result<Folded> {
        let mut folded = Folded::default();
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
            folded.convs.insert(name, (weight, bias));
            folded.norms.insert(format!("{prefix}{}", conv.norm));
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

/// What folding batch norms into convolutions gives, by state dict path.
#[derive(Default)]
struct Folded {
    /// Weight and bias of each convolution.
    convs: HashMap<String, (Tensor, Tensor)>,
    /// The batch norms that are gone.
    norms: HashSet<String>,
}

fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(tch::Device::Cpu)?)
}
