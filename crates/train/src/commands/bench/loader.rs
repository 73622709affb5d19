//! `train bench loader`

use crate::commands::data::splits;
use crate::done::Done;
use crate::images::Folder;
use crate::table::{bytes, grouped, percent, table};
use anyhow::Result;
use data::{LoadTime, Loader, LoaderOptions, Order, Source, Transform, check};
use rayon::ThreadPoolBuilder;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;
use tch::Device;
use trainer::{Config, Input};

/// Time how fast images become batches
///
/// Whole batches of training and of evaluation, read from the folder, and decoding alone: the
/// training files read, decoded whole, down to the last row, and thrown away. They take turns in
/// one process, so that a machine that changes its pace changes it for all of them. The first turn,
/// which may read from the disk what later ones find in memory, does not count for the pace. For
/// the two loaders, how the time of their threads divides among reading, decoding and the rest:
/// resizing, colors and normalizing. Of a folder without train/ the images are used for both.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train bench loader /data/imagenet\n  train bench loader /data/imagenet --images 100000 --rounds 1 --json"
)]
pub(crate) struct Loading {
    #[command(flatten)]
    folder: Folder,
    /// Images per batch
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch: u32,
    /// Side of the result, in pixels
    #[arg(long, value_name = "N", default_value_t = 224, value_parser = clap::value_parser!(u32).range(1..=4096))]
    image_size: u32,
    /// Evaluation: shorter side before the center is cut out, in pixels
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=8192))]
    resize: u32,
    /// Threads that decode; 0 means one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1024))]
    threads: u16,
    /// Images per turn, at least; by default all of them once
    #[arg(long, value_name = "N", default_value_t = 0)]
    images: u32,
    /// Turns of each that count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// One thing that is timed.
struct Variant {
    name: String,
    source: Arc<dyn Source>,
    /// Absent: decoding alone.
    loader: Option<Loader>,
    /// Images per second of every turn.
    paces: Vec<f64>,
    images: usize,
    bad: usize,
}

pub(crate) fn loader(args: &Loading) -> Result<Done> {
    let mut config = Config::default();
    config.data.image_size = args.image_size;
    config.data.resize = args.resize.max(args.image_size);
    let (splits, _) = splits(args.folder.path())?;
    let of = |index: usize| Arc::clone(&splits[index.min(splits.len() - 1)].1);
    let variant = |name: &str, source: Arc<dyn Source>, how: Option<(Transform, Order)>| -> Result<Variant> {
        let loader = match how {
            None => None,
            Some((transform, order)) => {
                let batch_size = args.batch as usize;
                let threads = args.threads.into();
                let normalize = Input::of(&config).normalize();
                let options = LoaderOptions { transform, normalize, order, batch_size, threads, ..Default::default() };
                Some(Loader::new(Arc::clone(&source), options)?)
            }
        };
        Ok(Variant { name: name.into(), source, loader, paces: Vec::new(), images: 0, bad: 0 })
    };
    let mut variants = [
        variant("training", of(0), Some((config.data.augmentation(), Order::Shuffled(0))))?,
        variant("evaluation", of(1), Some((Input::of(&config).transform(), Order::InOrder)))?,
        variant("decoding alone", of(0), None)?,
    ];
    let pool = ThreadPoolBuilder::new().num_threads(args.threads.into()).build()?;
    for round in 0..=args.rounds {
        for variant in &mut variants {
            let start = Instant::now();
            let (images, bad) = variant.turn(round.into(), args.images as usize, &pool)?;
            if round > 0 {
                variant.paces.push(images as f64 / start.elapsed().as_secs_f64());
                (variant.images, variant.bad) = (images, bad);
            }
        }
    }
    variants.iter_mut().for_each(|variant| variant.paces.sort_by(f64::total_cmp));
    let memory = torch_ext::peak_memory(Device::Cpu);
    Ok(Done::ok(if args.json { json(args, &variants, memory) } else { text(args, &variants, memory) }))
}

impl Variant {
    /// At least `wanted` images, or all of them once if that is 0; how many were good and bad.
    fn turn(&self, round: u64, wanted: usize, pool: &rayon::ThreadPool) -> Result<(usize, usize)> {
        let (mut good, mut bad) = (0, 0);
        for pass in 0.. {
            match &self.loader {
                Some(loader) => {
                    for batch in loader.epoch(1000 * round + pass, 0)? {
                        good += batch.labels.len();
                        bad += batch.bad.len();
                        if wanted > 0 && good + bad >= wanted {
                            break;
                        }
                    }
                }
                None => {
                    let checked = pool.install(|| check(&*self.source, || ()));
                    good += checked.sizes.len();
                    bad += checked.bad.len();
                }
            }
            if good + bad >= wanted || good == 0 {
                break;
            }
        }
        Ok((good, bad))
    }

    fn median(&self) -> f64 {
        self.paces[self.paces.len() / 2]
    }
}

/// The threads' time for reading, decoding and preparing, as shares of their sum.
fn shares(time: LoadTime) -> [f64; 3] {
    let LoadTime { read, decode, prepare } = time;
    [read, decode, prepare].map(|part| part / (read + decode + prepare).max(1e-9))
}

fn text(args: &Loading, variants: &[Variant], memory: Option<u64>) -> String {
    let heading = ["", "images", "bad", "images/s, median", "slowest to fastest", "read", "decode", "prepare"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for variant in variants {
        let last = variant.paces.len() - 1;
        let mut row = vec![
            variant.name.clone(),
            grouped(variant.images as u64),
            grouped(variant.bad as u64),
            format!("{:.0}", variant.median()),
            format!("{:.0} to {:.0}", variant.paces[0], variant.paces[last]),
        ];
        match &variant.loader {
            Some(loader) => row.extend(shares(loader.time()).map(percent)),
            None => row.extend(std::iter::repeat_n(String::new(), 3)),
        }
        rows.push(row);
    }
    let ahead =
        variants.iter().filter_map(|variant| variant.loader.as_ref()).map(Loader::bytes_ahead).max().unwrap_or(0);
    let memory = memory.map_or(String::new(), |memory| format!("; {} of memory at the peak", bytes(memory)));
    format!(
        "batches of {}, {} pixels, {} turns of each; at most {} of batches ahead{memory}\n\n{}",
        args.batch,
        args.image_size,
        args.rounds,
        bytes(ahead as u64),
        table(&rows)
    )
}

fn json(args: &Loading, variants: &[Variant], memory: Option<u64>) -> String {
    let list: Vec<Value> = variants
        .iter()
        .map(|variant| {
            json!({
                "name": variant.name,
                "images": variant.images,
                "bad": variant.bad,
                "images_per_second": variant.median(),
                "turns": variant.paces,
                "time_shares": variant.loader.as_ref().map(|loader| {
                    let [read, decode, prepare] = shares(loader.time());
                    json!({ "read": read, "decode": decode, "prepare": prepare })
                }),
            })
        })
        .collect();
    let value =
        json!({ "batch": args.batch, "image_size": args.image_size, "peak_memory_bytes": memory, "variants": list });
    format!("{value:#}\n")
}
