//! A network as TorchScript: its tensors, batch norms folded in if asked for, and its source in one
//! module.

use super::fold::Folded;
use super::source::{ScriptOptions, source};
use crate::error::Result;
use crate::network::Network;
use tch::Tensor;
use torch_ext::{Role, Script};

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
}

fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(tch::Device::Cpu)?)
}
