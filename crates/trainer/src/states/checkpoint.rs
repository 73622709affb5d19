//! A network in a file: its tensors, and beside them the spec, the classes, how images are prepared, and where training stood.
//!
//! The format is safetensors. The tensors have the state dict's own names, averaged weights `average.NAME`, the optimiser's buffers
//! `optimizer.KIND.NAME`; the rest is one JSON text in the metadata. Where there are averaged weights, they are the network that the
//! checkpoint stands for, and the others only serve to train on.

use crate::config::{Config, Weighting};
use crate::error::{Error, Result};
use crate::files::atomic::write_atomically;
use crate::learn::guard::HealthState;
use crate::learn::optimizer::Optimizer;
use crate::measure::totals::{Summary, Sums};
use arch::state_dict::{StateDict, safetensors};
use arch::{Classifier, Cost, Decision, NetSpec, Network};
use data::{Normalise, Transform};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::Path;
use tch::{Device, Tensor};

/// Metadata key of the description.
const KEY: &str = "gumbel-gates";
/// Version of the description; a reader refuses others.
const FORMAT: u32 = 2;
/// What the names of the optimiser's buffers begin with.
const OPTIMIZER: &str = "optimizer.";
/// What those of averaged weights begin with.
const AVERAGE: &str = "average.";

/// A network with everything needed to use it or to train it on.
#[derive(Debug)]
pub struct Checkpoint {
    /// What the network is.
    pub spec: NetSpec,
    /// Class names, by label.
    pub classes: Vec<String>,
    /// How images are prepared.
    pub input: Input,
    /// Where training stood; absent in a network that was only converted.
    pub training: Option<Training>,
    weights: StateDict,
    average: Option<StateDict>,
    optimizer: HashMap<String, Tensor>,
}

/// How an image is prepared for evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of the square the network sees, in pixels.
    pub image_size: u32,
    /// The shorter side is resized to this many pixels before the centre is cut out.
    pub resize: u32,
    /// Mean of red, green and blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

/// Where training stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// The resolved configuration.
    pub config: Config,
    /// The images it trains and evaluates on: how many, and a fingerprint of their names and labels.
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
    /// Whether its gates are decided.
    #[serde(default)]
    pub decided: bool,
    /// The evaluation after the last completed epoch.
    pub evaluation: Option<Summary>,
    /// Epoch (from 1) and value of the best evaluation so far, by `checkpoints.best_by`.
    pub best: Option<(u64, f64)>,
    /// Those that come next, as many as are kept.
    #[serde(default)]
    pub runners_up: Vec<(u64, f64)>,
    /// Steps that were left out, and the scale of the loss.
    #[serde(default)]
    pub(crate) health: HealthState,
    /// Images of the unfinished epoch that could not be used.
    #[serde(default)]
    pub(crate) bad_images: usize,
    /// Sums over the steps of the unfinished epoch.
    pub(crate) partial: Sums,
    /// What they were at the last log entry.
    #[serde(default)]
    pub(crate) logged: Sums,
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
    spec: NetSpec,
    classes: Vec<String>,
    input: Input,
    training: Option<Training>,
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
            decided: false,
            evaluation: None,
            best: None,
            runners_up: Vec::new(),
            health: HealthState::default(),
            bad_images: 0,
            partial: Sums::default(),
            logged: Sums::default(),
        }
    }

    /// The configuration to train on with in another run: gates that were decided stay decided, at the target they had arrived at.
    pub fn config_to_go_on(&self) -> Config {
        let mut config = self.config.clone();
        let gates = &mut config.gates;
        if self.decided {
            gates.decide_after = Some(0.0);
            gates.target = gates.target.clone().arrived();
        }
        config
    }

    /// Holds a network that was made smaller by these decisions to what its target stood for, given what it cost and costs.
    pub fn keep_budget(&mut self, decisions: &[Decision], before: &Cost, after: &Cost) {
        let count = |wanted: Decision| decisions.iter().filter(|found| **found == wanted).count() as f64;
        // What the target is a share of, then and now, and what of it is spent for good now.
        let (then, now, for_good) = match self.config.gates.weighting {
            Weighting::Gates => (decisions.len() as f64, count(Decision::Undecided), count(Decision::Open)),
            Weighting::Macs => {
                let for_good = after.constant() as f64 - before.constant() as f64;
                (before.gated() as f64, after.gated() as f64, for_good)
            }
            Weighting::Network => (before.dense as f64, after.dense as f64, 0.0),
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
    }
}

impl Input {
    /// What a configuration says about it.
    pub fn of(config: &Config) -> Self {
        let data = &config.data;
        Self { image_size: data.image_size, resize: data.resize, mean: data.mean, std: data.std }
    }

    /// The transform of an evaluation.
    pub fn transform(&self) -> Transform {
        Transform::ResizeCenterCrop { resize: self.resize, size: self.image_size }
    }

    /// The normalisation.
    pub fn normalise(&self) -> Normalise {
        Normalise { mean: self.mean, std: self.std }
    }

    fn is_sane(&self) -> bool {
        (1..=4096).contains(&self.image_size)
            && (self.image_size..=8192).contains(&self.resize)
            && self.std.iter().all(|std| *std > 0.0)
    }
}

impl Checkpoint {
    /// Writes a checkpoint of `network`, whole or not at all.
    ///
    /// # Errors
    /// If it cannot be written; then what was at `path` is still there.
    pub fn write(
        path: &Path,
        network: &Network,
        classes: &[String],
        input: Input,
        training: Option<&Training>,
    ) -> Result<()> {
        write_atomically(path, &Self::to_bytes(network, None, classes, input, training, None)?)
    }

    /// A checkpoint as a file's content. Training can go on exactly from where `training` stood only with its `optimizer`.
    pub(crate) fn to_bytes(
        network: &Network,
        average: Option<&Network>,
        classes: &[String],
        input: Input,
        training: Option<&Training>,
        optimizer: Option<&Optimizer>,
    ) -> Result<Vec<u8>> {
        let description = Description {
            format: FORMAT,
            spec: network.spec().clone(),
            classes: classes.to_vec(),
            input,
            training: training.cloned(),
        };
        let description = serde_json::to_string(&description).map_err(Error::Description)?;
        let buffers: Vec<(String, &Tensor)> = optimizer
            .iter()
            .flat_map(|optimizer| optimizer.state())
            .map(|(name, buffer)| (format!("{OPTIMIZER}{name}"), buffer))
            .collect();
        let averaged: Vec<(String, &Tensor)> = average
            .iter()
            .flat_map(|network| network.tensors())
            .map(|entry| (format!("{AVERAGE}{}", entry.name), &entry.tensor))
            .collect();
        let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor));
        let others = averaged.iter().chain(&buffers).map(|(name, tensor)| (name.as_str(), *tensor));
        Ok(safetensors::to_bytes(tensors.chain(others), (KEY, description))?)
    }

    /// Reads a checkpoint.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or is no checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        let refuse = |reason: String| Error::NotACheckpoint { path: path.to_owned(), reason };
        let file = StateDict::read(path)?;
        let description = file.metadata.get(KEY).ok_or_else(|| {
            refuse("it holds weights alone; name the architecture instead: --arch NAME --weights FILE".into())
        })?;
        let damaged = |error| refuse(format!("its description is damaged ({error})"));
        // The version first: a newer description may hold what this program cannot parse.
        let Version { format } = serde_json::from_str(description).map_err(damaged)?;
        if format > FORMAT {
            let reason = format!("it has format {format} and this program reads format {FORMAT}; use a newer one");
            return Err(refuse(reason));
        }
        if format < FORMAT {
            let reason = format!(
                "it has format {format}, of an older version, and this program reads format {FORMAT}; its weights alone still \
                 load, with --weights of `train fit`"
            );
            return Err(refuse(reason));
        }
        let Description { spec, classes, input, training, .. } = serde_json::from_str(description).map_err(damaged)?;
        if classes.len() != spec.head.classes || !input.is_sane() {
            return Err(refuse("its description contradicts itself".into()));
        }
        let size = input.image_size as usize;
        let cost = Cost::of(&spec, size, size).map_err(|error| refuse(error.to_string()))?;
        let (mut weights, mut average, mut optimizer) = (Vec::new(), Vec::new(), HashMap::new());
        for (name, tensor) in file.tensors {
            if let Some(buffer) = name.strip_prefix(OPTIMIZER) {
                optimizer.insert(buffer.to_owned(), tensor);
            } else if let Some(name) = name.strip_prefix(AVERAGE) {
                average.push((name.to_owned(), tensor));
            } else {
                weights.push((name, tensor));
            }
        }
        // Nothing is built from a description that promises more than the file holds.
        let held: usize = weights.iter().map(|(_, tensor): &(String, Tensor)| tensor.numel()).sum();
        if (held as u64) < cost.parameters.saturating_add(cost.gate_parameters) {
            return Err(refuse(format!("it holds {held} numbers where its network has {}", cost.parameters)));
        }
        let part = |tensors| StateDict { origin: file.origin.clone(), tensors, metadata: HashMap::new() };
        let average = (!average.is_empty()).then(|| part(average));
        Ok(Self { spec, classes, input, training, weights: part(weights), average, optimizer })
    }

    /// The weights in a file, be it a checkpoint or a state dict.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn read_weights(path: &Path) -> Result<StateDict> {
        let mut weights = StateDict::read(path)?;
        if is_checkpoint(&weights) {
            weights.tensors.retain(|(name, _)| !name.starts_with(OPTIMIZER));
            let averaged = weights.tensors.iter().any(|(name, _)| name.starts_with(AVERAGE));
            if averaged {
                weights.tensors.retain(|(name, _)| name.starts_with(AVERAGE));
                for (name, _) in &mut weights.tensors {
                    name.drain(..AVERAGE.len());
                }
            }
        }
        Ok(weights)
    }

    /// The network, on `device`.
    ///
    /// # Errors
    /// If the tensors do not fit the spec.
    pub fn network(&self, device: Device) -> Result<Network> {
        // Every value comes from the file, so the seed does not matter.
        let network = Network::build(&self.spec, device, 0)?;
        self.load_into(&network)?;
        Ok(network)
    }

    /// Copies the tensors into a network of the same spec, averaged ones if there are any.
    ///
    /// # Errors
    /// If they do not fit.
    pub fn load_into(&self, network: &Network) -> Result<()> {
        Self::load(self.average.as_ref().unwrap_or(&self.weights), network)
    }

    /// Copies the tensors that training goes on with into a network of the same spec.
    pub(crate) fn load_learning_into(&self, network: &Network) -> Result<()> {
        Self::load(&self.weights, network)
    }

    /// Whether it holds averaged weights.
    pub fn is_averaged(&self) -> bool {
        self.average.is_some()
    }

    fn load(weights: &StateDict, network: &Network) -> Result<()> {
        let loaded = network.load(weights, Classifier::Required)?;
        if loaded.fresh_gates {
            let reason = "its gates are missing".to_owned();
            return Err(Error::NotACheckpoint { path: weights.origin.clone(), reason });
        }
        Ok(())
    }

    /// The optimiser's buffers ([`Optimizer::state`]).
    pub fn optimizer(&self) -> &HashMap<String, Tensor> {
        &self.optimizer
    }
}

/// Whether a file is a checkpoint rather than weights alone.
pub fn is_checkpoint(file: &StateDict) -> bool {
    file.metadata.contains_key(KEY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::config::schedule::ActivationTarget;
    use gumbel_gates::GateKind;

    fn training(gates: &str, decided: bool) -> Training {
        let config = parse("test", &format!("[gates]\n{gates}"), &[]).unwrap();
        Training { decided, ..Training::begin(config, (0, 0)) }
    }

    #[test]
    fn what_is_trained_on_keeps_gates_that_were_decided_and_no_others() {
        let gates = "decide_after = 1.5\ntarget = { from = 1.0, to = 0.5, epochs = 1 }";
        let going_on = training(gates, true).config_to_go_on().gates;
        assert_eq!((going_on.decide_after, going_on.target), (Some(0.0), ActivationTarget::Constant(0.5)));
        let learning = training(gates, false);
        assert_eq!(learning.config_to_go_on(), learning.config);
    }

    #[test]
    fn a_smaller_network_has_the_budget_of_the_larger_one() {
        let spec = |gated: fn(usize) -> bool| {
            NetSpec::preset("resnet18", 2).unwrap().with_layer_gates(GateKind::Independent, gated)
        };
        // Of eight equal gates two are open for good and two closed: their blocks' branches are gone.
        let before = Cost::of(&spec(|_| true), 64, 64).unwrap();
        let after = Cost::of(&spec(|block| block < 4), 64, 64).unwrap();
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
        assert!((network(0.5) * after.dense as f64 - 0.5 * before.dense as f64).abs() < 1.0);
        let macs = target("weighting = \"macs\"\ntarget = 0.8");
        let spent = after.constant() as f64 + macs * after.gated() as f64;
        assert!((spent - before.constant() as f64 - 0.8 * before.gated() as f64).abs() < 1.0);
    }
}
