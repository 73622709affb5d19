//! Which gates decide alike for every image.

use crate::error::Result;
use crate::events::{Listener, PassKind};
use crate::measure::pass::{ImagePass, PassBatch};
use arch::{Decision, Network, Output, Pass};
use gumbel_gates::{GateKind, Policy, sampling};
use std::sync::atomic::AtomicBool;
use tch::{Device, Kind, Tensor};

/// When a gate that looks at the input counts as decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Unanimity {
    /// Share of the images that must agree, above one half.
    pub share: f64,
    /// Least probability of the decision for an image to agree; absent, every decision of the
    /// policy counts.
    pub confidence: Option<f64>,
}

/// The decisions of a network's independent gates, by `policy`, which must not rank them among
/// others; dependent ones are undecided.
///
/// # Errors
/// If the network cannot run.
pub fn independent_decisions(network: &Network, policy: Policy, image_size: u32) -> Result<Vec<Decision>> {
    // Their logits are the same for any image.
    let size = i64::from(image_size);
    let image = Tensor::f_zeros([1, 3, size, size], (Kind::Float, network.device()))?;
    let output = tch::no_grad(|| network.forward(&image, Pass::inference(policy)))?;
    let mut decisions = Vec::with_capacity(network.spec().gate_count());
    for ((_, gates), gate_values) in network.spec().gate_sites().zip(output.gate_values.sites()) {
        let open: Vec<f32> = Vec::try_from(gate_values.f_view([-1])?.f_to_device(Device::Cpu)?)?;
        decisions.extend(open.into_iter().map(|open| match gates.kind {
            GateKind::Dependent => Decision::Undecided,
            GateKind::Independent if open > 0.0 => Decision::Open,
            GateKind::Independent => Decision::Closed,
        }));
    }
    Ok(decisions)
}

/// Observes the gates of a network over images.
#[derive(Debug, Clone, Copy)]
pub struct GateObserver<'a> {
    /// The network.
    pub network: &'a Network,
    /// The images.
    pub pass: ImagePass<'a>,
    /// How gates decide.
    pub policy: Policy,
    /// When they are decided.
    pub unanimity: Unanimity,
}

impl GateObserver<'_> {
    /// One decision per gate.
    ///
    /// # Errors
    /// If too many images are unusable, the network cannot run, or `interrupt` was set meanwhile
    /// ([`crate::Error::Interrupted`]).
    pub fn run(&self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Vec<Decision>> {
        let gates = self.network.spec().gate_count() as i64;
        let options = (Kind::Double, self.network.device());
        // How many images agree on open, and on closed: [2, gates].
        let mut agreeing = Tensor::f_zeros([2, gates], options)?;
        let counts = self.pass.run(PassKind::Evaluation, listeners, interrupt, |batch| {
            agreeing = agreeing.f_add(&self.agreeing(&batch)?)?;
            Ok(())
        })?;
        let votes: Vec<Vec<f64>> = Vec::try_from(agreeing.f_to_device(Device::Cpu)?)?;
        let needed = self.unanimity.share * counts.images as f64;
        let decide = |(&open, &closed): (&f64, &f64)| match (open >= needed, closed >= needed) {
            _ if counts.images == 0 => Decision::Undecided,
            (true, false) => Decision::Open,
            (false, true) => Decision::Closed,
            _ => Decision::Undecided,
        };
        Ok(votes[0].iter().zip(&votes[1]).map(decide).collect())
    }

    fn agreeing(&self, batch: &PassBatch) -> Result<Tensor> {
        let pass = Pass::inference(self.policy.for_batch(batch.number));
        let output: Output = tch::no_grad(|| self.network.forward(&batch.images, pass))?;
        let open = output.gate_values.joined()?.f_to_kind(Kind::Double)?;
        let probability = sampling::probability(&Tensor::f_cat(&output.gate_logits, 1)?)?.f_to_kind(Kind::Double)?;
        let least = self.unanimity.confidence.unwrap_or(0.0);
        let sure = |probability: Tensor| probability.f_ge(least)?.f_to_kind(Kind::Double);
        let closed = open.f_neg()?.f_add_scalar(1.0)?;
        let votes = [
            open.f_mul(&sure(probability.shallow_clone())?)?,
            closed.f_mul(&sure(probability.f_neg()?.f_add_scalar(1.0)?)?)?,
        ];
        Ok(Tensor::f_stack(&votes, 0)?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?)
    }
}
