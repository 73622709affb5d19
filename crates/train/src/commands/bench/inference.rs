//! `train bench inference`

use super::forms::{Form, Forms};
use super::layers::Layers;
use super::predicted::Predicted;
use super::random_gates::{Share, decide};
use crate::commands::runtime_worker;
use crate::device::DeviceChoice;
use crate::done::Done;
use crate::images::{Reading, refuse_share};
use crate::source::{Loaded, Source};
use crate::table::{macs, percent, table};
use crate::usage::Usage;
use anyhow::{Result, bail};
use arch::{Cost, Network};
use data::Order;
use runtime::{Array, Runtime, Subject, Worker, in_turn};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};
use torch_ext::normal;
use trainer::{Input, to_tensors};

/// Time a network dense, masked, skipping and pruned, in the runtimes of this machine
///
/// Each runtime has a process of its own. All forms run in turn, so that a machine that changes its
/// pace changes it for all of them; the dense network that a time is a share of is that of the same
/// runtime. A preset without a checkpoint gets gates that decide at random: what a network costs
/// does not depend on its weights.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train bench inference --checkpoint runs/resnet50-aig/checkpoints/best.safetensors --data DIR\n  train bench inference --arch resnet50 --gates layer --open 0.6 --runtime onnxruntime,torchscript\n  train bench inference --arch resnet50 --gates low --macs 0.55 --batch 16 --json"
)]
pub(crate) struct Inference {
    #[command(flatten)]
    source: Source,
    /// Gates of --arch without --weights: layer, low, medium, high or a number of filters per gate
    #[arg(long, value_name = "GRANULARITY", default_value = "layer")]
    gates: String,
    /// Where filter gates sit: input, between, output, projection
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "input,between,output,projection")]
    sites: Vec<String>,
    /// Share of those gates that is open
    #[arg(long, value_name = "SHARE", conflicts_with = "macs", default_value_t = 0.5)]
    open: f64,
    /// Share of the dense MACs that those gates leave, instead of --open
    #[arg(long, value_name = "SHARE")]
    macs: Option<f64>,
    /// Those gates leave multiples of N channels, for the same MACs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=512))]
    align: Option<u16>,
    /// Decides which of those gates are open
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder of images that gates look at [default: noise]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// What runs it: libtorch (this program), torchscript, onnxruntime, openvino [default: all that
    /// are installed]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    runtime: Vec<Runtime>,
    /// A table of times (train measure): also say what it predicts for the pruned network, beside
    /// what is measured in its runtime with its size of batches
    #[arg(long, value_name = "FILE")]
    times: Option<PathBuf>,
    /// Take --times from another machine, or of another number of threads
    #[arg(long, requires = "times")]
    any_machine: bool,
    /// Also name the layers of the pruned network whose time did not fall as their MACs did, in
    /// ONNX Runtime and OpenVINO
    #[arg(long, conflicts_with = "json")]
    layers: bool,
    /// Images per batch
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Timed runs of every form and batch size
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Where libtorch runs: cpu, cuda, cuda:N or auto; files run on the CPU
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A form in a runtime.
struct Variant {
    runtime: Runtime,
    form: Form,
    subject: Subject,
}

/// What one variant took at one batch size.
struct Timing<'a> {
    variant: &'a Variant,
    batch: u32,
    /// MACs per image, as a share of the dense network's.
    macs: f64,
    /// Seconds, ascending.
    seconds: Vec<f64>,
}

impl Timing<'_> {
    fn quantile(&self, share: f64) -> f64 {
        let last = self.seconds.len() - 1;
        self.seconds[((share * self.seconds.len() as f64).ceil() as usize).saturating_sub(1).min(last)]
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

pub(crate) fn inference(args: &Inference) -> Result<Done> {
    refuse_share("--open", args.open)?;
    refuse_share("--macs", args.macs.unwrap_or(0.0))?;
    // Files are written from here, so the network is on the CPU; a worker has it where it runs.
    args.device.resolve()?;
    let loaded = loaded(args)?;
    let size = loaded.input.image_size;
    let cost = Cost::of(loaded.spec(), size as usize, size as usize)?;
    let forms = Forms::of(&loaded)?;
    let folder = tempfile::tempdir()?;
    let (mut workers, variants) = variants(args, &forms, folder.path())?;
    if !args.layers && args.times.is_none() {
        // They were read; a program that is stopped cannot take them along.
        drop(folder);
    }
    refuse_no_layers(args, &variants)?;
    let predicted = predicted(args, &forms, size, &variants)?;
    let subjects: Vec<Subject> = variants.iter().map(|variant| variant.subject).collect();
    let (mut timings, mut layers, mut comparison) = (Vec::new(), String::new(), String::new());
    for &batch in &args.batch {
        let images = batches(args, &loaded, batch)?;
        let given: Vec<Array> = images.iter().map(Array::of).collect::<Result<_, _>>()?;
        let seconds = in_turn(&mut workers, &subjects, &given, args.rounds)?;
        let mut skipped: [Option<f64>; 2] = [None; 2];
        for (variant, mut seconds) in variants.iter().zip(seconds) {
            seconds.sort_by(f64::total_cmp);
            let Variant { runtime, form, .. } = *variant;
            // What images skip is the same in all files.
            let known = &mut skipped[usize::from(runtime == Runtime::Libtorch)];
            let macs = match (form, *known) {
                (Form::Skipping, Some(macs)) => macs,
                _ => forms.macs(runtime, form, &images)?,
            };
            if form == Form::Skipping {
                *known = Some(macs);
            }
            timings.push(Timing { variant, batch, macs: macs / cost.dense as f64, seconds });
        }
        if let Some(predicted) = &predicted {
            let own: Vec<&Timing> = timings.iter().filter(|timing| timing.batch == batch).collect();
            comparison += &compared(args, predicted, &mut workers, &own)?;
        }
        if args.layers {
            layers += &layers_of(&mut workers, &variants, &forms, batch, args.rounds)?;
        }
    }
    Ok(Done::ok(match args.json {
        true => json(&timings, &loaded.name, &cost, predicted.as_ref()),
        false => text(&timings, &loaded.name, &cost, args.rounds) + &comparison + &layers,
    }))
}

/// The network: of a file, or a preset whose gates decide at random.
fn loaded(args: &Inference) -> Result<Loaded> {
    let (Some(arch), None) = (&args.source.arch, &args.source.weights) else {
        if args.align.is_some() || args.macs.is_some() {
            bail!(Usage(
                "--macs and --align are for gates that decide at random; train prune cuts a checkpoint".into()
            ));
        }
        return args.source.load(Device::Cpu);
    };
    if args.align.is_some() && args.gates == "layer" {
        bail!(Usage("--align is for gates of filters: give --gates low, or another number of filters per gate".into()));
    }
    if args.data.is_some() {
        bail!(Usage("--data is for networks with weights: gates that decide at random look at nothing".into()));
    }
    let small = arch::Preset::named(arch)?;
    let keys: Vec<(String, String)> = [
        ("network.arch", arch.clone()),
        ("gates.granularity", args.gates.clone()),
        ("gates.kind", "independent".into()),
        ("gates.sites", format!("{:?}", args.sites)),
        ("data.image_size", small.image_size.to_string()),
        ("data.resize", small.resize.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec();
    let config = trainer::config::parse("--gates", "", &keys)?;
    let spec = config.spec(args.source.num_classes.unwrap_or(1000) as usize)?;
    let network = Network::build(&spec, Device::Cpu, args.seed)?;
    let size = small.image_size as usize;
    let share = args.macs.map_or(Share::Gates(args.open), Share::Macs);
    decide(&network, &Cost::of(&spec, size, size)?, &share, args.align.map(usize::from), args.seed)?;
    let classes = (0..spec.head.classes).map(|class| class.to_string()).collect();
    let name = format!("{arch}, gates {}, decided at random", args.gates);
    let (input, augmentation) = (Input::of(&config), config.data.augmentation());
    Ok(Loaded { network, classes, named: false, input, augmentation, training: None, name })
}

/// Batches of different images that rounds take in turn, at most.
const MOST_BATCHES: usize = 32;

/// The batches that rounds take: several of real images, one of noise.
fn batches(args: &Inference, loaded: &Loaded, batch: u32) -> Result<Vec<Tensor>> {
    let size = loaded.input.image_size;
    let Some(data) = &args.data else {
        return Ok(vec![normal(&[batch.into(), 3, size.into(), size.into()], 2)?]);
    };
    let (transform, order) = (loaded.input.transform(), Order::Shuffled(args.seed));
    let loader = Reading::usual().loader(loaded, data, "val", transform, order, batch as usize)?;
    let mut batches = Vec::new();
    for found in loader.epoch(0, 0)?.take(MOST_BATCHES.min(args.rounds as usize)) {
        let (images, _) = to_tensors(&found, size, Device::Cpu)?;
        if images.size()[0] == i64::from(batch) {
            batches.push(images);
        }
    }
    if batches.is_empty() {
        bail!(Usage(format!("--batch {batch}: {} has fewer usable images", data.display())));
    }
    Ok(batches)
}

/// What is predicted beside what was measured of the pruned network with these batches, which the
/// workers hold.
fn compared(args: &Inference, predicted: &Predicted, workers: &mut [Worker], timings: &[&Timing]) -> Result<String> {
    let is_of = |timing: &&&Timing, form: Form| {
        timing.variant.form == form && predicted.is_of(timing.variant.runtime, timing.batch)
    };
    let find = |form: Form| timings.iter().find(|timing| is_of(timing, form));
    let (Some(dense), Some(pruned)) = (find(Form::Dense), find(Form::Pruned)) else { return Ok(String::new()) };
    let share = pruned.median() / dense.median();
    if args.json {
        return Ok(String::new());
    }
    let mut operations = Vec::new();
    for timing in [dense, pruned] {
        let subject = timing.variant.subject;
        operations.push(workers[subject.worker].operations(subject.model, args.rounds.clamp(3, 30))?);
    }
    Ok(format!("\n{}", predicted.text(share, [&operations[0], &operations[1]])))
}

/// What `--times` predicts.
fn predicted(args: &Inference, forms: &Forms, image_size: u32, variants: &[Variant]) -> Result<Option<Predicted>> {
    let Some(path) = &args.times else { return Ok(None) };
    let Some(pruned) = forms.pruned() else {
        bail!(Usage("--times is for networks whose gates all ignore the image: it predicts their pruned form".into()));
    };
    let networks = [forms.dense().spec(), pruned.spec()];
    let predicted = Predicted::read(path, networks, image_size, args.any_machine)?;
    let is_timed = |variant: &Variant| args.batch.iter().any(|&batch| predicted.is_of(variant.runtime, batch));
    if !variants.iter().any(is_timed) {
        bail!(Usage(format!("--times {}: {}; give that --runtime and --batch", path.display(), predicted.about())));
    }
    Ok(Some(predicted))
}

/// `--layers` compares a pruned network with the dense one.
fn refuse_no_layers(args: &Inference, variants: &[Variant]) -> Result<()> {
    let tells = |variant: &Variant| {
        variant.form == Form::Pruned && matches!(variant.runtime, Runtime::OnnxRuntime | Runtime::OpenVino)
    };
    if !args.layers || variants.iter().any(tells) {
        return Ok(());
    }
    if variants.iter().any(|variant| variant.form == Form::Pruned) {
        bail!(Usage("--layers: only ONNX Runtime and OpenVINO tell; neither is among the runtimes".into()));
    }
    bail!(Usage("--layers is for networks whose gates all ignore the image: of those a pruned form is timed".into()))
}

/// Starts the runtimes and loads every form into them.
fn variants(args: &Inference, forms: &Forms, folder: &Path) -> Result<(Vec<Worker>, Vec<Variant>)> {
    let asked = &args.runtime;
    let runtimes = if asked.is_empty() { &Runtime::ALL[..] } else { &asked[..] };
    let device = args.device.to_string();
    let (mut workers, mut variants) = (Vec::new(), Vec::new());
    for &runtime in runtimes {
        let on = if runtime == Runtime::Libtorch { device.as_str() } else { "cpu" };
        let loaded =
            runtime_worker::workers().start(runtime, on).map_err(anyhow::Error::from).and_then(|mut worker| {
                let mut own = Vec::new();
                for form in forms.in_runtime(runtime) {
                    let file = forms.write(folder, runtime, form)?;
                    let model = worker.load(&file, form == Form::Skipping)?;
                    let subject = Subject { worker: workers.len(), model };
                    own.push(Variant { runtime, form, subject });
                }
                Ok((worker, own))
            });
        match loaded {
            Ok((worker, own)) => {
                workers.push(worker);
                variants.extend(own);
            }
            Err(error) if asked.is_empty() && is_missing(&error) => {
                let _ = writeln!(std::io::stderr(), "left out: {error}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok((workers, variants))
}

/// For each runtime that tells what operations take: the layers whose time did not fall.
fn layers_of(workers: &mut [Worker], variants: &[Variant], forms: &Forms, batch: u32, rounds: u32) -> Result<String> {
    let mut text = String::new();
    for pruned in variants.iter().filter(|variant| variant.form == Form::Pruned) {
        let is_dense = |one: &&Variant| one.form == Form::Dense && one.runtime == pruned.runtime;
        let Some(dense) = variants.iter().find(is_dense) else { continue };
        let worker = &mut workers[pruned.subject.worker];
        let [before, after] =
            [dense, pruned].map(|variant| worker.operations(variant.subject.model, rounds.clamp(3, 30)));
        let (before, after, runtime) = (before?, after?, pruned.runtime);
        if before.is_empty() {
            continue;
        }
        let layers =
            Layers::of(&forms.cost(runtime, Form::Dense)?, &forms.cost(runtime, Form::Pruned)?, &before, &after);
        text += &format!("\n{}, batch {batch}: {}", pruned.runtime, layers.text());
    }
    Ok(text)
}

fn is_missing(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(runtime::Error::Missing { .. }))
}

/// The median of the dense network in the same runtime at the same batch size.
fn dense_median(timings: &[Timing], one: &Timing) -> f64 {
    let is_dense = |timing: &&Timing| {
        let Variant { runtime, form, .. } = timing.variant;
        *form == Form::Dense && *runtime == one.variant.runtime && timing.batch == one.batch
    };
    timings.iter().find(is_dense).map_or(f64::NAN, Timing::median)
}

fn text(timings: &[Timing], name: &str, cost: &Cost, rounds: u32) -> String {
    let heading = ["runtime", "form", "batch", "median ms", "p95 ms", "images/s", "MACs", "time", "time / MACs"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for timing in timings {
        let share = timing.median() / dense_median(timings, timing);
        rows.push(vec![
            timing.variant.runtime.to_string(),
            timing.variant.form.name().to_owned(),
            timing.batch.to_string(),
            format!("{:.1}", 1e3 * timing.median()),
            format!("{:.1}", 1e3 * timing.quantile(0.95)),
            format!("{:.1}", f64::from(timing.batch) / timing.median()),
            percent(timing.macs),
            percent(share),
            format!("{:.2}", share / timing.macs),
        ]);
    }
    format!(
        "{name}: {} dense; {rounds} rounds in turn, {} threads\nMACs and time are shares of the dense network's, in the same runtime.\n\n{}",
        macs(cost.dense as f64),
        tch::get_num_threads(),
        table(&rows)
    )
}

fn json(timings: &[Timing], name: &str, cost: &Cost, predicted: Option<&Predicted>) -> String {
    let rows: Vec<Value> = timings
        .iter()
        .map(|timing| {
            json!({
                "runtime": timing.variant.runtime.key(),
                "form": timing.variant.form.name(),
                "batch": timing.batch,
                "median_seconds": timing.median(),
                "p95_seconds": timing.quantile(0.95),
                "images_per_second": f64::from(timing.batch) / timing.median(),
                "macs_share": timing.macs,
                "time_share": timing.median() / dense_median(timings, timing),
                "predicted_time_share": predicted
                    .filter(|predicted| timing.variant.form == Form::Pruned && predicted.is_of(timing.variant.runtime, timing.batch))
                    .map(Predicted::share),
            })
        })
        .collect();
    let value =
        json!({ "network": name, "macs_dense": cost.dense, "threads": tch::get_num_threads(), "timings": rows });
    format!("{value:#}\n")
}
