//! A network as TorchScript: its tensors and its source in one module.

use super::source::source;
use crate::error::Result;
use crate::lower::{Graph, Lowering};
use crate::network::{Execution, Network};
use gumbel_gates::Policy;
use std::collections::HashSet;
use tch::Tensor;
use torch_ext::{Role, Script};

/// How a network becomes a script.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScriptOptions {
    /// How gates decide: argmax, always-open or a threshold.
    pub policy: Policy,
    /// Whether layers that gates close are multiplied by zero or not computed.
    pub execution: Execution,
    /// Whether gates that ignore the image stay gates; else they are decided and cut.
    pub keep_gates: bool,
    /// Whether batch norms become part of the layers before them.
    pub fold_batch_norms: bool,
}

impl Network {
    /// The TorchScript source of this network's methods: `forward(images) -> logits` and
    /// `forward_with_openings(images) -> (logits, gate_values)`, by site of the gates that remain.
    ///
    /// # Errors
    /// If the policy draws noise or ranks gates (a script decides each gate by its own probability),
    /// or nothing of the network is open.
    pub fn script_source(&self, options: &ScriptOptions) -> Result<String> {
        Ok(source(&lowered(self, options)?))
    }

    /// The network as a TorchScript module on the CPU. Tensors have the state dict's names; with
    /// folded batch norms a convolution has a `bias` and its batch norm is gone.
    ///
    /// # Errors
    /// As [`Network::script_source`], or if libtorch cannot compile it.
    pub fn script(&self, options: &ScriptOptions) -> Result<Script> {
        let graph = lowered(self, options)?;
        let mut script = Script::new("Network")?;
        let mut added = HashSet::new();
        let mut result = Ok(());
        graph.whole.visit(&mut |part| {
            for (name, value) in &part.constants {
                if result.is_ok() && added.insert(name.clone()) {
                    let is_buffer = self.tensors().get(name).is_some_and(|entry| entry.role == Role::Buffer);
                    result = on_cpu(value).and_then(|value| Ok(script.tensor(name, &value, is_buffer)?));
                }
            }
        });
        result?;
        script.define(&source(&graph))?;
        Ok(script)
    }
}

fn lowered(network: &Network, options: &ScriptOptions) -> Result<Graph> {
    let ScriptOptions { policy, execution, keep_gates, fold_batch_norms } = *options;
    Lowering { policy, execution, keep_gates, fold_batch_norms }.of(network)
}

fn on_cpu(tensor: &Tensor) -> Result<Tensor> {
    Ok(tensor.f_detach()?.f_to_device(tch::Device::Cpu)?)
}
