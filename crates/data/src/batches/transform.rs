//! Crops, resizing and normalization, with torchvision's arithmetic.

use crate::batches::color::ColorJitter;
use crate::decode::part::{Need, Part};
use fast_image_resize::images::{CroppedImage, Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use rand::{Rng, RngExt};

/// How an image becomes a square of `size` pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Transform {
    /// For training: torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`.
    RandomResizedCrop {
        /// Side of the result in pixels.
        size: u32,
        /// Smallest and largest share of the image's area that is cropped.
        scale: (f64, f64),
        /// Smallest and largest width over height of the crop.
        ratio: (f64, f64),
        /// Probability of mirroring left and right.
        flip: f64,
        /// How far colors may change.
        color: ColorJitter,
    },
    /// For training on small images: torchvision's `Resize`, `RandomCrop` with black padding and
    /// `RandomHorizontalFlip`.
    RandomPaddedCrop {
        /// Shorter side after resizing, in pixels; at least `size`.
        resize: u32,
        /// Side of the result in pixels.
        size: u32,
        /// Black pixels added on every side before the crop.
        padding: u32,
        /// Probability of mirroring left and right.
        flip: f64,
        /// How far colors may change.
        color: ColorJitter,
    },
    /// For evaluation: torchvision's `Resize` and `CenterCrop`.
    ResizeCenterCrop {
        /// Shorter side after resizing, in pixels; at least `size`.
        resize: u32,
        /// Side of the result in pixels.
        size: u32,
    },
}

/// (value / 255 − mean) / std per channel, red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalize {
    /// Mean of values in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation of values in [0, 1].
    pub std: [f32; 3],
}

/// A rectangle in whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rectangle {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

/// A rectangle of an image that need not begin and end between two pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Transform {
    /// Side of the result in pixels.
    pub fn size(&self) -> u32 {
        match *self {
            Self::RandomResizedCrop { size, .. }
            | Self::RandomPaddedCrop { size, .. }
            | Self::ResizeCenterCrop { size, .. } => size,
        }
    }

    /// # Errors
    /// What was expected of it, if a size or probability is out of range.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (resize, size, flip) = match *self {
            Self::RandomResizedCrop { size, flip, .. } => (size, size, flip),
            Self::RandomPaddedCrop { resize, size, flip, .. } => (resize, size, flip),
            Self::ResizeCenterCrop { resize, size } => (resize, size, 0.0),
        };
        match (1..=resize).contains(&size) && (0.0..=1.0).contains(&flip) {
            true => Ok(()),
            false => Err(format!(
                "a size from 1 to {resize} pixels, to which images are resized, and a flip from 0 to 1; found {size} and {flip}"
            )),
        }
    }

    /// How an image of this size becomes the result; draws whatever is random but the colors.
    pub(crate) fn geometry(&self, width: u32, height: u32, rng: &mut impl Rng) -> Geometry {
        let all = Rectangle { left: 0, top: 0, width: self.size(), height: self.size() };
        match *self {
            Self::RandomResizedCrop { scale, ratio, flip, .. } => {
                let crop = random_area(width, height, scale, ratio, rng);
                let source = Window {
                    left: crop.left.into(),
                    top: crop.top.into(),
                    width: crop.width.into(),
                    height: crop.height.into(),
                };
                Geometry { source, apart: true, target: all, mirrored: rng.random_bool(flip) }
            }
            Self::RandomPaddedCrop { resize, size, padding, flip, .. } => {
                let (full_width, full_height) = shorter_side(width, height, resize);
                let columns = random_window(full_width, size, padding, rng);
                let rows = random_window(full_height, size, padding, rng);
                // Only what the window shows is computed; the rest of it stays black.
                let (left, shown_width) = in_source(width, full_width, columns.source, columns.length);
                let (top, shown_height) = in_source(height, full_height, rows.source, rows.length);
                let source = Window { left, top, width: shown_width, height: shown_height };
                let (left, top, width, height) = (columns.target, rows.target, columns.length, rows.length);
                let target = Rectangle { left, top, width, height };
                Geometry { source, apart: false, target, mirrored: rng.random_bool(flip) }
            }
            Self::ResizeCenterCrop { resize, size } => {
                // Only what the window shows is computed; the filter still reads the pixels around
                // it.
                let (full_width, full_height) = shorter_side(width, height, resize);
                let (left, shown_width) = central_window(width, full_width, size);
                let (top, shown_height) = central_window(height, full_height, size);
                let source = Window { left, top, width: shown_width, height: shown_height };
                Geometry { source, apart: false, target: all, mirrored: false }
            }
        }
    }

    /// How far its colors may change.
    pub(crate) fn color(&self) -> ColorJitter {
        match *self {
            Self::RandomResizedCrop { color, .. } | Self::RandomPaddedCrop { color, .. } => color,
            Self::ResizeCenterCrop { .. } => ColorJitter::default(),
        }
    }
}

/// What of an image becomes what of the result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Geometry {
    source: Window,
    /// Whether the window is cut out before it is resized, so that the filter sees nothing around
    /// it.
    apart: bool,
    /// Where in the result it goes; what is around it stays black.
    target: Rectangle,
    pub mirrored: bool,
}

impl Geometry {
    /// Left, top, width and height of the window that is cut out, in whole pixels.
    #[cfg(test)]
    pub(crate) fn source_pixels(&self) -> [u32; 4] {
        let Window { left, top, width, height } = self.source;
        [left, top, width, height].map(|pixels| pixels as u32)
    }

    /// What has to be decoded of an image of that height.
    pub(crate) fn need(&self, height: u32) -> Need {
        let shrink = |source: f64, target: u32| source / f64::from(target.max(1));
        let vertical = shrink(self.source.height, self.target.height);
        // The bilinear filter reaches one pixel of the result beyond the window, or one of the
        // source if that is more.
        let reach = if self.apart { 0.0 } else { vertical.max(1.0) + 1.0 };
        let rows = (self.source.top + self.source.height + reach).ceil() as u32;
        Need { rows: rows.clamp(1, height), shrink: vertical.min(shrink(self.source.width, self.target.width)) }
    }

    /// Resizes the window of `pixels`, the decoded `part` of the image, into `result`, a square of
    /// RGB pixels.
    ///
    /// # Errors
    /// If the window does not lie in the image.
    pub(crate) fn resize(
        &self,
        part: Part,
        pixels: &[u8],
        resizer: &mut Resizer,
        result: &mut Image<'static>,
    ) -> Result<(), String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        let Rectangle { left, top, width, height } = self.target;
        let whole = (left, top, width, height) == (0, 0, result.width(), result.height());
        if !whole {
            result.buffer_mut().fill(0);
        }
        if width == 0 || height == 0 {
            return Ok(());
        }
        let source = ImageRef::new(part.width, part.height, pixels, PixelType::U8x3).map_err(|e| text(&e))?;
        // Bilinear with antialiasing: Pillow's BILINEAR, to the rounding.
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false);
        let mut shown = if whole { None } else { Some(Image::new(width, height, PixelType::U8x3)) };
        let target = shown.as_mut().unwrap_or(result);
        let scale = f64::from(part.scale);
        if self.apart && part.scale == 1 {
            let Window { left, top, width, height } = self.source;
            let cropped = CroppedImage::new(&source, left as u32, top as u32, width as u32, height as u32);
            resizer.resize(&cropped.map_err(|e| text(&e))?, target, &options).map_err(|e| text(&e))?;
        } else {
            // The last pixel of a scaled image may stand for fewer pixels of the file.
            let inside = |start: f64, length: f64, extent: u32| {
                let start = (start / scale).min(f64::from(extent));
                (start, (length / scale).min(f64::from(extent) - start))
            };
            let (left, width) = inside(self.source.left, self.source.width, part.width);
            let (top, height) = inside(self.source.top, self.source.height, part.height);
            resizer.resize(&source, target, &options.crop(left, top, width, height)).map_err(|e| text(&e))?;
        }
        if let Some(shown) = shown {
            let bytes = |pixels: u32| 3 * pixels as usize;
            let row = bytes(result.width());
            let lines = result.buffer_mut().chunks_exact_mut(row).skip(top as usize);
            for (line, shown) in lines.zip(shown.buffer().chunks_exact(bytes(width))) {
                line[bytes(left)..][..shown.len()].copy_from_slice(shown);
            }
        }
        Ok(())
    }
}

impl Normalize {
    /// Copies rows of `row` RGB pixels to `output`.
    pub(crate) fn write(&self, pixels: &[u8], row: u32, mirrored: bool, output: &mut [f32]) {
        // The same pattern of red, green and blue over a whole number of vectors.
        const PATTERN: usize = 24;
        let factor: [f32; PATTERN] = std::array::from_fn(|i| 1.0 / (255.0 * self.std[i % 3]));
        let offset: [f32; PATTERN] = std::array::from_fn(|i| -self.mean[i % 3] / self.std[i % 3]);
        let copy = |pixels: &[u8], output: &mut [f32]| {
            let (whole, rest) = pixels.as_chunks::<PATTERN>();
            let (whole_output, rest_output) = output.as_chunks_mut::<PATTERN>();
            for (pixels, output) in whole.iter().zip(whole_output) {
                for i in 0..PATTERN {
                    output[i] = f32::from(pixels[i]) * factor[i] + offset[i];
                }
            }
            for (i, (pixel, output)) in rest.iter().zip(rest_output).enumerate() {
                *output = f32::from(*pixel) * factor[i] + offset[i];
            }
        };
        if !mirrored {
            return copy(pixels, output);
        }
        let row = 3 * row as usize;
        let mut line = vec![0; row];
        for (pixels, output) in pixels.chunks_exact(row).zip(output.chunks_exact_mut(row)) {
            for (to, from) in line.as_chunks_mut::<3>().0.iter_mut().zip(pixels.as_chunks::<3>().0.iter().rev()) {
                *to = *from;
            }
            copy(&line, output);
        }
    }
}

/// torchvision's `RandomResizedCrop.get_params`: ten tries, then the largest central crop within
/// the ratio.
fn random_area(width: u32, height: u32, scale: (f64, f64), ratio: (f64, f64), rng: &mut impl Rng) -> Rectangle {
    let (w, h) = (f64::from(width), f64::from(height));
    let uniform = |rng: &mut _, low: f64, high: f64| low + (high - low) * RngExt::random::<f64>(rng);
    for _ in 0..10 {
        let target = w * h * uniform(rng, scale.0, scale.1);
        let aspect = uniform(rng, ratio.0.ln(), ratio.1.ln()).exp();
        let crop_width = (target * aspect).sqrt().round_ties_even();
        let crop_height = (target / aspect).sqrt().round_ties_even();
        if (1.0..=w).contains(&crop_width) && (1.0..=h).contains(&crop_height) {
            let (crop_width, crop_height) = (crop_width as u32, crop_height as u32);
            let top = rng.random_range(0..=height - crop_height);
            let left = rng.random_range(0..=width - crop_width);
            return Rectangle { left, top, width: crop_width, height: crop_height };
        }
    }
    let (crop_width, crop_height) = if w / h < ratio.0 {
        (width, ((w / ratio.0).round_ties_even() as u32).clamp(1, height))
    } else if w / h > ratio.1 {
        (((h * ratio.1).round_ties_even() as u32).clamp(1, width), height)
    } else {
        (width, height)
    };
    Rectangle {
        left: (width - crop_width) / 2,
        top: (height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }
}

/// torchvision's `Resize(shorter)`: the longer side is cut off to whole pixels.
fn shorter_side(width: u32, height: u32, shorter: u32) -> (u32, u32) {
    // No window is cut out so far to the side that the limit would matter.
    let limit = |side: u64| side.min(u64::from(u32::MAX / 4)) as u32;
    let longer = |long: u32, short: u32| limit(u64::from(shorter) * u64::from(long) / u64::from(short));
    if width <= height { (shorter, longer(height, width)) } else { (longer(width, height), shorter) }
}

/// Where the central `size` pixels of an extent that was resized to `resized` lie in the source:
/// start and length.
fn central_window(extent: u32, resized: u32, size: u32) -> (f64, f64) {
    // torchvision's CenterCrop; Python rounds halves to even.
    let margin = (f64::from(resized - size) / 2.0).round_ties_even();
    in_source(extent, resized, margin as u32, size)
}

/// Where `length` pixels from `start` on of an extent that was resized to `resized` lie in the
/// source: start and length.
fn in_source(extent: u32, resized: u32, start: u32, length: u32) -> (f64, f64) {
    // Multiplied before it is divided, so that a window over the whole extent is no longer than it
    // by rounding.
    let scaled = |pixels: u32| f64::from(pixels) * f64::from(extent) / f64::from(resized);
    (scaled(start), scaled(length))
}

/// The part of a window that shows the image rather than its border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    /// Its start in the image.
    source: u32,
    /// Its start in the window.
    target: u32,
    length: u32,
}

/// A random window of `size` pixels over an extent with `padding` pixels added at both ends:
/// torchvision's `RandomCrop`.
fn random_window(extent: u32, size: u32, padding: u32, rng: &mut impl Rng) -> Shown {
    let start = rng.random_range(0..=extent + 2 * padding - size);
    let (source, target) = (start.saturating_sub(padding).min(extent), padding.saturating_sub(start).min(size));
    Shown { source, target, length: (size - target).min(extent - source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::generator;
    use image::RgbImage;

    /// What a loader does with an image in memory.
    fn apply(transform: Transform, image: &RgbImage, normalize: &Normalize, rng: &mut impl Rng) -> Vec<f32> {
        let (width, height) = image.dimensions();
        let geometry = transform.geometry(width, height, rng);
        let mut result = Image::new(transform.size(), transform.size(), PixelType::U8x3);
        // As what came before left it.
        result.buffer_mut().fill(77);
        geometry.resize(Part { width, height, scale: 1 }, image, &mut Resizer::new(), &mut result).unwrap();
        let mut output = vec![f32::NAN; 3 * (transform.size() as usize).pow(2)];
        normalize.write(result.buffer(), transform.size(), geometry.mirrored, &mut output);
        output
    }

    #[test]
    fn the_shorter_side_is_resized_as_torchvision_does() {
        // torchvision.transforms.functional._compute_resized_output_size
        assert_eq!(shorter_side(500, 375, 256), (341, 256));
        assert_eq!(shorter_side(375, 500, 256), (256, 341));
        assert_eq!(shorter_side(64, 64, 64), (64, 64));
        assert_eq!(shorter_side(1, 30_000, 256), (256, 7_680_000));
        assert_eq!(shorter_side(1 << 24, 1, 256), (u32::MAX / 4, 256));
    }

    #[test]
    fn windows_never_leave_the_image() {
        let normalize = Normalize { mean: [0.0; 3], std: [1.0; 3] };
        for extent in (1..500).chain([1023, 2999]) {
            let image = RgbImage::new(extent, 3);
            for (width, height) in [(extent, extent), (extent, extent + 1)] {
                let (left, shown) = central_window(width, shorter_side(width, height, 224).0, 224);
                assert!(left >= 0.0 && left + shown <= f64::from(width), "{width}: {left} + {shown}");
            }
            let transform = Transform::ResizeCenterCrop { resize: 224, size: 224 };
            assert_eq!(
                apply(transform, &image, &normalize, &mut generator(0, 0, 0)),
                vec![0.0; 3 * 224 * 224],
                "{extent}"
            );
        }
    }

    #[test]
    fn crops_stay_inside_and_have_the_area_and_ratio_asked_for() {
        let mut rng = generator(1, 0, 0);
        for _ in 0..2000 {
            let area = random_area(500, 375, (0.25, 0.5), (0.75, 4.0 / 3.0), &mut rng);
            assert!(area.left + area.width <= 500 && area.top + area.height <= 375);
            let share = f64::from(area.width * area.height) / (500.0 * 375.0);
            let ratio = f64::from(area.width) / f64::from(area.height);
            assert!((0.245..0.505).contains(&share) && (0.74..1.35).contains(&ratio), "{area:?}");
        }
    }

    #[test]
    fn an_extreme_image_gets_the_central_crop() {
        let mut rng = generator(1, 0, 0);
        let area = random_area(1000, 10, (0.9, 1.0), (0.75, 4.0 / 3.0), &mut rng);
        assert_eq!(area, Rectangle { left: 493, top: 0, width: 13, height: 10 });
        assert_eq!(random_area(1, 1, (0.08, 1.0), (0.75, 4.0 / 3.0), &mut rng).width, 1);
    }

    #[test]
    fn padded_crops_move_the_image_over_black() {
        // Every pixel of the image differs from black and from each other.
        let image = RgbImage::from_fn(4, 4, |x, y| image::Rgb([1 + x as u8, 1 + y as u8, 9]));
        let normalize = Normalize { mean: [0.0; 3], std: [1.0 / 255.0; 3] };
        let transform =
            Transform::RandomPaddedCrop { resize: 4, size: 4, padding: 2, flip: 0.0, color: ColorJitter::default() };
        let mut starts = std::collections::HashSet::new();
        for seed in 0..400 {
            let output = apply(transform, &image, &normalize, &mut generator(seed, 0, 0));
            let pixel = |x: usize, y: usize| [0, 1, 2].map(|channel| output[3 * (4 * y + x) + channel].round() as i32);
            // The one shift that explains the pixels.
            let explains = |dx: i32, dy: i32| {
                (0..16).all(|i| {
                    let (x, y) = (i % 4 + dx, i / 4 + dy);
                    let inside = (0..4).contains(&x) && (0..4).contains(&y);
                    pixel(i as usize % 4, i as usize / 4) == if inside { [1 + x, 1 + y, 9] } else { [0, 0, 0] }
                })
            };
            let shifts: Vec<_> =
                (-2..=2).flat_map(|dx| (-2..=2).map(move |dy| (dx, dy))).filter(|&(dx, dy)| explains(dx, dy)).collect();
            assert_eq!(shifts.len(), 1, "seed {seed}: {output:?}");
            starts.insert(shifts[0]);
        }
        assert_eq!(starts.len(), 25, "every window comes up");
    }

    #[test]
    fn padding_wider_than_the_window_can_leave_it_black() {
        for start in 0..200 {
            let shown = random_window(3, 2, 5, &mut generator(start, 0, 0));
            assert!(shown.target + shown.length <= 2 && shown.source + shown.length <= 3, "{shown:?}");
        }
    }

    #[test]
    fn the_center_is_cut_out_and_normalized() {
        // Red grows to the right, green downwards; no resizing takes place.
        let image = RgbImage::from_fn(6, 4, |x, y| image::Rgb([10 * x as u8, 10 * y as u8, 255]));
        let normalize = Normalize { mean: [0.0, 0.0, 0.5], std: [1.0 / 255.0, 1.0 / 255.0, 0.25] };
        let transform = Transform::ResizeCenterCrop { resize: 4, size: 2 };
        let output = apply(transform, &image, &normalize, &mut generator(0, 0, 0));
        let expected = [20.0, 10.0, 2.0, 30.0, 10.0, 2.0, 20.0, 20.0, 2.0, 30.0, 20.0, 2.0];
        assert!(output.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{output:?}");
    }

    #[test]
    fn a_flip_mirrors_left_and_right() {
        let image = RgbImage::from_fn(2, 2, |x, _| image::Rgb([255 * x as u8, 0, 0]));
        let normalize = Normalize { mean: [0.0; 3], std: [1.0; 3] };
        let red = |flip| {
            let transform = Transform::RandomResizedCrop {
                size: 2,
                scale: (1.0, 1.0),
                ratio: (1.0, 1.0),
                flip,
                color: ColorJitter::default(),
            };
            let output = apply(transform, &image, &normalize, &mut generator(0, 0, 0));
            [output[0], output[3]]
        };
        assert_eq!(red(0.0), [0.0, 1.0]);
        assert_eq!(red(1.0), [1.0, 0.0]);
    }
}
