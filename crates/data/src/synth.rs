//! A sample set drawn by the program itself, so that the whole pipeline can be tried without
//! downloading anything.
//!
//! Ten classes of shapes as JPEG files in ImageNet layout. Every image has a difficulty in [0, 1]
//! that is part of its file name. An easy one shows a large upright shape in its class's own color
//! on a plain gray ground: the color alone gives it away. A hard one is small, turned and pale, its
//! color wanders towards the neighboring classes', and texture and clutter half hide it: only the
//! shape tells. A network with gates that look at the input can spend less on the easy ones.

use crate::error::{Error, Result};
use crate::sampler::generator;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use rand::{Rng, RngExt};
use rayon::prelude::*;
use std::f32::consts::{PI, TAU};
use std::fs;
use std::path::{Path, PathBuf};

/// How large the set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleSet {
    /// Training images per class.
    pub train_per_class: usize,
    /// Validation images per class.
    pub val_per_class: usize,
    /// Every image is a function of this seed, its split, its class and its number.
    pub seed: u64,
}

impl Default for SampleSet {
    fn default() -> Self {
        Self { train_per_class: 300, val_per_class: 50, seed: 0 }
    }
}

/// A shape within the unit circle, and the class it makes.
struct Shape {
    name: &'static str,
    outline: Outline,
}

enum Outline {
    /// Corners, in order.
    Polygon(&'static [(f32, f32)]),
    Disc,
    Ring,
    Crescent,
    /// Two bars, one above the other.
    Bars,
}

const SHAPES: [Shape; 10] = [
    Shape {
        name: "arrow",
        outline: Outline::Polygon(&[
            (0.0, -1.0),
            (0.8, -0.1),
            (0.3, -0.1),
            (0.3, 1.0),
            (-0.3, 1.0),
            (-0.3, -0.1),
            (-0.8, -0.1),
        ]),
    },
    Shape { name: "bars", outline: Outline::Bars },
    Shape { name: "crescent", outline: Outline::Crescent },
    Shape {
        name: "cross",
        outline: Outline::Polygon(&[
            (-0.3, -1.0),
            (0.3, -1.0),
            (0.3, -0.3),
            (1.0, -0.3),
            (1.0, 0.3),
            (0.3, 0.3),
            (0.3, 1.0),
            (-0.3, 1.0),
            (-0.3, 0.3),
            (-1.0, 0.3),
            (-1.0, -0.3),
            (-0.3, -0.3),
        ]),
    },
    Shape { name: "disc", outline: Outline::Disc },
    Shape {
        name: "hourglass",
        outline: Outline::Polygon(&[(-0.8, -0.9), (0.8, -0.9), (0.15, 0.0), (0.8, 0.9), (-0.8, 0.9), (-0.15, 0.0)]),
    },
    Shape { name: "ring", outline: Outline::Ring },
    Shape { name: "square", outline: Outline::Polygon(&[(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)]) },
    Shape {
        name: "star",
        outline: Outline::Polygon(&[
            (0.0, -1.0),
            (0.24, -0.32),
            (0.95, -0.31),
            (0.38, 0.12),
            (0.59, 0.81),
            (0.0, 0.4),
            (-0.59, 0.81),
            (-0.38, 0.12),
            (-0.95, -0.31),
            (-0.24, -0.32),
        ]),
    },
    Shape { name: "triangle", outline: Outline::Polygon(&[(0.0, -1.0), (0.9, 0.75), (-0.9, 0.75)]) },
];

/// Draws the set into a new folder `root`.
///
/// It is drawn beside its place and moved there when it is whole, so `root` holds everything or
/// does not exist.
///
/// # Errors
/// If `root` exists or a file cannot be written.
pub fn draw(root: &Path, set: &SampleSet) -> Result<()> {
    if root.exists() {
        return Err(Error::Exists { path: root.to_owned() });
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Write { path, source }
    };
    let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(failed(parent))?;
    let scratch = tempfile::Builder::new().prefix(".sample-set-").tempdir_in(parent).map_err(failed(parent))?;
    let mut jobs = Vec::new();
    for (split, count) in [("train", set.train_per_class), ("val", set.val_per_class)] {
        for (class, shape) in SHAPES.iter().enumerate() {
            let folder = scratch.path().join(split).join(shape.name);
            fs::create_dir_all(&folder).map_err(failed(&folder))?;
            jobs.extend((0..count).map(|number| (folder.clone(), split, class, number)));
        }
    }
    jobs.par_iter().try_for_each(|(folder, split, class, number)| {
        let mut rng = generator(set.seed, u64::from(*split == "val") << 32 | *class as u64, *number as u64);
        let difficulty: f32 = rng.random();
        let image = picture(*class, difficulty, &mut rng);
        let quality = rng.random_range(70..=95);
        let path = folder.join(format!("{number:04}-difficulty-{difficulty:.2}.jpg"));
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, quality)
            .encode_image(&image)
            .map_err(|error| failed(&path)(std::io::Error::other(error)))?;
        fs::write(&path, bytes).map_err(failed(&path))
    })?;
    // The scratch folder was made for its owner alone; the set is as readable as any other folder.
    let finished: PathBuf = scratch.keep();
    open_to_others(&finished).map_err(failed(&finished))?;
    fs::rename(&finished, root).map_err(|source| {
        // Whatever went wrong, leave nothing behind; the rename's own error is the one to tell.
        let _ = fs::remove_dir_all(&finished);
        Error::Write { path: root.to_owned(), source }
    })
}

#[cfg(unix)]
fn open_to_others(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn open_to_others(_: &Path) -> std::io::Result<()> {
    Ok(())
}

/// One image: ground, clutter, shape, noise.
fn picture(class: usize, difficulty: f32, rng: &mut impl Rng) -> RgbImage {
    let outline = &SHAPES[class].outline;
    let between = |rng: &mut _, low: f32, high: f32| low + (high - low) * RngExt::random::<f32>(rng);
    let (width, height) = (rng.random_range(72..=144), rng.random_range(72..=144));
    let short = width.min(height) as f32;

    let gray = between(rng, 0.2, 0.8);
    let ground = [0; 3].map(|_: i32| gray + between(rng, -0.15, 0.15) * difficulty);
    let accent = color(between(rng, 0.0, 1.0), 0.6, between(rng, 0.3, 0.9));
    let wandering = between(rng, -1.0, 1.0) * (0.02 + 0.1 * difficulty);
    let hue = class as f32 / SHAPES.len() as f32 + wandering;
    // Dark on light or light on dark, so that the shape stands out.
    let value = if gray > 0.5 { between(rng, 0.3, 0.5) } else { between(rng, 0.8, 1.0) };
    let ink = color(hue, 0.9 - 0.4 * difficulty, value);
    let texture =
        Texture { strength: 0.25 * difficulty, frequency: between(rng, 0.15, 0.5), direction: between(rng, 0.0, TAU) };
    let radius = short * (0.42 - 0.2 * difficulty) * between(rng, 0.9, 1.1);
    let turn = between(rng, -1.0, 1.0) * (0.1 + difficulty * 0.4 * PI);
    let room = |extent: f32| (extent / 2.0 - radius).max(0.0);
    let mut center =
        |extent: u32| extent as f32 / 2.0 + between(rng, -1.0, 1.0) * room(extent as f32) * (0.2 + 0.8 * difficulty);
    let (x0, y0) = (center(width), center(height));
    let lines: Vec<Line> = (0..(8.0 * difficulty) as usize)
        .map(|_| Line {
            from: (between(rng, 0.0, width as f32), between(rng, 0.0, height as f32)),
            direction: between(rng, 0.0, TAU),
            thickness: between(rng, 0.5, 1.5),
            over: rng.random_bool(0.5),
        })
        .collect();
    let noise = 0.02 + 0.1 * difficulty;

    let (sin, cos) = turn.sin_cos();
    RgbImage::from_fn(width, height, |x, y| {
        let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
        let (dx, dy) = ((x - x0) / radius, (y - y0) / radius);
        let inside = coverage(outline.distance(cos * dx + sin * dy, cos * dy - sin * dx) * radius);
        let line =
            |over| lines.iter().filter(|line| line.over == over).map(|line| line.coverage(x, y)).fold(0.0, f32::max);
        let wave = texture.at(x, y);
        let grain = [0; 3].map(|_: i32| between(rng, -noise, noise));
        let value = |channel: usize| {
            let mut value = ground[channel] + wave;
            value = mix(value, accent[channel], line(false));
            value = mix(value, ink[channel], inside);
            value = mix(value, accent[channel], line(true));
            ((value + grain[channel]).clamp(0.0, 1.0) * 255.0).round() as u8
        };
        Rgb([value(0), value(1), value(2)])
    })
}

/// A color from hue (1 is once around), saturation and value.
fn color(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [0.0, 2.0 / 3.0, 1.0 / 3.0].map(|offset| {
        let distance = ((hue + offset).rem_euclid(1.0) * 6.0 - 3.0).abs() - 1.0;
        value * (1.0 - saturation + saturation * distance.clamp(0.0, 1.0))
    })
}

/// A wave over the ground.
struct Texture {
    strength: f32,
    frequency: f32,
    direction: f32,
}

impl Texture {
    fn at(&self, x: f32, y: f32) -> f32 {
        let (sin, cos) = self.direction.sin_cos();
        self.strength
            * (self.frequency * (x * cos + y * sin)).sin()
            * (0.37 * self.frequency * (y * cos - x * sin)).cos()
    }
}

/// A line across the image, under or over the shape.
struct Line {
    from: (f32, f32),
    direction: f32,
    thickness: f32,
    over: bool,
}

impl Line {
    fn coverage(&self, x: f32, y: f32) -> f32 {
        let (sin, cos) = self.direction.sin_cos();
        coverage(((x - self.from.0) * sin - (y - self.from.1) * cos).abs() - self.thickness)
    }
}

impl Outline {
    /// Signed distance to the outline, negative inside, in units of the shape's radius.
    fn distance(&self, x: f32, y: f32) -> f32 {
        let disc = |x: f32, y: f32, radius: f32| x.hypot(y) - radius;
        match self {
            Self::Polygon(corners) => polygon_distance(corners, x, y),
            Self::Disc => disc(x, y, 0.9),
            Self::Ring => (x.hypot(y) - 0.72).abs() - 0.2,
            Self::Crescent => disc(x, y, 0.95).max(-disc(x - 0.42, y, 0.78)),
            Self::Bars => (x.abs() - 0.9).max(((y.abs() - 0.5).abs()) - 0.27),
        }
    }
}

/// Distance to the nearest edge, negative inside (crossing number).
fn polygon_distance(corners: &[(f32, f32)], x: f32, y: f32) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    for (i, &(bx, by)) in corners.iter().enumerate() {
        let (ax, ay) = corners[(i + corners.len() - 1) % corners.len()];
        let (ex, ey, px, py) = (bx - ax, by - ay, x - ax, y - ay);
        let along = ((px * ex + py * ey) / (ex * ex + ey * ey)).clamp(0.0, 1.0);
        nearest = nearest.min((px - along * ex).hypot(py - along * ey));
        if (ay > y) != (by > y) && x < ax + ex * (y - ay) / ey {
            inside = !inside;
        }
    }
    if inside { -nearest } else { nearest }
}

/// How much of a pixel lies inside, from the signed distance of its center in pixels.
fn coverage(distance: f32) -> f32 {
    (0.5 - distance).clamp(0.0, 1.0)
}

fn mix(below: f32, above: f32, share: f32) -> f32 {
    below + (above - below) * share
}
