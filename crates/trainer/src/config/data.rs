//! `[data]`: which images, and how they are prepared.

use super::faults::{Check, is_share, not_negative};
use data::{ColourJitter, Transform};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which images, and how they are prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataConfig {
    /// Folder in ImageNet layout; `--data` sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Side of the square the network sees, in pixels.
    pub image_size: u32,
    /// Evaluation: the shorter side is resized to this many pixels before the centre is cut out.
    pub resize: u32,
    /// Training: how images are cropped.
    pub augment: Augment,
    /// `padded-crop`: black pixels added on every side before the crop.
    pub padding: u32,
    /// `resized-crop`: smallest and largest share of the image's area that is cropped.
    pub crop_scale: (f64, f64),
    /// `resized-crop`: smallest and largest width over height of the crop.
    pub crop_ratio: (f64, f64),
    /// Training: probability of mirroring left and right.
    pub flip: f64,
    /// Training: how far brightness, contrast, saturation and hue may change.
    pub colour_jitter: [f64; 4],
    /// Probability of erasing a rectangle in training.
    pub erase: f64,
    /// α of the Beta distribution of mixup's shares in training; 0 for never.
    pub mixup: f64,
    /// The same for CutMix; with both, each comes in half of the steps.
    pub cutmix: f64,
    /// Mean of red, green and blue, values in 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
    /// Threads that decode; 0 means one per core.
    pub threads: usize,
    /// Whole batches that are kept ready; absent, as many as the memory that is free allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches_ahead: Option<usize>,
    /// Share of a split's images that may be unusable before the run stops.
    pub max_bad_share: f64,
}

/// How training images are cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// A random part, resized: the ImageNet recipe.
    ResizedCrop,
    /// The whole image with a black border, cut at random: the CIFAR recipe.
    PaddedCrop,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            image_size: 224,
            resize: 256,
            augment: Augment::ResizedCrop,
            padding: 4,
            crop_scale: (0.08, 1.0),
            crop_ratio: (0.75, 4.0 / 3.0),
            flip: 0.5,
            colour_jitter: [0.0; 4],
            erase: 0.0,
            mixup: 0.0,
            cutmix: 0.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            threads: 0,
            batches_ahead: None,
            max_bad_share: 0.01,
        }
    }
}

impl DataConfig {
    /// How training images are prepared.
    pub fn augmentation(&self) -> Transform {
        let [brightness, contrast, saturation, hue] = self.colour_jitter;
        let colour = ColourJitter { brightness, contrast, saturation, hue };
        match self.augment {
            Augment::ResizedCrop => Transform::RandomResizedCrop {
                size: self.image_size,
                scale: self.crop_scale,
                ratio: self.crop_ratio,
                flip: self.flip,
                colour,
            },
            Augment::PaddedCrop => Transform::RandomPaddedCrop {
                resize: self.resize,
                size: self.image_size,
                padding: self.padding,
                flip: self.flip,
                colour,
            },
        }
    }

    /// Reports what makes no sense.
    pub(super) fn check(&self, check: &mut Check) {
        check.require("data.image_size", (1..=4096).contains(&self.image_size), "expected 1 to 4096 pixels");
        check.require(
            "data.resize",
            (self.image_size..=8192).contains(&self.resize),
            &format!("expected data.image_size ({}) to 8192 pixels", self.image_size),
        );
        self.check_augmentation(check);
        check.require(
            "data.mean",
            self.mean.iter().all(|mean| (0.0..=1.0).contains(mean)),
            "expected three numbers from 0 to 1",
        );
        check.require(
            "data.std",
            self.std.iter().all(|std| *std > 0.0 && *std <= 1.0),
            "expected three numbers above 0, up to 1",
        );
        check.require("data.threads", self.threads <= 1024, "expected at most 1024 threads");
        check.require(
            "data.batches_ahead",
            self.batches_ahead.is_none_or(|ahead| (1..=1024).contains(&ahead)),
            "expected 1 to 1024 batches",
        );
        check.require("data.max_bad_share", is_share(self.max_bad_share), "expected a share from 0 to 1");
    }

    fn check_augmentation(&self, check: &mut Check) {
        let (low, high) = self.crop_scale;
        check.require(
            "data.crop_scale",
            0.0 < low && low <= high && high <= 1.0,
            "expected [low, high] with 0 < low <= high <= 1",
        );
        let (low, high) = self.crop_ratio;
        check.require(
            "data.crop_ratio",
            0.0 < low && low <= high && high.is_finite(),
            "expected [low, high] with 0 < low <= high",
        );
        check.require("data.padding", self.padding <= self.image_size, "expected at most data.image_size");
        let [factors @ .., hue] = self.colour_jitter;
        check.require(
            "data.colour_jitter",
            factors.into_iter().all(not_negative) && (0.0..=0.5).contains(&hue),
            "expected brightness, contrast and saturation of at least 0 and a hue from 0 to 0.5",
        );
        check.require("data.erase", is_share(self.erase), "expected a probability from 0 to 1");
        check.require("data.mixup", not_negative(self.mixup), "expected a number of at least 0");
        check.require("data.cutmix", not_negative(self.cutmix), "expected a number of at least 0");
        check.require("data.flip", is_share(self.flip), "expected a probability from 0 to 1");
    }
}
