//! Folders to batches: what is found, what comes when, and what happens to bad files.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use data::synth::{SampleSet, draw};
use data::{Batch, ColourJitter, Dataset, Loader, Normalise, Order, Split, Transform, decode};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const NORMALISE: Normalise = Normalise { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
const TRAIN: Transform =
    Transform::RandomResizedCrop { size: 16, scale: (0.3, 1.0), ratio: (0.75, 4.0 / 3.0), flip: 0.5, colour: COLOUR };
/// Colours change too, so that every random choice is part of what is tested.
const COLOUR: ColourJitter = ColourJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
const EVALUATE: Transform = Transform::ResizeCenterCrop { resize: 18, size: 16 };

fn sample_set() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("set");
    draw(&root, &SampleSet { train_per_class: 5, val_per_class: 2, seed: 1 }).expect("the set is drawn");
    (folder, root)
}

fn batches(split: &Split, order: Order, threads: usize, epoch: u64, first: usize) -> Vec<Batch> {
    let transform = if order == Order::InOrder { EVALUATE } else { TRAIN };
    let loader = Loader::new(split.clone(), transform, NORMALISE, order, 8, threads, 2).expect("threads start");
    loader.epoch(epoch, first).expect("the thread starts").collect()
}

#[test]
fn the_seed_alone_decides_what_a_batch_holds() {
    let (_folder, root) = sample_set();
    let train = Dataset::open(&root).unwrap().train;
    let once = batches(&train, Order::Shuffled(7), 1, 3, 0);
    assert_eq!(once.len(), 6);
    assert_eq!(once, batches(&train, Order::Shuffled(7), 4, 3, 0), "threads do not matter");
    assert_eq!(once[4..], batches(&train, Order::Shuffled(7), 2, 3, 4), "an epoch can be entered anywhere");
    let other_epoch = batches(&train, Order::Shuffled(7), 1, 4, 0);
    assert_ne!(once[0].items, other_epoch[0].items);
    assert_ne!(once[0].items, batches(&train, Order::Shuffled(8), 1, 3, 0)[0].items);
}

#[test]
fn an_epoch_holds_every_image_at_most_once_and_full_batches() {
    let (_folder, root) = sample_set();
    let train = Dataset::open(&root).unwrap().train;
    let items: Vec<usize> = batches(&train, Order::Shuffled(7), 2, 0, 0).into_iter().flat_map(|b| b.items).collect();
    assert_eq!(items.len(), 48, "50 images, batches of 8");
    assert_eq!(items.iter().collect::<HashSet<_>>().len(), 48);
}

#[test]
fn evaluation_sees_every_image_in_order() {
    let (_folder, root) = sample_set();
    let val = Dataset::open(&root).unwrap().val;
    let all = batches(&val, Order::InOrder, 2, 0, 0);
    assert_eq!(all.iter().map(|b| b.labels.len()).collect::<Vec<_>>(), [8, 8, 4]);
    let items: Vec<usize> = all.iter().flat_map(|batch| batch.items.clone()).collect();
    assert_eq!(items, (0..20).collect::<Vec<_>>());
    let labels: Vec<i64> = all.iter().flat_map(|batch| batch.labels.clone()).collect();
    assert_eq!(labels, (0..20).map(|i| i / 2).collect::<Vec<_>>());
    assert!(all.iter().all(|batch| batch.pixels.len() == batch.labels.len() * 16 * 16 * 3));
}

#[test]
fn dropping_the_batches_stops_the_loader() {
    let (_folder, root) = sample_set();
    let train = Dataset::open(&root).unwrap().train;
    let loader = Loader::new(train, TRAIN, NORMALISE, Order::Shuffled(1), 2, 2, 1).unwrap();
    for _ in 0..20 {
        let mut epoch = loader.epoch(0, 0).unwrap();
        assert_eq!(epoch.next().unwrap().number, 0);
        // Drop joins the producer: a thread that hung would hang the test here.
    }
}

#[test]
fn bad_images_are_left_out_and_named() {
    let (_folder, root) = sample_set();
    let class = root.join("val/disc");
    let whole = fs::read(fs::read_dir(&class).unwrap().next().unwrap().unwrap().path()).unwrap();
    for entry in fs::read_dir(&class).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::write(class.join("1-empty.jpg"), b"").unwrap();
    fs::write(class.join("2-text.JPEG"), b"this is not an image").unwrap();
    fs::write(class.join("3-cut.jpg"), &whole[..whole.len() / 2]).unwrap();
    fs::write(class.join("4-whole.png"), &whole).unwrap();
    let val = Dataset::open(&root).unwrap().val;
    let all = batches(&val, Order::InOrder, 2, 0, 0);
    let bad: Vec<String> = all.iter().flat_map(|batch| &batch.bad).map(ToString::to_string).collect();
    assert_eq!(bad.len(), 3);
    for (text, (name, reason)) in bad.iter().zip([
        ("1-empty.jpg", "the file is empty"),
        ("2-text.JPEG", "not an image in a known format"),
        ("3-cut.jpg", "ends too early"),
    ]) {
        assert!(text.contains(name) && text.contains(reason), "{text}");
    }
    let images: usize = all.iter().map(|batch| batch.labels.len()).sum();
    assert_eq!(images, val.items.len() - 3);
    // What follows a gap is still the right image under the right label.
    let position = val.items.iter().position(|item| item.path.ends_with("4-whole.png")).unwrap();
    let (batch, place) =
        all.iter().find_map(|batch| Some((batch, batch.items.iter().position(|&item| item == position)?))).unwrap();
    let alone = Split { items: vec![val.items[position].clone()], ..val.clone() };
    let alone = batches(&alone, Order::InOrder, 1, 0, 0);
    assert_eq!(batch.pixels[place * 768..(place + 1) * 768], alone[0].pixels);
    assert_eq!(batch.labels[place], alone[0].labels[0]);
}

#[test]
fn a_jpeg_cut_anywhere_is_bad() {
    let (folder, root) = sample_set();
    let first = Dataset::open(&root).unwrap().train.items[0].path.clone();
    let whole = fs::read(first).unwrap();
    let path = folder.path().join("cut.jpg");
    for length in (0..whole.len()).step_by(7).chain(whole.len() - 4..whole.len()) {
        fs::write(&path, &whole[..length]).unwrap();
        assert!(decode(&path).is_err(), "{length} of {} bytes", whole.len());
    }
    fs::write(&path, &whole).unwrap();
    assert!(decode(&path).is_ok());
}

#[test]
fn a_header_that_claims_too_much_is_bad() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.pgm");
    fs::write(&path, b"P5 60000 60000 255\n").unwrap();
    assert!(decode(&path).is_err());
}

fn put(root: &Path, names: &[&str]) {
    for name in names {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("names have folders")).expect("folder is made");
        fs::write(path, b"x").expect("file is written");
    }
}

fn fault(root: &Path) -> String {
    Dataset::open(root).unwrap_err().to_string()
}

#[test]
fn the_index_finds_images_in_natural_order() {
    let folder = tempfile::tempdir().unwrap();
    put(
        folder.path(),
        &["train/n10/2.JPEG", "train/n10/10.jpg", "train/n10/deep/1.Png", "train/n9/a.webp", "train/n9/notes.txt"],
    );
    put(folder.path(), &["val/n9/a.jpg", "val/n10/a.jpg", "val/n10/.hidden.jpg", "val/.cache/a.jpg"]);
    let dataset = Dataset::open(folder.path()).unwrap();
    assert_eq!(dataset.classes(), ["n9", "n10"]);
    let names: Vec<_> = dataset.train.items.iter().map(|i| i.path.strip_prefix(&dataset.train.root).unwrap()).collect();
    assert_eq!(names, ["n9/a.webp", "n10/2.JPEG", "n10/10.jpg", "n10/deep/1.Png"].map(Path::new));
    assert_eq!((dataset.train.ignored, dataset.train.images_per_class()), (1, vec![1, 3]));
    assert_eq!(dataset.val.items.len(), 2);
}

#[test]
fn folders_that_are_no_data_set_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(fault(&root.join("absent")).contains("cannot read"));
    assert!(fault(root).contains("has no folder 'train'"));
    put(root, &["train/a/1.jpg"]);
    assert!(fault(root).contains("has no folder 'val'"));
    fs::create_dir(root.join("val")).unwrap();
    assert!(fault(root).contains("val holds no images; looked for CLASS/IMAGE with the endings jpg, jpeg"));
    put(root, &["val/a/1.jpg", "val/b/1.jpg", "train/c/1.jpg"]);
    assert!(fault(root).contains("classes only in train/: c; only in val/: b"));
    put(root, &["train/b/readme.txt", "val/c/1.jpg"]);
    assert!(fault(root).contains("class folders without images") && fault(root).contains("train/b"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    put(root, &["elsewhere/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg"]);
    std::os::unix::fs::symlink(root.join("elsewhere"), root.join("train/a")).unwrap();
    std::os::unix::fs::symlink(root.join("train/b"), root.join("train/b/again")).unwrap();
    std::os::unix::fs::symlink(root.join("nowhere.jpg"), root.join("val/b/gone.jpg")).unwrap();
    let dataset = Dataset::open(root).unwrap();
    assert_eq!((dataset.train.items.len(), dataset.train.ignored), (2, 1));
    assert_eq!((dataset.val.items.len(), dataset.val.ignored), (2, 1));
}

#[test]
fn the_sample_set_is_a_function_of_its_seed_and_never_overwrites() {
    let (folder, root) = sample_set();
    let dataset = Dataset::open(&root).unwrap();
    assert_eq!((dataset.classes().len(), dataset.train.items.len(), dataset.val.items.len()), (10, 50, 20));
    let set = SampleSet { train_per_class: 5, val_per_class: 2, seed: 1 };
    let again = folder.path().join("again");
    draw(&again, &set).unwrap();
    let other = folder.path().join("other");
    draw(&other, &SampleSet { seed: 2, ..set }).unwrap();
    let bytes = |root: &Path| -> Vec<Vec<u8>> {
        Dataset::open(root).unwrap().train.items.iter().map(|item| fs::read(&item.path).unwrap()).collect()
    };
    assert_eq!(bytes(&root), bytes(&again));
    assert_ne!(bytes(&root), bytes(&other));
    assert!(draw(&root, &set).unwrap_err().to_string().contains("exists"));
    let left = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 3, "nothing but the three sets");
}

#[test]
fn sample_images_vary_in_size_and_tell_their_difficulty() {
    let (_folder, root) = sample_set();
    let items = Dataset::open(&root).unwrap().train.items;
    let sizes: HashSet<(u32, u32)> = items.iter().map(|item| decode(&item.path).unwrap().dimensions()).collect();
    assert!(sizes.len() > 20);
    let mut difficulties: Vec<f64> = Vec::new();
    for item in &items {
        let stem = item.path.file_stem().unwrap().to_string_lossy().into_owned();
        difficulties.push(stem.rsplit('-').next().unwrap().parse().unwrap());
    }
    assert!(difficulties.iter().any(|&d| d < 0.2) && difficulties.iter().any(|&d| d > 0.8));
}
