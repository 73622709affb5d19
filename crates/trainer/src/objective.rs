//! What training minimises: cross entropy + factor · activation loss.

use crate::config::{ActivationLoss, LossOn};
use crate::error::Result;
use arch::Output;
use gumbel_gates::{Openings, loss, sampling};
use tch::{Reduction, Tensor};

/// The weights of the objective's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Objective {
    /// Share of the label spread evenly over all classes, as in `torch.nn.CrossEntropyLoss`.
    pub label_smoothing: f64,
    /// Which activation loss.
    pub activation: ActivationLoss,
    /// Which openings it sees.
    pub loss_on: LossOn,
    /// Temperature of the gradient of deployed openings.
    pub temperature: f64,
    /// Its weight, the papers' lossfact.
    pub factor: f64,
}

/// The objective of one batch, as scalar tensors.
#[derive(Debug)]
pub struct Terms {
    /// The sum, to differentiate.
    pub total: Tensor,
    /// Cross entropy, detached.
    pub cross_entropy: Tensor,
    /// Activation loss before its factor, detached; absent without gates.
    pub activation: Option<Tensor>,
}

impl Objective {
    /// The objective for a forward pass, labels `[N]` and one target per gate.
    ///
    /// # Errors
    /// If there is not one target per gate.
    pub fn terms(&self, output: &Output, labels: &Tensor, targets: &[f64]) -> Result<Terms> {
        let cross_entropy = output.logits.f_cross_entropy_loss(
            labels,
            None::<&Tensor>,
            Reduction::Mean,
            -100, // PyTorch's ignore_index: no label is negative here
            self.label_smoothing,
        )?;
        if output.openings.is_empty() {
            let total = cross_entropy.shallow_clone();
            return Ok(Terms { total, cross_entropy: cross_entropy.f_detach()?, activation: None });
        }
        let deployed;
        let openings = match self.loss_on {
            LossOn::Sampled => &output.openings,
            LossOn::Deployed => {
                let decide = |logits| Ok(sampling::decide(logits, self.temperature)?);
                deployed = Openings::new(output.gate_logits.iter().map(decide).collect::<Result<_>>()?)?;
                &deployed
            }
        };
        let activation = match self.activation {
            ActivationLoss::PerGate => loss::per_gate(openings, targets)?,
            ActivationLoss::Batch => {
                loss::batch(&openings.mean()?, targets.iter().sum::<f64>() / targets.len() as f64)?
            }
        };
        Ok(Terms {
            total: cross_entropy.f_add(&activation.f_mul_scalar(self.factor)?)?,
            cross_entropy: cross_entropy.f_detach()?,
            activation: Some(activation.f_detach()?),
        })
    }
}
