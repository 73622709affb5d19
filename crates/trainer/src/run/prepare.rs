//! Everything that has to be right before a run starts.

use crate::config::{ALL_ALIKE, Align, Config, Faults, GateStart, MOVES_MARGINS};
use crate::error::{Error, Result};
use crate::files::atomic::write_atomically;
use crate::files::run_dir::RunDir;
use crate::learn::optimizer::Optimizer;
use crate::learn::step::Learner;
use crate::learn::teacher::Teacher;
use crate::method::lifecycle::GateLifecycle;
use crate::results::reach::Reach;
use crate::run::changes::Resume;
use crate::run::fit::Fit;
use crate::run::images::{Images, open, refuse_odd_paths};
use crate::run::origin::{Damaged, Folder, Origin, Start};
use crate::run::times::{Times, settle, spending};
use crate::states::retention::step_back;
use arch::{Cost, NetSpec, Network, Spending};
use data::Dataset;
use std::fs::File;
use std::path::PathBuf;
use tch::{Cuda, Device};

impl Fit {
    /// Checks and prepares everything: data, network, weights, the run's folder. `out` is the
    /// folder to make, by default the first free `runs/NAME`; to `resume` it is the folder of the
    /// run to continue.
    ///
    /// # Errors
    /// If anything is missing or does not fit; then nothing was written.
    pub fn prepare(config: Config, out: Option<PathBuf>, resume: Resume, device: Device) -> Result<Self> {
        refuse_odd_paths(&config)?;
        config.check()?;
        let dataset = open(&config)?;
        Self::prepare_on(dataset, config, out, resume, device)
    }

    /// The same for images from sources of your own ([`data::Source`]), whatever `data.path` says.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn prepare_on(
        dataset: Dataset,
        mut config: Config,
        out: Option<PathBuf>,
        resume: Resume,
        device: Device,
    ) -> Result<Self> {
        refuse_odd_paths(&config)?;
        config.check()?;
        let mut notes = dataset.notes.clone();
        let images = dataset.train.len();
        if images < 2 {
            return Err(Error::TooFewImages { path: dataset.train.location().to_owned(), images });
        }
        let folder = Folder::of(&config, out, resume)?;
        let origin = Origin::read(&config, &folder)?;
        let built = origin.spec(&config, &dataset)?;
        // What the budget and reports speak of is the network with its gates.
        let cut = origin.cut();
        let spec = cut.map_or_else(|| built.clone(), |cut| cut.spec.clone());
        let size = config.data.image_size as usize;
        let cost = Cost::of(&spec, size, size)?;
        let times = Times::read(&config, &folder, &origin, &spec, &mut notes)?;
        let spending = spending(&spec, &cost, times.as_ref())?;
        settle(&mut config, &spec, &spending, times.as_ref(), &mut notes)?;
        refuse_unmeasured_alignment(&config)?;
        let reach = reach(&config, &spec, &spending, times.as_ref());
        let network = build(&config, &built, device)?;
        let mut optimizer = Optimizer::new(network.tensors(), built.gate_count(), &config.optimizer, &config.gates)?;
        let start = origin.load(&config, resume, &dataset, &network, &mut optimizer, &mut notes)?;
        let about = about(&spec, &dataset, device);
        // Behind what a run that goes on may not change.
        if spec.gate_count() > 0 {
            refuse_unreachable_targets(&config, &origin, &cost, &reach)?;
        }
        let is_resumed = origin.is_resumed();
        let damaged = origin.into_damaged();
        let teacher = Teacher::of(&config, dataset.classes(), device)?;
        let images = Images::load(dataset, &config)?;
        let Start { mut progress, fresh_gates, average } = start;
        progress.times = times.as_ref().map(Times::fingerprint);
        let gates = GateLifecycle::new(&spec, &config, images.train.batches());
        refuse_untimely_freezing(&config, &spec, &gates, fresh_gates)?;
        notes.extend(note_on_late_freezing(&config, &gates));
        let learner = Learner::new(&config, network, (cost, spending), optimizer, average, teacher, &progress)?;

        // Last of all: from here on there is something on the disk.
        let begins_again = matches!(folder, Folder::BegunAgain(..));
        let (run, lock) = claim(folder, &config, times.as_ref(), &mut notes)?;
        if resume != Resume::No {
            run.remove_scratch();
        }
        set_damaged_aside(&run, &damaged, &mut notes)?;
        notes.insert(0, format!("{about}; writing {}", run.path().display()));
        Ok(Self {
            saved: is_resumed.then_some(progress.position()),
            resumed: resume != Resume::No,
            changed: resume == Resume::WithChanges && !begins_again,
            config,
            run,
            learner,
            gates,
            images,
            reach,
            progress,
            fresh_gates,
            notes,
            _lock: lock,
        })
    }
}

/// The network of `spec` on `device`, with values drawn from the run's seed.
fn build(config: &Config, spec: &NetSpec, device: Device) -> Result<Network> {
    torch_ext::allow_tf32(config.train.tf32);
    // Nearly all batches have one shape: the fastest kernels are worth looking for.
    Cuda::cudnn_set_benchmark(device.is_cuda());
    let mut network = Network::build(spec, device, config.train.seed)?;
    network.compute_in(config.train.precision.half());
    if config.network.zero_init_residual {
        network.zero_init_residual()?;
    }
    Ok(network)
}

/// A line about the run.
fn about(spec: &NetSpec, dataset: &Dataset, device: Device) -> String {
    let device = match device {
        Device::Cpu => format!("the CPU, {} threads", tch::get_num_threads()),
        Device::Cuda(number) => format!("CUDA device {number}"),
        other => format!("{other:?}"),
    };
    format!(
        "{} with {} gates on {device}; {} training and {} validation images of {} classes",
        spec.name,
        spec.gate_count(),
        dataset.train.len(),
        dataset.val.len(),
        dataset.classes().len()
    )
}

/// Makes the run's folder, or takes the one that is there, and claims it.
fn claim(folder: Folder, config: &Config, times: Option<&Times>, notes: &mut Vec<String>) -> Result<(RunDir, File)> {
    let run = match folder {
        Folder::Resumed(run, lock) => return Ok((run, lock)),
        Folder::BegunAgain(run, lock) => {
            notes.push("nothing was saved yet, so it begins once more".into());
            write_atomically(&run.config(), config.to_toml()?.as_bytes())?;
            if let Some(times) = times {
                write_atomically(&run.times(), times.text.as_bytes())?;
            }
            return Ok((run, lock));
        }
        Folder::New(Some(path)) => RunDir::create(&path)?,
        Folder::New(None) => RunDir::create_numbered(&config.train.name)?,
    };
    let text = config.to_toml().map_err(Error::from);
    let table = || times.map_or(Ok(()), |times| write_atomically(&run.times(), times.text.as_bytes()));
    if let Err(error) = text.and_then(|text| write_atomically(&run.config(), text.as_bytes())).and_then(|()| table()) {
        // An empty run would stand in the way of the next try; the write's error is the one to
        // tell.
        let _ = std::fs::remove_dir_all(run.path());
        return Err(error);
    }
    let lock = run.lock()?;
    Ok((run, lock))
}

/// Makes the state that the run goes on from the last one again, and says what was wrong with newer
/// ones.
fn set_damaged_aside(run: &RunDir, damaged: &Damaged, notes: &mut Vec<String>) -> Result<()> {
    let aside = step_back(run, damaged.ago)?;
    notes.extend(damaged.faults.iter().zip(aside).map(|(fault, aside)| {
        format!("{fault}; it is kept as {}, and the run goes on from the state before it", aside.display())
    }));
    Ok(())
}

/// What the gates of a run can reach.
fn reach(config: &Config, spec: &NetSpec, spending: &Spending, times: Option<&Times>) -> Reach {
    let align = config.gates.freezes_at_multiples_of();
    Reach::of(spec, spending, align, times.map(|times| &times.table))
}

/// Whoever measures this machine does so before.
fn refuse_unmeasured_alignment(config: &Config) -> Result<()> {
    match config.gates.align {
        Some(Align::Auto(_)) => {
            let message = "\"auto\" is measured before a run is prepared, or comes from a table of costs (gates.times); \
                           expected a number of channels";
            Err(Faults::of("gates.align", message.to_owned()).into())
        }
        Some(Align::Channels(_)) | None => Ok(()),
    }
}

/// Targets must fit a network that only a checkpoint knows, and no network can spend less than what
/// no gate decides about.
fn refuse_unreachable_targets(config: &Config, origin: &Origin, cost: &Cost, reach: &Reach) -> Result<()> {
    if origin.checkpoint().is_some()
        && let Some(message) = config.gates.target.fault(Some(cost.blocks.len()))
    {
        return Err(Faults::of("gates.target", message).into());
    }
    let key = if config.gates.target_absolute.is_some() { "gates.target_absolute" } else { "gates.target" };
    reach.fault(config).map_or(Ok(()), |message| Err(Faults::of(key, message).into()))
}

/// Gates that have neither learned nor started by importance cannot be told apart, and statistics
/// that are estimated anew would undo what dependent gates were frozen at.
fn refuse_untimely_freezing(config: &Config, spec: &NetSpec, gates: &GateLifecycle, fresh_gates: bool) -> Result<()> {
    if fresh_gates && gates.is_frozen(0) && config.gates.start == GateStart::Alike {
        return Err(Faults::of("gates.freeze_after", ALL_ALIKE.to_owned()).into());
    }
    if config.gates.freeze_after.is_some() && config.train.calibrate_batches > 0 && spec.has_dependent_gates() {
        return Err(Faults::of("train.calibrate_batches", MOVES_MARGINS.to_owned()).into());
    }
    Ok(())
}

/// Frozen gates leave a network that has yet to learn to do without the others.
fn note_on_late_freezing(config: &Config, gates: &GateLifecycle) -> Option<String> {
    let freeze = config.gates.freeze_after.filter(|_| gates.has_gates())?;
    let left = config.train.epochs as f64 - freeze;
    (left < 1.0 && freeze > 0.0).then(|| {
        format!(
            "gates freeze after epoch {freeze} of {}: less than an epoch is left to train what stays open; lower \
             gates.freeze_after or raise train.epochs",
            config.train.epochs
        )
    })
}
