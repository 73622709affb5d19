//! `train fit`

mod report;

use crate::commands::report::write_report;
use crate::commands::runtime_worker::workers;
use crate::device::DeviceChoice;
use crate::done::{Done, note};
use crate::signals::stop_on_signals;
use crate::usage::{Usage, overrides, program, quoted};
use anyhow::{Result, bail};
use deploy::{best_alignment, without_gates};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use trainer::config::Align;
use trainer::{Checkpoint, Config, Fit, Outcome, Resume, RunDir};

/// Train a network
///
/// Everything about the run comes from the configuration; --data, --weights, --checkpoint and --set
/// change single keys of it. The run's folder holds the resolved configuration, checkpoints,
/// metrics.jsonl, TensorBoard events and what the gates did. An interrupt (Ctrl-C) finishes the
/// step, saves, and exits with 130; --resume continues. --dry-run tries everything for two steps
/// and tells how long the run would take.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  train fit --config configs/resnet50-aig.toml --data /data/imagenet --weights weights/resnet50.pth --set train.epochs=30"
)]
pub(crate) struct Args {
    /// Configuration file; with --resume by default the run's own
    #[arg(long, value_name = "FILE", required_unless_present_any = ["resume", "checkpoint"])]
    config: Option<PathBuf>,
    /// Change one key of the configuration, such as train.epochs=30; KEY= takes it out (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder in ImageNet layout: train/CLASS/IMAGE.jpg and val/CLASS/IMAGE.jpg [data.path]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Weights to start from: a checkpoint, or a .pth or .safetensors state dict [network.weights]
    #[arg(long, value_name = "FILE", conflicts_with = "resume")]
    weights: Option<PathBuf>,
    /// Checkpoint to go on from with its own network, pruned perhaps; without --config also with
    /// its configuration [network.checkpoint]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["resume", "weights"])]
    checkpoint: Option<PathBuf>,
    /// Folder of the run [default: runs/NAME, numbered if it exists]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in --out (default runs/NAME) where it stopped
    #[arg(long)]
    resume: bool,
    /// Let a continued run go on with what changed in its configuration
    #[arg(long, requires = "resume")]
    allow_changes: bool,
    /// Prepare everything, train two steps and evaluate a batch, then say what the run would take;
    /// nothing is left behind
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let mut config = config(&args)?;
    settle_alignment(&args, &mut config)?;
    let device = args.device.resolve()?;
    if args.dry_run {
        let about = "preparing all of it, then two training steps and a batch of the evaluation; nothing is kept";
        note(about);
        let found = trainer::dry_run(config, args.out.as_deref(), device)?;
        return Ok(Done::ok(if args.json { report::dry_json(&found) } else { report::dry_text(&found) }));
    }
    let interrupt = stop_on_signals(
        "stopping: this step is finished and the state saved; once more stops at once",
        "stopped at once: what came after the last saved state, if there is one, is lost; --resume goes on from there",
    )?;
    let resume = match (args.resume, args.allow_changes) {
        (false, _) => Resume::No,
        (true, false) => Resume::Exactly,
        (true, true) => Resume::WithChanges,
    };
    if let Some(folder) = &config.data.path {
        note(&format!("listing the images in {}", folder.display()));
    }
    let fit = Fit::prepare(config, args.out, resume, device)?;
    let published = fit.published_macs();
    let run = fit.run_dir().clone();
    let mut listeners = fit.listeners()?;
    let program = program();
    let go_on = format!("{program} fit --resume --out {} --device {}", quoted(run.path()), device_name(device));
    match fit.run(&mut listeners, &interrupt) {
        Ok(Outcome::Finished(verdict)) => {
            write_report(run.path());
            Ok(Done::ok(match args.json {
                true => report::json(&verdict),
                false => report::text(&verdict, published, &program),
            }))
        }
        Ok(Outcome::Interrupted(_)) => {
            Ok(Done::interrupted(format!("interrupted; the state is saved, go on with: {go_on}\n")))
        }
        Err(error @ trainer::Error::Write { .. }) => bail!("{error}; then go on with: {go_on}"),
        Err(error) => Err(error.into()),
    }
}

/// Finds out by which multiples of channels this machine computes well, where that is asked for and
/// no table of costs says it. A run that goes on has found it out.
fn settle_alignment(args: &Args, config: &mut Config) -> Result<()> {
    if !matches!(config.gates.align, Some(Align::Auto(_))) || config.gates.times.is_some() {
        return Ok(());
    }
    if args.resume {
        let run = args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&config.train.name));
        config.gates.align = Config::read_saved(&RunDir::at(&run).config(), &[])?.gates.align;
        return Ok(());
    }
    let spec = match &config.network.checkpoint {
        Some(path) => Checkpoint::read(path)?.spec,
        None => config.spec(1000)?,
    };
    let align =
        best_alignment(workers(), &without_gates(spec), config.data.image_size, &AtomicBool::new(false), &mut note)?;
    config.gates.align = Some(Align::Channels(align));
    Ok(())
}

fn device_name(device: tch::Device) -> String {
    match device {
        tch::Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".to_owned(),
    }
}

fn config(args: &Args) -> Result<Config> {
    let mut overrides = overrides(&args.set)?;
    let mut path_of = |key: &str, path: &Option<PathBuf>, instead_of: Option<&str>| -> Result<()> {
        if let Some(path) = path {
            overrides.extend(instead_of.map(|other| (other.to_owned(), String::new())));
            overrides.push((key.to_owned(), path_value(path)?));
        }
        Ok(())
    };
    path_of("data.path", &args.data, None)?;
    path_of("network.weights", &args.weights, Some("network.checkpoint"))?;
    path_of("network.checkpoint", &args.checkpoint, Some("network.weights"))?;
    let mut config = match (&args.config, &args.checkpoint, &args.out) {
        (Some(path), ..) => Config::read(path, &overrides)?,
        (None, Some(checkpoint), _) => of_checkpoint(checkpoint, &overrides)?,
        (None, None, Some(out)) => Config::read_saved(&RunDir::at(out).config(), &overrides)?,
        (None, None, None) => {
            bail!(Usage("--resume needs the run: give --out DIR, or --config FILE for runs/NAME".into()))
        }
    };
    // Absolute, so that the run can be continued from any folder.
    let network = &mut config.network;
    let teacher = &mut config.distillation.teacher;
    let paths =
        [&mut config.data.path, &mut network.weights, &mut network.checkpoint, teacher, &mut config.gates.times];
    for path in paths.into_iter().flatten() {
        *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
    }
    if args.resume && config.data.path.is_none() {
        let run = args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&config.train.name));
        config.data.path = Config::read_saved(&RunDir::at(&run).config(), &[])?.data.path;
    }
    if config.data.path.is_none() {
        bail!(Usage("which images? Give --data DIR, or set data.path in the configuration".into()));
    }
    Ok(config)
}

/// A path as the value of a key.
fn path_value(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| trainer::Error::PathNotText { path: path.to_owned() })?;
    Ok(toml::Value::from(text).to_string())
}

/// The configuration a checkpoint was trained with, changed where asked. What its gates and blocks
/// are is its own business now.
fn of_checkpoint(path: &Path, overrides: &[(String, String)]) -> Result<Config> {
    let checkpoint = Checkpoint::read(path)?;
    let Some(training) = &checkpoint.training else {
        bail!(Usage(format!("{} does not say how it was trained; give --config FILE too", path.display())));
    };
    // Pruning forgets what was measured; a run on the smaller network measures anew. What a run cut
    // itself it has fine-tuned already.
    let is_smaller = training.epoch > 0 && training.cut.is_none() && training.evaluation.is_none() && {
        let trained = training.config.spec(checkpoint.classes.len());
        trained.is_ok_and(|trained| trained != checkpoint.spec)
    };
    let mut config = if is_smaller { training.config_to_fine_tune() } else { training.config_to_go_on() };
    (config.network.weights, config.network.checkpoint) = (None, None);
    let config = trainer::config::parse(&path.display().to_string(), &config.to_toml()?, overrides)?;
    if is_smaller {
        let (rate, shape) = (config.optimizer.learning_rate, config.schedule.shape);
        let epochs = config.train.epochs;
        let about = format!("fine-tuning a smaller network: learning rate {rate}, {shape:?} over {epochs} epochs");
        note(&format!("{}; --set changes them", about.to_lowercase()));
    }
    Ok(config)
}
