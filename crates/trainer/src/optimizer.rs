//! Stochastic gradient descent whose state is part of a checkpoint.

use crate::config::{GatesConfig, OptimizerConfig};
use crate::error::{Error, Result};
use gumbel_gates::GATE_GROUP;
use std::collections::HashMap;
use std::path::Path;
use tch::Tensor;
use torch_ext::{SgdStep, Tensors, fused_sgd};

/// SGD with momentum over groups of parameters.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    groups: Vec<Group>,
}

/// Parameters that share their learning rate factor and weight decay.
#[derive(Debug)]
struct Group {
    /// Whether these are the gates.
    gates: bool,
    learning_rate_factor: f64,
    weight_decay: f64,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    momenta: Vec<Tensor>,
}

impl Sgd {
    /// An optimiser for all parameters of a network with `gate_count` gates: gates with their own factor and decay; of the
    /// rest, weights decay and one-dimensional parameters (batch norms, biases) do not.
    ///
    /// # Errors
    /// If the momentum buffers cannot be made.
    pub fn new(tensors: &Tensors, gate_count: usize, optimizer: &OptimizerConfig, gates: &GatesConfig) -> Result<Self> {
        let group = |gates, learning_rate_factor, weight_decay| Group {
            gates,
            learning_rate_factor,
            weight_decay,
            names: Vec::new(),
            parameters: Vec::new(),
            momenta: Vec::new(),
        };
        let gate_decay = gates.weight_decay.value(optimizer.weight_decay, gate_count);
        let mut gate = group(true, gates.learning_rate_factor, gate_decay);
        let mut weights = group(false, 1.0, optimizer.weight_decay);
        let mut others = group(false, 1.0, 0.0);
        for entry in tensors.parameters() {
            let group = if entry.group == GATE_GROUP {
                &mut gate
            } else if entry.tensor.dim() > 1 {
                &mut weights
            } else {
                &mut others
            };
            group.names.push(entry.name.clone());
            group.parameters.push(entry.tensor.shallow_clone());
            group.momenta.push(entry.tensor.f_detach()?.f_zeros_like()?);
        }
        Ok(Self { momentum: optimizer.momentum, nesterov: optimizer.nesterov, groups: vec![weights, others, gate] })
    }

    /// Forgets the gradients of the last step.
    pub fn zero_gradients(&mut self) {
        for parameter in self.groups.iter_mut().flat_map(|group| &mut group.parameters) {
            parameter.zero_grad();
        }
    }

    /// One step along the gradients; `gates` says whether they learn too.
    ///
    /// # Errors
    /// If libtorch refuses it, for example because no gradient was computed.
    pub fn step(&self, learning_rate: f64, gates: bool) -> Result<()> {
        tch::no_grad(|| {
            for group in self.groups.iter().filter(|group| gates || !group.gates) {
                let gradients = group.parameters.iter().map(Tensor::f_grad).collect::<tch::Result<Vec<_>>>()?;
                let step = SgdStep {
                    learning_rate: learning_rate * group.learning_rate_factor,
                    momentum: self.momentum,
                    weight_decay: group.weight_decay,
                    nesterov: self.nesterov,
                };
                fused_sgd(&group.parameters, &gradients, &group.momenta, &step)?;
            }
            Ok(())
        })
    }

    /// Every momentum buffer with the name of its parameter.
    pub fn state(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.groups.iter().flat_map(|group| group.names.iter().map(String::as_str).zip(&group.momenta))
    }

    /// Takes over the momentum buffers of the checkpoint `origin`.
    ///
    /// # Errors
    /// If one is missing or has another shape; then nothing changes.
    pub fn load_state(&mut self, origin: &Path, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut pairs = Vec::new();
        for (name, own) in self.state() {
            match state.get(name) {
                Some(saved) if saved.size() == own.size() => pairs.push((own.shallow_clone(), saved)),
                _ => {
                    return Err(Error::NotACheckpoint {
                        path: origin.to_owned(),
                        reason: format!("the optimiser state of '{name}' is missing or has another shape"),
                    });
                }
            }
        }
        for (mut own, saved) in pairs {
            own.f_copy_(saved)?;
        }
        Ok(())
    }
}
