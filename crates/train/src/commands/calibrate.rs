//! `train calibrate`

use crate::Done;
use crate::device::DeviceChoice;
use crate::source::Source;
use anyhow::Result;
use arch::Cost;
use data::{Loader, Order, Split};
use gumbel_gates::Policy;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use trainer::{Calibration, Checkpoint, Listener, Progress};

/// Re-estimate batch norm statistics
///
/// The running statistics of training belong to sampled gates; a network whose gates decide otherwise when deployed does better
/// with statistics of its own. They are averaged over training batches with that policy; no weight changes.
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
    /// Decides which images and crops are seen
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Threads that decode; 0 means one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    threads: u16,
    /// Share of the images that may be unusable
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    max_bad_share: f64,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    super::refuse_share("--max-bad-share", args.max_bad_share)?;
    super::refuse_existing(&args.out)?;
    let device = args.device.resolve()?;
    let loaded = args.source.load(device)?;
    let train = args.data.join("train");
    let train = Split::open(if train.is_dir() { &train } else { &args.data })?;
    loaded.refuse_other_classes(&train)?;
    let classes = if loaded.named { loaded.classes } else { train.classes.clone() };
    let trained_with = loaded.training.as_ref().map(|training| training.config.train.batch_size);
    let batch_size = args.batch_size.map_or(trained_with.unwrap_or(64), |size| size as usize);
    let (input, order) = (loaded.input, Order::Shuffled(args.seed));
    let threads = usize::from(args.threads);
    let loader = Loader::new(train, loaded.augmentation, input.normalise(), order, batch_size, threads, 2)?;
    let size = input.image_size;
    let cost = Cost::of(loaded.network.spec(), size as usize, size as usize)?;
    let calibration = Calibration {
        network: &loaded.network,
        loader: &loader,
        image_size: size,
        policy: args.policy.with_seed(args.seed),
        batches: args.batches as usize,
        epoch: 0,
        max_bad_share: args.max_bad_share,
    };
    let mut progress: Vec<Box<dyn Listener>> = vec![Box::new(Progress::new(&cost, 0))];
    // Nothing sets the flag: a signal simply ends the program, and nothing was written.
    let Some(used) = calibration.run(&mut progress, &AtomicBool::new(false))? else { return Ok(Done::default()) };
    drop(progress);

    let training = loaded.training.map(|mut training| {
        // Measured with other statistics.
        (training.evaluation, training.best) = (None, None);
        training
    });
    Checkpoint::write(&args.out, &loaded.network, &classes, input, training.as_ref(), None)?;
    Ok(Done::ok(format!(
        "batch norm statistics averaged over {used} batches of up to {batch_size} training images, gates by {}\nwrote {}\n",
        args.policy,
        args.out.display()
    )))
}
