//! Random erasing (Zhong et al. 2020): a rectangle of an image becomes its mean color.

use crate::error::Result;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use tch::Tensor;

/// Smallest and largest share of the image's area, and height over width, of torchvision's
/// `RandomErasing`.
const SCALE: (f64, f64) = (0.02, 0.33);
const RATIO: (f64, f64) = (0.3, 3.3);

/// A rectangle in pixels: top, left, height and width.
pub(crate) type Rectangle = [i64; 4];

/// Erases a rectangle of each of the `images` [N, 3, size, size] with this probability, in place,
/// as a function of `seed`. Normalized images have a mean of 0.
///
/// # Errors
/// If libtorch refuses it.
pub(crate) fn erase(images: &Tensor, probability: f64, seed: u64) -> Result<()> {
    let (count, _, size, _) = images.size4()?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for image in 0..count {
        if !random.random_bool(probability) {
            continue;
        }
        if let Some([top, left, height, width]) = rectangle(size, &mut random) {
            let part = images.f_get(image)?.f_narrow(1, top, height)?.f_narrow(2, left, width)?;
            let _ = part.shallow_clone().f_zero_()?;
        }
    }
    Ok(())
}

/// torchvision's `RandomErasing.get_params`: ten tries, then none.
pub(crate) fn rectangle(size: i64, random: &mut ChaCha8Rng) -> Option<Rectangle> {
    let uniform = |random: &mut ChaCha8Rng, low: f64, high: f64| low + (high - low) * random.random::<f64>();
    (0..10).find_map(|_| {
        let area = (size * size) as f64 * uniform(random, SCALE.0, SCALE.1);
        let ratio = uniform(random, RATIO.0.ln(), RATIO.1.ln()).exp();
        let [height, width] = [area * ratio, area / ratio].map(|square| square.sqrt().round_ties_even() as i64);
        (height < size && width < size).then(|| {
            let [top, left] = [height, width].map(|length| random.random_range(0..=size - length));
            [top, left, height, width]
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn rectangles_stay_inside_and_have_the_area_and_ratio_asked_for() {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..2000 {
            let [top, left, height, width] = rectangle(224, &mut random).unwrap();
            assert!(top >= 0 && left >= 0 && top + height <= 224 && left + width <= 224);
            let (area, ratio) = ((height * width) as f64 / 224.0f64.powi(2), height as f64 / width as f64);
            // Up to the rounding of the sides.
            assert!((0.019..0.34).contains(&area) && (0.28..3.5).contains(&ratio), "{height} × {width}");
        }
    }

    #[test]
    fn a_share_of_the_images_loses_one_rectangle_and_the_same_one_again() {
        let erased = |probability, seed| {
            let images = Tensor::ones([400, 3, 32, 32], (Kind::Float, Device::Cpu));
            erase(&images, probability, seed).unwrap();
            images
        };
        let lost: Vec<f64> =
            Vec::try_from(1.0 - erased(0.25, 3).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double)).unwrap();
        let hit = lost.iter().filter(|lost| **lost > 0.0).count();
        assert!((70..130).contains(&hit), "{hit}");
        assert!(lost.iter().all(|lost| *lost == 0.0 || (0.01..0.36).contains(lost)), "{lost:?}");
        assert_eq!(erased(0.25, 3), erased(0.25, 3));
        assert_ne!(erased(0.25, 3), erased(0.25, 4));
        assert_eq!(erased(0.0, 3).mean(Kind::Double).double_value(&[]), 1.0);
        assert!(erased(1.0, 3).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Double).max().double_value(&[]) < 1.0);
    }
}
