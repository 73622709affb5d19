//! Gates: where they sit, what they look at, and what pulls on them.

use super::faults::{Check, not_negative, positive};
use super::schedule::{ActivationTarget, Schedule};
use arch::Place;
use gumbel_gates::GateKind;
use serde::{Deserialize, Serialize};

/// Which gates, and what pulls on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatesConfig {
    /// Where gates sit, and how finely they cut.
    pub granularity: Granularity,
    /// Which blocks have gates, of those that can.
    pub blocks: GatedBlocks,
    /// Where filter gates sit.
    pub sites: Vec<Place>,
    /// Filter gates: groups of every place that stay open; absent, what the granularity says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_open: Option<usize>,
    /// Whether they look at the input.
    pub kind: GateKind,
    /// Which activation loss.
    pub loss: ActivationLoss,
    /// Which openings it sees.
    pub loss_on: LossOn,
    /// What a gate counts in it.
    pub weighting: Weighting,
    /// Whether only activations above the target are a loss.
    pub one_sided: bool,
    /// Weight of the activation loss beside the cross entropy.
    pub loss_factor: Schedule,
    /// The activation gates are held to.
    pub target: ActivationTarget,
    /// Temperature of the softmax behind the gates' gradient.
    pub temperature: Schedule,
    /// Learning rate of the gates relative to the network's.
    pub learning_rate_factor: f64,
    /// Weight decay of the gates' parameters.
    pub weight_decay: GateDecay,
    /// Weight of the term that drives gates towards a decision ([`gumbel_gates::loss::indecision`]).
    pub polarisation: Schedule,
    /// What the gates' first logits are, beside the papers'.
    pub start: GateStart,
    /// Standard deviation of what an importance adds to the first logits.
    pub start_spread: f64,
    /// Training batches the importance is measured over, where it takes any.
    pub start_batches: usize,
    /// The epoch, with its fraction, before which gates learn and after which they are decided within the target and the rest of
    /// the network goes on learning; never, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decide_after: Option<f64>,
}

/// Which blocks have gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatedBlocks {
    /// All that can: the papers' choice.
    All,
    /// Those whose output has the shape of their input. The others reduce the size or widen the network, and what takes their place
    /// when they are skipped is a poor copy.
    SameShape,
}

/// What decides how open new gates are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateStart {
    /// All alike: the papers' initial logits.
    Alike,
    /// The norms of the weights it decides about ([`arch::Network::gate_norms`]).
    Norms,
    /// How much the cross entropy would change if the gate closed, to first order.
    Taylor,
}

/// Where gates sit, and how finely they cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected \"none\", \"layer\", \"low\", \"medium\", \"high\", a number of filters per gate, or { input = 16, between = 8, output = 16 }"
)]
pub enum Granularity {
    /// By name.
    Named(NamedGranularity),
    /// Filter gates, this many filters each.
    Filters(usize),
    /// Filter gates, of another size at each kind of place.
    PerPlace(PerPlace),
}

/// Channels per gate at each kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PerPlace {
    /// At the input of a branch.
    pub input: usize,
    /// Between its convolutions.
    pub between: usize,
    /// At its output and on a projection shortcut.
    pub output: usize,
}

/// The granularities that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedGranularity {
    /// No gates: the ordinary network.
    None,
    /// One over each residual branch.
    Layer,
    /// Filter gates over large groups.
    Low,
    /// Filter gates over smaller groups.
    Medium,
    /// Filter gates over the smallest groups.
    High,
}

impl Granularity {
    /// No gates at all.
    pub const NONE: Self = Self::Named(NamedGranularity::None);
    /// One gate over each residual branch.
    pub const LAYER: Self = Self::Named(NamedGranularity::Layer);
}

/// What a gate counts in the activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Weighting {
    /// All the same: the activation is the share of open gates.
    Gates,
    /// The MACs it decides about: the activation is the share of the gated MACs that is used.
    Macs,
    /// The MACs it decides about: the activation is the share of the whole network's MACs that is used.
    Network,
}

/// The weight decay of gates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a number, or { over_gates = 40.0 } for 40 · optimizer.weight_decay / number of gates"
)]
pub enum GateDecay {
    /// This.
    Constant(f64),
    /// ECCV 2020's rule for filter gates: factor · optimizer.weight_decay / number of gates.
    Shared(SharedDecay),
}

/// A weight decay that the gates share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedDecay {
    /// What optimizer.weight_decay / number of gates is multiplied by.
    pub over_gates: f64,
}

impl Weighting {
    /// What the activation is a share of.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gates => "open",
            Self::Macs => "gated MACs",
            Self::Network => "MACs",
        }
    }
}

impl GateDecay {
    /// The decay for a network with `gates` gates and `weight_decay` of its own.
    pub fn value(&self, weight_decay: f64, gates: usize) -> f64 {
        match self {
            Self::Constant(decay) => *decay,
            Self::Shared(SharedDecay { over_gates }) => over_gates * weight_decay / gates.max(1) as f64,
        }
    }
}

/// Which activation loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationLoss {
    /// Every gate is held to its own target ([`gumbel_gates::loss::per_gate`]).
    PerGate,
    /// The mean over all gates is held to the mean target ([`gumbel_gates::loss::batch`]).
    Batch,
}

/// Which openings the activation loss sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The sampled ones that the batch ran with: the papers' form.
    Sampled,
    /// The ones that argmax would choose for the batch ([`gumbel_gates::sampling::decide`]), so that the deployed network
    /// meets the target.
    Deployed,
}

impl Default for GatesConfig {
    fn default() -> Self {
        Self {
            granularity: Granularity::LAYER,
            blocks: GatedBlocks::All,
            sites: Place::ALL.to_vec(),
            fixed_open: None,
            kind: GateKind::Dependent,
            loss: ActivationLoss::PerGate,
            loss_on: LossOn::Sampled,
            weighting: Weighting::Gates,
            one_sided: false,
            loss_factor: Schedule::Constant(1.0),
            target: ActivationTarget::Constant(0.6),
            temperature: Schedule::Constant(1.0),
            learning_rate_factor: 1.0,
            weight_decay: GateDecay::Constant(0.0),
            polarisation: Schedule::Constant(0.0),
            start: GateStart::Alike,
            start_spread: 1.0,
            start_batches: 50,
            decide_after: None,
        }
    }
}

impl GatesConfig {
    /// The step before which gates are decided, if they ever are.
    pub fn decided_from(&self, steps_per_epoch: usize) -> Option<u64> {
        self.decide_after.map(|epoch| (epoch * steps_per_epoch as f64).round() as u64)
    }

    /// Reports what makes no sense, whatever the rest of the configuration says.
    pub(super) fn check(&self, check: &mut Check) {
        check.require(
            "gates.loss_factor",
            self.loss_factor.is_always(not_negative),
            "expected numbers and times of at least 0",
        );
        check.require(
            "gates.temperature",
            self.temperature.is_always(positive),
            "expected numbers above 0, and times of at least 0",
        );
        let factor = self.learning_rate_factor;
        check.require("gates.learning_rate_factor", not_negative(factor), "expected a number of at least 0");
        let (GateDecay::Constant(decay) | GateDecay::Shared(SharedDecay { over_gates: decay })) = self.weight_decay;
        check.require("gates.weight_decay", not_negative(decay), "expected a number of at least 0");
        check.require(
            "gates.polarisation",
            self.polarisation.is_always(not_negative),
            "expected numbers and times of at least 0",
        );
        check.require("gates.start_spread", not_negative(self.start_spread), "expected a number of at least 0");
        let batches = (1..=1_000_000).contains(&self.start_batches);
        check.require("gates.start_batches", batches, "expected 1 to 1,000,000 batches");
        let of_network = self.weighting == Weighting::Network;
        check.require(
            "gates.loss",
            !of_network || self.loss == ActivationLoss::Batch,
            "gates.weighting = \"network\" is a target for all gates together; expected \"batch\"",
        );
        check.require(
            "gates.target",
            !of_network || !matches!(self.target, ActivationTarget::PerBlock(_)),
            "gates.weighting = \"network\" is a target for all gates together; expected one target for all blocks",
        );
        let sizes = match self.granularity {
            Granularity::Named(_) => vec![1],
            Granularity::Filters(size) => vec![size],
            Granularity::PerPlace(PerPlace { input, between, output }) => vec![input, between, output],
        };
        check.require("gates.granularity", !sizes.contains(&0), "expected at least 1 filter per gate");
        let sites = "expected at least one of input, between, output, projection";
        check.require("gates.sites", !self.sites.is_empty(), sites);
        if self.decide_after.is_some() {
            self.check_freezing(check);
        }
    }

    /// What gates that freeze during the run ask of the other keys of gates.
    fn check_freezing(&self, check: &mut Check) {
        check.require(
            "gates.target",
            !matches!(self.target, ActivationTarget::PerBlock(_)),
            "gates.decide_after decides all gates by one threshold; expected one target for all blocks",
        );
        check.require(
            "gates.target",
            self.target.arrives() <= self.decide_after.unwrap_or_default(),
            "expected a ramp that ends before gates.decide_after, which freezes the gates",
        );
    }
}
