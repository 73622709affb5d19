//! `train eval`

use crate::device::DeviceChoice;
use crate::done::Done;
use crate::images::Reading;
use crate::source::{Loaded, Source};
use crate::table::{macs, percent, table};
use crate::usage::Usage;
use anyhow::{Result, bail};
use arch::Cost;
use data::Order;
use gumbel_gates::Policy;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use trainer::{
    Evaluation, Evaluator, ImagePass, Listener, Polarization, Progress, Strategy, gate_names, write_gate_report,
};

/// Measure a network on images
///
/// Reports top-1, top-5, the open rates of the gates and the MACs used per image, for one policy,
/// or for several strategies side by side.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train eval --checkpoint runs/resnet50-aig/checkpoints/best.safetensors --data /data/imagenet\n  train eval --checkpoint best.safetensors --data /data/imagenet --strategies all\n  train eval --checkpoint best.safetensors --data /data/imagenet --strategies argmax,threshold=0.3,topk=12,ensemble=9\n  train eval --arch resnet50 --weights weights/resnet50.pth --data /data/imagenet --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Folder in ImageNet layout; its val/ is used, or the folder itself if it has no val/
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How gates decide: argmax, always-open, sample, threshold=P or topk=K
    #[arg(long, value_name = "POLICY", default_value = "argmax", conflicts_with = "strategies")]
    policy: Policy,
    /// Compare several: a list of policies, stochastic[=RUNS] (mean and deviation of sampled runs)
    /// and ensemble[=RUNS] (their majority vote), or all
    #[arg(long, value_name = "LIST")]
    strategies: Option<String>,
    /// Write what each gate did to DIR: gates.csv, classes.csv, images.csv and summary.json
    #[arg(long, value_name = "DIR", conflicts_with = "strategies")]
    gate_report: Option<PathBuf>,
    /// Seed of the sampled gates [default: that of the policy, else 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    #[command(flatten)]
    reading: Reading,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    args.reading.check()?;
    if let Some(folder) = args.gate_report.as_deref().filter(|folder| folder.exists()) {
        bail!("{} exists; choose another folder for --gate-report or remove it first", folder.display());
    }
    let device = args.device.resolve()?;
    let loaded = args.source.load(device)?;
    let spec = loaded.spec();
    let gates = spec.gate_count();
    if gates == 0 && args.gate_report.is_some() {
        bail!("{} has no gates, so there is nothing for --gate-report to write", loaded.name);
    }
    let strategies = match &args.strategies {
        None => vec![Strategy::Policy(args.policy)],
        // Gates that were cut decide alike whatever the strategy.
        Some(list) if list == "all" => Strategy::all(loaded.network.spec().gate_count()),
        Some(list) => list.split(',').map(|name| name.trim().parse().map_err(Usage)).collect::<Result<_, _>>()?,
    };
    let with_seed = |strategy| match strategy {
        Strategy::Policy(policy) => Strategy::Policy(args.seed.map_or(policy, |seed| policy.with_seed(seed))),
        Strategy::Stochastic { .. } | Strategy::Ensemble { .. } => strategy,
    };
    let strategies: Vec<Strategy> = strategies.into_iter().map(with_seed).collect();
    let size = loaded.input.image_size;
    let cost = Cost::of(spec, size as usize, size as usize)?;
    let transform = loaded.input.transform();
    let batch_size = args.batch_size as usize;
    let loader = args.reading.loader(&loaded, &args.data, "val", transform, Order::InOrder, batch_size)?;
    let evaluator = Evaluator {
        network: &loaded.network,
        cut: loaded.cut(),
        cost: &cost,
        pass: ImagePass::once(&loader, size, device, args.reading.max_bad_share),
        seed: args.seed.unwrap_or_default(),
        record: args.gate_report.is_some(),
    };
    let mut progress: Vec<Box<dyn Listener>> = vec![Box::new(Progress::new(&cost, 0))];
    // Nothing sets the flag: an evaluation has nothing to save, so a signal simply ends the
    // program.
    let evaluations = evaluator.run(&strategies, &mut progress, &AtomicBool::new(false))?;
    drop(progress);

    if let (Some(folder), [evaluation]) = (&args.gate_report, evaluations.as_slice()) {
        write_gate_report(folder, spec, &cost, loader.source(), evaluation)?;
    }
    Ok(Done::ok(match (evaluations.as_slice(), &args.strategies, args.json) {
        ([evaluation], None, true) => format!("{:#}\n", json_of_one(&loaded, evaluation, &cost)),
        ([evaluation], None, false) => text_of_one(&loaded, evaluation, &cost),
        (all, _, true) => format!("{:#}\n", json_of_many(&loaded, all, &cost)),
        (all, _, false) => text_of_many(&loaded, all, &cost),
    }))
}

/// What every evaluation says as JSON.
fn json_of(evaluation: &Evaluation) -> Value {
    let summary = &evaluation.summary;
    json!({
        "strategy": evaluation.strategy.to_string(),
        "top1": summary.top1,
        "top5": summary.top5,
        "cross_entropy": summary.cross_entropy,
        "open_rate": (!summary.rates.is_empty()).then(|| summary.open_rate()),
        "macs": summary.macs,
        "deviation": evaluation.deviation.map(|deviation| json!({
            "top1": deviation.top1,
            "top5": deviation.top5,
            "open_rate": deviation.open_rate,
            "macs": deviation.macs,
        })),
    })
}

fn json_of_many(loaded: &Loaded, evaluations: &[Evaluation], cost: &Cost) -> Value {
    let first = evaluations.first();
    json!({
        "network": loaded.name,
        "images": first.map(|evaluation| evaluation.summary.images),
        "bad_images": first.map(|evaluation| evaluation.bad),
        "macs_dense": cost.dense,
        "strategies": evaluations.iter().map(json_of).collect::<Vec<_>>(),
        "seconds": first.map(|evaluation| evaluation.seconds),
    })
}

fn json_of_one(loaded: &Loaded, evaluation: &Evaluation, cost: &Cost) -> Value {
    let names = gate_names(loaded.spec());
    let rates = &evaluation.summary.rates;
    let gates: Vec<_> =
        names.iter().zip(rates).map(|(name, rate)| json!({ "gate": name, "open_rate": rate })).collect();
    let mut value = json_of(evaluation);
    if let Some(strategy) = value.as_object_mut().and_then(|object| object.remove("strategy")) {
        value["policy"] = strategy;
    }
    value["network"] = json!(loaded.name);
    value["images"] = json!(evaluation.summary.images);
    value["bad_images"] = json!(evaluation.bad);
    value["macs_dense"] = json!(cost.dense);
    value["gates"] = json!(gates);
    value["seconds"] = json!(evaluation.seconds);
    value
}

/// The facts that belong to the whole evaluation: those before what was found, and the time.
fn facts(loaded: &Loaded, evaluation: &Evaluation) -> [(&'static str, String); 3] {
    let images = evaluation.summary.images;
    let seconds = evaluation.seconds;
    let bad = if evaluation.bad > 0 { format!(", {} left out", evaluation.bad) } else { String::new() };
    let rate = images as f64 / seconds.max(1e-9);
    [
        ("network", loaded.name.clone()),
        ("images", format!("{images}{bad}")),
        ("time", format!("{seconds:.1} s, {rate:.1} images per second")),
    ]
}

fn lines(facts: impl IntoIterator<Item = (&'static str, String)>) -> String {
    facts.into_iter().map(|(name, value)| format!("{name:<10}{value}\n")).collect()
}

fn text_of_many(loaded: &Loaded, evaluations: &[Evaluation], cost: &Cost) -> String {
    let Some(first) = evaluations.first() else { return String::new() };
    let heading = ["strategy", "top-1", "top-5", "open", "MACs per image", "of dense"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for Evaluation { strategy, summary, deviation, .. } in evaluations {
        let spread = |share: f64| format!(" ±{:.1}", 100.0 * share);
        let [top1, top5, open_rate, share] = match deviation {
            None => Default::default(),
            Some(d) => [d.top1, d.top5, d.open_rate, d.macs / cost.dense as f64].map(spread),
        };
        rows.push(vec![
            strategy.to_string(),
            percent(summary.top1) + &top1,
            percent(summary.top5) + &top5,
            percent(summary.open_rate()) + &open_rate,
            macs(summary.macs),
            percent(summary.macs / cost.dense as f64) + &share,
        ]);
    }
    let notes =
        if first.summary.rates.is_empty() { "" } else { "The MACs of an ensemble are those of all its runs.\n" };
    format!("{}\n{notes}{}", table(&rows), lines(facts(loaded, first)))
}

fn text_of_one(loaded: &Loaded, evaluation: &Evaluation, cost: &Cost) -> String {
    let summary = &evaluation.summary;
    let mut rows = vec![["gates", "count", "open", "always open", "always closed"].map(str::to_owned).to_vec()];
    let mut rates = summary.rates.as_slice();
    for (block, site) in loaded.spec().gate_sites() {
        let (own, rest) = rates.split_at(site.count());
        let Polarization { always_open, always_closed, .. } = Polarization::of(own);
        rows.push(vec![
            format!("{}.{}", block.name, site.site.name()),
            own.len().to_string(),
            percent(own.iter().sum::<f64>() / own.len() as f64),
            always_open.to_string(),
            always_closed.to_string(),
        ]);
        rates = rest;
    }
    let gates = if rows.len() > 1 { format!("{}\n", table(&rows)) } else { String::new() };
    let used = format!("{} per image, {} of dense", macs(summary.macs), percent(summary.macs / cost.dense as f64));
    let [network, images, time] = facts(loaded, evaluation);
    // A network without gates has no policy and nothing that opens.
    let gated = !summary.rates.is_empty();
    let policy = gated.then(|| ("policy", evaluation.strategy.to_string()));
    let found = [("top-1", percent(summary.top1)), ("top-5", percent(summary.top5))];
    let open_rate = gated.then(|| ("open rate", percent(summary.open_rate())));
    let facts = [network, images].into_iter().chain(policy).chain(found).chain(open_rate);
    gates + &lines(facts.chain([("MACs", used), time]))
}
