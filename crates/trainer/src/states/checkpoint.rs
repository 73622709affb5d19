//! A network in a file: its tensors, and beside them the spec, the classes, how images are
//! prepared, and where training stood.
//!
//! The format is safetensors. The tensors have the state dict's own names, averaged weights
//! `average.NAME`, the optimizer's buffers `optimizer.KIND.NAME`; the rest is one JSON text in the
//! metadata. Where there are averaged weights, they are the network that the checkpoint stands for,
//! and the others only serve to train on.

use super::input::Input;
use super::training::Training;
use crate::config::renamed::modernize_json;
use crate::error::{Error, Result};
use crate::files::atomic::write_atomically;
use crate::files::run_dir::RunDir;
use arch::state_dict::{StateDict, safetensors};
use arch::{BlockSpec, Classifier, Cost, CutGates, NetSpec, Network};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use tch::{Device, Tensor};

/// Metadata key of the description.
const KEY: &str = "gumbel-gates";
/// Version of the description that is written.
const FORMAT: u32 = 3;
/// The oldest version that is read: since then only keys were renamed.
const OLDEST: u32 = 2;
/// What the names of the optimizer's buffers begin with.
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

/// What a checkpoint holds, on its way into a file.
#[derive(Debug)]
pub(crate) struct Saved<'a> {
    /// The network, or the one that learns.
    pub network: &'a Network,
    /// The network with averaged weights, if there is one.
    pub average: Option<&'a Network>,
    /// Class names, by label.
    pub classes: &'a [String],
    /// How images are prepared.
    pub input: Input,
    /// Where training stood.
    pub training: Option<&'a Training>,
}

impl Saved<'_> {
    /// A checkpoint as a file's content. Training can go on exactly from where it stood only with
    /// the `buffers` of its optimizer, by their names.
    ///
    /// # Errors
    /// If the tensors cannot be read or the description cannot be written.
    pub fn to_bytes<'t>(&self, buffers: impl Iterator<Item = (String, &'t Tensor)>) -> Result<Vec<u8>> {
        let description = Description {
            format: FORMAT,
            spec: self.network.spec().clone(),
            classes: self.classes.to_vec(),
            input: self.input,
            training: self.training.cloned(),
        };
        let description = serde_json::to_string(&description).map_err(Error::Description)?;
        let buffers = buffers.map(|(name, buffer)| (format!("{OPTIMIZER}{name}"), buffer));
        let averaged = self.average.iter().flat_map(|network| network.tensors());
        let averaged = averaged.map(|entry| (format!("{AVERAGE}{}", entry.name), &entry.tensor));
        let others: Vec<(String, &Tensor)> = averaged.chain(buffers).collect();
        let others = others.iter().map(|(name, tensor)| (name.as_str(), *tensor));
        let tensors = self.network.tensors().iter();
        let tensors = tensors.map(|entry| (entry.name.as_str(), &entry.tensor)).chain(others);
        Ok(safetensors::to_bytes(tensors, (KEY, description))?)
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
        let saved = Saved { network, average: None, classes, input, training };
        write_atomically(path, &saved.to_bytes(std::iter::empty())?)
    }

    /// Reads a checkpoint. Of a run's folder it is the best one, or the last, if none was
    /// evaluated.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or is no checkpoint.
    pub fn read(path: &Path) -> Result<Self> {
        let path = &*state_of(path);
        let refuse = |reason: String| Error::NotACheckpoint { path: path.to_owned(), reason };
        if path.is_dir() {
            return Err(refuse("it is a folder without a state; give a checkpoint, or the folder of a run".into()));
        }
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
        if format < OLDEST {
            let reason = format!(
                "it has format {format}, of an older version, and this program reads format {FORMAT}; its weights alone still \
                 load, with --weights of `train fit`"
            );
            return Err(refuse(reason));
        }
        let mut description: Value = serde_json::from_str(description).map_err(damaged)?;
        if let Some(training) = description.get_mut("training").filter(|training| training.is_object()) {
            modernize_json(&mut training["config"]);
        }
        let Description { spec, classes, input, training, .. } =
            serde_json::from_value(description).map_err(damaged)?;
        if classes.len() != spec.head.classes || !input.is_sane() {
            return Err(refuse("its description contradicts itself".into()));
        }
        let size = input.image_size as usize;
        let cost = Cost::of(&spec, size, size).map_err(|error| refuse(error.to_string()))?;
        if let Some(cut) = training.as_ref().and_then(|training| training.cut.as_ref())
            && !is_cut_from(&spec, cut, size)
        {
            return Err(refuse("what it says was cut out of its network does not fit it".into()));
        }
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
        let path = &*state_of(path);
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

    /// The optimizer's buffers by their names ([`crate::Optimizer::state`]).
    pub fn optimizer(&self) -> &HashMap<String, Tensor> {
        &self.optimizer
    }
}

/// Whether `spec` may be what is left of the network that these gates were cut from.
fn is_cut_from(spec: &NetSpec, cut: &CutGates, image_size: usize) -> bool {
    let mut blocks = cut.spec.blocks.iter();
    let of_same_shape =
        |block: &BlockSpec| blocks.any(|whole| (&whole.name, whole.outputs) == (&block.name, block.outputs));
    spec.gate_count() == 0
        && cut.open.len() == cut.spec.gate_count()
        && !cut.spec.has_dependent_gates()
        && cut.spec.head == spec.head
        && spec.blocks.iter().all(of_same_shape)
        && Cost::of(&cut.spec, image_size, image_size).is_ok()
}

/// The file that a path to a checkpoint means: itself, or of a run's folder its best state; its last
/// one, if none was evaluated.
pub fn state_of(path: &Path) -> Cow<'_, Path> {
    // A run may be part of a shrink.
    let [run, part] = [RunDir::at(path), RunDir::at(&path.join("run"))];
    match [run.best(), run.last(), part.best(), part.last()].into_iter().find(|state| path.is_dir() && state.exists()) {
        Some(state) => Cow::Owned(state),
        None => Cow::Borrowed(path),
    }
}

/// Whether a file is a checkpoint rather than weights alone.
pub fn is_checkpoint(file: &StateDict) -> bool {
    file.metadata.contains_key(KEY)
}
