//! The stages of a run's gates: their start, their learning and, if it is asked for, their decision.

use crate::config::{GateStart, Weighting};
use crate::error::Result;
use crate::events::{Event, Listener, tell};
use crate::learn::average::Average;
use crate::measure::pass::TrainingPass;
use crate::method::budget::Budget;
use crate::method::importance;
use crate::run::fit::Fit;
use std::sync::atomic::AtomicBool;
use tch::{Kind, Tensor};

/// Training batches over which gates that look at the input are decided.
const BUDGET_BATCHES: usize = 16;

/// How far below its target a decision may end up unremarked, beyond what the largest gate decides about.
const UNSPENT_WORTH_A_NOTE: f64 = 0.02;

impl Fit {
    /// The step before which gates are decided, if they ever are.
    pub(crate) fn decided_from(&self) -> Option<u64> {
        let from = self.config.gates.decided_from(self.steps_per_epoch());
        from.filter(|_| !self.blocks_of_gates.is_empty())
    }

    /// Whether gates no longer learn at a step.
    pub(crate) fn is_decided(&self, step: u64) -> bool {
        self.decided_from().is_some_and(|from| step >= from)
    }

    /// A pass over training images in an order that training itself does not reach.
    pub(crate) fn training_pass(&self, batches: usize) -> TrainingPass<'_> {
        TrainingPass {
            loader: &self.train,
            image_size: self.config.data.image_size,
            device: self.network.device(),
            batches,
            epoch: self.config.train.epochs,
            max_bad_share: self.config.data.max_bad_share,
        }
    }

    /// Makes gates start as open as what they decide about is important. `false` if interrupted.
    pub(crate) fn start_gates(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<bool> {
        let gates = &self.config.gates;
        if !self.fresh_gates || self.blocks_of_gates.is_empty() {
            return Ok(true);
        }
        let importance = match gates.start {
            GateStart::Alike => return Ok(true),
            // They say how gates of one place compare; what they save in MACs is much the same.
            GateStart::Norms => self.network.gate_norms()?,
            GateStart::Taylor => {
                // Gradients of a loss that is not scaled: 16 bits could not hold them.
                self.network.compute_in(None);
                let pass = self.training_pass(gates.start_batches);
                let importance = importance::taylor(&self.network, &pass, listeners, interrupt);
                self.network.compute_in(self.config.train.precision.half());
                let Some(importance) = importance? else { return Ok(false) };
                match &self.objective.gate_macs {
                    // What counts is what a gate saves.
                    Some(macs) => {
                        importance.iter().zip(macs).map(|(importance, macs)| importance / macs.max(1.0)).collect()
                    }
                    None => importance,
                }
            }
        };
        if let Some(gate) = importance.iter().position(|importance| !importance.is_finite()) {
            return Err(self.not_finite("the measured importance", Some(format!("that of gate {}", gate + 1))));
        }
        let margins = importance::margins(&importance, self.config.gates.start_spread);
        let margins = Tensor::f_from_slice(&margins)?.f_to_kind(Kind::Float)?.f_to_device(self.network.device())?;
        self.network.shift_gates(&margins)?;
        Ok(true)
    }

    /// The share of the target's whole that the gate which decides about most decides about.
    fn largest_gate(&self) -> f64 {
        let most = || self.cost.per_gate().into_iter().max().unwrap_or(0) as f64;
        match self.config.gates.weighting {
            Weighting::Gates => 1.0 / self.blocks_of_gates.len().max(1) as f64,
            Weighting::Macs => most() / self.cost.gated().max(1) as f64,
            Weighting::Network => most() / self.cost.dense.max(1) as f64,
        }
    }

    /// The compute that the network may use when its gates are decided.
    fn budget(&self, target: f64) -> Budget<'_> {
        Budget {
            network: &self.network,
            objective: &self.objective,
            meter: &self.meter,
            target,
            // As the network will see images when it is deployed: a random crop can look quite unlike them.
            pass: TrainingPass { loader: &self.train_as_deployed, ..self.training_pass(BUDGET_BATCHES) },
        }
    }

    /// Lets the average of the weights, if there is one, begin with what they are now.
    pub(crate) fn restart_average(&mut self) -> Result<()> {
        self.progress.updates = 0;
        self.average.as_mut().map_or(Ok(()), Average::restart)
    }

    /// Decides the gates within the target, if it is time: before step `step` of training, or behind the last step of an epoch.
    pub(crate) fn decide(&mut self, step: u64, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let Some(from) = self.decided_from().filter(|&from| step >= from) else { return Ok(()) };
        let at_end = self.progress.batch == self.steps_per_epoch();
        // Gates that look at the input are decided again after each epoch, since what they see has changed.
        if step != from && !(self.network.spec().has_dependent_gates() && at_end) {
            return Ok(());
        }
        let Some(target) = self.objective.mean_target(&self.pull(step).targets) else { return Ok(()) };
        self.progress.decided = true;
        let found = self.budget(target).meet(listeners)?;
        if step == from {
            // What weights were while gates were sampled is of no use to decided ones.
            self.restart_average()?;
        } else if let Some(average) = &self.average {
            Budget { network: average.network(), ..self.budget(target) }.meet(listeners)?;
        }
        if step == from {
            let percent = |share: f64| format!("{:.1}%", 100.0 * share);
            let name = self.config.gates.weighting.name();
            let note = format!("gates are decided: {name} {} (target {})", percent(found), percent(target));
            tell(listeners, &Event::Note(&note))?;
            if found < target - UNSPENT_WORTH_A_NOTE - self.largest_gate() {
                let why = "what is left could not be spent: gates that are alike can only be decided alike; let them learn longer (gates.decide_after), or start \
                           them by importance (gates.start)";
                tell(listeners, &Event::Note(why))?;
            }
        }
        Ok(())
    }
}
