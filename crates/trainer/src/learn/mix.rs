//! Mixing the images of a batch, and their labels with them.

use crate::error::Result;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Beta, Distribution};
use std::ops::Range;
use tch::Tensor;

/// How each image of a batch is mixed with another: the first with the last, the second with the
/// last but one, and so on. A batch is shuffled already.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Mix {
    /// share · image + (1 − share) · other (mixup, Zhang et al. 2018).
    Blend {
        /// Of the image itself.
        share: f64,
    },
    /// A rectangle of the image is the other's (CutMix, Yun et al. 2019).
    Paste {
        /// From the top, in pixels.
        rows: Range<i64>,
        /// From the left, in pixels.
        columns: Range<i64>,
        /// Of the image itself: what the rectangle leaves.
        share: f64,
    },
}

impl Mix {
    /// Draws how images of `size` pixels a side are mixed, as a function of `seed`. The shares
    /// follow Beta(α, α) with α as given for each kind, 0 for never; of two kinds each comes in
    /// half of the cases.
    pub fn draw(mixup: f64, cutmix: f64, size: u32, seed: u64) -> Option<Self> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let pastes = cutmix > 0.0 && (mixup <= 0.0 || random.random_bool(0.5));
        let alpha = if pastes { cutmix } else { mixup };
        let share = Beta::new(alpha, alpha).ok()?.sample(&mut random).clamp(0.0, 1.0);
        if !pastes {
            return Some(Self::Blend { share });
        }
        let mut pixel = || random.random_range(0..size.max(1));
        Some(Self::paste(size, share, [pixel(), pixel()]))
    }

    /// A rectangle around a pixel (row, column) of images of `size` pixels a side, which leaves
    /// `share` of them or, where it is cut off at the border, more.
    pub fn paste(size: u32, share: f64, center: [u32; 2]) -> Self {
        let half = (f64::from(size) * (1.0 - share).sqrt() / 2.0).floor();
        let [rows, columns] = center.map(|center| {
            let end = |at: f64| at.clamp(0.0, f64::from(size)) as i64;
            end(f64::from(center) - half)..end(f64::from(center) + half)
        });
        let pasted = (rows.end - rows.start) * (columns.end - columns.start);
        let share = 1.0 - pasted as f64 / f64::from(size).powi(2);
        Self::Paste { rows, columns, share }
    }

    /// How much of each image is its own.
    pub fn share(&self) -> f64 {
        match self {
            Self::Blend { share } | Self::Paste { share, .. } => *share,
        }
    }

    /// The mixed `images` [N, C, H, W].
    ///
    /// # Errors
    /// If a rectangle lies outside.
    pub fn images(&self, images: &Tensor) -> Result<Tensor> {
        let others = images.f_flip([0])?;
        match self {
            Self::Blend { share } => Ok(images.f_mul_scalar(*share)?.f_add(&others.f_mul_scalar(1.0 - share)?)?),
            Self::Paste { rows, columns, .. } => {
                let mixed = images.f_add_scalar(0.0)?;
                let part = |of: &Tensor| -> Result<Tensor> {
                    let of_rows = of.f_narrow(2, rows.start, rows.end - rows.start)?;
                    Ok(of_rows.f_narrow(3, columns.start, columns.end - columns.start)?)
                };
                part(&mixed)?.f_copy_(&part(&others)?)?;
                Ok(mixed)
            }
        }
    }

    /// The labels `[N]` of the others.
    ///
    /// # Errors
    /// If libtorch refuses it.
    pub fn others(labels: &Tensor) -> Result<Tensor> {
        Ok(labels.f_flip([0])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    /// Three images of 4 × 4 pixels, all 1, all 2 and all 3.
    fn images() -> Tensor {
        Tensor::from_slice(&[1.0f32, 2.0, 3.0]).view([3, 1, 1, 1]).repeat([1, 2, 4, 4])
    }

    fn means(images: &Tensor) -> Vec<f64> {
        Vec::try_from(images.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double)).unwrap()
    }

    #[test]
    fn blends_are_weighted_means_with_the_other_end_of_the_batch() {
        let mixed = Mix::Blend { share: 0.75 }.images(&images()).unwrap();
        assert_eq!(means(&mixed), [1.5, 2.0, 2.5]);
        assert_eq!(Vec::<i64>::try_from(Mix::others(&Tensor::from_slice(&[7i64, 8, 9])).unwrap()).unwrap(), [9, 8, 7]);
    }

    #[test]
    fn pasted_rectangles_are_the_others_and_the_rest_is_the_images_own() {
        let images = images();
        let mixed = Mix::Paste { rows: 1..3, columns: 0..4, share: 0.5 }.images(&images).unwrap();
        assert_eq!(means(&mixed), [2.0, 2.0, 2.0]);
        assert_eq!(mixed.double_value(&[0, 1, 0, 0]), 1.0);
        assert_eq!(mixed.double_value(&[0, 1, 2, 3]), 3.0);
        assert_eq!(means(&images), [1.0, 2.0, 3.0], "the batch itself is as it was");
        let nothing = Mix::Paste { rows: 2..2, columns: 0..4, share: 1.0 };
        assert_eq!(nothing.images(&images).unwrap(), images);
    }

    #[test]
    fn shares_follow_their_distribution_and_say_what_is_pasted() {
        let draw = |mixup, cutmix| (0..4000).map(move |seed| Mix::draw(mixup, cutmix, 32, seed).unwrap());
        // Beta(α, α) has mean ½ and variance 1 / (4 (2α + 1)).
        for alpha in [0.2, 1.0, 4.0] {
            let shares: Vec<f64> = draw(alpha, 0.0).map(|mix| mix.share()).collect();
            let mean = shares.iter().sum::<f64>() / 4000.0;
            let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / 4000.0;
            assert!((mean - 0.5).abs() < 0.03, "{alpha}: {mean}");
            assert!((variance * 4.0 * (2.0 * alpha + 1.0) - 1.0).abs() < 0.1, "{alpha}: {variance}");
        }
        let mut pasted = 0;
        for mix in draw(1.0, 1.0) {
            if let Mix::Paste { rows, columns, share } = &mix {
                pasted += 1;
                assert!(0 <= rows.start && rows.start <= rows.end && rows.end <= 32, "{mix:?}");
                let kept = 1.0 - ((rows.end - rows.start) * (columns.end - columns.start)) as f64 / 1024.0;
                assert_eq!(*share, kept);
                let ones = Tensor::from_slice(&[0.0f32, 1.0]).view([2, 1, 1, 1]).repeat([1, 1, 32, 32]);
                let found = mix.images(&ones).unwrap().get(1).mean(Kind::Double).double_value(&[]);
                assert!((found - share).abs() < 1e-6, "{mix:?}: {found}");
            }
        }
        assert!((1800..2200).contains(&pasted), "{pasted}");
        assert_eq!(Mix::draw(0.0, 0.0, 32, 1), None);
        assert_eq!(Mix::draw(0.4, 1.0, 32, 9), Mix::draw(0.4, 1.0, 32, 9));
    }
}
