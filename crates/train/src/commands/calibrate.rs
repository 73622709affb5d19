//! `train calibrate`

use crate::device::DeviceChoice;
use crate::done::Done;
use crate::images::Reading;
use crate::source::Source;
use crate::usage::refuse_existing;
use anyhow::Result;
use arch::Cost;
use data::Order;
use gumbel_gates::Policy;
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use trainer::{Calibration, Checkpoint, Extent, ImagePass, Listener, Progress};

/// Re-estimate batch norm statistics
///
/// The running statistics of training belong to sampled gates; a network whose gates decide
/// otherwise when deployed does better with statistics of its own. They are averaged over training
/// batches with that policy; no weight changes.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  train calibrate --checkpoint runs/resnet50-aig/checkpoints/best.safetensors --data /data/imagenet --out calibrated.safetensors"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Folder in ImageNet layout; its train/ is used, or the folder itself if it has no train/
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The checkpoint to write; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How gates decide: argmax, always-open, sample, threshold=P or topk=K
    #[arg(long, value_name = "POLICY", default_value = "argmax")]
    policy: Policy,
    /// Training batches to average over; the paper takes about 210
    #[arg(long, value_name = "N", default_value_t = 210, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    batches: u32,
    /// Images per batch [default: as in training, else 64]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=65536))]
    batch_size: Option<u32>,
    /// Decides which images and crops are seen, and what sampled gates do [default: 0]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
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
    refuse_existing(&args.out)?;
    let device = args.device.resolve()?;
    let loaded = args.source.load(device)?;
    let trained_with = loaded.training.as_ref().map(|training| training.config.train.batch_size);
    let batch_size = args.batch_size.map_or(trained_with.unwrap_or(64), |size| size as usize);
    let transform = loaded.augmentation;
    let order = Order::Shuffled(args.seed.unwrap_or_default());
    let loader = args.reading.loader(&loaded, &args.data, "train", transform, order, batch_size)?;
    let classes = if loaded.named { &*loaded.classes } else { loader.source().classes() };
    let size = loaded.input.image_size;
    let cost = Cost::of(loaded.network.spec(), size as usize, size as usize)?;
    let pass = ImagePass {
        loader: &loader,
        image_size: size,
        device: loaded.network.device(),
        extent: Extent::Batches { count: args.batches as usize, epoch: 0 },
        max_bad_share: args.reading.max_bad_share,
    };
    let frozen_gates = loaded.training.as_ref().is_some_and(|training| training.frozen);
    let policy = args.seed.map_or(args.policy, |seed| args.policy.with_seed(seed));
    let calibration = Calibration { network: &loaded.network, policy, frozen_gates, pass };
    let mut progress: Vec<Box<dyn Listener>> = vec![Box::new(Progress::new(&cost, 0))];
    // Nothing sets the flag: a signal simply ends the program, and nothing was written.
    let used = calibration.run(&mut progress, &AtomicBool::new(false))?;
    drop(progress);

    let training = loaded.training.map(|mut training| {
        training.forget_results();
        training
    });
    Checkpoint::write(&args.out, &loaded.network, classes, loaded.input, training.as_ref())?;
    if args.json {
        let out = data::readable(args.out.as_os_str());
        let policy = args.policy.to_string();
        let value = json!({ "batches": used, "batch_size": batch_size, "policy": policy, "out": out });
        return Ok(Done::ok(format!("{value:#}\n")));
    }
    Ok(Done::ok(format!(
        "batch norm statistics averaged over {used} batches of up to {batch_size} training images, gates by {}\nwrote {}\n",
        args.policy,
        args.out.display()
    )))
}
