//! Running exported files: whether they give the logits they must give, and how often they are
//! right.

use crate::error::{Error, Result};
use crate::workers::Workers;
use data::Loader;
use runtime::{Array, Runtime, Worker};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::{Device, Kind};
use trainer::{Expected, to_tensors};

/// The largest difference of a logit that other arithmetic explains, as a share of the largest logit.
pub const BOUND: f64 = 1e-4;

/// Runs an exported file, all images at once and the first by itself: the largest difference of a
/// logit as a share of the largest logit, infinite where one is no number.
///
/// # Errors
/// If the runtime is not there, or does not take the file or the images.
pub fn difference(workers: Workers, runtime: Runtime, file: &Path, expected: &Expected) -> Result<f64> {
    let mut worker = workers.start(runtime, "cpu")?;
    let model = worker.load(file, false)?;
    let mut largest: f64 = 0.0;
    for count in [expected.images.size()[0], 1] {
        worker.give(model, &Array::of(&expected.images.f_narrow(0, 0, count)?)?)?;
        let found = worker.run(model)?.tensor()?;
        let logits = expected.logits.f_narrow(0, 0, count)?;
        if found.size() != logits.size() {
            let fault = format!("{runtime} gives logits of the shape {:?}, not {:?}", found.size(), logits.size());
            return Err(Error::Content { path: file.to_owned(), fault });
        }
        let scale = logits.f_abs()?.f_max()?.f_double_value(&[])?;
        let difference = (found - logits).f_abs()?.f_max()?.f_double_value(&[])? / scale;
        largest = if difference.is_nan() { f64::INFINITY } else { largest.max(difference) };
    }
    Ok(largest)
}

/// The share of the images of `loader`, of a side of `image_size` pixels, whose class a model tells
/// right, and how many they are.
///
/// # Errors
/// If images cannot be read, the runtime fails, or `interrupt` was set meanwhile.
pub fn top1(
    worker: &mut Worker,
    model: usize,
    loader: &Loader,
    image_size: u32,
    interrupt: &AtomicBool,
) -> Result<(f64, usize)> {
    let (mut right, mut images) = (0, 0);
    for batch in loader.epoch(0, 0).map_err(trainer::Error::from)? {
        if interrupt.load(Ordering::Relaxed) {
            return Err(trainer::Error::Interrupted.into());
        }
        if batch.labels.is_empty() {
            continue;
        }
        let (pixels, labels) = to_tensors(&batch, image_size, Device::Cpu)?;
        worker.give(model, &Array::of(&pixels)?)?;
        let classes = worker.run(model)?.tensor()?.f_argmax(1, false)?;
        right += classes.f_eq_tensor(&labels)?.f_sum(Kind::Int64)?.f_int64_value(&[])?;
        images += batch.labels.len();
    }
    Ok((right as f64 / images.max(1) as f64, images))
}
