//! `train data`

use crate::done::Done;
use crate::images::Folder;
use crate::table::{grouped, table};
use anyhow::Result;
use clap::Subcommand;
use data::synth::{SampleSet, draw};
use data::{Dataset, Source, Split, check, images_per_class};
use indicatif::ProgressBar;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Draw, list or check a folder of images
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Synth(Synth),
    Index(Index),
    Check(Check),
}

/// Draw a sample set: shapes of ten classes, from easy to hard
///
/// JPEG files in ImageNet layout. The difficulty of each image, 0 to 1, is part of its file name.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  train data synth sample-data")]
struct Synth {
    /// The folder to make
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Training images per class
    #[arg(long, value_name = "N", default_value_t = SampleSet::default().train_per_class as u32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    train: u32,
    /// Validation images per class
    #[arg(long, value_name = "N", default_value_t = SampleSet::default().val_per_class as u32, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    val: u32,
    /// The images are a function of it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// List classes and how many images each has
#[derive(clap::Args)]
#[command(after_help = "Example:\n  train data index /data/imagenet --json")]
struct Index {
    #[command(flatten)]
    folder: Folder,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Decode every image, list what cannot be used and why, and show image sizes and class balance
///
/// Exits with 1 if there is anything that cannot be used. A folder without train/ is checked as one
/// split.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  train data check /data/imagenet")]
struct Check {
    #[command(flatten)]
    folder: Folder,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    match args.command {
        Command::Synth(args) => synth(&args),
        Command::Index(args) => index(&args),
        Command::Check(args) => check_folder(&args),
    }
}

fn synth(args: &Synth) -> Result<Done> {
    let set = SampleSet { train_per_class: args.train as usize, val_per_class: args.val as usize, seed: args.seed };
    draw(&args.folder, &set)?;
    let dataset = Dataset::open(&args.folder)?;
    if args.json {
        let [train, val, classes] = [dataset.train.len(), dataset.val.len(), dataset.classes().len()];
        let folder = data::readable(args.folder.as_os_str());
        return Ok(Done::ok(format!(
            "{:#}\n",
            json!({ "folder": folder, "train": train, "val": val, "classes": classes })
        )));
    }
    Ok(Done::ok(format!(
        "drew {} training and {} validation images of {} classes into {}\n",
        dataset.train.len(),
        dataset.val.len(),
        dataset.classes().len(),
        args.folder.display()
    )))
}

fn index(args: &Index) -> Result<Done> {
    let Dataset { train, val, notes } = Dataset::open(args.folder.path())?;
    let (in_train, in_val) = (images_per_class(&*train), images_per_class(&*val));
    let counts = || train.classes().iter().zip(&in_train).zip(&in_val);
    if args.json {
        let classes: Vec<_> =
            counts().map(|((class, train), val)| json!({ "class": class, "train": train, "val": val })).collect();
        let (train, val) = (train.len(), val.len());
        return Ok(Done::ok(format!("{:#}\n", json!({ "train": train, "val": val, "classes": classes }))));
    }
    let mut rows = vec![["label", "class", "train", "val"].map(str::to_owned).to_vec()];
    for (label, ((class, train), val)) in counts().enumerate() {
        rows.push(vec![label.to_string(), class.clone(), grouped(*train as u64), grouped(*val as u64)]);
    }
    let total = |split: &dyn Source| grouped(split.len() as u64);
    let mut text = table(&rows);
    text += &format!(
        "\n{} classes, {} training and {} validation images\n",
        train.classes().len(),
        total(&*train),
        total(&*val)
    );
    notes.iter().for_each(|note| text += &format!("{note}\n"));
    Ok(Done::ok(text))
}

/// Splits with what to call them.
type NamedSplits = Vec<(&'static str, Arc<dyn Source>)>;

/// The splits of a data set by name, or the folder itself as one, and what to know about them.
pub(super) fn splits(folder: &Path) -> data::Result<(NamedSplits, Vec<String>)> {
    if folder.join("train").is_dir() {
        let Dataset { train, val, notes } = Dataset::open(folder)?;
        return Ok((vec![("training", train), ("validation", val)], notes));
    }
    let split = Split::open(folder)?;
    let notes = split.note().into_iter().collect();
    Ok((vec![("all", Arc::new(split))], notes))
}

fn check_folder(args: &Check) -> Result<Done> {
    let (splits, notes) = splits(args.folder.path())?;
    let images: usize = splits.iter().map(|(_, split)| split.len()).sum();
    let bar = ProgressBar::new(images as u64); // on stderr, and only if it is a terminal
    let checked: Vec<_> = splits.iter().map(|(name, split)| (*name, split, check(&**split, || bar.inc(1)))).collect();
    bar.finish_and_clear();
    let bad: Vec<_> = checked.iter().flat_map(|(.., check)| &check.bad).collect();
    let code = u8::from(!bad.is_empty());
    if args.json {
        let list: Vec<_> = bad
            .iter()
            .map(|bad| json!({ "path": data::readable(bad.path.as_os_str()), "reason": bad.reason }))
            .collect();
        let area = |&(width, height): &(u32, u32)| u64::from(width) * u64::from(height);
        let sizes = || checked.iter().flat_map(|(.., check)| &check.sizes);
        let (smallest, largest) = (sizes().min_by_key(|size| area(size)), sizes().max_by_key(|size| area(size)));
        let splits: serde_json::Map<_, _> = checked
            .iter()
            .map(|(name, split, check)| {
                let sides = Quantiles::of(shorter_sides(&check.sizes));
                let classes = images_per_class(&***split);
                ((*name).to_owned(), json!({ "images": split.len(), "bad": check.bad.len(), "shorter_side": sides, "images_per_class": classes }))
            })
            .collect();
        let value =
            json!({ "images": images, "bad": list, "smallest": smallest, "largest": largest, "splits": splits });
        return Ok(Done::with_code(format!("{value:#}\n"), code));
    }
    let mut text: String = bad.iter().map(|bad| format!("{bad}\n")).collect();
    text += &format!("{} images, {} cannot be used\n", grouped(images as u64), grouped(bad.len() as u64));
    notes.iter().for_each(|note| text += &format!("{note}\n"));
    for (name, split, check) in &checked {
        text += &at_a_glance(name, &***split, &check.sizes);
    }
    Ok(Done::with_code(text, code))
}

/// Smallest, median and largest.
#[derive(serde::Serialize)]
struct Quantiles {
    least: u64,
    median: u64,
    most: u64,
}

impl Quantiles {
    fn of(values: impl Iterator<Item = u64>) -> Option<Self> {
        let mut values: Vec<u64> = values.collect();
        values.sort_unstable();
        Some(Self { least: *values.first()?, median: values[values.len() / 2], most: *values.last()? })
    }
}

fn shorter_sides(sizes: &[(u32, u32)]) -> impl Iterator<Item = u64> {
    sizes.iter().map(|&(width, height)| width.min(height).into())
}

/// Image sizes and class balance of one split.
fn at_a_glance(name: &str, split: &dyn Source, sizes: &[(u32, u32)]) -> String {
    const BAR: usize = 40;
    let counts = images_per_class(split);
    let mut text = format!("\n{name}: {} images of {} classes\n", grouped(split.len() as u64), counts.len());
    if let Some(Quantiles { least, median, most }) = Quantiles::of(counts.iter().map(|&count| count as u64)) {
        let class = |wanted: u64| {
            let found = counts.iter().position(|&count| count as u64 == wanted);
            found.map_or("", |label| &split.classes()[label])
        };
        text += &format!(
            "images per class: {} ({}) to {} ({}), {} in the median\n",
            grouped(least),
            class(least),
            grouped(most),
            class(most),
            grouped(median)
        );
    }
    let quantiles = |values: Vec<u64>| {
        Quantiles::of(values.into_iter())
            .map_or(String::new(), |found| format!("{} to {}, {} in the median", found.least, found.most, found.median))
    };
    text += &format!("width:  {}\n", quantiles(sizes.iter().map(|size| size.0.into()).collect()));
    text += &format!("height: {}\n", quantiles(sizes.iter().map(|size| size.1.into()).collect()));
    // Powers of two, from the first that is met to the last.
    let mut bins = std::collections::BTreeMap::new();
    for side in shorter_sides(sizes) {
        *bins.entry(side.max(1).ilog2()).or_insert(0usize) += 1;
    }
    let most = bins.values().max().copied().unwrap_or(1);
    text += "shorter side, pixels\n";
    for (bin, count) in bins {
        let from = 1u64 << bin;
        let to = (1u64 << (bin + 1)) - 1;
        let bar = "█".repeat((BAR * count).div_ceil(most));
        text += &format!("{from:>6} to {to:<6} {:>9}  {bar}\n", grouped(count as u64));
    }
    text
}
