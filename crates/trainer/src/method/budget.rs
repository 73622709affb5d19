//! Freezing gates so that the deployed network meets its budget.

use crate::config::Weighting;
use crate::error::Result;
use crate::events::{Listener, PassKind};
use crate::measure::pass::ImagePass;
use crate::method::objective::Objective;
use arch::{Allocation, Meter, Network, Pass, Spending};
use gumbel_gates::{GateValues, Policy, sampling};
use std::sync::atomic::AtomicBool;
use tch::{Kind, Tensor};

/// The margin, at least, of a gate whose decision is turned around.
const LEAST_MARGIN: f64 = 0.01;

/// Closing gates changes what later gates see; so often the threshold is found anew.
const ROUNDS: usize = 4;

/// The compute a deployed network may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget<'a> {
    pub network: &'a Network,
    /// Says what the activation is a share of.
    pub objective: &'a Objective,
    /// What is counted.
    pub spending: &'a Spending,
    pub meter: &'a Meter,
    /// The activation may be this much.
    pub target: f64,
    /// Sites of filters get a multiple of so many channels, or all.
    pub align: usize,
    /// The images that gates which look at the input are frozen over.
    pub pass: ImagePass<'a>,
}

impl Budget<'_> {
    /// Moves the margins of all gates by one and the same number, so that the decisions of argmax
    /// stay within the budget and use as much of it as gates allow. A network that does so already
    /// is left as it is, bit for bit. Returns the activation of the decisions, measured: closing
    /// gates changes what later gates see, so of gates that look at the input it may be a little
    /// more.
    ///
    /// # Errors
    /// If too many images are unusable, or the network cannot run.
    pub fn meet(&self, listeners: &mut [Box<dyn Listener>]) -> Result<f64> {
        let of = |open| Ok(self.objective.activation(&GateValues::new(vec![open])?, self.meter)?.f_double_value(&[])?);
        let dependent = self.network.spec().has_dependent_gates();
        let aligned = self.align > 1 && !dependent;
        let margins =
            |listeners: &mut [_]| if dependent { self.margins(listeners) } else { self.margins_of_any_image() };
        // The gates' own MACs come on top of all that they decide about.
        let target = if self.target < 1.0 { self.target } else { f64::INFINITY };
        for _ in 0..ROUNDS {
            let margins = margins(listeners)?;
            let (threshold, activation) = lowest_threshold(&margins, target, of)?;
            if threshold == 0.0 {
                return if aligned { self.align_widths(target) } else { Ok(activation) };
            }
            let by = margins.f_new_full([margins.size2()?.1], -threshold, (Kind::Float, margins.device()))?;
            self.network.shift_gates(&by)?;
        }
        if aligned {
            return self.align_widths(target);
        }
        of(margins(listeners)?.f_gt(0.0)?.f_to_kind(Kind::Float)?)
    }

    /// Gives each site of filters an aligned width within the target, by the gates' probabilities
    /// of being open. The margin of a gate that decides otherwise then is turned around. Returns
    /// the activation of the decisions.
    fn align_widths(&self, target: f64) -> Result<f64> {
        let margins: Vec<f64> = self
            .network
            .independent_margins()?
            .into_iter()
            .map(|margin| f64::from(margin.unwrap_or_default()))
            .collect();
        let decided: Vec<bool> = margins.iter().map(|margin| *margin > 0.0).collect();
        let scores: Vec<f64> = margins.iter().map(|margin| 1.0 / (1.0 + (-margin).exp())).collect();
        let spending = self.spending;
        let budget = match self.objective.weighting {
            _ if target.is_infinite() => f64::INFINITY,
            // The gates' own come on top.
            Weighting::Network | Weighting::CostTable => target * spending.dense() - spending.gates(),
            Weighting::Macs => spending.least() + target * spending.gated() - spending.gates(),
            // What the threshold leaves open.
            Weighting::Gates => spending.of_gates(&decided)?,
        };
        let open = Allocation { spending, decided: &decided, scores: &scores, align: self.align, budget }.open()?;
        let turned = |(margin, open): (&f64, &bool)| {
            let size = margin.abs().max(LEAST_MARGIN);
            if (*margin > 0.0) == *open {
                0.0
            } else if *open {
                size - margin
            } else {
                -size - margin
            }
        };
        let by: Vec<f64> = margins.iter().zip(&open).map(turned).collect();
        let by = Tensor::f_from_slice(&by)?.f_to_kind(Kind::Float)?.f_to_device(self.network.device())?;
        self.network.shift_gates(&by)?;
        let used = spending.of_gates(&open)? + spending.gates();
        Ok(match self.objective.weighting {
            Weighting::Network | Weighting::CostTable => used / spending.dense(),
            Weighting::Macs => (used - spending.least()) / spending.gated(),
            Weighting::Gates => open.iter().filter(|open| **open).count() as f64 / open.len() as f64,
        })
    }

    /// The margins between open and closed of all gates for many images: [N, G].
    fn margins(&self, listeners: &mut [Box<dyn Listener>]) -> Result<Tensor> {
        let mut margins = Vec::new();
        // The pass is short, and a run that is interrupted in it could not go on exactly.
        let interrupt = AtomicBool::new(false);
        self.pass.run(PassKind::Budget, listeners, &interrupt, |batch| {
            margins.push(self.margins_of(&batch.images)?);
            Ok(())
        })?;
        Ok(Tensor::f_cat(&margins, 0)?)
    }

    /// The margins of gates that do not look: [1, G].
    fn margins_of_any_image(&self) -> Result<Tensor> {
        let size = i64::from(self.pass.image_size);
        self.margins_of(&Tensor::f_zeros([1, 3, size, size], (Kind::Float, self.pass.device))?)
    }

    fn margins_of(&self, images: &Tensor) -> Result<Tensor> {
        let output = tch::no_grad(|| self.network.forward(images, Pass::inference(Policy::Argmax)))?;
        Ok(sampling::margin(&Tensor::f_cat(&output.gate_logits, 1)?)?)
    }
}

/// How far below its target frozen gates may stay unremarked, beyond what the largest gate decides
/// about.
const UNSPENT_WORTH_A_NOTE: f64 = 0.02;

/// Whether gates that froze at the activation `found` left more of the target unspent than the size
/// of `together` single gates, which open and close together, explains.
pub(crate) fn leaves_unspent(
    found: f64,
    target: f64,
    weighting: Weighting,
    spending: &Spending,
    together: usize,
) -> bool {
    let per_gate = spending.per_gate();
    let most = per_gate.iter().copied().fold(0.0, f64::max);
    // The share of the target's whole that the gate which decides about most decides about.
    let largest = match weighting {
        Weighting::Gates => 1.0 / per_gate.len().max(1) as f64,
        Weighting::Macs => most / spending.gated().max(1.0),
        Weighting::Network | Weighting::CostTable => most / spending.dense().max(f64::MIN_POSITIVE),
    };
    let largest = largest * together.max(1) as f64;
    found < target - UNSPENT_WORTH_A_NOTE - largest
}

/// The lowest threshold on `margins` [N, G] with which the activation stays within the target, and
/// that activation, which `activation` says of gate values [N, G]. Where several thresholds decide
/// alike, it is 0 if that is one of them, else the middle.
fn lowest_threshold(margins: &Tensor, target: f64, activation: impl Fn(Tensor) -> Result<f64>) -> Result<(f64, f64)> {
    let mut values: Vec<f32> = Vec::try_from(margins.f_view([-1])?.f_to_device(tch::Device::Cpu)?)?;
    values.sort_by(f32::total_cmp);
    values.dedup();
    // It falls with the threshold: this is with the lowest `closed` values below it.
    let activation = |closed: usize| match closed.checked_sub(1) {
        None => activation(margins.f_ones_like()?),
        Some(highest) => activation(margins.f_gt(f64::from(values[highest]))?.f_to_kind(Kind::Float)?),
    };
    // At least `least` values have to be closed, and `enough` meet the target, or nothing does.
    let mut least = 0;
    let mut enough = values.len();
    while least < enough {
        let middle = least.midpoint(enough);
        // What float32 sums are off by is no reason to close another gate.
        match activation(middle)? <= target + 1e-6 {
            true => enough = middle,
            false => least = middle + 1,
        }
    }
    let below = enough.checked_sub(1).and_then(|at| values.get(at)).map(|&value| f64::from(value));
    let above = values.get(enough).map(|&value| f64::from(value));
    let threshold = match (below, above) {
        (Some(below), Some(above)) if below <= 0.0 && 0.0 < above => 0.0,
        (Some(below), Some(above)) => below.midpoint(above),
        (None, Some(above)) => (above - 1.0).min(0.0),
        (Some(below), None) => (below + 1.0).max(0.0),
        (None, None) => 0.0,
    };
    Ok((threshold, activation(enough)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::{Cost, NetSpec};
    use gumbel_gates::GateKind;

    /// With the activation as the share of what is open.
    fn threshold(margins: &[f32], target: f64) -> (f64, f64) {
        let share = |open: Tensor| Ok(open.f_mean(Kind::Double)?.f_double_value(&[])?);
        lowest_threshold(&Tensor::from_slice(margins).view([2, -1]), target, share).unwrap()
    }

    #[test]
    fn the_threshold_closes_as_few_as_the_target_allows() {
        let margins = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(threshold(&margins, 0.5), (2.5, 0.5));
        assert_eq!(threshold(&margins, 0.7), (2.5, 0.5));
        assert_eq!(threshold(&margins, 0.75), (1.5, 0.75));
        assert_eq!(threshold(&margins, 0.1), (5.0, 0.0));
        assert_eq!(threshold(&margins, 1.0), (0.0, 1.0));
        assert_eq!(threshold(&[-4.0, -1.0], 1.0), (-5.0, 1.0));
    }

    #[test]
    fn what_meets_the_target_already_stays() {
        assert_eq!(threshold(&[4.0, -0.1, 0.5, 0.0], 0.5), (0.0, 0.5));
        assert_eq!(threshold(&[-1.0, -2.0], 0.0), (0.0, 0.0));
    }

    #[test]
    fn gates_alike_are_decided_alike() {
        assert_eq!(threshold(&[2.0, 2.0, 2.0, 3.0], 0.5), (2.5, 0.25));
        assert_eq!(threshold(&[2.0, 2.0], 0.5), (3.0, 0.0));
    }

    #[test]
    fn what_is_left_unspent_is_remarked_on_beyond_the_largest_gate() {
        let spec = NetSpec::preset("resnet18", 2).unwrap();
        let spec = spec.with_layer_gates(GateKind::Independent, |block| [1, 3].contains(&block));
        let cost = Cost::of(&spec, 32, 32).unwrap();
        let spending = cost.spending();
        // One of two gates is half of the whole.
        assert!(!leaves_unspent(0.0, 0.52, Weighting::Gates, &spending, 1));
        assert!(leaves_unspent(0.0, 0.53, Weighting::Gates, &spending, 1));
        let largest = spending.per_gate().into_iter().fold(0.0, f64::max) / spending.dense();
        assert!(!leaves_unspent(0.5, 0.519 + largest, Weighting::Network, &spending, 1));
        assert!(leaves_unspent(0.5, 0.521 + largest, Weighting::Network, &spending, 1));
    }
}
