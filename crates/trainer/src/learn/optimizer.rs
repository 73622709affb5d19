//! Gradient descent whose state is part of a checkpoint.

use crate::config::{Algorithm, GatesConfig, OptimizerConfig};
use crate::error::{Error, Result};
use gumbel_gates::GATE_GROUP;
use std::collections::HashMap;
use std::path::Path;
use tch::{Kind, Tensor};
use torch_ext::{AdamWStep, Gradients, SgdStep, Tensors, fused_adamw, fused_sgd, norm};

/// SGD with momentum or AdamW over groups of parameters.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    groups: Vec<Group>,
    /// Steps that were not left out, by which AdamW corrects its means: float32 scalar.
    steps: Tensor,
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
    /// One list for each kind of buffer, in the order of [`buffers`].
    buffers: Vec<Vec<Tensor>>,
}

/// What an algorithm keeps for each parameter, by its names in a checkpoint.
fn buffers(algorithm: Algorithm) -> &'static [&'static str] {
    match algorithm {
        Algorithm::Sgd => &["momentum"],
        Algorithm::AdamW => &["mean", "square"],
    }
}

/// The numbers of one step.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// Learning rate of the network's weights.
    pub learning_rate: f64,
    /// Whether the gates learn too.
    pub gates: bool,
    /// What the loss was multiplied by, float32 scalar; absent: nothing.
    pub scale: Option<&'a Tensor>,
    /// Float32 scalar, 1 if nothing is to change; absent: never.
    pub skip: Option<&'a Tensor>,
}

impl Optimizer {
    /// An optimizer for all parameters of a network with `gate_count` gates: gates with their own
    /// factor and decay; of the rest, weights decay, and one-dimensional parameters (batch norms,
    /// biases) do where the configuration says so.
    ///
    /// # Errors
    /// If the buffers cannot be made.
    pub fn new(tensors: &Tensors, gate_count: usize, config: &OptimizerConfig, gates: &GatesConfig) -> Result<Self> {
        let kinds = buffers(config.algorithm);
        let group = |gates, learning_rate_factor, weight_decay| Group {
            gates,
            learning_rate_factor,
            weight_decay,
            names: Vec::new(),
            parameters: Vec::new(),
            buffers: kinds.iter().map(|_| Vec::new()).collect(),
        };
        let gate_decay = gates.weight_decay.value(config.weight_decay, gate_count);
        let mut gate = group(true, gates.learning_rate_factor, gate_decay);
        let mut weights = group(false, 1.0, config.weight_decay);
        let mut others = group(false, 1.0, if config.decay_all { config.weight_decay } else { 0.0 });
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
            for buffers in &mut group.buffers {
                buffers.push(entry.tensor.f_detach()?.f_zeros_like()?);
            }
        }
        let steps = Tensor::f_zeros([], (Kind::Float, tensors.device()))?;
        Ok(Self { config: config.clone(), groups: vec![weights, others, gate], steps })
    }

    /// Forgets the gradients of the last step.
    pub fn zero_gradients(&mut self) {
        for parameter in self.groups.iter_mut().flat_map(|group| &mut group.parameters) {
            parameter.zero_grad();
        }
    }

    fn learning(&self, gates: bool) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(move |group| (gates || !group.gates) && !group.parameters.is_empty())
    }

    /// The norm of all gradients together, those of gates too if `gates` learn: a scalar tensor
    /// that nobody waits for.
    ///
    /// # Errors
    /// If no gradient was computed.
    pub fn norm(&self, gates: bool) -> Result<Tensor> {
        let gradients = self.learning(gates).flat_map(|group| &group.parameters).map(Tensor::f_grad);
        Ok(tch::no_grad(|| norm(&gradients.collect::<tch::Result<Vec<_>>>()?))?)
    }

    /// One step along the gradients, of which `norm` is the norm.
    ///
    /// # Errors
    /// If libtorch refuses it, for example because no gradient was computed.
    pub fn step(&self, update: &Update, norm: &Tensor) -> Result<()> {
        tch::no_grad(|| {
            let clip = match self.config.clip_norm {
                None => None,
                Some(most) => Some(clip_factor(norm, update.scale, most)?),
            };
            if self.config.algorithm == Algorithm::AdamW {
                let _ = match update.skip {
                    None => self.steps.shallow_clone().f_add_scalar_(1.0)?,
                    Some(skip) => self.steps.shallow_clone().f_add_(&skip.f_neg()?.f_add_scalar(1.0)?)?,
                };
            }
            for group in self.learning(update.gates) {
                let gradients = group.parameters.iter().map(Tensor::f_grad).collect::<tch::Result<Vec<_>>>()?;
                if let Some(clip) = &clip {
                    for gradient in &gradients {
                        let _ = gradient.shallow_clone().f_mul_(clip)?;
                    }
                }
                group.step(&self.config, update, &gradients, &self.steps)?;
            }
            Ok(())
        })
    }

    /// Every buffer by the name of its parameter, one map for each kind.
    pub fn buffers(&self) -> Vec<HashMap<String, Tensor>> {
        let of_kind = |kind: usize| {
            let groups = self.groups.iter();
            let named = groups.flat_map(move |group| group.names.iter().cloned().zip(&group.buffers[kind]));
            named.map(|(name, buffer)| (name, buffer.shallow_clone())).collect()
        };
        (0..buffers(self.config.algorithm).len()).map(of_kind).collect()
    }

    /// Goes on from where `before` stood on a larger network, with what is left of its buffers.
    /// Parameters that are new begin with zeros.
    ///
    /// # Errors
    /// If a buffer has another shape than its parameter.
    pub fn go_on_from(&mut self, before: &Self, left: &[HashMap<String, Tensor>]) -> Result<()> {
        for group in &mut self.groups {
            for (own, left) in group.buffers.iter_mut().zip(left) {
                for (name, buffer) in group.names.iter().zip(own) {
                    if let Some(left) = left.get(name) {
                        buffer.f_copy_(left)?;
                    }
                }
            }
        }
        Ok(self.steps.f_copy_(&before.steps)?)
    }

    /// Every buffer by its name in a checkpoint.
    pub fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let kinds = buffers(self.config.algorithm);
        let steps = (self.config.algorithm == Algorithm::AdamW).then(|| ("steps".to_owned(), &self.steps));
        let of_parameters = self.groups.iter().flat_map(move |group| {
            kinds.iter().zip(&group.buffers).flat_map(|(kind, buffers)| {
                group.names.iter().zip(buffers).map(move |(name, buffer)| (format!("{kind}.{name}"), buffer))
            })
        });
        steps.into_iter().chain(of_parameters)
    }

    /// Takes over the buffers of the checkpoint `origin`.
    ///
    /// # Errors
    /// If one is missing or has another shape; then nothing changes.
    pub fn load_state(&mut self, origin: &Path, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut pairs = Vec::new();
        for (name, own) in self.state() {
            match state.get(&name) {
                Some(saved) if saved.size() == own.size() => pairs.push((own.shallow_clone(), saved)),
                _ => {
                    return Err(Error::NotACheckpoint {
                        path: origin.to_owned(),
                        reason: format!("the optimizer state '{name}' is missing or has another shape"),
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

impl Group {
    fn step(&self, config: &OptimizerConfig, update: &Update, gradients: &[Tensor], steps: &Tensor) -> Result<()> {
        let parameters = &self.parameters;
        let weight_decay = self.weight_decay;
        let learning_rate = update.learning_rate * self.learning_rate_factor;
        let gradients = Gradients { values: gradients, scale: update.scale, skip: update.skip };
        // In the order of `buffers`.
        match config.algorithm {
            Algorithm::AdamW => {
                let (betas, epsilon) = (config.betas, config.epsilon);
                let step = AdamWStep { learning_rate, betas, weight_decay, epsilon };
                fused_adamw(parameters, gradients, &self.buffers[0], &self.buffers[1], steps, &step)?;
            }
            Algorithm::Sgd => {
                let (momentum, nesterov) = (config.momentum, config.nesterov);
                let step = SgdStep { learning_rate, momentum, weight_decay, nesterov };
                fused_sgd(parameters, gradients, &self.buffers[0], &step)?;
            }
        }
        Ok(())
    }
}

/// What gradients of this norm are multiplied by so that it is at most `most`, as
/// `torch.nn.utils.clip_grad_norm_` does. Nothing waits for the device.
fn clip_factor(norm: &Tensor, scale: Option<&Tensor>, most: f64) -> Result<Tensor> {
    let norm = match scale {
        Some(scale) => norm.f_div(scale)?,
        None => norm.shallow_clone(),
    };
    Ok(norm.f_add_scalar(1e-6)?.f_reciprocal()?.f_mul_scalar(most)?.f_clamp_max(1.0)?)
}
