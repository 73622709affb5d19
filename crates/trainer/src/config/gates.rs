//! Gates: where they sit, what they look at, and what pulls on them.

use super::faults::Check;
use super::schedule::{ActivationTarget, Schedule};
use arch::SiteKind;
use gumbel_gates::GateKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which gates, and what pulls on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GatesConfig {
    /// How finely gates cut: one gate per residual block, or filter gates over groups of filters.
    /// `low`, `medium` and `high` are the papers' group sizes, from large to small; a number is the
    /// filters per gate; a table has one number for each kind of site.
    pub granularity: Granularity,
    /// Which blocks have gates, of those that can.
    pub blocks: GatedBlocks,
    /// Where filter gates sit: at the `input` of a branch, `between` its convolutions, at its
    /// `output`, on the `projection` shortcut.
    #[schemars(length(min = 1))]
    pub sites: Vec<SiteKind>,
    /// Filter gates: groups of every site that are never gated. By default what the granularity
    /// says: 1 for `low`, 2 for `medium`, 4 for `high` on the ImageNet ResNets, else 0. A block
    /// without a path around its branch always keeps 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed_open: Option<usize>,
    /// Whether gates look at the input of their block.
    pub kind: GateKind,
    /// Which activation loss.
    pub loss: ActivationLoss,
    /// Which gate values the activation loss sees.
    pub loss_on: LossOn,
    /// What the activation is a share of.
    pub weighting: Weighting,
    /// The table of costs that `gates.weighting = "cost-table"` counts by, such as milliseconds of
    /// a device (`train measure`). It is copied into the run's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-unit" = "a path"))]
    pub times: Option<PathBuf>,
    /// Whether only an activation above the target is a loss.
    pub one_sided: bool,
    /// Weight of the activation loss beside the cross entropy; a number or a ramp.
    #[schemars(extend("minimum" = 0.0))]
    pub loss_factor: Schedule,
    /// The budget: the activation (`gates.weighting` says of what it is a share) that gates are
    /// held to. A number, one number per block (1 keeps a block open without a gate), or a ramp.
    #[schemars(extend("minimum" = 0.0, "maximum" = 1.0, "x-unit" = "a target"))]
    pub target: ActivationTarget,
    /// The same budget in the unit of `gates.times`, instead of `gates.target`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0, "x-unit" = "a cost"))]
    pub target_absolute: Option<f64>,
    /// Temperature of the softmax behind the gates' gradient; a number or a ramp.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub temperature: Schedule,
    /// Learning rate of the gates relative to the network's.
    #[schemars(range(min = 0.0))]
    pub learning_rate_factor: f64,
    /// Weight decay of the gates' parameters: a number, or `{ over_gates = 40.0 }` for the papers'
    /// 40 · `optimizer.weight_decay` / number of gates.
    #[schemars(extend("minimum" = 0.0))]
    pub weight_decay: GateDecay,
    /// Weight of p(1 − p), where p is a gate's probability of being open: it drives gates towards a
    /// decision; a number or a ramp.
    #[schemars(extend("minimum" = 0.0))]
    pub polarization: Schedule,
    /// How open new gates are.
    pub start: GateStart,
    /// Standard deviation of what an importance adds to the first logits.
    #[schemars(range(min = 0.0))]
    pub start_spread: f64,
    /// Training batches that the importance is measured over, for `taylor`.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "batches"))]
    pub start_batches: usize,
    /// Epoch, with a fraction if you like, after which gates are frozen by the one threshold that
    /// meets the target, and the rest of the network goes on learning. Never, if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub freeze_after: Option<f64>,
    /// Cut what frozen gates close out of the network, where all gates ignore the image: the rest
    /// of the run trains the smaller network, which computes what the larger one computed and takes
    /// less time. Else it stays, multiplied by zero.
    pub cut_when_frozen: bool,
    /// Once gates are cut, solve the convolutions that lost inputs again, so that each block gives
    /// what it gave with all its filters: a linear regression over training images, without their
    /// labels. Worth its time where little or no training follows.
    pub repair: bool,
    /// Training images that cut networks are repaired over; their features are held in memory.
    #[schemars(range(min = 1, max = 1_000_000), extend("x-unit" = "images"))]
    pub repair_images: usize,
    /// When filter gates freeze, give each site a multiple of so many channels, within the same
    /// budget: runtimes compute those fastest. A number, or `"auto"`: what the table of
    /// `gates.times` was measured in, else what this machine's ONNX Runtime computes well, measured
    /// at the start. With a table it is `"auto"` by default, else 1: any number of channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub align: Option<Align>,
}

/// The multiples of channels that widths are cut to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected \"auto\", or a number of channels such as 8, 16 or 32")]
pub enum Align {
    /// What is measured.
    Auto(Auto),
    /// This.
    Channels(usize),
}

/// To be found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Auto {
    /// What is measured.
    Auto,
}

/// Which blocks have gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GatedBlocks {
    /// All that can: the papers' choice.
    All,
    /// Those whose output has the shape of their input. Skipping one of the others, which reduce
    /// the size or widen the network, costs most accuracy.
    SameShape,
}

/// What decides how open new gates are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GateStart {
    /// All alike: the papers' initial logits.
    Alike,
    /// By the norms of the weights a gate decides about.
    Norms,
    /// By how much the cross entropy would change if the gate closed, to first order, measured over
    /// training images.
    Taylor,
}

/// Where gates sit, and how finely they cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected \"none\", \"layer\", \"low\", \"medium\", \"high\", a number of filters per gate, or { input = 16, between = 8, output = 16 }"
)]
pub enum Granularity {
    /// By name.
    Named(NamedGranularity),
    /// Filter gates, this many filters each.
    Filters(usize),
    /// Filter gates, of another size at each kind of site.
    PerSite(PerSite),
}

/// Channels per gate at each kind of site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PerSite {
    /// At the input of a branch.
    pub input: usize,
    /// Between its convolutions.
    pub between: usize,
    /// At its output and on a projection shortcut.
    pub output: usize,
}

/// The granularities that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Weighting {
    /// All the same: the activation is the share of open gates.
    Gates,
    /// The MACs it decides about: the activation is the share of the gated MACs that is used.
    Macs,
    /// The MACs it decides about: the activation is the share of the whole network's MACs that is
    /// used.
    Network,
    /// What the table of `gates.times` says of it: the activation is the share of the whole
    /// network's cost that is used. For filter gates that ignore the image and layer gates of both
    /// kinds.
    CostTable,
}

/// The weight decay of gates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedDecay {
    /// What optimizer.weight_decay / number of gates is multiplied by.
    pub over_gates: f64,
}

impl Weighting {
    /// Whether it is a share of the whole network's cost, which all gates are held to together.
    pub fn is_of_network(self) -> bool {
        matches!(self, Self::Network | Self::CostTable)
    }

    /// What the activation is a share of.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gates => "open",
            Self::Macs => "gated MACs",
            Self::Network => "MACs",
            Self::CostTable => "cost",
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationLoss {
    /// Every gate is held to its own target.
    PerGate,
    /// The mean over all gates is held to the mean target.
    Batch,
}

/// Which gate values the activation loss sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The sampled ones that the batch ran with: the papers' form.
    Sampled,
    /// The ones that argmax would choose for the batch, so that the deployed network meets the
    /// target.
    Deployed,
}

impl Default for GatesConfig {
    fn default() -> Self {
        Self {
            granularity: Granularity::LAYER,
            blocks: GatedBlocks::All,
            sites: SiteKind::ALL.to_vec(),
            fixed_open: None,
            kind: GateKind::Dependent,
            loss: ActivationLoss::PerGate,
            loss_on: LossOn::Sampled,
            weighting: Weighting::Gates,
            times: None,
            one_sided: false,
            loss_factor: Schedule::Constant(1.0),
            target: ActivationTarget::Constant(0.6),
            target_absolute: None,
            temperature: Schedule::Constant(1.0),
            learning_rate_factor: 1.0,
            weight_decay: GateDecay::Constant(0.0),
            polarization: Schedule::Constant(0.0),
            start: GateStart::Alike,
            start_spread: 1.0,
            start_batches: 50,
            freeze_after: None,
            cut_when_frozen: true,
            repair: false,
            repair_images: 768,
            align: None,
        }
    }
}

impl GatesConfig {
    /// The step before which gates are frozen, if they ever are.
    pub fn freezes_at(&self, steps_per_epoch: usize) -> Option<u64> {
        self.freeze_after.map(|epoch| (epoch * steps_per_epoch as f64).round() as u64)
    }

    /// The multiples of channels that sites freeze at, once it is settled; 1 is any number.
    pub fn freezes_at_multiples_of(&self) -> usize {
        match self.align {
            Some(Align::Channels(align)) if self.freeze_after.is_some() => align,
            _ => 1,
        }
    }

    /// Reports what its keys mean together.
    pub(super) fn check(&self, check: &mut Check) {
        let of_network = self.weighting.is_of_network();
        let together = match self.weighting {
            Weighting::CostTable => "gates.weighting = \"cost-table\" is a target for all gates together",
            _ => "gates.weighting = \"network\" is a target for all gates together",
        };
        let batch = !of_network || self.loss == ActivationLoss::Batch;
        check.require("gates.loss", batch, &format!("{together}; expected \"batch\""));
        let one = !of_network || !matches!(self.target, ActivationTarget::PerBlock(_));
        check.require("gates.target", one, &format!("{together}; expected one target for all blocks"));
        self.check_table(check);
        let sizes = match self.granularity {
            Granularity::Named(_) => vec![1],
            Granularity::Filters(size) => vec![size],
            Granularity::PerSite(PerSite { input, between, output }) => vec![input, between, output],
        };
        check.require("gates.granularity", !sizes.contains(&0), "expected at least 1 filter per gate");
        let sites = "expected at least one of input, between, output, projection";
        check.require("gates.sites", !self.sites.is_empty(), sites);
        for (key, schedule) in [
            ("gates.loss_factor", self.loss_factor),
            ("gates.temperature", self.temperature),
            ("gates.polarization", self.polarization),
        ] {
            check.require(key, schedule.has_sane_times(), "expected start and epochs of at least 0");
        }
        if self.freeze_after.is_some() {
            self.check_freezing(check);
        }
        let cuts = self.freeze_after.is_some() && self.cut_when_frozen && self.kind == GateKind::Independent;
        let cut = "what is repaired is a network that gates were cut from: expected gates.kind = \"independent\", \
                   gates.freeze_after and gates.cut_when_frozen";
        check.require("gates.repair", !self.repair || cuts, cut);
    }

    /// What a table of costs, and widths that are aligned, ask of the other keys of gates.
    fn check_table(&self, check: &mut Check) {
        let counts = self.weighting == Weighting::CostTable;
        let missing = "gates.weighting = \"cost-table\" counts by a table: train measure makes one";
        check.require("gates.times", !counts || self.times.is_some(), missing);
        let unread = "it is read with gates.weighting = \"cost-table\" alone";
        check.require("gates.times", counts || self.times.is_none(), unread);
        check.require("gates.target_absolute", counts || self.target_absolute.is_none(), unread);
        let one = self.target_absolute.is_none() || matches!(self.target, ActivationTarget::Constant(_));
        check.require("gates.target", one, "gates.target_absolute is the target; take this key out");
        let layers = self.granularity == Granularity::NONE || self.granularity == Granularity::LAYER;
        let looks = !layers && self.kind == GateKind::Dependent;
        let independent = "filter gates that look at the image leave no widths; expected gates.kind = \"independent\"";
        check.require("gates.weighting", !(counts && looks), independent);
        if let Some(align) = self.align {
            check.require("gates.align", align != Align::Channels(0), "expected at least 1 channel");
            let any = align == Align::Channels(1);
            check.require(
                "gates.align",
                any || self.granularity != Granularity::LAYER,
                "widths are aligned where filters are gated; layers have none",
            );
            check.require("gates.align", any || !looks, independent);
            let gates = "the share of open gates says nothing of widths; expected another gates.weighting";
            check.require("gates.align", any || self.weighting != Weighting::Gates, gates);
            check.require(
                "gates.align",
                any || self.freeze_after.is_some(),
                "widths are aligned when gates freeze; set gates.freeze_after",
            );
        }
    }

    /// What gates that freeze during the run ask of the other keys of gates.
    fn check_freezing(&self, check: &mut Check) {
        check.require(
            "gates.target",
            !matches!(self.target, ActivationTarget::PerBlock(_)),
            "gates.freeze_after freezes all gates by one threshold; expected one target for all blocks",
        );
        check.require(
            "gates.target",
            self.target.arrives() <= self.freeze_after.unwrap_or_default(),
            "expected a ramp that ends before gates.freeze_after, which freezes the gates",
        );
    }
}
