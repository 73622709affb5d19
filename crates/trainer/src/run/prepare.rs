//! Everything that has to be right before a run starts.

use crate::config::{ALL_ALIKE, Config, Fault, Faults, GateStart, MOVES_MARGINS, Precision, Weighting};
use crate::error::{Error, Result};
use crate::files::atomic::write_atomically;
use crate::files::run_dir::RunDir;
use crate::learn::average::Average;
use crate::learn::guard::Health;
use crate::learn::optimizer::Optimizer;
use crate::learn::teacher::Teacher;
use crate::method::objective::Objective;
use crate::run::fit::Fit;
use crate::states::checkpoint::{Checkpoint, Input, Training, is_checkpoint};
use crate::states::retention::{read_last, step_back};
use arch::{BlockSpec, Classifier, Cost, Meter, Network};
use data::{Dataset, Loader, LoaderOptions, Order, Source};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tch::{Cuda, Device};
use toml::Value;

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// It is a new one.
    No,
    /// As if it had never stopped.
    Exactly,
    /// With what changed in its configuration.
    WithChanges,
}

impl Fit {
    /// Checks and prepares everything: data, network, weights, the run's folder. `out` is the folder to make, by default the
    /// first free `runs/NAME`; to `resume` it is the folder of the run to continue.
    ///
    /// # Errors
    /// If anything is missing or does not fit; then nothing was written.
    pub fn prepare(config: Config, out: Option<PathBuf>, resume: Resume, device: Device) -> Result<Self> {
        let dataset = open(&config)?;
        Self::prepare_on(dataset, config, out, resume, device)
    }

    /// The same for images from sources of your own ([`data::Source`]), whatever `data.path` says.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_on(
        dataset: Dataset,
        config: Config,
        out: Option<PathBuf>,
        resume: Resume,
        device: Device,
    ) -> Result<Self> {
        let mut notes = dataset.notes.clone();
        let images = dataset.train.len();
        if images < 2 {
            return Err(Error::TooFewImages { path: dataset.train.location().to_owned(), images });
        }
        let existing = || RunDir::at(&out.clone().unwrap_or_else(|| Path::new("runs").join(&config.train.name)));
        let resumed_from = (resume != Resume::No).then(existing);
        // What was stopped before its first state begins once more, in the same folder.
        let begun = resumed_from.as_ref().filter(|run| run.has_state() || !run.config().exists());
        // Before anything is read that the other process may be writing.
        let resumed_lock = match &resumed_from {
            Some(run) if run.checkpoints().exists() => Some(run.lock()?),
            _ => None,
        };
        if let Some(run) = resumed_from.as_ref().filter(|_| begun.is_none()) {
            let changes = changes(&Config::read(&run.config(), &[])?, &config);
            if !changes.is_empty() && resume != Resume::WithChanges {
                return Err(Error::ConfigChanged { changes: changes.into_iter().map(|(_, how)| how).collect() });
            }
        }
        let origin = match (&config.network.checkpoint, begun) {
            (None, _) => None,
            (Some(path), None) => Some(Checkpoint::read(path)?),
            (Some(_), Some(run)) => Some(read_last(run)?.0),
        };
        let spec = match &origin {
            Some(checkpoint) => {
                refuse_other_classes(&checkpoint.classes, &*dataset.train)?;
                if checkpoint.spec.gate_count() > 0 {
                    refuse_other_targets(&config, checkpoint.spec.blocks.len())?;
                }
                checkpoint.spec.clone()
            }
            None => config.spec(dataset.classes().len())?,
        };
        let size = config.data.image_size as usize;
        let cost = Cost::of(&spec, size, size)?;
        if spec.gate_count() > 0 {
            refuse_unreachable_target(&config, &cost)?;
        }
        torch_ext::allow_tf32(config.train.tf32);
        // Nearly all batches have one shape: the fastest kernels are worth looking for.
        Cuda::cudnn_set_benchmark(device.is_cuda());
        let half = config.train.precision.half();
        let mut network = Network::build(&spec, device, config.train.seed)?;
        network.compute_in(half);
        if config.network.zero_init_residual {
            network.zero_init_residual()?;
        }
        let mut optimizer = Optimizer::new(network.tensors(), spec.gate_count(), &config.optimizer, &config.gates)?;

        let start = match begun {
            Some(run) => continue_from(run, resume, &config, &dataset, &network, &mut optimizer, &mut notes)?,
            None => start(&config, &dataset, &network, origin.as_ref(), &mut notes)?,
        };
        let Start { progress, fresh_gates, average, ago, faults } = start;
        let scaled = config.train.precision == Precision::Float16;
        let health = Health::new(config.train.max_bad_steps, scaled, network.tensors(), &progress.health)?;
        // As the loader counts them.
        let steps = (dataset.train.len() / config.train.batch_size).max(1);
        let at_once = begun.is_none() && config.gates.decided_from(steps) == Some(0);
        if at_once && fresh_gates && spec.gate_count() > 0 && config.gates.start == GateStart::Alike {
            return Err(fault("gates.decide_after", ALL_ALIKE.to_owned()));
        }
        if config.gates.decide_after.is_some() && config.train.calibrate_batches > 0 && spec.has_dependent_gates() {
            return Err(fault("train.calibrate_batches", MOVES_MARGINS.to_owned()));
        }
        let about = format!(
            "{} with {} gates on {}; {} training and {} validation images of {} classes",
            spec.name,
            spec.gate_count(),
            in_words(device),
            dataset.train.len(),
            dataset.val.len(),
            dataset.classes().len()
        );
        let teacher = Teacher::of(&config, dataset.classes(), device)?;
        let (train, val) = loaders(&config, dataset)?;
        let train_as_deployed = train.with_transform(Input::of(&config).transform());
        let gates_of = |block: &BlockSpec| block.gates.iter().map(|site| site.count()).sum();
        let gated =
            spec.blocks.iter().enumerate().flat_map(|(number, block)| std::iter::repeat_n(number, gates_of(block)));

        // Last of all: from here on there is something on the disk.
        let begins_again = resumed_from.is_some() && begun.is_none();
        let run = match (resumed_from, out) {
            (Some(run), _) if begins_again => {
                notes.push("nothing was saved yet, so it begins once more".into());
                write_atomically(&run.config(), config.to_toml().as_bytes()).map(|()| run)?
            }
            (Some(run), _) => run,
            (None, Some(path)) => create(RunDir::create(&path)?, &config)?,
            (None, None) => create(RunDir::create_numbered(&config.train.name)?, &config)?,
        };
        let lock = match resumed_lock {
            Some(lock) => lock,
            None => run.lock()?,
        };
        if resume != Resume::No {
            run.remove_scratch();
            let aside = step_back(&run, ago)?;
            notes.extend(faults.iter().zip(aside).map(|(fault, aside)| {
                format!("{fault}; it is kept as {}, and the run goes on from the state before it", aside.display())
            }));
        }
        notes.insert(0, format!("{about}; writing {}", run.path().display()));
        Ok(Self {
            objective: Objective::new(&config, &cost),
            meter: Rc::new(Meter::new(&cost, device)?),
            blocks_of_gates: gated.collect(),
            config,
            run,
            network,
            average,
            health,
            teacher,
            cost,
            optimizer,
            train_as_deployed,
            train,
            val,
            progress,
            fresh_gates,
            resumed: resume != Resume::No,
            changed: resume == Resume::WithChanges && !begins_again,
            notes,
            _lock: lock,
        })
    }
}

fn in_words(device: Device) -> String {
    match device {
        Device::Cpu => format!("the CPU, {} threads", tch::get_num_threads()),
        Device::Cuda(number) => format!("CUDA device {number}"),
        other => format!("{other:?}"),
    }
}

fn open(config: &Config) -> Result<Dataset> {
    let (network, teacher) = (&config.network, &config.distillation.teacher);
    for path in [&config.data.path, &network.weights, &network.checkpoint, teacher].into_iter().flatten() {
        if path.to_str().is_none() {
            return Err(Error::PathNotText { path: path.clone() });
        }
    }
    Ok(Dataset::open(&config.data.path.clone().unwrap_or_default())?)
}

/// Where training starts.
struct Start {
    progress: Training,
    /// Whether its gates have yet to start.
    fresh_gates: bool,
    average: Option<Average>,
    /// How many saves ago the state of a run that goes on is.
    ago: usize,
    /// What is wrong with newer ones.
    faults: Vec<Error>,
}

/// A new run, from weights if the configuration names some.
fn start(
    config: &Config,
    dataset: &Dataset,
    network: &Network,
    origin: Option<&Checkpoint>,
    notes: &mut Vec<String>,
) -> Result<Start> {
    let mut fresh_gates = origin.is_none();
    if let Some((path, checkpoint)) = config.network.checkpoint.as_ref().zip(origin) {
        checkpoint.load_into(network)?;
        notes.push(format!("goes on from {}", path.display()));
    }
    if let Some(path) = &config.network.weights {
        let weights = Checkpoint::read_weights(path)?;
        let loaded = network.load(&weights, Classifier::MayBeFresh)?;
        if loaded.other_classes.is_none() && !is_checkpoint(&weights) {
            notes.extend(note_on_class_order(&*dataset.train));
        }
        fresh_gates = loaded.fresh_gates;
        let mut fresh = Vec::new();
        if loaded.fresh_gates {
            fresh.push("the gates".to_owned());
        }
        if let Some(classes) = loaded.other_classes {
            let here = dataset.classes().len();
            fresh.push(format!("the classifier (the file has {classes} classes, the data {here})"));
        }
        let fresh = if fresh.is_empty() { String::new() } else { format!("; fresh: {}", fresh.join(" and ")) };
        notes.push(format!("loaded {}{fresh}", path.display()));
    }
    let progress = Training::begin(config.clone(), images(dataset));
    Ok(Start { progress, fresh_gates, average: average(config, network)?, ago: 0, faults: Vec::new() })
}

/// A run that was stopped.
fn continue_from(
    run: &RunDir,
    resume: Resume,
    config: &Config,
    dataset: &Dataset,
    network: &Network,
    optimizer: &mut Optimizer,
    notes: &mut Vec<String>,
) -> Result<Start> {
    let (checkpoint, ago, faults) = read_last(run)?;
    let path = run.last_but(ago);
    let Some(training) = &checkpoint.training else {
        let reason = "it does not say where training stood".to_owned();
        return Err(Error::NotACheckpoint { path, reason });
    };
    refuse_other_classes(&checkpoint.classes, &*dataset.train)?;
    let (before, now) = (training.images, images(dataset));
    if before != now {
        let data = config.data.path.clone().unwrap_or_default();
        return Err(Error::DataChanged { path: data, before: before.0, now: now.0, checkpoint: path });
    }
    let changes = changes(&training.config, config);
    if !changes.is_empty() {
        refuse_changes(changes, resume, &checkpoint.spec == network.spec(), notes)?;
    }
    checkpoint.load_learning_into(network)?;
    let average = average(config, network)?;
    if let Some(average) = average.as_ref().filter(|_| checkpoint.is_averaged()) {
        checkpoint.load_into(average.network())?;
    }
    optimizer.load_state(&path, checkpoint.optimizer())?;
    notes.push(format!("resumed {} after step {}", path.display(), training.step));
    // What may change has changed. An average that begins now has followed nothing yet.
    let updates = if checkpoint.is_averaged() { training.updates } else { 0 };
    let progress = Training { config: config.clone(), updates, ..training.clone() };
    // What was stopped before its first step was stopped while its gates started.
    Ok(Start { progress, fresh_gates: true, average, ago, faults })
}

/// The average of a network's weights, if the configuration asks for one; it begins with what they are now.
fn average(config: &Config, network: &Network) -> Result<Option<Average>> {
    let (decay, half) = (config.train.average_decay, config.train.precision.half());
    if decay > 0.0 { Average::of(network, decay, half).map(Some) } else { Ok(None) }
}

/// Targets per block must fit a network that only a checkpoint knows.
fn refuse_other_targets(config: &Config, blocks: usize) -> Result<()> {
    match config.gates.target.fault(Some(blocks)) {
        None => Ok(()),
        Some(message) => Err(fault("gates.target", message)),
    }
}

/// A network cannot spend less than what no gate decides about.
fn refuse_unreachable_target(config: &Config, cost: &Cost) -> Result<()> {
    let least = cost.constant() as f64 / cost.dense as f64;
    let target = config.gates.target.last();
    if config.gates.weighting != Weighting::Network || target >= least.min(1.0) {
        return Ok(());
    }
    let message = format!(
        "{target} of the network's MACs cannot be reached: {least:.3} of them are spent with all gates closed; raise the target or \
         gate more places (gates.sites, gates.granularity)"
    );
    Err(fault("gates.target", message))
}

/// A fault that only the data or a checkpoint brings out.
fn fault(key: &str, message: String) -> Error {
    let faults = vec![Fault { key: key.to_owned(), line: None, from_command_line: false, message }];
    Faults { origin: "the configuration".to_owned(), faults }.into()
}

fn create(run: RunDir, config: &Config) -> Result<RunDir> {
    let written = write_atomically(&run.config(), config.to_toml().as_bytes());
    if written.is_err() {
        // An empty run would stand in the way of the next try; the write's error is the one to tell.
        let _ = std::fs::remove_dir_all(run.path());
    }
    written.map(|()| run)
}

fn loaders(config: &Config, dataset: Dataset) -> Result<(Loader, Loader)> {
    let (data, train, input) = (&config.data, &config.train, Input::of(config));
    let loader = |source, transform, order, batch_size| {
        let (normalise, threads, ahead) = (input.normalise(), data.threads, data.batches_ahead);
        let options = LoaderOptions { transform, normalise, order, batch_size, threads, ahead, ..Default::default() };
        Loader::new(source, options)
    };
    Ok((
        loader(dataset.train, config.augmentation(), Order::Shuffled(train.seed), train.batch_size)?,
        loader(dataset.val, input.transform(), Order::InOrder, train.eval_batch_size)?,
    ))
}

/// How many images, and a fingerprint of their names and labels.
fn images(dataset: &Dataset) -> (usize, u64) {
    let (train, val) = (&dataset.train, &dataset.val);
    (train.len() + val.len(), train.fingerprint() ^ val.fingerprint().rotate_left(1))
}

/// The keys that differ, and how: a resumed run keeps its configuration, but data may have moved and machines differ.
fn changes(before: &Config, now: &Config) -> Vec<(String, String)> {
    const MAY_CHANGE: [&str; 15] = [
        "checkpoints.every_steps",
        "checkpoints.every_minutes",
        "checkpoints.keep_last",
        "checkpoints.keep_best",
        "checkpoints.keep_every_epochs",
        "data.path",
        "data.threads",
        "data.batches_ahead",
        "data.max_bad_share",
        "train.eval_batch_size",
        "train.log_every",
        "train.max_bad_steps",
        "train.patience",
        "network.weights",
        "network.checkpoint",
    ];
    let (before, now) = (before.flatten(), now.flatten());
    let value_in = |config: &[(String, Value)], key: &str| {
        config.iter().find(|(name, _)| name == key).map_or("not set".to_owned(), |(_, value)| value.to_string())
    };
    let keys: BTreeSet<&String> = before.iter().chain(&now).map(|(key, _)| key).collect();
    keys.into_iter()
        .filter(|key| !MAY_CHANGE.contains(&key.as_str()))
        .map(|key| (key, value_in(&now, key), value_in(&before, key)))
        .filter(|(_, now, before)| now != before)
        .map(|(key, now, before)| (key.clone(), format!("{key} is {now} and was {before}")))
        .collect()
}

/// What a run cannot change: the key, and what would be another.
const FIXED: [(&str, &str); 5] = [
    ("optimizer.algorithm", "optimizer"),
    // Steps are counted, and what was measured is filed by them.
    ("train.batch_size", "batch size"),
    ("checkpoints.best_by", "measure of what is best"),
    // Gates may be decided already.
    ("gates.decide_after", "decision of its gates"),
    ("gates.target", "target"),
];

/// What changed is allowed if it was asked for and the run still is the same.
fn refuse_changes(
    changes: Vec<(String, String)>,
    resume: Resume,
    same_network: bool,
    notes: &mut Vec<String>,
) -> Result<()> {
    let everything = || changes.iter().map(|(_, how)| how.clone()).collect::<Vec<_>>();
    if !same_network {
        return Err(Error::CannotChange { what: "network", changes: everything() });
    }
    let is_fixed = |key: &str, fixed: &str| key == fixed || key.starts_with(&format!("{fixed}."));
    for (key, how) in &changes {
        if let Some((_, what)) = FIXED.iter().find(|(fixed, _)| is_fixed(key, fixed)) {
            return Err(Error::CannotChange { what, changes: vec![how.clone()] });
        }
    }
    let changes = everything();
    if resume != Resume::WithChanges {
        return Err(Error::ConfigChanged { changes });
    }
    notes.push(format!("goes on with changes: {}", changes.join(", ")));
    Ok(())
}

/// What to say where weights that name no classes meet class folders which torchvision would number otherwise.
pub fn note_on_class_order(source: &dyn Source) -> Option<String> {
    let classes = source.classes();
    let in_folders = !source.is_empty() && source.name(0).starts_with(&classes[source.label(0)]);
    let neighbours = classes.iter().zip(classes.iter().skip(1));
    let (first, second) = neighbours.into_iter().find(|(first, second)| in_folders && first > second)?;
    Some(format!(
        "class folders are numbered in natural order, '{first}' before '{second}'; torchvision's ImageFolder compares characters, so weights \
         that were trained with it would take some of these classes for others"
    ))
}

/// A network tells classes by their number: the folder must give each number the same name.
///
/// # Errors
/// If it does not.
pub fn refuse_other_classes(classes: &[String], source: &dyn Source) -> Result<()> {
    if classes == source.classes() {
        return Ok(());
    }
    let shorten = |names: &[String]| {
        let shown = names.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        if names.len() > 4 { format!("{shown}, … ({})", names.len()) } else { shown }
    };
    let (network, data) = (shorten(classes), shorten(source.classes()));
    Err(Error::OtherClasses { path: source.location().to_owned(), network, data })
}
