//! `train bench inference`

use crate::device::DeviceChoice;
use crate::done::Done;
use crate::images::refuse_share;
use crate::source::Source;
use crate::table::{macs, percent, table};
use crate::usage::Usage;
use anyhow::{Result, bail};
use arch::{Cost, Decision, Execution, Meter, Network, Pass, ScriptOptions};
use gumbel_gates::{GateKind, GateValues, Policy};
use serde_json::{Value, json};
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor};
use torch_ext::{Script, normal, uniform};
use trainer::independent_decisions;

/// Time a network dense, masked, skipping, pruned and exported
///
/// All variants run in turn in one process, so that a machine that changes its pace changes it for
/// all of them. A preset without a checkpoint gets gates that decide at random: what a network
/// costs does not depend on its weights.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train bench inference --checkpoint runs/resnet50-aig/checkpoints/best.safetensors\n  train bench inference --arch resnet50 --gates layer --open 0.6\n  train bench inference --arch resnet50 --gates low --macs 0.55 --batch 16 --json"
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
    /// Decides which of those gates are open
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Images per batch
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Timed runs of every variant and batch size
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// cpu, cuda, cuda:N or auto; exports are timed on the CPU only
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs before those that count.
const WARM_UP: u32 = 3;

/// Runs a network on images.
type Run<'a> = Box<dyn Fn(&Tensor) -> Result<()> + 'a>;

/// One way to run a network.
struct Variant<'a> {
    name: &'static str,
    /// MACs it computes, as a share of the dense network's; absent where the images decide.
    macs: Option<f64>,
    run: Run<'a>,
}

/// What one variant took at one batch size.
struct Timing {
    name: &'static str,
    batch: u32,
    macs: f64,
    /// Seconds, ascending.
    seconds: Vec<f64>,
}

impl Timing {
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
    let device = args.device.resolve()?;
    let (network, size, name) = network(args, device)?;
    let cost = Cost::of(network.spec(), size as usize, size as usize)?;
    let dense = network.prune(&vec![Decision::Open; network.spec().gate_count()])?;
    let decisions = independent_decisions(&network, Policy::Argmax, size)?;
    let gated = !decisions.is_empty();
    let pruned =
        if gated && !decisions.contains(&Decision::Undecided) { Some(network.prune(&decisions)?) } else { None };
    let pruned_macs = match &pruned {
        Some(pruned) => Some(Cost::of(pruned.spec(), size as usize, size as usize)?.dense as f64 / cost.dense as f64),
        None => None,
    };

    let mut variants = vec![eager("dense", Some(1.0), &dense, Pass::inference(Policy::Argmax))];
    if gated {
        let gates = cost.gates as f64 / cost.dense as f64;
        variants.push(eager("masked", Some(1.0 + gates), &network, Pass::inference(Policy::Argmax)));
        variants.push(eager("skipping", None, &network, Pass::skipping(Policy::Argmax)));
        variants.extend(
            pruned.as_ref().map(|pruned| eager("pruned", pruned_macs, pruned, Pass::inference(Policy::Argmax))),
        );
    }
    if device == Device::Cpu {
        variants.push(exported("dense, exported and folded", Some(1.0), &dense, true)?);
        variants.push(optimized("dense, exported, folded, optimized", Some(1.0), &dense)?);
        if gated {
            variants.push(exported("skipping, exported", None, &network, false)?);
            variants.push(exported("skipping, exported and folded", None, &network, true)?);
        }
        if let Some(pruned) = &pruned {
            variants.push(exported("pruned, exported", pruned_macs, pruned, false)?);
            variants.push(exported("pruned, exported and folded", pruned_macs, pruned, true)?);
            variants.push(optimized("pruned, exported, folded, optimized", pruned_macs, pruned)?);
        }
    }
    let mut timings = Vec::new();
    for &batch in &args.batch {
        // Channels last, as the loader delivers them.
        let shape = [batch.into(), size.into(), size.into(), 3];
        let images = normal(&shape, 2)?.to_device(device).permute([0, 3, 1, 2]);
        let used = used(&network, &cost, &images)? / cost.dense as f64;
        timings.extend(time(&variants, &images, used, args.rounds)?);
    }
    Ok(Done::ok(if args.json { json(&timings, &name, &cost) } else { text(&timings, &name, &cost, args.rounds) }))
}

/// The network, its image size and what to call it.
fn network(args: &Inference, device: Device) -> Result<(Network, u32, String)> {
    let (Some(arch), None) = (&args.source.arch, &args.source.weights) else {
        let loaded = args.source.load(device)?;
        return Ok((loaded.network, loaded.input.image_size, loaded.name));
    };
    let keys = [
        ("network.arch", arch.clone()),
        ("gates.granularity", args.gates.clone()),
        ("gates.kind", "independent".into()),
        ("gates.sites", format!("{:?}", args.sites)),
    ];
    let small = arch::Preset::named(arch)?;
    let sizes = [("data.image_size", small.image_size.to_string()), ("data.resize", small.resize.to_string())];
    let keys: Vec<(String, String)> =
        keys.into_iter().chain(sizes).map(|(key, value)| (key.to_owned(), value)).collect();
    let config = trainer::config::parse("--gates", "", &keys)?;
    let spec = config.spec(args.source.num_classes.unwrap_or(1000) as usize)?;
    let network = Network::build(&spec, device, args.seed)?;
    let size = small.image_size;
    decide(&network, args, &Cost::of(&spec, size as usize, size as usize)?)?;
    Ok((network, size, format!("{arch}, gates {}, decided at random", args.gates)))
}

/// Opens a random share of the gates, or as many as leave the MACs asked for.
fn decide(network: &Network, args: &Inference, cost: &Cost) -> Result<()> {
    let count = network.spec().gate_count();
    if count == 0 {
        return Ok(());
    }
    let order: Vec<f64> = Vec::try_from(uniform(&[count as i64], args.seed)?.to_kind(Kind::Double))?;
    let mut sorted = order.clone();
    sorted.sort_by(f64::total_cmp);
    let meter = Meter::new(cost, Device::Cpu)?;
    let gate_values = |open: usize| -> Vec<bool> {
        // So many gates that come first in the order.
        let limit = if open == 0 { f64::MIN } else { sorted[open - 1] };
        order.iter().map(|&place| place <= limit).collect()
    };
    let share = |open: usize| -> Result<f64> {
        let open: Vec<f32> = gate_values(open).into_iter().map(f32::from).collect();
        let all = GateValues::new(vec![Tensor::from_slice(&open).view([1, -1])])?;
        Ok(meter.used(&all)?.double_value(&[0]) / cost.dense as f64)
    };
    let open = match args.macs {
        None => (args.open * count as f64).round() as usize,
        Some(wanted) => {
            let (mut low, mut high) = (0, count);
            while low < high {
                let middle = (low + high) / 2;
                if share(middle)? < wanted { low = middle + 1 } else { high = middle }
            }
            low
        }
    };
    let decisions = gate_values(open);
    let mut left = decisions.as_slice();
    for (block, gates) in network.spec().gate_sites() {
        if gates.kind != GateKind::Independent {
            bail!(Usage("random decisions are for gates that ignore the image".into()));
        }
        let (own, rest) = left.split_at(gates.count());
        left = rest;
        let logits: Vec<f32> = own.iter().flat_map(|&open| if open { [0.0, 1.0] } else { [1.0, 0.0] }).collect();
        let name = format!("{}.{}.logits", block.name, gates.site.name());
        if let Some(entry) = network.tensors().get(&name) {
            tch::no_grad(|| entry.tensor.shallow_clone().f_copy_(&Tensor::from_slice(&logits).view([-1, 2])))?;
        }
    }
    Ok(())
}

/// MACs per image by argmax.
fn used(network: &Network, cost: &Cost, images: &Tensor) -> Result<f64> {
    if network.spec().gate_count() == 0 {
        return Ok(cost.dense as f64);
    }
    let output = tch::no_grad(|| network.forward(images, Pass::inference(Policy::Argmax)))?;
    Ok(Meter::new(cost, network.device())?.used(&output.gate_values)?.mean(Kind::Double).double_value(&[]))
}

fn eager<'a>(name: &'static str, macs: Option<f64>, network: &'a Network, pass: Pass) -> Variant<'a> {
    let run = move |images: &Tensor| {
        tch::no_grad(|| network.forward(images, pass))?;
        Ok(())
    };
    Variant { name, macs, run: Box::new(run) }
}

fn exported(
    name: &'static str,
    macs: Option<f64>,
    network: &Network,
    fold_batch_norms: bool,
) -> Result<Variant<'static>> {
    let options =
        ScriptOptions { policy: Policy::Argmax, execution: Execution::Skipping, keep_gates: true, fold_batch_norms };
    let script: Script = network.script(&options)?;
    let run = move |images: &Tensor| {
        script.call("forward", images)?;
        Ok(())
    };
    Ok(Variant { name, macs, run: Box::new(run) })
}

/// As [`exported`], after what `torch.jit.optimize_for_inference` does.
fn optimized(name: &'static str, macs: Option<f64>, network: &Network) -> Result<Variant<'static>> {
    let options = ScriptOptions {
        policy: Policy::Argmax,
        execution: Execution::Skipping,
        keep_gates: true,
        fold_batch_norms: true,
    };
    let script = network.script(&options)?.optimized()?;
    let run = move |images: &Tensor| {
        script.call("forward", images)?;
        Ok(())
    };
    Ok(Variant { name, macs, run: Box::new(run) })
}

/// Times every variant on `images`; those whose MACs the images decide compute the share `used`.
fn time(variants: &[Variant], images: &Tensor, used: f64, rounds: u32) -> Result<Vec<Timing>> {
    let batch = images.size4()?.0 as u32;
    let wait = || {
        if let Device::Cuda(number) = images.device() {
            Cuda::synchronize(number as i64);
        }
    };
    let mut timings: Vec<Timing> = variants
        .iter()
        .map(|variant| Timing { name: variant.name, batch, macs: variant.macs.unwrap_or(used), seconds: Vec::new() })
        .collect();
    for round in 0..WARM_UP + rounds {
        for (variant, timing) in variants.iter().zip(&mut timings) {
            wait();
            let start = Instant::now();
            (variant.run)(images)?;
            wait();
            if round >= WARM_UP {
                timing.seconds.push(start.elapsed().as_secs_f64());
            }
        }
    }
    for timing in &mut timings {
        timing.seconds.sort_by(f64::total_cmp);
    }
    Ok(timings)
}

/// The median of the first variant, dense, at the same batch size.
fn dense_median(timings: &[Timing], batch: u32) -> f64 {
    timings.iter().find(|timing| timing.batch == batch).map_or(f64::NAN, Timing::median)
}

fn text(timings: &[Timing], name: &str, cost: &Cost, rounds: u32) -> String {
    let heading = ["variant", "batch", "median ms", "p95 ms", "images/s", "MACs", "time", "time / MACs"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for timing in timings {
        let share = timing.median() / dense_median(timings, timing.batch);
        rows.push(vec![
            timing.name.to_owned(),
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
        "{name}: {} dense; {rounds} rounds, all variants in turn, {} threads\nMACs and time are shares of the dense network's.\n\n{}",
        macs(cost.dense as f64),
        tch::get_num_threads(),
        table(&rows)
    )
}

fn json(timings: &[Timing], name: &str, cost: &Cost) -> String {
    let rows: Vec<Value> = timings
        .iter()
        .map(|timing| {
            json!({
                "variant": timing.name,
                "batch": timing.batch,
                "median_seconds": timing.median(),
                "p95_seconds": timing.quantile(0.95),
                "images_per_second": f64::from(timing.batch) / timing.median(),
                "macs_share": timing.macs,
                "time_share": timing.median() / dense_median(timings, timing.batch),
            })
        })
        .collect();
    let value =
        json!({ "network": name, "macs_dense": cost.dense, "threads": tch::get_num_threads(), "timings": rows });
    format!("{value:#}\n")
}
