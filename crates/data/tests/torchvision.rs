//! The evaluation transform against Pillow and torchvision; skips where that Python is not set up.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use data::synth::{SampleSet, draw};
use data::{Dataset, Loader, Normalise, Order, Transform};
use std::io::Write;
use std::path::Path;
use std::process::Command;

#[test]
fn evaluation_sees_torchvisions_pixels() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join(".venv/bin/python");
    if !python.exists() {
        // Past the test harness, which would swallow it.
        let _ = writeln!(std::io::stderr(), "skipped: no torchvision at {} (make setup brings it)", python.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set");
    draw(&set, &SampleSet { train_per_class: 3, val_per_class: 1, seed: 5 }).unwrap();
    let train = Dataset::open(&set).unwrap().train;
    let paths: Vec<_> = train.items.iter().map(|item| item.path.clone()).collect();
    // Down, up, and a margin of half a pixel.
    for (resize, size) in [(64, 56), (160, 144), (71, 64)] {
        let out = folder.path().join("expected");
        let script = Command::new(&python)
            .arg(root.join("scripts/torchvision_transform.py"))
            .args([resize.to_string(), size.to_string()])
            .arg(&out)
            .args(&paths)
            .status()
            .unwrap();
        assert!(script.success());
        let expected = std::fs::read(&out).unwrap();
        let identity = Normalise { mean: [0.0; 3], std: [1.0 / 255.0; 3] };
        let transform = Transform::ResizeCenterCrop { resize, size };
        let loader = Loader::new(train.clone(), transform, identity, Order::InOrder, 8, 2, 2).unwrap();
        let pixels: Vec<f32> = loader.epoch(0, 0).unwrap().flat_map(|batch| batch.pixels).collect();
        assert_eq!(pixels.len(), expected.len());
        let image_values = 3 * (size * size) as usize;
        for (image, (ours, theirs)) in pixels.chunks(image_values).zip(expected.chunks(image_values)).enumerate() {
            let sum: f32 = ours.iter().zip(theirs).map(|(a, b)| (a - f32::from(*b)).abs()).sum();
            let mean = sum / image_values as f32;
            assert!(mean < 0.6, "{}: {mean} grey levels on average at {size} pixels", paths[image].display());
        }
    }
}
