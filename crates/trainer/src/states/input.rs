//! How an image is prepared for evaluation.

use crate::config::Config;
use data::{Normalize, Transform};
use serde::{Deserialize, Serialize};

/// How an image is prepared for evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Side of the square the network sees, in pixels.
    pub image_size: u32,
    /// The shorter side is resized to this many pixels before the center is cut out.
    pub resize: u32,
    /// Mean of red, green and blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

impl Input {
    /// What a configuration says about it.
    pub fn of(config: &Config) -> Self {
        let data = &config.data;
        Self { image_size: data.image_size, resize: data.resize, mean: data.mean, std: data.std }
    }

    /// The transform of an evaluation.
    pub fn transform(&self) -> Transform {
        Transform::ResizeCenterCrop { resize: self.resize, size: self.image_size }
    }

    /// The normalization.
    pub fn normalize(&self) -> Normalize {
        Normalize { mean: self.mean, std: self.std }
    }

    pub(crate) fn is_sane(&self) -> bool {
        (1..=4096).contains(&self.image_size)
            && (self.image_size..=8192).contains(&self.resize)
            && self.std.iter().all(|std| *std > 0.0)
    }
}
