//! `[data]`: which images, and how they are prepared.

use super::faults::{Check, is_share};
use data::{ColorJitter, Transform};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which images, and how they are prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataConfig {
    /// The folder of images, in ImageNet layout or one of those in docs/data.md; `--data` sets it.
    #[schemars(extend("x-unit" = "a path"))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Side of the square the network sees, in pixels.
    #[schemars(range(min = 1, max = 4096), extend("x-unit" = "pixels"))]
    pub image_size: u32,
    /// Evaluation: the shorter side is resized to this many pixels before the center is cut out.
    #[schemars(range(max = 8192), extend("x-unit" = "pixels"))]
    pub resize: u32,
    /// Training: how images are cropped.
    pub augment: Augment,
    /// `padded-crop`: black pixels added on every side before the crop.
    pub padding: u32,
    /// `resized-crop`: smallest and largest share of the image's area in a random crop.
    pub crop_scale: (f64, f64),
    /// `resized-crop`: smallest and largest width over height of the crop.
    pub crop_ratio: (f64, f64),
    /// Training: probability of mirroring left and right.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "a probability"))]
    pub flip: f64,
    /// Training: how far brightness, contrast, saturation and hue may change, such as `[0.4, 0.4,
    /// 0.4, 0.1]`; torchvision's `ColorJitter`.
    pub color_jitter: [f64; 4],
    /// Training: probability of erasing a rectangle of 2 to 33 % of the image.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "a probability"))]
    pub erase: f64,
    /// Training: α of the Beta distribution of the shares with which images and labels are blended
    /// (mixup), such as 0.2; 0 for never.
    #[schemars(range(min = 0.0))]
    pub mixup: f64,
    /// Training: α of the Beta distribution of the shares that a pasted rectangle of another image
    /// leaves (CutMix), such as 1.0; 0 for never. With mixup, too, each comes in half of the steps.
    #[schemars(range(min = 0.0))]
    pub cutmix: f64,
    /// Mean of red, green and blue, for values from 0 to 1; by default ImageNet's.
    #[schemars(inner(range(min = 0.0, max = 1.0)))]
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue; by default ImageNet's.
    #[schemars(extend("items" = { "type": "number", "exclusiveMinimum": 0.0, "maximum": 1.0 }))]
    pub std: [f32; 3],
    /// Threads that decode; 0 means one per core.
    #[schemars(range(max = 1024), extend("x-unit" = "threads"))]
    pub threads: usize,
    /// Whole batches that are kept ready; by default as many as fit in a sixteenth of the memory
    /// that is free, 2 to 16 and at most 1 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024), extend("x-unit" = "batches"))]
    pub batches_ahead: Option<usize>,
    /// Images that cannot be used are skipped, counted and named; past this share of a split the
    /// run stops.
    #[schemars(range(min = 0.0, max = 1.0), extend("x-unit" = "a share"))]
    pub max_bad_share: f64,
}

/// How training images are cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
            color_jitter: [0.0; 4],
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
        let [brightness, contrast, saturation, hue] = self.color_jitter;
        let color = ColorJitter { brightness, contrast, saturation, hue };
        match self.augment {
            Augment::ResizedCrop => Transform::RandomResizedCrop {
                size: self.image_size,
                scale: self.crop_scale,
                ratio: self.crop_ratio,
                flip: self.flip,
                color,
            },
            Augment::PaddedCrop => Transform::RandomPaddedCrop {
                resize: self.resize,
                size: self.image_size,
                padding: self.padding,
                flip: self.flip,
                color,
            },
        }
    }

    /// Reports what its keys mean together.
    pub(super) fn check(&self, check: &mut Check) {
        let resize = self.resize >= self.image_size;
        let message = format!("expected data.image_size ({}) to 8192 pixels", self.image_size);
        check.require("data.resize", resize, &message);
        check.require("data.padding", self.padding <= self.image_size, "expected at most data.image_size");
        let (low, high) = self.crop_scale;
        let scale = 0.0 < low && low <= high && high <= 1.0;
        check.require("data.crop_scale", scale, "expected [low, high] with 0 < low <= high <= 1");
        let (low, high) = self.crop_ratio;
        let ratio = 0.0 < low && low <= high && high.is_finite();
        check.require("data.crop_ratio", ratio, "expected [low, high] with 0 < low <= high");
        let [factors @ .., hue] = self.color_jitter;
        check.require(
            "data.color_jitter",
            factors.into_iter().all(|factor| factor >= 0.0 && factor.is_finite()) && is_share(2.0 * hue),
            "expected brightness, contrast and saturation of at least 0 and a hue from 0 to 0.5",
        );
    }
}
