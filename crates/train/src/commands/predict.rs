//! `train predict`

use crate::device::DeviceChoice;
use crate::done::Done;
use crate::source::{Loaded, Source};
use crate::table::{macs, percent};
use anyhow::{Result, bail};
use arch::{Cost, Meter, Pass};
use data::{Loader, LoaderOptions, Split, readable};
use gumbel_gates::Policy;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use tch::{Kind, Tensor};
use trainer::to_tensors;

/// Classify images
///
/// Prints the most probable classes of each image and what the network spent on it. Weights that
/// tell 1000 classes apart without their names are taken for ImageNet's.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  train predict --checkpoint runs/resnet50-aig/checkpoints/best.safetensors photo.jpg"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// Image files, or folders with images at any depth
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<PathBuf>,
    /// How many classes to show
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    top: u16,
    /// How gates decide: argmax, always-open, sample, threshold=P or topk=K
    #[arg(long, value_name = "POLICY", default_value = "argmax")]
    policy: Policy,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: DeviceChoice,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The name of a class and its probability.
type Class = (String, f64);

struct Prediction {
    path: PathBuf,
    /// The most probable first.
    classes: Vec<Class>,
    macs: f64,
    open: usize,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let device = args.device.resolve()?;
    let loaded = args.source.load(device)?;
    let network = &loaded.network;
    let input = loaded.input;
    let cost = Cost::of(network.spec(), input.image_size as usize, input.image_size as usize)?;
    let meter = Meter::new(&cost.spending(), device)?;
    let (transform, normalize) = (input.transform(), input.normalize());
    let options = LoaderOptions { transform, normalize, batch_size: 32, ..Default::default() };
    let loader = Loader::new(Arc::new(Split::of_files(&images_in(&args.images)?)), options)?;
    let names = names(&loaded);
    let shown = i64::from(args.top).min(loaded.classes.len() as i64);

    let (mut predictions, mut bad) = (Vec::new(), Vec::new());
    for batch in loader.epoch(0, 0)? {
        bad.extend(batch.bad.iter().map(|bad| format!("{}: {}", readable(bad.path.as_os_str()), bad.reason)));
        if batch.items.is_empty() {
            continue;
        }
        let (images, _) = to_tensors(&batch, input.image_size, device)?;
        let policy = args.policy.for_batch(batch.number);
        let output = tch::no_grad(|| network.forward(&images, Pass::skipping(policy)))?;
        let probabilities = output.logits.f_softmax(1, Kind::Double)?;
        let (probabilities, best) = probabilities.f_topk(shown, 1, true, true)?;
        let used: Vec<f64> = match output.gate_values.is_empty() {
            true => vec![cost.dense as f64; batch.items.len()],
            false => Vec::try_from(meter.used(&output.gate_values)?)?,
        };
        for (row, (&item, macs)) in (0..).zip(batch.items.iter().zip(used)) {
            let path = loader.source().path(item);
            let classes = classes(&names, &best.f_get(row)?, &probabilities.f_get(row)?)?;
            let mut open = 0;
            for site in output.gate_values.sites() {
                open += site.f_get(row)?.f_sum(Kind::Double)?.f_double_value(&[])? as usize;
            }
            predictions.push(Prediction { path, classes, macs, open });
        }
    }
    let gates = network.spec().gate_count();
    let size = input.image_size as usize;
    let dense = Cost::of(loaded.spec(), size, size)?.dense;
    let text = match args.json {
        true => json(&predictions, &bad, gates, dense),
        false => predictions.iter().map(|prediction| text(prediction, gates, dense)).collect(),
    };
    if bad.is_empty() {
        return Ok(Done::ok(text));
    }
    let bad: String = bad.iter().map(|bad| format!("cannot use {bad}\n")).collect();
    Ok(Done::in_part(text, bad))
}

/// The files, and the images in the folders, sorted.
fn images_in(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let found = data::images_below(path)?;
        if found.is_empty() {
            bail!("{} holds no images ({})", path.display(), data::IMAGE_ENDINGS.join(", "));
        }
        files.extend(found);
    }
    Ok(files)
}

/// The names of the classes.
fn names(loaded: &Loaded) -> Vec<String> {
    let known: Vec<&str> = include_str!("imagenet_classes.txt").lines().collect();
    match loaded.named || loaded.classes.len() != known.len() {
        true => loaded.classes.clone(),
        false => known.into_iter().map(str::to_owned).collect(),
    }
}

/// The names and probabilities of an image's classes, from their numbers and probabilities, both of
/// shape `[N]`.
fn classes(names: &[String], numbers: &Tensor, probabilities: &Tensor) -> Result<Vec<Class>> {
    let numbers: Vec<i64> = Vec::try_from(numbers)?;
    let probabilities: Vec<f64> = Vec::try_from(probabilities)?;
    let names = numbers.into_iter().map(|number| names[number as usize].clone());
    Ok(names.zip(probabilities).collect())
}

fn json(predictions: &[Prediction], bad: &[String], gates: usize, dense: u64) -> String {
    let class = |(class, p): &Class| json!({ "class": class, "probability": p });
    let image = |prediction: &Prediction| {
        json!({
            "image": readable(prediction.path.as_os_str()),
            "classes": prediction.classes.iter().map(class).collect::<Vec<_>>(),
            "macs": prediction.macs,
            "macs_dense": dense,
            "open_gates": prediction.open,
            "gates": gates,
        })
    };
    let images: Vec<_> = predictions.iter().map(image).collect();
    format!("{:#}\n", json!({ "images": images, "unusable": bad }))
}

/// A name from a file without what would move a terminal's cursor or change its colors.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

fn text(prediction: &Prediction, gates: usize, dense: u64) -> String {
    let mut text = format!("{}\n", prediction.path.display());
    for (class, probability) in &prediction.classes {
        text += &format!("  {:>6}  {}\n", percent(*probability), printable(class));
    }
    let share = percent(prediction.macs / dense as f64);
    let gates = if gates > 0 { format!(", {} of {gates} gates open", prediction.open) } else { String::new() };
    text + &format!("  {}, {share} of dense{gates}\n", macs(prediction.macs))
}
