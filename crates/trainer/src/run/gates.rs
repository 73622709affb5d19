//! What happens to a run's gates between steps: their start, and what their life cycle says.

use crate::config::{GateStart, Weighting};
use crate::error::{Error, Result};
use crate::events::{Event, Listener, notify};
use crate::learn::average::Average;
use crate::method::agreement::independent_decisions;
use crate::method::budget::{Budget, leaves_unspent};
use crate::method::importance;
use crate::method::lifecycle::Transition;
use crate::method::repair::{self, repair};
use crate::run::fit::Fit;
use arch::{Cost, Network};
use gumbel_gates::Policy;
use std::sync::atomic::AtomicBool;
use tch::{Kind, Tensor};

/// Training batches over which gates that look at the input are frozen.
const BUDGET_BATCHES: usize = 16;

impl Fit {
    /// Makes gates start as open as what they decide about is important.
    fn start_gates(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<()> {
        let importance = match self.config.gates.start {
            GateStart::Alike => return Ok(()),
            // They say how gates of one site compare; what they save in MACs is much the same.
            GateStart::Norms => self.learner.network.gate_norms()?,
            GateStart::Taylor => self.taylor(listeners, interrupt)?,
        };
        if let Some(gate) = importance.iter().position(|importance| !importance.is_finite()) {
            return Err(self.not_finite("the measured importance", Some(format!("that of gate {}", gate + 1))));
        }
        let margins = importance::margins(&importance, self.config.gates.start_spread);
        let network = &self.learner.network;
        let margins = Tensor::f_from_slice(&margins)?.f_to_kind(Kind::Float)?.f_to_device(network.device())?;
        network.shift_gates(&margins)?;
        self.learner.restart_average()
    }

    /// The Taylor importance of every gate, where gates count by their cost per cost.
    fn taylor(&mut self, listeners: &mut [Box<dyn Listener>], interrupt: &AtomicBool) -> Result<Vec<f64>> {
        // Gradients of a loss that is not scaled: 16 bits could not hold them.
        self.learner.network.compute_in(None);
        let pass = self.training_pass(&self.images.train, self.config.gates.start_batches);
        let importance = importance::taylor(&self.learner.network, &pass, listeners, interrupt);
        self.learner.network.compute_in(self.config.train.precision.half());
        let importance = importance?;
        Ok(match &self.learner.objective.gate_costs {
            // What counts is what a gate saves. What hardly saves anything would matter beyond all
            // measure.
            Some(costs) => {
                let least = (costs.iter().sum::<f64>() / costs.len().max(1) as f64 / 100.0).max(f64::MIN_POSITIVE);
                importance.iter().zip(costs).map(|(importance, cost)| importance / cost.max(least)).collect()
            }
            None => importance,
        })
    }

    /// What happens to the gates once `step` steps are done.
    pub(super) fn advance_gates(
        &mut self,
        step: u64,
        listeners: &mut [Box<dyn Listener>],
        interrupt: &AtomicBool,
    ) -> Result<()> {
        // Gates that are gone have no more to come, and a run that goes on before its first step
        // may have had what comes before it.
        if self.progress.cut.is_some() || (step == 0 && self.progress.started) {
            return Ok(());
        }
        for transition in self.gates.transitions(step) {
            match transition {
                Transition::Start if self.fresh_gates => self.start_gates(listeners, interrupt)?,
                Transition::Start => {}
                Transition::Freeze => self.freeze_gates(step, listeners)?,
                Transition::FreezeAgain => self.freeze_gates_again(step, listeners)?,
                Transition::Cut => self.cut_gates(listeners)?,
            }
        }
        self.progress.started = true;
        Ok(())
    }

    /// Freezes the gates within the target.
    fn freeze_gates(&mut self, step: u64, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let Some(target) = self.scheduled(step).target else { return Ok(()) };
        self.progress.frozen = true;
        let found = self.budget(&self.learner.network, target).meet(listeners)?;
        // What weights were while gates were sampled is of no use to frozen ones.
        self.learner.restart_average()?;
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        let weighting: Weighting = self.config.gates.weighting;
        let name = weighting.name();
        let note = format!("gates are frozen: {name} {} (target {})", percent(found), percent(target));
        notify(listeners, &Event::Note(&note))?;
        if leaves_unspent(found, target, weighting, &self.learner.spending, self.gates_together()) {
            let why = "what is left could not be spent: gates that are alike can only be frozen alike; let them learn longer (gates.freeze_after), or start \
                       them by importance (gates.start)";
            notify(listeners, &Event::Note(why))?;
        }
        Ok(())
    }

    /// Cuts what frozen gates close out of the network, unless nothing would be left of it.
    fn cut_gates(&mut self, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        // What it guards is about to be other tensors.
        self.check_guard(listeners)?;
        let size = self.config.data.image_size;
        let decisions = independent_decisions(&self.learner.network, Policy::Argmax, size)?;
        let (cut, whole) = match self.learner.cut(&self.config, &decisions) {
            Err(Error::Network(reason @ (arch::Error::AllClosed { .. } | arch::Error::NothingLeft { .. }))) => {
                let note = format!("closed gates stay in the network: {reason}");
                return notify(listeners, &Event::Note(&note));
            }
            cut => cut?,
        };
        let repaired = match self.config.gates.repair {
            false => None,
            true => {
                let images = self.config.gates.repair_images;
                let pass = self.training_pass(&self.images.train_as_deployed, self.steps_per_epoch());
                // A network that is repaired in part is no state to go on from.
                let never = AtomicBool::new(false);
                torch_ext::allow_tf32(false);
                let repaired = repair(&self.learner.network, &whole, &cut, (&pass, images), listeners, &never)?;
                torch_ext::allow_tf32(self.config.train.tf32);
                self.learner.restart_average()?;
                Some(repaired)
            }
        };
        self.progress.cut = Some(cut);
        let size = size as usize;
        let left = Cost::of(self.learner.network.spec(), size, size)?;
        let whole = &self.learner.cost;
        let millions = |count: u64| count as f64 / 1e6;
        let note = format!(
            "the network is cut: {:.1} of {:.1} MMACs and {:.2} of {:.2} million parameters are left to train",
            millions(left.dense),
            millions(whole.dense),
            millions(left.parameters),
            millions(whole.parameters)
        );
        notify(listeners, &Event::Note(&note))?;
        repaired.map_or(Ok(()), |repaired| notify(listeners, &Event::Note(&repair::note(&repaired))))
    }

    /// Holds gates that look at the input to the target again, those of the averaged network too.
    fn freeze_gates_again(&mut self, step: u64, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let Some(target) = self.scheduled(step).target else { return Ok(()) };
        self.progress.frozen = true;
        self.budget(&self.learner.network, target).meet(listeners)?;
        if let Some(average) = self.learner.average.as_ref().map(Average::network) {
            self.budget(average, target).meet(listeners)?;
        }
        Ok(())
    }

    /// How many gates open and close together at most, for their site to be aligned.
    fn gates_together(&self) -> usize {
        let sizes = self.learner.network.spec().gate_sites().flat_map(|(_, gates)| gates.sizes());
        self.config.gates.freezes_at_multiples_of().div_ceil(sizes.min().unwrap_or(1).max(1))
    }

    /// The compute that a network may use when its gates freeze.
    fn budget<'a>(&'a self, network: &'a Network, target: f64) -> Budget<'a> {
        Budget {
            network,
            objective: &self.learner.objective,
            spending: &self.learner.spending,
            meter: &self.learner.budget_meter,
            target,
            align: self.config.gates.freezes_at_multiples_of(),
            // As the network will see images when it is deployed: a random crop can look quite
            // unlike them.
            pass: self.training_pass(&self.images.train_as_deployed, BUDGET_BATCHES),
        }
    }
}
