//! Pixels against Pillow's and torchvision's; skips where that Python is not set up.

#![cfg(test)]

use crate::batches::color::{Change, ColorJitter};
use crate::batches::loader::{Loader, LoaderOptions, Order};
use crate::batches::transform::{Normalize, Transform};
use crate::decode::formats::decode_part;
use crate::decode::part::Need;
use crate::sampler::generator;
use crate::source::Source;
use crate::sources::dataset::Dataset;
use crate::sources::split::Split;
use crate::synth::{SampleSet, draw};
use reference::{PyTorch, deciles, piped, repository, skip};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// In gray levels: a loader that is faithful cannot be told from torchvision by what a network
/// learns.
const MEAN_DIFFERENCE: f32 = 0.6;
const SEED: u64 = 11;

fn drawn(folder: &Path) -> Arc<dyn Source> {
    let set = folder.join("set");
    draw(&set, &SampleSet { train_per_class: 3, val_per_class: 1, seed: 5 }).unwrap();
    Dataset::open(&set).unwrap().train
}

/// Photographs of ImageNet, where they are.
fn photographs(folder: &Path) -> Option<Arc<dyn Source>> {
    let images = repository().join("../shared/data/imagenet-sample-500.tar");
    if !images.exists() {
        skip(&format!("no photographs at {}", images.display()));
        return None;
    }
    let photographs = folder.join("photographs");
    std::fs::create_dir(&photographs).unwrap();
    assert!(Command::new("tar").arg("-xf").arg(&images).arg("-C").arg(&photographs).status().unwrap().success());
    Some(Arc::new(Split::open(&photographs).unwrap()))
}

/// Mean difference in gray levels of every image between the loader and torchvision, which is told
/// the loader's crops.
fn differences(pytorch: &PyTorch, source: &Arc<dyn Source>, transform: Transform, folder: &Path) -> Vec<f32> {
    let size = transform.size();
    let order =
        if matches!(transform, Transform::ResizeCenterCrop { .. }) { Order::InOrder } else { Order::Shuffled(SEED) };
    let normalize = Normalize { mean: [0.0; 3], std: [1.0 / 255.0; 3] };
    let options = LoaderOptions { transform, normalize, order, batch_size: 10, threads: 2, ..LoaderOptions::default() };
    let loader = Loader::new(Arc::clone(source), options).unwrap();
    let (mut items, mut pixels) = (Vec::new(), Vec::new());
    for batch in loader.epoch(0, 0).unwrap() {
        assert_eq!(batch.bad, []);
        items.extend(batch.items.iter().copied());
        pixels.extend_from_slice(&batch.pixels);
    }
    assert!(items.len() + 10 > source.len());
    let entry = |&item: &usize| -> Value {
        let path = source.path(item);
        if let Transform::ResizeCenterCrop { resize, size } = transform {
            return json!({ "path": path, "size": size, "resize": resize });
        }
        let (width, height) = image::image_dimensions(&path).unwrap();
        let geometry = transform.geometry(width, height, &mut generator(SEED, 0, item as u64));
        json!({ "path": path, "size": size, "crop": geometry.source_pixels(), "mirrored": geometry.mirrored })
    };
    let list = items.iter().map(entry).collect::<Vec<_>>();
    let out = folder.join("expected");
    piped(pytorch.script("torchvision_transform.py").arg(&out), &list);
    let expected = std::fs::read(&out).unwrap();
    assert_eq!(pixels.len(), expected.len());
    let values = 3 * (size * size) as usize;
    let mean = |(ours, theirs): (&[f32], &[u8])| {
        ours.iter().zip(theirs).map(|(a, b)| (a - f32::from(*b)).abs()).sum::<f32>() / values as f32
    };
    pixels.chunks(values).zip(expected.chunks(values)).map(mean).collect()
}

fn crop(size: u32) -> Transform {
    let (scale, ratio, color) = ((0.08, 1.0), (0.75, 4.0 / 3.0), ColorJitter::default());
    Transform::RandomResizedCrop { size, scale, ratio, flip: 0.5, color }
}

fn assert_faithful(pytorch: &PyTorch, source: &Arc<dyn Source>, transforms: &[Transform], folder: &Path) {
    for &transform in transforms {
        let differences = differences(pytorch, source, transform, folder);
        let mean = differences.iter().sum::<f32>() / differences.len() as f32;
        let most = differences.iter().copied().fold(0.0, f32::max);
        assert!(most < MEAN_DIFFERENCE, "{transform:?}: {mean} gray levels on average, {most} in one image");
    }
}

#[test]
fn colors_change_as_torchvision_changes_them() {
    let Some(pytorch) = PyTorch::find() else { return };
    // Every corner and edge of the cube of colors, grays, and what lies between.
    let levels = [0u8, 1, 64, 100, 128, 200, 254, 255];
    let pixels: Vec<u8> =
        levels.iter().flat_map(|r| levels.iter().flat_map(move |g| levels.map(|b| [*r, *g, b]))).flatten().collect();
    let changes: [(&str, f64, Change); 12] = [
        ("brightness", 0.4, Change::Brightness(0.4)),
        ("brightness", 1.7, Change::Brightness(1.7)),
        ("contrast", 0.0, Change::Contrast(0.0)),
        ("contrast", 0.35, Change::Contrast(0.35)),
        ("contrast", 1.6, Change::Contrast(1.6)),
        ("saturation", 0.0, Change::Saturation(0.0)),
        ("saturation", 0.45, Change::Saturation(0.45)),
        ("saturation", 1.8, Change::Saturation(1.8)),
        ("hue", 0.1, Change::Hue(0.1)),
        ("hue", -0.3, Change::Hue(-0.3)),
        ("hue", 0.5, Change::Hue(0.5)),
        ("hue", -0.5, Change::Hue(-0.5)),
    ];
    let calls = changes
        .map(|(change, factor, _)| json!(["recolored", { "pixels": pixels, "change": change, "factor": factor }]));
    for ((name, factor, change), expected) in changes.into_iter().zip(pytorch.call(&calls)) {
        let expected: Vec<u8> = serde_json::from_value(expected).unwrap();
        let mut found = pixels.clone();
        change.apply(&mut found);
        assert_eq!(found.len(), expected.len());
        // torchvision truncates to whole numbers after turning the hue; here they are rounded.
        let allowed = u8::from(name == "hue");
        let worst = found.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(allowed), "{name} {factor}: {worst:?} gray levels");
    }
}

#[test]
fn crops_are_distributed_as_torchvisions() {
    let Some(pytorch) = PyTorch::find() else { return };
    for (width, height) in [(500, 375), (100, 300)] {
        let count = 20_000;
        let calls = [json!(["cropped", { "width": width, "height": height, "count": count }])];
        let expected: Vec<[u32; 4]> = serde_json::from_value(pytorch.call(&calls)[0].clone()).unwrap();
        let found: Vec<[u32; 4]> = (0..count)
            .map(|item| {
                let geometry = crop(224).geometry(width, height, &mut generator(SEED, 0, item));
                let [left, top, width, height] = geometry.source_pixels();
                [top, left, height, width]
            })
            .collect();
        for of_crop in 0..4 {
            let of = |crops: &[[u32; 4]]| deciles(crops.iter().map(|crop| i64::from(crop[of_crop])).collect());
            let (found, expected) = (of(&found), of(&expected));
            // Deciles of two samples of 20,000 differ by up to a percent of their range.
            let allowed = u64::from(1 + width.max(height) / 80);
            let close = found.iter().zip(&expected).all(|(a, b)| a.abs_diff(*b) <= allowed);
            assert!(close, "{of_crop} of top, left, height, width: {found:?} and {expected:?}");
        }
    }
}

#[test]
fn drawn_images_look_as_torchvision_prepares_them() {
    let Some(pytorch) = PyTorch::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = drawn(folder.path());
    let evaluations = [(64, 56), (160, 144), (71, 64)]; // down, up, and a margin of half a pixel
    let mut transforms = evaluations.map(|(resize, size)| Transform::ResizeCenterCrop { resize, size }).to_vec();
    transforms.extend([24, 64, 150].map(crop));
    assert_faithful(&pytorch, &source, &transforms, folder.path());
}

#[test]
fn photographs_look_as_torchvision_prepares_them() {
    let Some(pytorch) = PyTorch::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let Some(source) = photographs(folder.path()) else { return };
    // As networks see them; small ones, for which large images are decoded at a fraction of their
    // size.
    let evaluations = [(256, 224), (36, 32)];
    let mut transforms = evaluations.map(|(resize, size)| Transform::ResizeCenterCrop { resize, size }).to_vec();
    transforms.extend([224, 32].map(crop));
    assert_faithful(&pytorch, &source, &transforms, folder.path());
}

#[test]
fn jpegs_of_every_kind_decode_to_pillows_pixels() {
    let Some(pytorch) = PyTorch::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
import sys
from PIL import Image
folder = sys.argv[1]
red, green = Image.linear_gradient("L"), Image.radial_gradient("L")
image = Image.merge("RGB", [red, green, red.rotate(90)]).resize((83, 61))
ink = Image.merge("CMYK", [red, green, red.rotate(90), green.point(lambda v: v // 3)]).resize((83, 61))
kinds = {
    "plain": (image, {}), "full": (image, {"subsampling": 0}), "half": (image, {"subsampling": 1}),
    "progressive": (image, {"progressive": True}), "restarts": (image, {"restart_marker_rows": 1}),
    "gray": (image.convert("L"), {}), "ink": (ink, {}),
}
for name, (picture, options) in kinds.items():
    picture.save(f"{folder}/{name}.jpg", quality=90, **options)
    open(f"{folder}/{name}.raw", "wb").write(Image.open(f"{folder}/{name}.jpg").convert("RGB").tobytes())
"#;
    assert!(pytorch.command().args(["-c", script]).arg(folder.path()).status().unwrap().success());
    for kind in ["plain", "full", "half", "progressive", "restarts", "gray", "ink"] {
        let file = |ending: &str| std::fs::read(folder.path().join(format!("{kind}.{ending}"))).unwrap();
        let (mut bytes, expected) = (file("jpg"), file("raw"));
        let untouched = bytes.clone();
        for rows in [61, 40, 16, 1] {
            let mut pixels = Vec::new();
            let part = decode_part(&mut bytes, &mut pixels, |_, _| Need { rows, shrink: 1.0 }).unwrap();
            assert_eq!(part.width, 83);
            assert!(
                part.height >= rows && (kind == "progressive" || part.height <= rows.next_multiple_of(16) + 16),
                "{kind}"
            );
            let needed = 3 * 83 * rows as usize;
            assert_eq!(pixels[..needed], expected[..needed], "{kind}, {rows} rows");
            assert_eq!(bytes, untouched);
        }
    }
}

#[test]
fn the_upper_rows_of_drawn_and_damaged_files_are_pillows() {
    let Some(pytorch) = PyTorch::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for options in [&["300", "3", "plain"][..], &["300", "4"]] {
        assert!(pytorch.script("jpeg_differential.py").arg(folder.path()).args(options).status().unwrap().success());
        let entries = std::fs::read(folder.path().join("list.json")).unwrap();
        let entries: Vec<Value> = serde_json::from_slice(&entries).unwrap();
        for (number, entry) in entries.iter().enumerate() {
            // Where Pillow finds fault with what lies further down there is nothing to compare with.
            let Some(height) = entry["height"].as_u64() else { continue };
            let file = |ending: &str| std::fs::read(folder.path().join(format!("{number}.{ending}"))).unwrap();
            let (mut bytes, expected) = (file("jpg"), file("rgb"));
            // From another image, as in the loader.
            let mut pixels = vec![77; 9999];
            for rows in [1, height.div_ceil(3) as u32, height.div_ceil(2) as u32, height as u32] {
                let Ok(part) = decode_part(&mut bytes, &mut pixels, |_, _| Need { rows, shrink: 1.0 }) else {
                    continue;
                };
                let needed = 3 * part.width as usize * rows as usize;
                assert!(pixels[..needed] == expected[..needed], "{number} of {options:?}, {rows} rows: {entry}");
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "only {compared} parts");
}
