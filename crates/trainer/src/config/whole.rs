//! The whole configuration: its sections, and what they mean together.

use super::checkpoints::CheckpointsConfig;
use super::data::DataConfig;
use super::distillation::DistillationConfig;
use super::faults::{Check, Fault, Faults};
use super::gates::{GateStart, GatedBlocks, GatesConfig, Granularity, NamedGranularity, PerSite};
use super::network::NetworkConfig;
use super::optimizer::OptimizerConfig;
use super::ranges;
use super::schedule::{ActivationTarget, LearningRate};
use super::train::TrainConfig;
use arch::{Cost, GroupSizes, Level, NetSpec, Preset, Shortcut};
use gumbel_gates::{GateKind, Policy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use toml::Table;

/// What is wrong with freezing gates that have neither learned nor started by importance.
pub(crate) const ALL_ALIKE: &str =
    "new gates are all alike, so none can be told from another yet; freeze them later, or set gates.start";

/// What is wrong with re-estimating statistics where gates that look at the input are frozen.
pub(crate) const MOVES_MARGINS: &str =
    "statistics estimated anew would move the margins of dependent gates past gates.freeze_after; expected 0";

/// Everything about a run. Keys that are left out keep these defaults, most of them the papers' for
/// ImageNet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Which network.
    pub network: NetworkConfig,
    /// Which gates, and what pulls on them.
    pub gates: GatesConfig,
    /// Which images, and how they are prepared.
    pub data: DataConfig,
    /// Gradient descent.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: LearningRate,
    /// Another network to learn from.
    pub distillation: DistillationConfig,
    /// Which states are kept.
    pub checkpoints: CheckpointsConfig,
    /// The run itself.
    pub train: TrainConfig,
}

/// What a configuration may hold, as JSON Schema: names, types, defaults, ranges and meanings.
pub(super) fn schema() -> &'static serde_json::Value {
    static SCHEMA: OnceLock<serde_json::Value> = OnceLock::new();
    SCHEMA.get_or_init(|| schemars::schema_for!(Config).to_value())
}

impl Config {
    /// Whether it can be trained as it stands. [`super::parse()`] has asked already; who makes a
    /// configuration in a program asks here, and [`crate::Fit::prepare`] does in any case.
    ///
    /// # Errors
    /// Every value out of range and every contradiction, all at once.
    pub fn check(&self) -> Result<(), Faults> {
        let fault = |(key, message)| Fault { key, line: None, from_command_line: false, message };
        let faults: Vec<Fault> = self.found().into_iter().map(fault).collect();
        match faults.is_empty() {
            true => Ok(()),
            false => Err(Faults { origin: "the configuration".to_owned(), faults }),
        }
    }

    /// Everything that makes no sense, as (key, message).
    pub(super) fn found(&self) -> Vec<(String, String)> {
        let mut check = Check::default();
        match Table::try_from(self) {
            Ok(table) => ranges::check(schema(), &table, &mut check),
            Err(error) => check.require("", false, &format!("it cannot be written as TOML: {error}")),
        }
        self.gates.check(&mut check);
        self.data.check(&mut check);
        self.optimizer.check(&mut check);
        self.train.check(&mut check);
        self.network.check(&mut check);
        self.check_times(&mut check);
        self.check_freezing(&mut check);
        self.check_network(&mut check);
        check.found()
    }

    /// What happens within a run happens before its end.
    fn check_times(&self, check: &mut Check) {
        let (epochs, warmup) = (self.train.epochs, self.schedule.warmup_epochs);
        let fits = warmup.is_nan() || warmup <= epochs as f64;
        check.require("schedule.warmup_epochs", fits, "expected no more than train.epochs");
        let freeze = self.gates.freeze_after;
        check.require(
            "train.epochs",
            epochs > 0 || freeze == Some(0.0),
            "expected at least 1; 0 is for gates that freeze before the first step (gates.freeze_after = 0)",
        );
        check.require(
            "gates.freeze_after",
            freeze.is_none_or(|epoch| (0.0..=epochs as f64).contains(&epoch)),
            &format!("expected an epoch from 0 to train.epochs ({epochs})"),
        );
    }

    /// What gates that freeze during the run ask of other sections.
    fn check_freezing(&self, check: &mut Check) {
        let (gates, train) = (&self.gates, &self.train);
        let Some(epoch) = gates.freeze_after else { return };
        // Of a checkpoint it is known once that is read.
        let dependent = self.network.checkpoint.is_none() && gates.kind == GateKind::Dependent;
        check.require("train.calibrate_batches", !dependent || train.calibrate_batches == 0, MOVES_MARGINS);
        let differ = epoch != 0.0 || gates.start != GateStart::Alike || self.network.has_learned();
        check.require("gates.freeze_after", differ, ALL_ALIKE);
        check.require(
            "train.policy",
            train.policy == Policy::Argmax,
            "gates.freeze_after freezes gates for argmax; expected \"argmax\"",
        );
    }

    /// What the network allows: targets, gates and the size of images.
    fn check_network(&self, check: &mut Check) {
        let gates = &self.gates;
        if self.network.checkpoint.is_some() {
            // What its network allows is known once it is read.
            check.fault("gates.target", gates.target.fault(None));
            return;
        }
        let spec = self.spec(1000);
        let wanted = gates.granularity != Granularity::NONE;
        if wanted {
            let blocks = spec.as_ref().ok().map(|spec| spec.blocks.len());
            check.fault("gates.target", gates.target.fault(blocks));
        }
        let spec = match spec {
            Ok(spec) => spec,
            Err(error) => return check.fault("network.arch", Some(error.to_string())),
        };
        let size = self.data.image_size as usize;
        let fits = Cost::of(&spec, size, size);
        check.fault("data.image_size", fits.err().map(|error| error.to_string()));
        let all_open = match &gates.target {
            ActivationTarget::PerBlock(targets) => targets.iter().all(|target| *target == 1.0),
            _ => false,
        };
        let none_left = wanted && spec.gate_count() == 0;
        let message = "every target is 1, so no gate is left; use gates.granularity = \"none\"";
        check.require("gates.target", !(none_left && all_open), message);
        let message =
            "no group is left to gate; lower gates.fixed_open or the granularity, or choose other gates.sites";
        check.require("gates.granularity", !none_left || all_open, message);
    }

    /// The network this run trains. Blocks whose target is always 1 get no gate: the papers keep
    /// them open.
    ///
    /// # Errors
    /// If the preset is unknown.
    pub fn spec(&self, classes: usize) -> arch::Result<NetSpec> {
        let preset = Preset::named(&self.network.arch)?;
        let spec = preset.spec(classes);
        let gates = &self.gates;
        let same_shape: Vec<bool> = spec.blocks.iter().map(|block| block.shortcut == Shortcut::Identity).collect();
        let chosen = |block: usize| gates.blocks == GatedBlocks::All || same_shape[block];
        let gated = |block: usize| chosen(block) && !gates.target.is_always_open(block);
        let level = match gates.granularity {
            Granularity::Named(NamedGranularity::None) => return Ok(spec),
            Granularity::Named(NamedGranularity::Layer) => return Ok(spec.with_layer_gates(gates.kind, gated)),
            Granularity::Named(NamedGranularity::Medium) => Level::Medium,
            Granularity::Named(NamedGranularity::High) => Level::High,
            // Of the explicit ones it says which blocks can be gated.
            Granularity::Named(NamedGranularity::Low) | Granularity::Filters(_) | Granularity::PerSite(_) => Level::Low,
        };
        let size = |preset: GroupSizes| {
            let explicit = match gates.granularity {
                Granularity::Named(_) => preset,
                Granularity::Filters(channels) => GroupSizes::uniform(channels, 0),
                Granularity::PerSite(PerSite { input, between, output }) => {
                    GroupSizes { input, between, output, fixed_open: 0 }
                }
            };
            GroupSizes { fixed_open: gates.fixed_open.unwrap_or(explicit.fixed_open), ..explicit }
        };
        let sizes: Vec<Option<GroupSizes>> = preset
            .group_sizes(level)
            .into_iter()
            .enumerate()
            .map(|(block, preset)| preset.filter(|_| gated(block)).map(size))
            .collect();
        Ok(spec.with_filter_gates(gates.kind, &sizes, &gates.sites))
    }
}
