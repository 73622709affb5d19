//! A batch as the network sees it in training: erased, mixed, and cut into parts.

use crate::config::Config;
use crate::error::Result;
use crate::learn::erase::erase;
use crate::learn::mix::Mix;
use crate::learn::teacher::Teacher;
use crate::measure::pass::to_tensors;
use crate::method::objective::Labels;
use data::Batch;
use tch::{Device, Tensor};
use torch_ext::derive_seed;

/// Parts of a step's seed that no gate site has, nor dropout.
const MIXING: u64 = u64::MAX - 1;
const ERASING: u64 = u64::MAX - 2;

/// The images [N, 3, H, W] of a batch as the network sees them, and what they should be taken for.
#[derive(Debug)]
pub(crate) struct PreparedBatch {
    pub images: Tensor,
    labels: Labels,
}

/// Some images of a batch.
#[derive(Debug)]
pub(crate) struct BatchPart {
    pub images: Tensor,
    pub labels: Labels,
    /// How much of the batch they are.
    pub share: f64,
}

impl PreparedBatch {
    /// The images of a batch as step `step` sees them, as a function of the run's seed and the
    /// step.
    ///
    /// # Errors
    /// If libtorch cannot make the tensors.
    pub fn new(batch: &Batch, config: &Config, step: u64, device: Device) -> Result<Self> {
        let data = &config.data;
        let (mut images, labels) = to_tensors(batch, data.image_size, device)?;
        let seed = derive_seed(config.train.seed, step);
        if data.erase > 0.0 {
            erase(&images, data.erase, derive_seed(seed, ERASING))?;
        }
        let mut mixed = None;
        if let Some(mix) = Mix::draw(data.mixup, data.cutmix, data.image_size, derive_seed(seed, MIXING)) {
            images = mix.images(&images)?;
            mixed = Some((Mix::others(&labels)?, mix.share()));
        }
        Ok(Self { images, labels: Labels { labels, mixed, teacher: None } })
    }

    /// The batch in `wanted` parts, fewer if it is too small, each with what its teacher says, if
    /// there is one.
    pub fn parts<'a>(
        &'a self,
        wanted: usize,
        teacher: Option<&'a Teacher>,
    ) -> impl Iterator<Item = Result<BatchPart>> + 'a {
        let images = self.images.size().first().copied().unwrap_or(0);
        ranges(images, wanted).into_iter().map(move |(first, count)| {
            let share = count as f64 / images as f64;
            let images = self.images.f_narrow(0, first, count)?;
            let teacher = teacher.map(|teacher| teacher.logits(&images)).transpose()?;
            let labels = Labels { teacher, ..self.labels.narrow(first, count)? };
            Ok(BatchPart { images, labels, share })
        })
    }
}

/// The first image and the number of images of each of `wanted` parts of a batch of `images`. Batch
/// norm needs two in each.
fn ranges(images: i64, wanted: usize) -> Vec<(i64, i64)> {
    let count = (wanted as i64).clamp(1, (images / 2).max(1));
    let first = |part: i64| part * images / count;
    (0..count).map(|part| (first(part), first(part + 1) - first(part))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_batch_and_leave_batch_norm_enough() {
        assert_eq!(ranges(8, 1), [(0, 8)]);
        assert_eq!(ranges(8, 3), [(0, 2), (2, 3), (5, 3)]);
        assert_eq!(ranges(5, 4), [(0, 2), (2, 3)]);
        assert_eq!(ranges(2, 4), [(0, 2)]);
    }
}
