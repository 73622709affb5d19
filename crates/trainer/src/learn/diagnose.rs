//! A second look at a step that left the finite numbers: what was not finite first.

use crate::error::{Diagnosis, Result};
use crate::learn::batch::PreparedBatch;
use crate::learn::step::Learner;
use crate::measure::cut::with_cut_gates;
use crate::results::scheduled::Scheduled;
use arch::{Network, Observer};
use gumbel_gates::sampling;
use tch::{Kind, Tensor};

/// Keeps the first thing that is broken.
#[derive(Debug, Default)]
pub(crate) struct FirstBroken(Option<String>);

impl FirstBroken {
    /// Looks at values, unless something was found already.
    pub fn look(&mut self, values: &Tensor, name: impl FnOnce() -> String) -> std::result::Result<(), tch::TchError> {
        if self.0.is_none() && !is_finite(values)? {
            self.0 = Some(name());
        }
        Ok(())
    }

    /// What it was.
    pub fn found(self) -> Option<String> {
        self.0
    }
}

impl Observer for FirstBroken {
    fn features(&mut self, name: &str, features: &Tensor) -> arch::Result<()> {
        Ok(self.look(features, || format!("the features behind {name}"))?)
    }
}

impl Learner {
    /// A second look at a step that was too much, on its batch: the weights are still those it
    /// began with, and all else is a function of the step.
    ///
    /// # Errors
    /// If libtorch refuses an operation.
    pub fn diagnose(&mut self, step: u64, batch: Option<&PreparedBatch>, scheduled: &Scheduled) -> Result<Diagnosis> {
        let mut diagnosis = Diagnosis { step, learning_rate: scheduled.learning_rate, ..Diagnosis::default() };
        let mut broken = FirstBroken::default();
        for entry in self.network.tensors().parameters() {
            broken.look(&entry.tensor, || format!("those of the weights {}", entry.name))?;
        }
        if let Some(batch) = batch {
            broken.look(&batch.images, || "those of the images".into())?;
            self.optimizer.zero_gradients();
            diagnosis.margins = self.look_again(step, batch, scheduled, &mut broken)?;
        }
        diagnosis.first = broken.found();
        Ok(diagnosis)
    }

    /// Runs the step without its update, and gives the smallest and the largest margin of its
    /// gates.
    fn look_again(
        &self,
        step: u64,
        batch: &PreparedBatch,
        scheduled: &Scheduled,
        broken: &mut FirstBroken,
    ) -> Result<Option<(f64, f64)>> {
        let mut found = None;
        for (number, part) in self.parts(batch).enumerate() {
            let part = part?;
            let pass = self.pass(step, number, scheduled);
            let output = self.network.forward_observed(&part.images, pass, broken)?;
            let output = with_cut_gates(output, &self.cut)?;
            for logits in &output.gate_logits {
                broken.look(logits, || "the logits of gates".into())?;
            }
            found = margins(&output.gate_logits)?;
            broken.look(&output.logits, || "the class logits".into())?;
            let terms = self.objective.terms(&output, &part.labels, scheduled, &self.budget_meter)?;
            broken.look(&terms.total, || "the loss".into())?;
            terms.total.f_mul_scalar(part.share)?.f_backward()?;
        }
        // In the order in which they are computed.
        let parameters: Vec<_> = self.network.tensors().parameters().collect();
        for entry in parameters.into_iter().rev() {
            let gradient = entry.tensor.f_grad()?;
            if gradient.defined() {
                broken.look(&gradient, || format!("the gradients of {}", entry.name))?;
            }
        }
        Ok(found)
    }
}

fn is_finite(values: &Tensor) -> std::result::Result<bool, tch::TchError> {
    Ok(values.f_detach()?.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}

/// The first tensor of a network that is not all finite numbers.
pub(crate) fn broken_tensor(network: &Network) -> Result<Option<String>> {
    for entry in network.tensors() {
        if !is_finite(&entry.tensor)? {
            return Ok(Some(format!("those of {}", entry.name)));
        }
    }
    Ok(None)
}

/// Smallest and largest margin of gates with these logits (closed, open), per site [N, n, 2]; of
/// those that are finite.
pub(crate) fn margins(gate_logits: &[Tensor]) -> Result<Option<(f64, f64)>> {
    if gate_logits.is_empty() {
        return Ok(None);
    }
    let margins = sampling::margin(&Tensor::f_cat(gate_logits, 1)?)?.f_detach()?.f_to_kind(Kind::Double)?;
    let finite = margins.f_masked_select(&margins.f_isfinite()?)?;
    if finite.numel() == 0 {
        return Ok(None);
    }
    Ok(Some((finite.f_min()?.f_double_value(&[])?, finite.f_max()?.f_double_value(&[])?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_broken_values_are_kept() {
        let mut first = FirstBroken::default();
        first.look(&Tensor::from_slice(&[1.0f32, 2.0]), || "a".into()).unwrap();
        first.look(&Tensor::from_slice(&[1.0f32, f32::NAN]), || "b".into()).unwrap();
        first.look(&Tensor::from_slice(&[f32::INFINITY]), || "c".into()).unwrap();
        assert_eq!(first.found().as_deref(), Some("b"));
        let logits = Tensor::from_slice(&[0.0f32, 2.0, 1.0, 0.5, f32::NAN, 0.0]).view([1, 3, 2]);
        assert_eq!(margins(&[logits]).unwrap(), Some((-0.5, 2.0)));
        assert_eq!(margins(&[]).unwrap(), None);
    }
}
