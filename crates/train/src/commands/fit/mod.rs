//! `train fit`

use crate::device::DeviceChoice;
use crate::done::Done;
use crate::table::{bytes, count, macs, metric_value, percent, table};
use crate::usage::{Usage, overrides};
use anyhow::{Result, bail};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use trainer::config::{ActivationLoss, Metric, Weighting};
use trainer::{
    Checkpoint, Config, DryRun, Fit, Listener, MetricsFile, Outcome, Polarisation, Progress, Resume, RunDir,
    TensorBoard, Verdict, duration,
};

/// Train a network
///
/// Everything about the run comes from the configuration; --data, --weights, --checkpoint and --set change single keys of it. The run's
/// folder holds the resolved configuration, checkpoints, metrics.jsonl, TensorBoard events and what the gates did. An interrupt (Ctrl-C) finishes
/// the step, saves, and exits with 130; --resume continues. --dry-run tries everything for two steps and tells how long the run would take.
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
    /// Checkpoint to go on from with its own network, pruned perhaps; without --config also with its configuration
    /// [network.checkpoint]
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
    /// Prepare everything, train two steps and evaluate a batch, then say what the run would take; nothing is left behind
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
    let config = config(&args)?;
    let device = args.device.resolve()?;
    if args.dry_run {
        let about = "preparing all of it, then two training steps and a batch of the evaluation; nothing is kept";
        let _ = writeln!(std::io::stderr(), "{about}");
        let found = trainer::dry_run(config, args.out.as_deref(), device)?;
        return Ok(Done::ok(if args.json { dry_json(&found) } else { dry_text(&found) }));
    }
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: a second signal finds the flag set and ends the program at once.
        flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupt))?;
        flag::register(signal, Arc::clone(&interrupt))?;
    }
    let epochs = config.train.epochs;
    let resume = match (args.resume, args.allow_changes) {
        (false, _) => Resume::No,
        (true, false) => Resume::Exactly,
        (true, true) => Resume::WithChanges,
    };
    let fit = Fit::prepare(config, args.out, resume, device)?;
    let dense = fit.cost().dense;
    let run = fit.run_dir();
    let mut listeners: Vec<Box<dyn Listener>> = vec![
        Box::new(Progress::new(fit.cost(), epochs)),
        Box::new(MetricsFile::open(&run.metrics(), fit.resumed_after())?),
        Box::new(TensorBoard::create(&run.tensorboard(), fit.sites(), dense, fit.resumed_after())?),
    ];
    match fit.run(&mut listeners, &interrupt)? {
        Outcome::Finished(verdict) => Ok(Done::ok(if args.json { json(&verdict) } else { text(&verdict) })),
        Outcome::Interrupted(run) => {
            let (run, program) = (run.path().display(), std::env::args().next().unwrap_or_else(|| "train".into()));
            let device = match device {
                tch::Device::Cuda(number) => format!("cuda:{number}"),
                _ => "cpu".to_owned(),
            };
            Ok(Done::interrupted(format!(
                "interrupted; the state is saved, go on with: {program} fit --resume --out {run} --device {device}\n"
            )))
        }
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
        (None, None, Some(out)) => Config::read(&RunDir::at(out).config(), &overrides)?,
        (None, None, None) => {
            bail!(Usage("--resume needs the run: give --out DIR, or --config FILE for runs/NAME".into()))
        }
    };
    // Absolute, so that the run can be continued from any folder.
    let (network, teacher) = (&mut config.network, &mut config.distillation.teacher);
    for path in [&mut config.data.path, &mut network.weights, &mut network.checkpoint, teacher].into_iter().flatten() {
        *path = std::path::absolute(&*path).unwrap_or_else(|_| path.clone());
    }
    if args.resume && config.data.path.is_none() {
        let run = args.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&config.train.name));
        config.data.path = Config::read(&RunDir::at(&run).config(), &[])?.data.path;
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

/// The configuration a checkpoint was trained with, changed where asked. What its gates and blocks are is its own business now.
fn of_checkpoint(path: &Path, overrides: &[(String, String)]) -> Result<Config> {
    let checkpoint = Checkpoint::read(path)?;
    let Some(training) = checkpoint.training else {
        bail!(Usage(format!("{} does not say how it was trained; give --config FILE too", path.display())));
    };
    let mut config = training.config_to_go_on();
    (config.network.weights, config.network.checkpoint) = (None, None);
    Ok(trainer::config::parse(&path.display().to_string(), &config.to_toml(), overrides)?)
}

fn dry_text(found: &DryRun) -> String {
    let mut text: String = found.notes.iter().flat_map(|note| [note.as_str(), "\n"]).collect();
    let mut fact = |name: &str, value: String| text += &format!("{name:<12}{value}\n");
    let (parameters, of_gates) = found.parameters;
    fact("parameters", format!("{} and {} of gates", count(parameters), count(of_gates)));
    if let Some(memory) = found.memory {
        fact("memory", format!("{} at the peak", bytes(memory)));
    }
    fact("step", format!("{:.3} s: {}", found.step.total, found.step.shares()));
    fact("evaluation", format!("{:.3} s a batch", found.evaluation));
    fact("checkpoint", bytes(found.checkpoint as u64));
    let (epochs, steps, evaluations) = found.length;
    let length = duration(Duration::from_secs_f64(found.projected()));
    let each = format!("{steps} steps and {evaluations} evaluation batches each");
    fact("length", format!("about {length} for {epochs} epochs of {each}, at this pace"));
    text
}

fn dry_json(found: &DryRun) -> String {
    let (epochs, steps, evaluations) = found.length;
    let value = json!({
        "parameters": found.parameters.0,
        "gate_parameters": found.parameters.1,
        "peak_memory_bytes": found.memory,
        "step_seconds": found.step,
        "evaluation_batch_seconds": found.evaluation,
        "checkpoint_bytes": found.checkpoint,
        "epochs": epochs,
        "steps_per_epoch": steps,
        "evaluation_batches": evaluations,
        "projected_seconds": found.projected(),
    });
    format!("{value:#}\n")
}

fn text(verdict: &Verdict) -> String {
    let (summary, cost) = (&verdict.evaluation.summary, &verdict.cost);
    let mut rows = vec![["block", "output", "target", "open", "MACs dense", "MACs used"].map(str::to_owned).to_vec()];
    for ((block, gates), used) in cost.blocks.iter().zip(&verdict.blocks).zip(&summary.block_macs) {
        let target = match (gates, verdict.config.gates.loss) {
            (None, _) => "no gate".to_owned(),
            (Some(gates), ActivationLoss::PerGate) => percent(gates.target),
            // Only their mean has one.
            (Some(_), ActivationLoss::Batch) => "–".to_owned(),
        };
        rows.push(vec![
            block.name.clone(),
            format!("{}×{}", block.extent.0, block.extent.1),
            target,
            percent(gates.map_or(1.0, |gates| gates.opening)),
            macs(block.macs() as f64),
            macs(*used),
        ]);
    }
    let mut text = format!("\n{}\n", table(&rows));
    let mut fact = |name: &str, value: String| text += &format!("{name:<12}{value}\n");
    let (metric, (best_epoch, best)) = (verdict.config.checkpoints.best_by, verdict.best);
    let name = if metric == Metric::Top1 { String::new() } else { format!("{} ", metric.name()) };
    fact(
        "top-1",
        format!("{}  (best {name}{} in epoch {best_epoch})", percent(summary.top1), metric_value(metric, best)),
    );
    fact("top-5", percent(summary.top5));
    fact("policy", format!("{}, {} validation images", verdict.evaluation.strategy, summary.images));
    let mut of_macs = String::new();
    if let Some(activation) = verdict.activation {
        let mean = match verdict.config.gates.loss {
            ActivationLoss::PerGate => "",
            ActivationLoss::Batch => " for this mean",
        };
        let target = format!(", target {}{mean}", percent(activation.target));
        // Behind what it is a target of.
        let (of_gates, of_gated_macs);
        let nothing = String::new;
        (of_gates, of_gated_macs, of_macs) = match verdict.config.gates.weighting {
            Weighting::Gates => (target, None, nothing()),
            Weighting::Macs => (nothing(), Some(target), nothing()),
            Weighting::Network => (nothing(), None, target),
        };
        fact("opening", format!("{} on average over the gates{of_gates}", percent(summary.opening())));
        if let Some(target) = of_gated_macs {
            fact("gated MACs", format!("{} of them used{target}", percent(activation.found)));
        }
        let Polarisation { always_open, always_closed, conditional } = Polarisation::of(&summary.rates);
        fact(
            "gates",
            format!("{always_open} always open, {always_closed} always closed, {conditional} open for some images"),
        );
    }
    fact(
        "MACs",
        format!(
            "{} per image, {} of the dense {} (gates included: {}){of_macs}",
            macs(summary.macs),
            percent(summary.macs / cost.dense as f64),
            macs(cost.dense as f64),
            macs(cost.gates as f64)
        ),
    );
    let minutes = verdict.seconds / 60.0;
    fact(
        "time",
        format!("{minutes:.1} min for {} epoch{}", verdict.epochs, if verdict.epochs == 1 { "" } else { "s" }),
    );
    if verdict.bad > 0 {
        fact("left out", format!("{} images that could not be used, in the last epoch", verdict.bad));
    }
    let run = &verdict.run;
    let gate_use = verdict.activation.map(|_| ("gate use", run.gates()));
    for (name, path) in [
        ("best", run.best()),
        ("last", run.last()),
        ("config", run.config()),
        ("metrics", run.metrics()),
        ("tensorboard", run.tensorboard()),
    ]
    .into_iter()
    .chain(gate_use)
    {
        fact(name, path.display().to_string());
    }
    text
}

fn json(verdict: &Verdict) -> String {
    let (summary, cost, run) = (&verdict.evaluation.summary, &verdict.cost, &verdict.run);
    let blocks: Vec<_> = cost
        .blocks
        .iter()
        .zip(&verdict.blocks)
        .zip(&summary.block_macs)
        .map(|((block, gates), used)| {
            json!({
                "name": block.name,
                "target": gates.map(|gates| gates.target),
                "opening": gates.map_or(1.0, |gates| gates.opening),
                "macs_dense": block.macs(),
                "macs": used,
            })
        })
        .collect();
    let value = json!({
        "top1": summary.top1,
        "top5": summary.top5,
        "best": { "epoch": verdict.best.0, "metric": verdict.config.checkpoints.best_by, "value": verdict.best.1 },
        "policy": verdict.evaluation.strategy.to_string(),
        "opening": summary.opening(),
        "target": verdict.activation.map(|activation| activation.target),
        "activation": verdict.activation.map(|activation| activation.found),
        "macs": summary.macs,
        "macs_dense": cost.dense,
        "blocks": blocks,
        "bad_images": verdict.bad,
        "seconds": verdict.seconds,
        "run": run.path(),
    });
    format!("{value:#}\n")
}
