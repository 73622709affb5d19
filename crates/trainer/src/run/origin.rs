//! Where the state of a run comes from.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::run_dir::RunDir;
use crate::learn::average::Average;
use crate::learn::optimizer::Optimizer;
use crate::run::changes::{Resume, allow_changes, changes, refuse_unasked};
use crate::run::classes::{note_on_class_order, refuse_other_classes};
use crate::run::images::fingerprint;
use crate::states::checkpoint::{Checkpoint, is_checkpoint};
use crate::states::retention::{LastState, read_last};
use crate::states::training::Training;
use arch::state_dict::StateDict;
use arch::{Classifier, CutGates, FreshClassifier, Loaded, NetSpec, Network};
use data::Dataset;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where the state of a run comes from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Values drawn from the seed.
    Fresh,
    /// The weights of a file (`network.weights`); gates and classifier may be fresh.
    Weights(PathBuf, StateDict),
    /// The network of a checkpoint, of another run perhaps (`network.checkpoint`).
    Checkpoint(PathBuf, Box<Checkpoint>),
    /// The run's own last state: it goes on.
    Resumed(Box<LastState>),
}

/// The folder a run writes into.
#[derive(Debug)]
pub(crate) enum Folder {
    /// It is yet to be made: this one, or the first that is free.
    New(Option<PathBuf>),
    /// That of a run that was stopped before its first state, which begins once more.
    BegunAgain(RunDir, File),
    /// That of a run that goes on.
    Resumed(RunDir, File),
}

/// States of a run that cannot be read, newer than the one it goes on from.
#[derive(Debug, Default)]
pub(crate) struct Damaged {
    /// How many saves ago the state that it goes on from was written.
    pub ago: usize,
    /// What is wrong with each.
    pub faults: Vec<Error>,
}

/// The state a run starts from, its tensors loaded.
#[derive(Debug)]
pub(crate) struct Start {
    pub progress: Training,
    /// Whether its gates have yet to start.
    pub fresh_gates: bool,
    pub average: Option<Average>,
}

impl Folder {
    /// The folder of a run that `out` names, by default `runs/NAME`, claimed if it is there
    /// already.
    ///
    /// # Errors
    /// If there is nothing to resume, another process is at work in it, or the configuration of a
    /// run that begins once more differs.
    pub fn of(config: &Config, out: Option<PathBuf>, resume: Resume) -> Result<Self> {
        if resume == Resume::No {
            return Ok(Self::New(out));
        }
        let run = RunDir::at(&out.unwrap_or_else(|| PathBuf::from("runs").join(&config.train.name)));
        // Before anything is read that the other process may be writing.
        let lock = if run.checkpoints().exists() { Some(run.lock()?) } else { None };
        let begins_again = !run.has_state() && run.config().exists();
        if begins_again {
            refuse_unasked(&Config::read_saved(&run.config(), &[])?, config, resume)?;
        }
        match lock {
            Some(lock) if begins_again => Ok(Self::BegunAgain(run, lock)),
            Some(lock) => Ok(Self::Resumed(run, lock)),
            // Says that the folder of its states cannot be read.
            None if begins_again => run.lock().and(Err(Error::NothingToResume { path: run.last() })),
            None => Err(Error::NothingToResume { path: run.last() }),
        }
    }
}

impl Origin {
    /// Reads what a run in `folder` starts from.
    ///
    /// # Errors
    /// If a file cannot be read or is damaged.
    pub fn read(config: &Config, folder: &Folder) -> Result<Self> {
        let network = &config.network;
        match (folder, &network.checkpoint, &network.weights) {
            (Folder::Resumed(run, _), ..) => Ok(Self::Resumed(Box::new(read_last(run)?))),
            (_, Some(path), _) => Ok(Self::Checkpoint(path.clone(), Box::new(Checkpoint::read(path)?))),
            (_, None, Some(path)) => Ok(Self::Weights(path.clone(), Checkpoint::read_weights(path)?)),
            (_, None, None) => Ok(Self::Fresh),
        }
    }

    /// The checkpoint whose own network is trained, if there is one: then where gates sit is its
    /// business and not the configuration's. A run that goes on has the network that it stopped
    /// with.
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match self {
            Self::Fresh | Self::Weights(..) => None,
            Self::Checkpoint(_, checkpoint) => Some(checkpoint),
            Self::Resumed(last) => Some(&last.checkpoint),
        }
    }

    /// The gates that a run that goes on has cut out of its network.
    pub fn cut(&self) -> Option<&CutGates> {
        match self {
            Self::Resumed(last) => last.checkpoint.training.as_ref()?.cut.as_ref(),
            Self::Fresh | Self::Weights(..) | Self::Checkpoint(..) => None,
        }
    }

    /// What the network to train is: a checkpoint's own, or what the configuration says.
    ///
    /// # Errors
    /// If the preset is unknown, or the checkpoint's classes are not those of the images.
    pub fn spec(&self, config: &Config, dataset: &Dataset) -> Result<NetSpec> {
        match self.checkpoint() {
            None => Ok(config.spec(dataset.classes().len())?),
            Some(checkpoint) => {
                refuse_other_classes(&checkpoint.classes, &*dataset.train)?;
                Ok(checkpoint.spec.clone())
            }
        }
    }

    /// What is left to do once its tensors are loaded: it holds them no longer.
    pub fn into_damaged(self) -> Damaged {
        match self {
            Self::Resumed(last) => Damaged { ago: last.ago, faults: last.faults },
            Self::Fresh | Self::Weights(..) | Self::Checkpoint(..) => Damaged::default(),
        }
    }

    /// Whether the run goes on where it stopped.
    pub fn is_resumed(&self) -> bool {
        matches!(self, Self::Resumed(_))
    }

    /// Loads the state into the network and its optimizer.
    ///
    /// # Errors
    /// If it does not fit the network, the images or the configuration.
    pub fn load(
        &self,
        config: &Config,
        resume: Resume,
        dataset: &Dataset,
        network: &Network,
        optimizer: &mut Optimizer,
        notes: &mut Vec<String>,
    ) -> Result<Start> {
        let fresh_gates = match self {
            Self::Fresh => true,
            Self::Weights(path, weights) => {
                let loaded =
                    network.load(weights, Classifier::MayBeFresh).map_err(|source| match is_checkpoint(weights) {
                        true => Error::OtherNetwork { path: path.clone(), source },
                        false => source.into(),
                    })?;
                notes.extend(notes_on_weights(path, weights, &loaded, dataset));
                loaded.fresh_gates
            }
            Self::Checkpoint(path, checkpoint) => {
                checkpoint.load_into(network)?;
                notes.push(format!("goes on from {}", path.display()));
                false
            }
            Self::Resumed(last) => return go_on(last, config, resume, dataset, network, optimizer, notes),
        };
        let progress = Training::begin(config.clone(), fingerprint(dataset));
        Ok(Start { progress, fresh_gates, average: average(config, network)? })
    }
}

/// What to say of weights that were loaded.
fn notes_on_weights(path: &Path, weights: &StateDict, loaded: &Loaded, dataset: &Dataset) -> Vec<String> {
    let mut notes = Vec::new();
    if loaded.fresh_classifier.is_none() && !is_checkpoint(weights) {
        notes.extend(note_on_class_order(&*dataset.train));
    }
    notes.extend(loaded.notes.iter().cloned());
    let mut fresh = Vec::new();
    if loaded.fresh_gates {
        fresh.push("the gates".to_owned());
    }
    let here = dataset.classes().len();
    match loaded.fresh_classifier {
        Some(FreshClassifier::OtherClasses(classes)) => {
            fresh.push(format!("the classifier (the file has {classes} classes, the data {here})"));
        }
        Some(FreshClassifier::Absent) => fresh.push("the classifier (the file has none)".to_owned()),
        None => {}
    }
    let fresh = if fresh.is_empty() { String::new() } else { format!("; fresh: {}", fresh.join(" and ")) };
    notes.push(format!("loaded {}{fresh}", path.display()));
    notes
}

/// Goes on from the run's last state.
fn go_on(
    last: &LastState,
    config: &Config,
    resume: Resume,
    dataset: &Dataset,
    network: &Network,
    optimizer: &mut Optimizer,
    notes: &mut Vec<String>,
) -> Result<Start> {
    let LastState { path, checkpoint, .. } = last;
    let Some(training) = &checkpoint.training else {
        let reason = "it does not say where training stood".to_owned();
        return Err(Error::NotACheckpoint { path: path.clone(), reason });
    };
    refuse_other_classes(&checkpoint.classes, &*dataset.train)?;
    let images = fingerprint(dataset);
    if training.images != images {
        return Err(Error::DataChanged {
            path: config.data.path.clone().unwrap_or_default(),
            before: training.images.0,
            now: images.0,
            checkpoint: path.clone(),
        });
    }
    let classes = checkpoint.classes.len();
    // A checkpoint's network is the same whatever the configuration says.
    let same_network = config.network.checkpoint.is_some()
        || training.config.spec(classes).is_ok_and(|spec| config.spec(classes).is_ok_and(|now| now == spec));
    allow_changes(changes(&training.config, config)?, resume, same_network, notes)?;
    checkpoint.load_learning_into(network)?;
    let average = average(config, network)?;
    if let Some(average) = average.as_ref().filter(|_| checkpoint.is_averaged()) {
        checkpoint.load_into(average.network())?;
    }
    optimizer.load_state(path, checkpoint.optimizer())?;
    notes.push(format!("resumed {} after step {}", path.display(), training.step));
    // What may change has changed. An average that begins now has followed nothing yet.
    let updates = if checkpoint.is_averaged() { training.updates } else { 0 };
    let progress = Training { config: config.clone(), updates, ..training.clone() };
    // What was stopped before its first step may have been stopped while its gates started.
    Ok(Start { fresh_gates: progress.step == 0 && !progress.started, progress, average })
}

/// The average of a network's weights, if the configuration asks for one; it begins with what they
/// are now.
fn average(config: &Config, network: &Network) -> Result<Option<Average>> {
    let decay = config.train.average_decay;
    let half = config.train.precision.half();
    if decay > 0.0 { Average::of(network, decay, half).map(Some) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::run::fit::Fit;
    use data::synth::{SampleSet, draw};
    use std::sync::atomic::AtomicBool;
    use tch::Device;

    #[test]
    fn a_run_on_a_checkpoints_network_reads_its_last_state_once() {
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images");
        draw(&images, &SampleSet { train_per_class: 1, val_per_class: 1, seed: 0 }).unwrap();
        let text = "[network]\narch = \"cifar-resnet20\"\n[data]\nimage_size = 32\nresize = 32\n\
                    [train]\nepochs = 1\nbatch_size = 5";
        let mut config = parse("test", text, &[]).unwrap();
        config.data.path = Some(images);
        // Interrupted before its first step, a run leaves a state.
        let interrupted = |config: &Config, name: &str| {
            let out = folder.path().join(name);
            let fit = Fit::prepare(config.clone(), Some(out.clone()), Resume::No, Device::Cpu).unwrap();
            fit.run(&mut [], &AtomicBool::new(true)).unwrap();
            RunDir::at(&out)
        };
        config.network.checkpoint = Some(interrupted(&config, "first").last());
        let run = interrupted(&config, "second");

        let out = Some(run.path().to_owned());
        let folder = Folder::of(&config, out, Resume::Exactly).unwrap();
        let origin = Origin::read(&config, &folder).unwrap();
        assert!(origin.is_resumed());
        std::fs::remove_dir_all(run.checkpoints()).unwrap();
        let dataset = crate::run::images::open(&config).unwrap();
        let spec = origin.spec(&config, &dataset).unwrap();
        let network = Network::build(&spec, Device::Cpu, 0).unwrap();
        let mut optimizer =
            Optimizer::new(network.tensors(), spec.gate_count(), &config.optimizer, &config.gates).unwrap();
        let mut notes = Vec::new();
        let start = origin.load(&config, Resume::Exactly, &dataset, &network, &mut optimizer, &mut notes).unwrap();
        assert_eq!(start.progress.step, 1);
        assert!(notes[0].contains("after step 1"), "{notes:?}");
    }
}
