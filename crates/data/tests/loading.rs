//! Folders to batches: what is found, what comes when, and what happens to bad files.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use data::synth::{SampleSet, draw};
use data::{
    Batch, ColorJitter, Dataset, Loader, LoaderOptions, Normalize, Order, Rank, Source, Split, Transform, decode,
    images_per_class,
};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

const NORMALIZE: Normalize = Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
const TRAIN: Transform =
    Transform::RandomResizedCrop { size: 16, scale: (0.3, 1.0), ratio: (0.75, 4.0 / 3.0), flip: 0.5, color: COLOR };
/// Colors change too, so that every random choice is part of what is tested.
const COLOR: ColorJitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
const EVALUATE: Transform = Transform::ResizeCenterCrop { resize: 18, size: 16 };

fn sample_set() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().join("set");
    draw(&root, &SampleSet { train_per_class: 5, val_per_class: 2, seed: 1 }).expect("the set is drawn");
    (folder, root)
}

fn options(order: Order, threads: usize) -> LoaderOptions {
    let transform = if order == Order::InOrder { EVALUATE } else { TRAIN };
    let rank = Rank { rank: 0, of: 1 };
    LoaderOptions { transform, normalize: NORMALIZE, order, batch_size: 8, rank, threads, ahead: Some(2) }
}

fn batches(source: &Arc<dyn Source>, order: Order, threads: usize, epoch: u64, first: usize) -> Vec<Batch> {
    let loader = Loader::new(Arc::clone(source), options(order, threads)).expect("threads start");
    loader.epoch(epoch, first).expect("the threads start").collect()
}

/// Every image's file, in order.
fn paths(source: &dyn Source) -> Vec<PathBuf> {
    (0..source.len()).map(|image| source.path(image)).collect()
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
fn ranks_share_every_batch_of_a_larger_one() {
    let (_folder, root) = sample_set();
    let dataset = Dataset::open(&root).unwrap();
    for (source, order) in [(&dataset.train, Order::Shuffled(7)), (&dataset.val, Order::InOrder)] {
        let whole = LoaderOptions { batch_size: 6, ..options(order, 2) };
        let whole: Vec<Batch> = Loader::new(Arc::clone(source), whole).unwrap().epoch(1, 0).unwrap().collect();
        let shares: Vec<Vec<Batch>> = (0..3)
            .map(|rank| {
                let share = LoaderOptions { batch_size: 2, rank: Rank { rank, of: 3 }, ..options(order, 2) };
                let loader = Loader::new(Arc::clone(source), share).unwrap();
                let batches: Vec<Batch> = loader.epoch(1, 0).unwrap().collect();
                assert_eq!(batches.len(), loader.batches());
                batches
            })
            .collect();
        for (number, batch) in whole.iter().enumerate() {
            let of_ranks = shares.iter().filter_map(|share| share.get(number));
            let mut together: Vec<usize> = of_ranks.flat_map(|batch| batch.items.clone()).collect();
            let mut items = batch.items.clone();
            together.sort_unstable();
            items.sort_unstable();
            assert_eq!(together, items, "batch {number}");
        }
        // 50 images: 8 batches of 6 each. 20 images: the last batch has 2, so that one of three
        // ranks has no fourth batch.
        let expected = if order == Order::InOrder { [4, 4, 3] } else { [8, 8, 8] };
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_loader_that_cannot_be_is_refused() {
    let (_folder, root) = sample_set();
    let train = Dataset::open(&root).unwrap().train;
    let refusal = |options| Loader::new(Arc::clone(&train), options).unwrap_err().to_string();
    let ordered = options(Order::InOrder, 1);
    assert!(refusal(LoaderOptions { rank: Rank { rank: 3, of: 3 }, ..ordered }).contains("rank: expected 0 to of - 1"));
    assert!(refusal(LoaderOptions { rank: Rank { rank: 0, of: 0 }, ..ordered }).contains("at least one process"));
    let transform = Transform::ResizeCenterCrop { resize: 16, size: 18 };
    assert!(refusal(LoaderOptions { transform, ..ordered }).contains("transform: expected a size from 1 to 16"));
}

#[test]
fn batches_ahead_are_bounded_by_what_is_asked_or_by_memory() {
    let (_folder, root) = sample_set();
    let train = Dataset::open(&root).unwrap().train;
    let image_bytes = 16 * 16 * 3 * 4;
    let asked = Loader::new(Arc::clone(&train), options(Order::InOrder, 1)).unwrap();
    assert_eq!(asked.bytes_ahead(), (2 + 2) * 8 * image_bytes);
    let large = LoaderOptions { batch_size: 65_536, ahead: None, ..options(Order::InOrder, 1) };
    let large = Loader::new(train, large).unwrap();
    let batch_bytes = 65_536 * image_bytes;
    assert!((4 * batch_bytes..=4 * batch_bytes + (1 << 30)).contains(&large.bytes_ahead()), "{}", large.bytes_ahead());
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
    let options = LoaderOptions { batch_size: 2, ahead: Some(1), ..options(Order::Shuffled(1), 2) };
    let loader = Loader::new(train, options).unwrap();
    for taken in 0..20 {
        let mut epoch = loader.epoch(0, 0).unwrap();
        for number in 0..taken {
            assert_eq!(epoch.next().unwrap().number, number);
        }
        // Drop joins the producers: a thread that hung would hang the test here.
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
    assert_eq!(images, val.len() - 3);
    // What follows a gap is still the right image under the right label.
    let position = paths(&*val).iter().position(|path| path.ends_with("4-whole.png")).unwrap();
    let (batch, place) =
        all.iter().find_map(|batch| Some((batch, batch.items.iter().position(|&item| item == position)?))).unwrap();
    let alone: Arc<dyn Source> = Arc::new(Split::of_files([val.path(position)]));
    let alone = batches(&alone, Order::InOrder, 1, 0, 0);
    assert_eq!(batch.pixels[place * 768..(place + 1) * 768], *alone[0].pixels);
    assert_eq!(batch.labels[place], val.label(position) as i64);
}

#[test]
fn a_jpeg_cut_anywhere_is_bad() {
    let (folder, root) = sample_set();
    let first = Dataset::open(&root).unwrap().train.path(0);
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
    let names: Vec<_> = (0..dataset.train.len()).map(|image| dataset.train.name(image)).collect();
    assert_eq!(names, ["n9/a.webp", "n10/2.JPEG", "n10/10.jpg", "n10/deep/1.Png"].map(PathBuf::from));
    assert_eq!(dataset.train.path(0), folder.path().join("train/n9/a.webp"));
    assert_eq!(images_per_class(&*dataset.train), [1, 3]);
    assert_eq!(dataset.val.len(), 2);
    assert_eq!(dataset.notes.len(), 1);
    assert!(dataset.notes[0].contains("train: 1 files that are no images"), "{}", dataset.notes[0]);
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
    assert_eq!((dataset.train.len(), dataset.val.len(), dataset.notes.len()), (2, 2, 2));
    assert_eq!(Split::open(&root.join("train")).unwrap().ignored(), 1);
}

#[test]
fn the_sample_set_is_a_function_of_its_seed_and_never_overwrites() {
    let (folder, root) = sample_set();
    let dataset = Dataset::open(&root).unwrap();
    assert_eq!((dataset.classes().len(), dataset.train.len(), dataset.val.len()), (10, 50, 20));
    let set = SampleSet { train_per_class: 5, val_per_class: 2, seed: 1 };
    let again = folder.path().join("again");
    draw(&again, &set).unwrap();
    let other = folder.path().join("other");
    draw(&other, &SampleSet { seed: 2, ..set }).unwrap();
    let bytes = |root: &Path| -> Vec<Vec<u8>> {
        paths(&*Dataset::open(root).unwrap().train).iter().map(|path| fs::read(path).unwrap()).collect()
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
    let images = paths(&*Dataset::open(&root).unwrap().train);
    let sizes: HashSet<(u32, u32)> = images.iter().map(|path| decode(path).unwrap().dimensions()).collect();
    assert!(sizes.len() > 20);
    let mut difficulties: Vec<f64> = Vec::new();
    for path in &images {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        difficulties.push(stem.rsplit('-').next().unwrap().parse().unwrap());
    }
    assert!(difficulties.iter().any(|&d| d < 0.2) && difficulties.iter().any(|&d| d > 0.8));
}
