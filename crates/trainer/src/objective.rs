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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    /// Two images, two classes, two gates; class logits (0, 0) and (0, ln 3), labels 0 and 1.
    fn output() -> Output {
        let opening = |values: [f32; 2]| Tensor::from_slice(&values).view([2, 1]);
        let gate = |closed: f32, open: f32| Tensor::from_slice(&[closed, open]).view([1, 1, 2]).repeat([2, 1, 1]);
        Output {
            logits: Tensor::from_slice(&[0.0f32, 0.0, 0.0, 3.0f32.ln()]).view([2, 2]),
            // Deployed: the first gate is open for both images, the second for none.
            gate_logits: vec![gate(0.0, 1.0), gate(2.0, 1.0)],
            openings: Openings::new(vec![opening([1.0, 0.0]), opening([1.0, 0.0])]).unwrap(),
        }
    }

    fn terms(objective: &Objective) -> [f64; 3] {
        let terms = objective.terms(&output(), &Tensor::from_slice(&[0i64, 1]), &[0.5, 0.9]).unwrap();
        let activation = terms.activation.unwrap();
        [terms.total, terms.cross_entropy, activation].map(|term| term.to_kind(Kind::Double).double_value(&[]))
    }

    const PLAIN: Objective = Objective {
        label_smoothing: 0.0,
        activation: ActivationLoss::PerGate,
        loss_on: LossOn::Sampled,
        temperature: 1.0,
        factor: 3.0,
    };

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found} and {expected}");
    }

    #[test]
    fn the_objective_is_the_sum_of_its_terms() {
        // Cross entropy: (ln 2 + ln 4/3) / 2. Rates 0.5 and 0.5 against 0.5 and 0.9: 0.16 / 2.
        let [total, cross_entropy, activation] = terms(&PLAIN);
        close(cross_entropy, (2.0f64.ln() + (4.0f64 / 3.0).ln()) / 2.0);
        close(activation, 0.08);
        close(total, cross_entropy + 3.0 * 0.08);
    }

    #[test]
    fn the_batch_form_holds_the_mean_to_the_mean_target() {
        let [.., activation] = terms(&Objective { activation: ActivationLoss::Batch, ..PLAIN });
        close(activation, (0.7f64 - 0.5).powi(2));
    }

    #[test]
    fn the_deployed_form_sees_the_decisions_of_argmax() {
        // Rates 1 and 0 against 0.5 and 0.9.
        let [.., activation] = terms(&Objective { loss_on: LossOn::Deployed, ..PLAIN });
        close(activation, (0.25 + 0.81) / 2.0);
    }

    #[test]
    fn label_smoothing_spreads_over_all_classes() {
        // Targets 0.9 and 0.1 of ε = 0.2 over two classes.
        let [_, cross_entropy, _] = terms(&Objective { label_smoothing: 0.2, ..PLAIN });
        let (first, second) = (2.0f64.ln(), 0.9 * (4.0f64 / 3.0).ln() + 0.1 * 4.0f64.ln());
        close(cross_entropy, (first + second) / 2.0);
    }
}
