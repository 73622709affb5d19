//! `train shrink`

use crate::commands::report::write_report;
use crate::commands::runtime_worker::workers;
use crate::device::DeviceChoice;
use crate::done::{Done, note};
use crate::images::{Reading, refuse_share};
use crate::signals::stop_on_signals;
use crate::source::Source;
use crate::table::{bytes, count, macs, percent, table};
use crate::usage::{Usage, overrides, quoted};
use anyhow::{Result, bail};
use data::{Dataset, Order};
use deploy::report::PAGE;
use deploy::shrink::{Asked, Budget, Dense, Prospect, Shrink, Shrinking, Shrunk, Side, Training, config, fingerprint};
use runtime::Runtime;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tch::Device;
use trainer::{Input, duration, state_of};

/// Make a network smaller: weights and a budget in, verified files out
///
/// Measures the dense network, learns which filters to keep within the budget, cuts the others,
/// trains what is left, exports it as ONNX and TorchScript, and runs the files: logits, top-1 over
/// the validation images, and time in turn with the dense network. The same command goes on where
/// it was stopped; what is done is not done again.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train shrink --arch resnet50 --weights weights/resnet50.pth --data /data/imagenet --time 0.6\n  train shrink --checkpoint mine.safetensors --data DIR --macs 0.5 --no-train\n  train shrink --arch cifar-resnet20 --weights resnet20.th --data DIR --macs 0.5 --epochs 6 --min-top1 0.87"
)]
pub(crate) struct Args {
    #[command(flatten)]
    work: Work,
    #[command(flatten)]
    budget: BudgetArgs,
    /// End with exit code 1 if fewer of the validation images are classified right; files are kept
    #[arg(long, value_name = "SHARE")]
    min_top1: Option<f64>,
    /// Folder for everything [default: runs/NETWORK-BUDGET]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Measure the dense network, and say what is reachable and how long it will take; the same
    /// command without it goes on from there
    #[arg(long, conflicts_with = "min_top1")]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What does not depend on the budget.
#[derive(clap::Args)]
pub(crate) struct Work {
    #[command(flatten)]
    source: Source,
    /// Folder in ImageNet layout: train/CLASS/IMAGE.jpg and val/CLASS/IMAGE.jpg
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Epochs of training [default: what the recipe of the network says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    epochs: Option<u64>,
    /// Choose filters by their importance and solve again what lost inputs, in minutes; nothing is
    /// trained
    #[arg(long, conflicts_with = "epochs")]
    no_train: bool,
    /// Where the network will run: onnxruntime, openvino, torchscript or libtorch
    #[arg(long, value_name = "NAME", default_value = "onnxruntime")]
    runtime: Runtime,
    /// Images per batch there
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// A configuration of your own [default: the recipe of the network]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change one key of the configuration (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    reading: Reading,
    /// Where it is trained: cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

/// What the smaller network may spend.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct BudgetArgs {
    /// Share of the dense network's MACs that it may spend
    #[arg(long, value_name = "SHARE")]
    macs: Option<f64>,
    /// Share of the dense network's time that it may take in --runtime
    #[arg(long, value_name = "SHARE")]
    time: Option<f64>,
}

impl BudgetArgs {
    fn budget(&self) -> Result<Budget> {
        let (budget, option) = match (self.macs, self.time) {
            (Some(share), _) => (Budget::Macs(share), "--macs"),
            (None, share) => (Budget::Time(share.unwrap_or_default()), "--time"),
        };
        checked(budget, option)
    }
}

/// A budget that makes sense.
pub(crate) fn checked(budget: Budget, option: &str) -> Result<Budget> {
    if !(budget.share() > 0.0 && budget.share() < 1.0) {
        bail!(Usage(format!("{option}: expected a share between 0 and 1, such as 0.5")));
    }
    Ok(budget)
}

pub(crate) fn run(args: Args) -> Result<Done> {
    refuse_share("--min-top1", args.min_top1.unwrap_or_default())?;
    let budget = args.budget.budget()?;
    let interrupt = stop_on_signals(STOPPING, STOPPED)?;
    if args.dry_run {
        let found = args
            .work
            .shrinking(budget, args.out.as_deref(), None, &interrupt, |shrinking, _| shrinking.look_ahead())?;
        let Some(found) = found else { return Ok(interrupted()) };
        return Ok(Done::ok(if args.json { prospect_json(&found) } else { prospect_text(&found) }));
    }
    let done = args.work.shrinking(budget, args.out.as_deref(), None, &interrupt, |shrinking, out| {
        let shrunk = shrinking.finish()?;
        write_report(out);
        Ok(told(&args, budget, shrinking, &shrunk, out))
    })?;
    Ok(done.unwrap_or_else(interrupted))
}

/// What is said at the first signal that asks to stop, and at the second.
pub(crate) const STOPPING: &str = "stopping: what was done so far is kept; once more stops at once";
pub(crate) const STOPPED: &str = "stopped at once: the same command goes on from the last stage or saved state";

pub(crate) fn interrupted() -> Done {
    Done::interrupted("interrupted; what was done is kept, and the same command goes on from there\n".into())
}

impl Work {
    /// Does `work` with a shrink to a budget in the folder `out`, or that of its name; nothing if
    /// somebody asked to stop. What was measured of the dense network in `like` is taken over.
    pub(crate) fn shrinking<T>(
        &self,
        budget: Budget,
        out: Option<&Path>,
        like: Option<&Path>,
        interrupt: &AtomicBool,
        work: impl FnOnce(&mut Shrinking, &Path) -> deploy::Result<T>,
    ) -> Result<Option<T>> {
        self.reading.check()?;
        let changes = self.changes(budget)?;
        let device = self.device.resolve()?;
        let mut loaded = self.source.load(Device::Cpu)?;
        let name = loaded.network.spec().name.clone();
        let training = match (self.no_train, self.epochs) {
            (true, _) => Training::None,
            (false, Some(epochs)) => Training::Epochs(epochs),
            (false, None) => Training::Recipe,
        };
        let mut config = config(&name, loaded.input, budget, training, self.config.as_deref(), &changes)?;
        config.data.path = Some(std::path::absolute(&self.data).unwrap_or_else(|_| self.data.clone()));
        loaded.input = Input::of(&config);
        let (transform, batch) = (loaded.input.transform(), config.train.eval_batch_size);
        // Both splits have to be there, before anything is measured.
        drop(Dataset::open(&self.data)?);
        let validation = self.reading.loader(&loaded, &self.data, "val", transform, Order::InOrder, batch)?;
        let asked = self.asked(&name, budget, training, &config, validation.source())?;
        let out = out.map_or_else(|| default_out(&name, budget), Path::to_owned);
        if out.to_str().is_none() {
            return Err(trainer::Error::PathNotText { path: out }.into());
        }
        let classes = if loaded.named { loaded.classes } else { validation.source().classes().to_vec() };
        let shrink = Shrink {
            dense: Dense { network: loaded.network, classes },
            config,
            validation: &validation,
            max_bad_share: self.reading.max_bad_share,
            runtime: self.runtime,
            device,
            workers: workers(),
            asked,
            out: &out,
            like,
        };
        let mut note = note;
        let found = shrink.begin(interrupt, &mut note).and_then(|mut shrinking| work(&mut shrinking, &out));
        match found {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_interruption() => Ok(None),
            // The signal reached the process of a runtime as well.
            Err(deploy::Error::Runtime(runtime::Error::Ended { .. })) if interrupt.load(Ordering::Relaxed) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The keys that are changed: those of options, then those of `--set`, which may not be keys that
    /// options are for.
    fn changes(&self, budget: Budget) -> Result<Vec<(String, String)>> {
        let set = overrides(&self.set)?;
        let is_of_time = matches!(budget, Budget::Time(_));
        let option = |key: &str| match key {
            "network.arch" => Some("--arch"),
            "network.weights" => Some("--weights"),
            "network.checkpoint" => Some("--checkpoint"),
            "data.path" => Some("--data"),
            "gates.target" | "gates.target_absolute" | "gates.weighting" | "gates.times" => Some("--macs or --time"),
            "gates.align" if is_of_time => Some("the table of --time"),
            "train.epochs" if self.no_train => Some("--no-train"),
            "train.epochs" if self.epochs.is_some() => Some("--epochs"),
            _ => None,
        };
        if let Some((key, option)) = set.iter().find_map(|(key, _)| Some((key, option(key)?))) {
            bail!(Usage(format!("--set {key} cannot be used here: {option} decides it")));
        }
        Ok(self.reading.keys().into_iter().chain(set).collect())
    }

    /// What the result depends on.
    fn asked(
        &self,
        network: &str,
        budget: Budget,
        training: Training,
        config: &trainer::Config,
        validation: &dyn data::Source,
    ) -> Result<Asked> {
        let weights = self.source.checkpoint.as_ref().or(self.source.weights.as_ref());
        let path = weights.cloned().unwrap_or_default();
        // However it is written, it is the same folder or file.
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
        let path = state_of(&path).into_owned();
        Ok(Asked {
            network: network.to_owned(),
            weights: (real(&path), fingerprint(&path)?),
            images: (real(&self.data), validation.len(), validation.fingerprint()),
            budget,
            training,
            runtime: self.runtime.key().to_owned(),
            batch: self.batch,
            config: config.to_toml()?,
        })
    }
}

fn default_out(network: &str, budget: Budget) -> PathBuf {
    let of = budget.of().to_lowercase();
    Path::new("runs").join(format!("{network}-{of}-{}", budget.share()))
}

fn told(args: &Args, budget: Budget, shrinking: &Shrinking, shrunk: &Shrunk, out: &Path) -> Done {
    let missed = args.min_top1.filter(|least| shrunk.small.top1 < *least);
    let stdout = if args.json { json(shrinking, shrunk, out) } else { text(args, shrinking, shrunk, out) };
    let wrong = shrunk.misprediction().into_iter().chain(shrunk.excess(budget));
    let mut stderr: String = wrong.map(|wrong| format!("WARNING: {wrong}\n")).collect();
    if let Some(least) = missed {
        let found = percent(shrunk.small.top1);
        stderr += &format!("top-1 is {found}, less than the {} of --min-top1; the files are kept\n", percent(least));
    }
    Done { stdout, stderr, code: u8::from(missed.is_some()) }
}

fn prospect_text(found: &Prospect) -> String {
    let Side { top1, macs: used, parameters, .. } = found.dense;
    let reach = found.reach.as_ref().map(|reach| format!("budget      {reach}\n")).unwrap_or_default();
    format!(
        "dense       top-1 {}, {}, {} parameters\n{reach}training    {}\n",
        percent(top1),
        macs(used),
        count(parameters),
        match found.seconds {
            0.0 => "none: filters are chosen, cut and repaired in minutes".to_owned(),
            seconds => format!("about {} at this pace", duration(Duration::from_secs_f64(seconds))),
        }
    )
}

fn prospect_json(found: &Prospect) -> String {
    let value = json!({ "dense": found.dense, "reach": found.reach, "training_seconds": found.seconds });
    format!("{value:#}\n")
}

fn text(args: &Args, shrinking: &Shrinking, shrunk: &Shrunk, out: &Path) -> String {
    let Shrunk { dense, small, images, machine, threads, .. } = shrunk;
    let mut rows = vec![["", "dense", "smaller", "share"].map(str::to_owned).to_vec()];
    let points = 100.0 * (small.top1 - dense.top1);
    rows.push(vec!["top-1".into(), percent(dense.top1), percent(small.top1), format!("{points:+.1} points")]);
    let share = |a: f64, b: f64| percent(b / a.max(1.0));
    rows.push(vec!["MACs".into(), macs(dense.macs), macs(small.macs), share(dense.macs, small.macs)]);
    let (before, after) = (dense.parameters, small.parameters);
    rows.push(vec!["parameters".into(), count(before), count(after), share(before as f64, after as f64)]);
    let (before, after) = (dense.bytes, small.bytes);
    rows.push(vec!["file size".into(), bytes(before), bytes(after), share(before as f64, after as f64)]);
    if let (Some(before), Some(after), Some(share)) = (dense.time, small.time, shrunk.time_share()) {
        let ms = |milliseconds: f64| format!("{milliseconds:.2} ms");
        rows.push(vec!["time".into(), ms(before.median), ms(after.median), percent(share)]);
    }
    let plural = if args.work.batch == 1 { "one image".to_owned() } else { format!("batches of {}", args.work.batch) };
    let of_dense = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    let [onnx, script] = shrinking.files();
    let differences: Vec<String> =
        shrunk.differences.iter().map(|(runtime, difference)| format!("{difference:.1e} in {runtime}")).collect();
    format!(
        "{}\ntop-1 over {images} images and time for {plural} in {}, on {of_dense} of {machine}\n\
         logits      differ from this program's by {} of the largest\n\
         files       {}\n            {}\nreport      {}\n",
        table(&rows),
        args.work.runtime,
        differences.join(", "),
        quoted(&onnx),
        quoted(&script),
        quoted(&out.join(PAGE)),
    )
}

fn json(shrinking: &Shrinking, shrunk: &Shrunk, out: &Path) -> String {
    let readable = |path: &Path| data::readable(path.as_os_str());
    let mut value = json!(shrunk);
    value["time_share"] = json!(shrunk.time_share());
    value["files"] = json!(shrinking.files().map(|path| readable(&path)));
    value["out"] = json!(readable(out));
    format!("{value:#}\n")
}
