//! `train eval`

use super::Usage;
use crate::Done;
use crate::device::DeviceChoice;
use crate::source::Source;
use crate::table::{macs, percent, table};
use anyhow::{Result, bail};
use arch::Cost;
use data::{Loader, Order, Split};
use gumbel_gates::Policy;
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use trainer::{Evaluator, Listener, Progress, refuse_other_classes};

/// Measure a network on images
///
/// Reports top-1, top-5, the opening rate of every gate and the MACs used per image.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train eval --checkpoint runs/resnet50-aig/checkpoints/best.safetensors --data /data/imagenet\n  train eval --arch resnet50 --weights weights/resnet50.pth --data /data/imagenet --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Folder in ImageNet layout; its val/ is used, or the folder itself if it has no val/
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How gates decide: argmax, always-open or sample
    #[arg(long, value_name = "POLICY", default_value = "argmax")]
    policy: Policy,
    /// Seed of the sampled gates
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Images per step
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch_size: u32,
    /// Threads that decode; 0 means one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    threads: u16,
    /// Share of the images that may be unusable
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    max_bad_share: f64,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    if !(0.0..=1.0).contains(&args.max_bad_share) {
        bail!(Usage("--max-bad-share: expected a share from 0 to 1".into()));
    }
    let device = args.device.resolve()?;
    let loaded = args.source.load(device)?;
    let val = args.data.join("val");
    let split = Split::open(if val.is_dir() { &val } else { &args.data })?;
    if loaded.named {
        refuse_other_classes(&loaded.classes, &split)?;
    } else if loaded.classes.len() != split.classes.len() {
        bail!(
            "the network knows {} classes and {} holds {}; evaluate on the classes it was trained on",
            loaded.classes.len(),
            split.root.display(),
            split.classes.len()
        );
    }
    let input = loaded.input;
    let size = input.image_size;
    let cost = Cost::of(loaded.network.spec(), size as usize, size as usize)?;
    let (batch_size, threads) = (args.batch_size as usize, usize::from(args.threads));
    let loader = Loader::new(split, input.transform(), input.normalise(), Order::InOrder, batch_size, threads, 2)?;
    let policy = match args.policy {
        Policy::Sample { temperature, .. } => Policy::Sample { temperature, seed: args.seed },
        other => other,
    };
    let evaluator = Evaluator {
        network: &loaded.network,
        cost: &cost,
        loader: &loader,
        image_size: size,
        policy,
        max_bad_share: args.max_bad_share,
    };
    let mut progress: Vec<Box<dyn Listener>> = vec![Box::new(Progress::new(cost.dense, 0))];
    // Nothing sets the flag: an evaluation has nothing to save, so a signal simply ends the program.
    let evaluation = evaluator.run(&mut progress, &AtomicBool::new(false))?;
    let Some(evaluation) = evaluation else { return Ok(Done::default()) };
    drop(progress);

    let summary = &evaluation.summary;
    let sites: Vec<&str> = loaded.network.spec().gate_sites().map(|(block, _)| block.name.as_str()).collect();
    if args.json {
        let gates: Vec<_> =
            sites.iter().zip(&summary.rates).map(|(site, rate)| json!({ "block": site, "opening": rate })).collect();
        let value = json!({
            "network": loaded.name,
            "policy": policy.to_string(),
            "images": summary.images,
            "bad_images": evaluation.bad,
            "top1": summary.top1,
            "top5": summary.top5,
            "cross_entropy": summary.cross_entropy,
            "opening": summary.opening(),
            "macs": summary.macs,
            "macs_dense": cost.dense,
            "gates": gates,
            "seconds": evaluation.seconds,
        });
        return Ok(Done::ok(format!("{value:#}\n")));
    }
    let mut text = String::new();
    if !sites.is_empty() {
        let mut rows = vec![vec!["gate".to_owned(), "open".to_owned()]];
        rows.extend(sites.iter().zip(&summary.rates).map(|(site, rate)| vec![(*site).to_owned(), percent(*rate)]));
        text += &format!("{}\n", table(&rows));
    }
    let bad = if evaluation.bad > 0 { format!(", {} left out", evaluation.bad) } else { String::new() };
    let rate = summary.images as f64 / evaluation.seconds.max(1e-9);
    for (name, value) in [
        ("network", loaded.name),
        ("images", format!("{}{bad}", summary.images)),
        ("policy", policy.to_string()),
        ("top-1", percent(summary.top1)),
        ("top-5", percent(summary.top5)),
        ("opening", percent(summary.opening())),
        ("MACs", format!("{} per image, {} of dense", macs(summary.macs), percent(summary.macs / cost.dense as f64))),
        ("time", format!("{:.1} s, {rate:.1} images per second", evaluation.seconds)),
    ] {
        text += &format!("{name:<10}{value}\n");
    }
    Ok(Done::ok(text))
}
