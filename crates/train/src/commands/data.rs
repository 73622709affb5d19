//! `train data`

use crate::Done;
use crate::table::{grouped, table};
use anyhow::Result;
use clap::Subcommand;
use data::synth::{SampleSet, draw};
use data::{BadImage, Dataset, Split, check};
use indicatif::ProgressBar;
use serde_json::json;
use std::path::PathBuf;

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
}

/// List classes and how many images each has
#[derive(clap::Args)]
#[command(after_help = "Example:\n  train data index /data/imagenet --json")]
struct Index {
    /// Folder in ImageNet layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Decode every image and list what cannot be used
///
/// Exits with 1 if there is any. A folder without train/ and val/ is checked as one split.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  train data check /data/imagenet")]
struct Check {
    /// Folder in ImageNet layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
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
    Ok(Done::ok(format!(
        "drew {} training and {} validation images of {} classes into {}\n",
        dataset.train.items.len(),
        dataset.val.items.len(),
        dataset.classes().len(),
        args.folder.display()
    )))
}

fn index(args: &Index) -> Result<Done> {
    let Dataset { train, val } = Dataset::open(&args.folder)?;
    let counts = || train.classes.iter().zip(train.images_per_class()).zip(val.images_per_class());
    if args.json {
        let classes: Vec<_> =
            counts().map(|((class, train), val)| json!({ "class": class, "train": train, "val": val })).collect();
        let (train, val) = (train.items.len(), val.items.len());
        return Ok(Done::ok(format!("{:#}\n", json!({ "train": train, "val": val, "classes": classes }))));
    }
    let mut rows = vec![["label", "class", "train", "val"].map(str::to_owned).to_vec()];
    for (label, ((class, train), val)) in counts().enumerate() {
        rows.push(vec![label.to_string(), class.clone(), grouped(train as u64), grouped(val as u64)]);
    }
    let (ignored, total) = (train.ignored + val.ignored, |split: &Split| grouped(split.items.len() as u64));
    let mut text = table(&rows);
    text +=
        &format!("\n{} classes, {} training and {} validation images\n", rows.len() - 1, total(&train), total(&val));
    if ignored > 0 {
        text += &format!("{ignored} files that are no images are left out\n");
    }
    Ok(Done::ok(text))
}

fn check_folder(args: &Check) -> Result<Done> {
    let has_splits = args.folder.join("train").is_dir() || args.folder.join("val").is_dir();
    let splits = if has_splits {
        let Dataset { train, val } = Dataset::open(&args.folder)?;
        vec![train, val]
    } else {
        vec![Split::open(&args.folder)?]
    };
    let images: usize = splits.iter().map(|split| split.items.len()).sum();
    let bar = ProgressBar::new(images as u64); // on stderr, and only if it is a terminal
    let mut bad: Vec<BadImage> = Vec::new();
    let mut extents: Option<[(u32, u32); 2]> = None;
    for split in &splits {
        let checked = check(split, || bar.inc(1));
        bad.extend(checked.bad);
        extents = match (extents, checked.smallest.zip(checked.largest)) {
            (None, found) => found.map(|(smallest, largest)| [smallest, largest]),
            (known, None) => known,
            (Some([small, large]), Some((smallest, largest))) => Some([
                if area(smallest) < area(small) { smallest } else { small },
                if area(largest) > area(large) { largest } else { large },
            ]),
        };
    }
    bar.finish_and_clear();
    let code = u8::from(!bad.is_empty());
    if args.json {
        let list: Vec<_> = bad.iter().map(|bad| json!({ "path": bad.path, "reason": bad.reason })).collect();
        let value = json!({ "images": images, "bad": list, "smallest": extents.map(|e| e[0]), "largest": extents.map(|e| e[1]) });
        return Ok(Done::with_code(format!("{value:#}\n"), code));
    }
    let mut text: String = bad.iter().map(|bad| format!("{bad}\n")).collect();
    text += &format!("{} images, {} cannot be used\n", grouped(images as u64), grouped(bad.len() as u64));
    if let Some([(w0, h0), (w1, h1)]) = extents {
        text += &format!("smallest {w0}×{h0}, largest {w1}×{h1} pixels\n");
    }
    Ok(Done::with_code(text, code))
}

fn area((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}
