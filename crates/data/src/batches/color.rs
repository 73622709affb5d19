//! Random changes of color, torchvision's `ColorJitter`.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};

/// How far colors may change. Factors for the first three are uniform in [max(0, 1 − x), 1 + x],
/// that of hue in [−x, x].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ColorJitter {
    /// Blended with black.
    pub brightness: f64,
    /// Blended with the mean gray of the image.
    pub contrast: f64,
    /// Blended with the pixel's own gray.
    pub saturation: f64,
    /// Turned on the color wheel, of which 1 is the whole; at most 0.5.
    pub hue: f64,
}

/// One change with its factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Change {
    Brightness(f64),
    Contrast(f64),
    Saturation(f64),
    Hue(f64),
}

impl ColorJitter {
    /// Changes the RGB `pixels` in place, in a random order; draws nothing if nothing may change.
    pub(crate) fn apply(&self, pixels: &mut [u8], rng: &mut impl Rng) {
        if *self == Self::default() {
            return;
        }
        let factor = |by: f64, rng: &mut _| {
            let low = (1.0 - by).max(0.0);
            let high = 1.0 + by;
            low + (high - low) * RngExt::random::<f64>(rng)
        };
        let mut changes = [
            Change::Brightness(factor(self.brightness, rng)),
            Change::Contrast(factor(self.contrast, rng)),
            Change::Saturation(factor(self.saturation, rng)),
            Change::Hue(self.hue * (2.0 * rng.random::<f64>() - 1.0)),
        ];
        changes.shuffle(rng);
        for change in changes {
            change.apply(pixels);
        }
    }
}

impl Change {
    pub(crate) fn apply(self, pixels: &mut [u8]) {
        match self {
            Self::Brightness(factor) if factor != 1.0 => {
                each(pixels, |pixel| pixel.map(|value| blend(0.0, value, factor)))
            }
            Self::Contrast(factor) if factor != 1.0 => {
                let count = (pixels.len() / 3).max(1) as f64;
                let mean = (pixels.as_chunks().0.iter().map(|pixel| gray(*pixel)).sum::<f64>() / count).round();
                each(pixels, |pixel| pixel.map(|value| blend(mean, value, factor)));
            }
            Self::Saturation(factor) if factor != 1.0 => each(pixels, |pixel| {
                let gray = gray(pixel);
                pixel.map(|value| blend(gray, value, factor))
            }),
            Self::Hue(turn) if turn != 0.0 => each(pixels, |pixel| turned(pixel, turn)),
            _ => {}
        }
    }
}

fn each(pixels: &mut [u8], change: impl Fn([u8; 3]) -> [u8; 3]) {
    for pixel in pixels.as_chunks_mut().0 {
        *pixel = change(*pixel);
    }
}

/// Pillow's `Image.blend`: from `base` to `value` at 1, cut off to whole numbers.
fn blend(base: f64, value: u8, factor: f64) -> u8 {
    (base + factor * (f64::from(value) - base)).clamp(0.0, 255.0) as u8
}

/// Pillow's gray (ITU-R 601-2), rounded.
fn gray([red, green, blue]: [u8; 3]) -> f64 {
    f64::from((u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471 + 0x8000) >> 16)
}

/// The pixel with its hue turned by a share of the color wheel, saturation and value unchanged.
fn turned(pixel: [u8; 3], turn: f64) -> [u8; 3] {
    let [red, green, blue] = pixel.map(f64::from);
    let (most, least) = (red.max(green).max(blue), red.min(green).min(blue));
    let range = most - least;
    if range == 0.0 {
        return pixel;
    }
    // In sixths of the wheel.
    let hue = if most == red {
        (green - blue) / range
    } else if most == green {
        2.0 + (blue - red) / range
    } else {
        4.0 + (red - green) / range
    };
    let hue = (hue + 6.0 * turn).rem_euclid(6.0);
    // A channel is largest within a sixth of its own place on the wheel and smallest beyond two.
    let channel = |place: f64| {
        let distance = (hue - place).abs();
        let distance = distance.min(6.0 - distance);
        (least + range * (2.0 - distance).clamp(0.0, 1.0)).round() as u8
    };
    [channel(0.0), channel(2.0), channel(4.0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::ChaCha8Rng;

    fn changed(change: Change, pixels: &[[u8; 3]]) -> Vec<[u8; 3]> {
        let mut bytes = pixels.concat();
        change.apply(&mut bytes);
        bytes.as_chunks().0.to_vec()
    }

    /// Values of Pillow 12: `ImageEnhance.Brightness`, `.Contrast` and `.Color` on these two
    /// pixels.
    #[test]
    fn changes_equal_those_of_pillow() {
        let pixels = [[200, 100, 50], [10, 20, 250]];
        assert_eq!(changed(Change::Brightness(0.5), &pixels), [[100, 50, 25], [5, 10, 125]]);
        assert_eq!(changed(Change::Brightness(1.5), &pixels), [[255, 150, 75], [15, 30, 255]]);
        // Grays 124 and 43, of which the mean is 83.5.
        assert_eq!(changed(Change::Contrast(0.5), &pixels), [[142, 92, 67], [47, 52, 167]]);
        assert_eq!(changed(Change::Saturation(0.0), &pixels), [[124; 3], [43; 3]]);
        assert_eq!(changed(Change::Saturation(2.0), &pixels), [[255, 76, 0], [0, 0, 255]]);
    }

    #[test]
    fn hues_turn_on_the_wheel_and_grays_have_none() {
        let (red, yellow, green, blue) = ([255, 0, 0], [255, 255, 0], [0, 255, 0], [0, 0, 255]);
        assert_eq!(changed(Change::Hue(1.0 / 3.0), &[red, green, blue]), [green, blue, red]);
        assert_eq!(changed(Change::Hue(-1.0 / 6.0), &[yellow]), [red]);
        // colorsys: (200, 100, 50) has hue 1/18; a quarter turn makes it 11/36, which is (75, 200,
        // 50) with a third of the way more.
        assert_eq!(changed(Change::Hue(0.25), &[[200, 100, 50], [7, 7, 7]]), [[75, 200, 50], [7, 7, 7]]);
        assert_eq!(changed(Change::Hue(0.5), &changed(Change::Hue(0.5), &[[200, 100, 50]])), [[200, 100, 50]]);
    }

    #[test]
    fn factors_stay_in_range_and_nothing_is_drawn_for_nothing() {
        let [mut rng, mut same] = [1, 1].map(ChaCha8Rng::seed_from_u64);
        let mut pixels = [200, 100, 50];
        ColorJitter::default().apply(&mut pixels, &mut rng);
        assert_eq!(pixels, [200, 100, 50]);
        assert_eq!(rng.random::<u64>(), same.random::<u64>());
        let jitter = ColorJitter { brightness: 0.5, ..ColorJitter::default() };
        let reds: Vec<u8> = (0..500)
            .map(|_| {
                let mut pixels = [100, 100, 100];
                jitter.apply(&mut pixels, &mut rng);
                pixels[0]
            })
            .collect();
        let (least, most) = (reds.iter().min().unwrap(), reds.iter().max().unwrap());
        assert!((50..55).contains(least) && (145..=150).contains(most), "{least} to {most}");
    }
}
