//! `train calibrate`

use super::Usage;
use crate::Done;
use crate::device::DeviceChoice;
use crate::source::Source;
use anyhow::{Result, bail};
use arch::Cost;
use data::{Dataset, Loader, Order};
use gumbel_gates::Policy;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use trainer::{Calibration, Checkpoint, Listener, Progress, refuse_other_classes};

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
    /// Folder in ImageNet layout; its train/ is used
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
    if !(0.0..=1.0).contains(&args.max_bad_share) {
        bail!(Usage("--max-bad-share: expected a share from 0 to 1".into()));
    }
    if args.out.exists() {
        bail!("{} exists; choose another --out or remove it first", args.out.display());
    }
    let folder = args.out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("{} is not a folder, so --out cannot be written there", folder.display());
    }
    let device = args.device.resolve()?;
    let loaded = args.source.load(device)?;
    let train = Dataset::open(&args.data)?.train;
    let classes = match loaded.named {
        true => loaded.classes,
        false => train.classes.clone(),
    };
    if classes.len() != loaded.network.spec().head.classes {
        bail!(
            "the network knows {} classes and {} holds {}; calibrate on the classes it was trained on",
            loaded.network.spec().head.classes,
            train.root.display(),
            train.classes.len()
        );
    }
    refuse_other_classes(&classes, &train)?;
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
        policy: match args.policy {
            Policy::Sample { temperature, .. } => Policy::Sample { temperature, seed: args.seed },
            other => other,
        },
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
