//! Where training stood: what is saved of a run beside its tensors.

use crate::config::schedule::Shape;
use crate::config::{Config, Weighting};
use crate::results::run::Position;
use crate::results::summary::{Summary, Sums};
use arch::{CutGates, Decision, Spending};
use serde::{Deserialize, Serialize};

/// Where training stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The resolved configuration.
    pub config: Config,
    /// The images it trains and evaluates on: how many, and a fingerprint of their names and
    /// labels.
    pub images: (usize, u64),
    /// Epochs completed.
    pub epoch: u64,
    /// Steps completed in the epoch after those.
    pub batch: usize,
    /// Steps completed in all.
    pub step: u64,
    /// Those of them that the average of weights follows, since it began.
    #[serde(default)]
    pub updates: u64,
    /// A fingerprint of the table of costs that its gates are held to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Whether its gates are frozen.
    #[serde(default, alias = "decided")]
    pub frozen: bool,
    /// Whether what happens to its gates before the first step has happened.
    #[serde(default)]
    pub started: bool,
    /// The gates that were cut out of the network when they froze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<CutGates>,
    /// The evaluation after the last completed epoch.
    pub evaluation: Option<Summary>,
    /// Epoch (from 1) and value of the best evaluation so far, by `checkpoints.best_by`.
    pub best: Option<(u64, f64)>,
    /// Those that come next, as many as are kept.
    #[serde(default)]
    pub runners_up: Vec<(u64, f64)>,
    /// Steps that were left out, and the scale of the loss.
    #[serde(default, alias = "health")]
    pub(crate) guard: GuardState,
    /// Images of the unfinished epoch that could not be used.
    #[serde(default)]
    pub(crate) bad_images: usize,
    /// Epochs (from 1) after which the gates were more open than they should be at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over_budget: Vec<u64>,
    /// MACs that its steps computed, a teacher's answers included; evaluations are not.
    #[serde(default)]
    pub training_macs: f64,
    /// Sums over the steps of the unfinished epoch.
    pub(crate) partial: Sums,
    /// What they were at the last log entry.
    #[serde(default)]
    pub(crate) logged: Sums,
}

/// How the name of a run ends that trains a smaller network on.
const FINE_TUNED: &str = "-fine-tuned";

/// What a checkpoint keeps of the guard against numbers that are not finite.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GuardState {
    /// Steps left out.
    pub left_out: u64,
    /// What the loss is multiplied by, and good steps since it last changed.
    pub scale: Option<(f64, i64)>,
}

impl Training {
    /// Before the first step.
    pub(crate) fn begin(config: Config, images: (usize, u64)) -> Self {
        Self {
            config,
            images,
            epoch: 0,
            batch: 0,
            step: 0,
            updates: 0,
            times: None,
            frozen: false,
            started: false,
            cut: None,
            evaluation: None,
            best: None,
            runners_up: Vec::new(),
            guard: GuardState::default(),
            bad_images: 0,
            over_budget: Vec::new(),
            training_macs: 0.0,
            partial: Sums::default(),
            logged: Sums::default(),
        }
    }

    /// How far it is.
    pub(crate) fn position(&self) -> Position {
        Position { epochs: self.epoch, steps: self.step }
    }

    /// The configuration to train on with in another run: gates that were frozen stay frozen, at
    /// the target they had arrived at.
    pub fn config_to_go_on(&self) -> Config {
        let mut config = self.config.clone();
        let gates = &mut config.gates;
        if self.frozen {
            gates.freeze_after = Some(0.0);
            gates.target = gates.target.clone().arrived();
        }
        config
    }

    /// The configuration to fine-tune on with, for a network that was made smaller: as
    /// [`Self::config_to_go_on`], with a tenth of the learning rate, which falls to 0 over the run
    /// in half a cosine without a warm-up. The old schedule would begin where it destroys what the
    /// network knows. What follows NAME in the run's name says what it is.
    pub fn config_to_fine_tune(&self) -> Config {
        let mut config = self.config_to_go_on();
        config.optimizer.learning_rate /= 10.0;
        config.schedule.shape = Shape::Cosine;
        config.schedule.warmup_epochs = 0.0;
        if !config.train.name.ends_with(FINE_TUNED) {
            config.train.name += FINE_TUNED;
        }
        config
    }

    /// Holds a network that was made smaller by these decisions to the same budget, given what it
    /// spent and spends of what the budget counts.
    pub fn keep_budget(&mut self, decisions: &[Decision], before: &Spending, after: &Spending) {
        let count = |wanted: Decision| decisions.iter().filter(|found| **found == wanted).count() as f64;
        // What the target is a share of, then and now, and what of it is spent for good now.
        let (then, now, for_good) = match self.config.gates.weighting {
            Weighting::Gates => (decisions.len() as f64, count(Decision::Undecided), count(Decision::Open)),
            Weighting::Macs => {
                let for_good = after.least() - before.least();
                (before.gated(), after.gated(), for_good)
            }
            Weighting::Network | Weighting::CostTable => (before.dense(), after.dense(), 0.0),
        };
        if now > 0.0 {
            let gates = &mut self.config.gates;
            gates.target = gates.target.clone().map(|target| ((target * then - for_good) / now).clamp(0.0, 1.0));
        }
    }

    /// Forgets what was measured, for a network that has changed since.
    pub fn forget_results(&mut self) {
        (self.evaluation, self.best) = (None, None);
        self.runners_up.clear();
        self.over_budget.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::config::schedule::ActivationTarget;
    use arch::{Cost, NetSpec};
    use gumbel_gates::GateKind;

    fn training(gates: &str, frozen: bool) -> Training {
        let config = parse("test", &format!("[gates]\n{gates}"), &[]).unwrap();
        Training { frozen, ..Training::begin(config, (0, 0)) }
    }

    #[test]
    fn what_is_trained_on_keeps_gates_that_were_frozen_and_no_others() {
        let gates = "freeze_after = 1.5\ntarget = { from = 1.0, to = 0.5, epochs = 1 }";
        let going_on = training(gates, true).config_to_go_on().gates;
        assert_eq!((going_on.freeze_after, going_on.target), (Some(0.0), ActivationTarget::Constant(0.5)));
        let learning = training(gates, false);
        assert_eq!(learning.config_to_go_on(), learning.config);
        let tuned = training(gates, true).config_to_fine_tune();
        assert_eq!((tuned.optimizer.learning_rate, tuned.schedule.shape), (0.01, Shape::Cosine));
        assert_eq!((tuned.schedule.warmup_epochs, tuned.gates.freeze_after), (0.0, Some(0.0)));
        let name = tuned.train.name.clone();
        assert!(name.ends_with("-fine-tuned"), "{name}");
        assert_eq!(Training::begin(tuned, (0, 0)).config_to_fine_tune().train.name, name, "once is enough");
    }

    #[test]
    fn a_smaller_network_has_the_budget_of_the_larger_one() {
        let spec = |gated: fn(usize) -> bool| {
            NetSpec::preset("resnet18", 2).unwrap().with_layer_gates(GateKind::Independent, gated)
        };
        // Of eight equal gates two are open for good and two closed: their blocks' branches are
        // gone.
        let before = Cost::of(&spec(|_| true), 64, 64).unwrap().spending();
        let after = Cost::of(&spec(|block| block < 4), 64, 64).unwrap().spending();
        let decisions = [vec![Decision::Undecided; 4], vec![Decision::Open; 2], vec![Decision::Closed; 2]].concat();
        let target = |gates: &str| {
            let mut training = training(gates, true);
            training.keep_budget(&decisions, &before, &after);
            training.config.gates.target.per_gate(&[0], 0.0)[0]
        };
        assert!((target("target = 0.5") - 0.5).abs() < 1e-12, "4 of 8, less 2, of 4");
        assert!((target("target = 0.625") - 0.75).abs() < 1e-12, "5 of 8, less 2, of 4");
        assert_eq!((target("target = 0.1"), target("target = 0.9")), (0.0, 1.0));
        let network = |share: f64| target(&format!("loss = \"batch\"\nweighting = \"network\"\ntarget = {share}"));
        assert!((network(0.5) * after.dense() - 0.5 * before.dense()).abs() < 1.0);
        let macs = target("weighting = \"macs\"\ntarget = 0.8");
        let spent = after.least() + macs * after.gated();
        assert!((spent - before.least() - 0.8 * before.gated()).abs() < 1.0);
    }
}
