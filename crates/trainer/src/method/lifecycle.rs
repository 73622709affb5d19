//! The life of a run's gates, as a pure function of the step.
//!
//! start → learn → freeze → cut. Gates start as open as what they decide about is important, learn
//! until `gates.freeze_after`, are frozen within the budget, and the network fine-tunes around
//! them. Where all of them ignore the input, what they close is cut out of the network right after
//! (`gates.cut_when_frozen`).

use crate::config::Config;
use arch::{BlockSpec, NetSpec};
use gumbel_gates::Policy;

/// When what happens to the gates of a network of one spec, which keeps its meaning once they are
/// cut out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GateLifecycle {
    /// The block each gate sits in, in the order of the spec's gate sites.
    blocks: Vec<usize>,
    /// Whether any gate looks at the input.
    dependent: bool,
    /// The step before which gates freeze, if they ever do.
    freeze_at: Option<u64>,
    /// Whether they are cut then.
    cuts: bool,
    steps_per_epoch: u64,
}

/// What happens to gates between two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// They start as open as what they decide about is important, unless another run left them
    /// where they are.
    Start,
    /// They freeze within the budget, and what was averaged before begins anew.
    Freeze,
    /// Gates that look at the input are held to the budget again, since what they see has changed.
    FreezeAgain,
    /// What frozen gates close for every image leaves the network, and the gates with it.
    Cut,
}

impl GateLifecycle {
    /// The life of the gates of `spec` in a run with epochs of so many steps.
    pub fn new(spec: &NetSpec, config: &Config, steps_per_epoch: usize) -> Self {
        let gates_of = |block: &BlockSpec| block.gates.iter().map(|site| site.count()).sum();
        let numbered = spec.blocks.iter().enumerate();
        let blocks: Vec<usize> =
            numbered.flat_map(|(number, block)| std::iter::repeat_n(number, gates_of(block))).collect();
        let freeze_at = config.gates.freezes_at(steps_per_epoch).filter(|_| !blocks.is_empty());
        let dependent = spec.has_dependent_gates();
        let cuts = config.gates.cut_when_frozen && !dependent && config.train.policy == Policy::Argmax;
        let steps_per_epoch = steps_per_epoch as u64;
        Self { blocks, dependent, freeze_at, cuts, steps_per_epoch }
    }

    /// The block each gate sits in.
    pub fn blocks(&self) -> &[usize] {
        &self.blocks
    }

    /// Whether there are gates at all.
    pub fn has_gates(&self) -> bool {
        !self.blocks.is_empty()
    }

    /// Whether gates no longer learn at a step.
    pub fn is_frozen(&self, step: u64) -> bool {
        self.freeze_at.is_some_and(|from| step >= from)
    }

    /// Whether gates learn at a step, and will freeze later.
    pub fn will_freeze(&self, step: u64) -> bool {
        self.freeze_at.is_some_and(|from| step < from)
    }

    /// Whether gates were frozen at the end of an epoch (from 1).
    pub fn is_frozen_after(&self, epoch: u64) -> bool {
        self.is_frozen(epoch * self.steps_per_epoch)
    }

    /// What happens once `step` steps are done, in this order.
    pub fn transitions(&self, step: u64) -> Vec<Transition> {
        let mut transitions = Vec::new();
        if step == 0 && self.has_gates() {
            transitions.push(Transition::Start);
        }
        let at_epoch_end = step.is_multiple_of(self.steps_per_epoch.max(1));
        match self.freeze_at {
            Some(from) if step == from => {
                transitions.push(Transition::Freeze);
                transitions.extend(self.cuts.then_some(Transition::Cut));
            }
            Some(from) if step > from && self.dependent && at_epoch_end => {
                transitions.push(Transition::FreezeAgain);
            }
            _ => {}
        }
        transitions
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GatesConfig;
    use gumbel_gates::GateKind;

    fn freezing(freeze_after: Option<f64>) -> Config {
        Config { gates: GatesConfig { freeze_after, ..GatesConfig::default() }, ..Config::default() }
    }

    /// Layer gates on two of the blocks of ResNet-18, in epochs of ten steps.
    fn lifecycle(kind: GateKind, freeze_after: Option<f64>) -> GateLifecycle {
        let spec = NetSpec::preset("resnet18", 2).unwrap();
        let spec = spec.with_layer_gates(kind, |block| [1, 3].contains(&block));
        GateLifecycle::new(&spec, &freezing(freeze_after), 10)
    }

    #[test]
    fn gates_that_ignore_the_input_freeze_once_and_are_cut() {
        let gates = lifecycle(GateKind::Independent, Some(1.5));
        assert_eq!(gates.blocks(), [1, 3]);
        let happens: Vec<u64> = (0..=40).filter(|&step| !gates.transitions(step).is_empty()).collect();
        assert_eq!(happens, [0, 15]);
        assert_eq!(gates.transitions(0), [Transition::Start]);
        assert_eq!(gates.transitions(15), [Transition::Freeze, Transition::Cut]);
        assert!(gates.will_freeze(14) && !gates.is_frozen(14));
        assert!(!gates.will_freeze(15) && gates.is_frozen(15));
        assert!(!gates.is_frozen_after(1) && gates.is_frozen_after(2));
    }

    #[test]
    fn gates_stay_where_that_is_asked_for_or_another_policy_decides() {
        let spec = NetSpec::preset("resnet18", 2).unwrap().with_layer_gates(GateKind::Independent, |_| true);
        let cut = |config: &Config| GateLifecycle::new(&spec, config, 10).transitions(10).contains(&Transition::Cut);
        let mut config = freezing(Some(1.0));
        assert!(cut(&config));
        config.train.policy = Policy::Threshold(0.3);
        assert!(!cut(&config));
        config.train.policy = Policy::Argmax;
        config.gates.cut_when_frozen = false;
        assert!(!cut(&config));
    }

    #[test]
    fn gates_that_look_at_the_input_are_held_to_the_budget_after_every_epoch() {
        let gates = lifecycle(GateKind::Dependent, Some(1.5));
        let happens: Vec<u64> = (0..=40).filter(|&step| !gates.transitions(step).is_empty()).collect();
        assert_eq!(happens, [0, 15, 20, 30, 40]);
        assert_eq!(gates.transitions(15), [Transition::Freeze]);
        assert_eq!(gates.transitions(30), [Transition::FreezeAgain]);
        // Frozen from the first step on, they are frozen before it.
        let at_once = lifecycle(GateKind::Dependent, Some(0.0));
        assert_eq!(at_once.transitions(0), [Transition::Start, Transition::Freeze]);
    }

    #[test]
    fn gates_that_never_freeze_and_networks_without_gates_have_nothing_to_come() {
        let never = lifecycle(GateKind::Independent, None);
        assert!((1..=40).all(|step| never.transitions(step).is_empty() && !never.is_frozen(step)));
        let none = GateLifecycle::new(&NetSpec::preset("resnet18", 2).unwrap(), &freezing(Some(1.0)), 10);
        assert!(!none.has_gates() && !none.will_freeze(0));
        assert!((0..=40).all(|step| none.transitions(step).is_empty()));
    }
}
