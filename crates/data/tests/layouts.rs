//! Tar shards, images with a file of labels, and folders under other names.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use data::synth::{SampleSet, draw};
use data::{Batch, Dataset, Loader, LoaderOptions, Order, Source, Split, Transform};
use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn drawn(root: &Path) -> Dataset {
    draw(root, &SampleSet { train_per_class: 6, val_per_class: 2, seed: 2 }).expect("the set is drawn");
    Dataset::open(root).expect("the set is whole")
}

fn batches(source: &Arc<dyn Source>, order: Order, first: usize) -> Vec<Batch> {
    let transform = Transform::ResizeCenterCrop { resize: 16, size: 16 };
    let options = LoaderOptions { transform, order, batch_size: 7, threads: 2, ..LoaderOptions::default() };
    Loader::new(Arc::clone(source), options).unwrap().epoch(3, first).unwrap().collect()
}

/// The content and class name of every image.
fn content(source: &dyn Source) -> HashSet<(Vec<u8>, String)> {
    let one = |image: usize| {
        let mut bytes = Vec::new();
        source.read(image, &mut bytes).unwrap();
        (bytes, source.classes()[source.label(image)].clone())
    };
    (0..source.len()).map(one).collect()
}

/// Packs `images` into shards of `folder`, `size` images each; `member` names them and may add a
/// class.
fn pack(source: &dyn Source, folder: &Path, size: usize, member: impl Fn(usize) -> (String, Option<String>)) {
    fs::create_dir_all(folder).unwrap();
    let images: Vec<usize> = (0..source.len()).collect();
    for (number, some) in images.chunks(size).enumerate() {
        let mut tar = tar::Builder::new(File::create(folder.join(format!("shard-{number:03}.tar"))).unwrap());
        let mut append = |name: &str, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, content).unwrap();
        };
        for &image in some {
            let mut bytes = Vec::new();
            source.read(image, &mut bytes).unwrap();
            let (name, class) = member(image);
            append(&name, &bytes);
            if let Some(class) = class {
                append(&Path::new(&name).with_extension("cls").to_string_lossy(), class.as_bytes());
            }
        }
        append("README.txt", b"no image");
        tar.finish().unwrap();
    }
}

#[test]
fn shards_hold_what_the_folder_held() {
    let folder = tempfile::tempdir().unwrap();
    let set = drawn(&folder.path().join("set"));
    let name_of = |source: &Arc<dyn Source>, image: usize| source.name(image).to_string_lossy().into_owned();
    // As class folders in the shards, a name longer than a header holds among them.
    let by_folder = folder.path().join("by-folder");
    for (split, source) in [("train", &set.train), ("val", &set.val)] {
        let deep = "long/".repeat(30);
        pack(&**source, &by_folder.join(split), 9, |image| (format!("{deep}{}", name_of(source, image)), None));
    }
    // As WebDataset: one name for a sample, and its class by number beside it.
    let by_number = folder.path().join("by-number");
    for (split, source) in [("train", &set.train), ("val", &set.val)] {
        pack(&**source, &by_number.join(split), 25, |image| {
            (format!("{image:06}.jpg"), Some(format!("{}\n", source.label(image))))
        });
    }
    let packed = Dataset::open(&by_folder).unwrap();
    assert_eq!(packed.classes(), set.classes());
    assert_eq!(content(&*packed.train), content(&*set.train));
    assert_eq!(content(&*packed.val), content(&*set.val));
    assert!(packed.train.path(0).to_string_lossy().contains("train/shard-000.tar/long/"), "{:?}", packed.train.path(0));
    assert!(packed.notes[0].contains("7 files that are no images"), "{:?}", packed.notes);

    let numbered = Dataset::open(&by_number).unwrap();
    assert_eq!(numbered.classes(), (0..10).map(|label| label.to_string()).collect::<Vec<_>>());
    assert_eq!(numbered.train.len(), set.train.len());
    assert!((0..60).all(|image| numbered.train.label(image) == set.train.label(image)));
    fs::write(by_number.join("classes.txt"), set.classes().join("\n")).unwrap();
    assert_eq!(content(&*Dataset::open(&by_number).unwrap().train), content(&*set.train));

    // An epoch in order is the folder's, pixel for pixel; a shuffled one has every image, and can
    // be entered anywhere.
    let (shards, files) = (batches(&numbered.val, Order::InOrder, 0), batches(&set.val, Order::InOrder, 0));
    assert_eq!(shards, files);
    let order = Order::Shuffled(5);
    let epoch = batches(&packed.train, order, 0);
    let items: HashSet<usize> = epoch.iter().flat_map(|batch| batch.items.clone()).collect();
    assert_eq!(items.len(), 56, "eight batches of 7");
    assert_ne!(epoch[0].items, (0..7).collect::<Vec<_>>());
    assert_eq!(batches(&packed.train, order, 5), epoch[5..]);
}

#[test]
fn shards_that_are_damaged_or_without_classes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let set = drawn(&folder.path().join("set"));
    let fault = |name: &str, member: &dyn Fn(usize) -> (String, Option<String>), spoil: &dyn Fn(&Path)| {
        let root = folder.path().join(name);
        pack(&*set.val, &root, 100, member);
        spoil(&root);
        Split::open(&root).unwrap_err().to_string()
    };
    let leave = |_: &Path| ();
    let found = fault("bare", &|image| (format!("{image}.jpg"), None), &leave);
    assert!(found.contains("shard-000.tar: 0.jpg has no class; expected a member 0.cls or a class folder"), "{found}");
    let shorten = |root: &Path| {
        let shard = root.join("shard-000.tar");
        let whole = fs::read(&shard).unwrap();
        fs::write(&shard, &whole[..whole.len() / 2]).unwrap();
    };
    let found = fault("cut", &|image| (format!("a/{image}.jpg"), None), &shorten);
    assert!(found.contains("shard-000.tar"), "{found}");
    let name_two = |root: &Path| fs::write(root.join("classes.txt"), "a\nb\n").unwrap();
    let found = fault("unknown", &|image| (format!("{image}.jpg"), Some("7".into())), &name_two);
    assert!(
        found.contains("0.jpg: '7' is none of the 2 classes of classes.txt, nor the number of one, 0 to 1"),
        "{found}"
    );
}

#[test]
fn an_image_that_a_shard_lost_since_is_a_bad_image() {
    let folder = tempfile::tempdir().unwrap();
    let set = drawn(&folder.path().join("set"));
    let root = folder.path().join("shards");
    pack(&*set.val, &root, 100, |image| (format!("a/{image}.jpg"), None));
    let split: Arc<dyn Source> = Arc::new(Split::open(&root).unwrap());
    fs::write(root.join("shard-000.tar"), b"").unwrap();
    let all = batches(&split, Order::InOrder, 0);
    let bad: usize = all.iter().map(|batch| batch.bad.len()).sum();
    assert_eq!(bad, 20);
    assert!(all[0].bad[0].to_string().contains("shard-000.tar/a/0.jpg"), "{}", all[0].bad[0]);
}

/// A set of which the validation images lie in one folder.
fn flat(folder: &Path) -> (Dataset, PathBuf, Vec<(String, usize)>) {
    let whole = folder.join("whole");
    let set = drawn(&whole);
    let root = folder.join("flat");
    fs::create_dir_all(root.join("val/images")).unwrap();
    fs::rename(whole.join("train"), root.join("train")).unwrap();
    let mut labels = Vec::new();
    for image in 0..set.val.len() {
        let name = format!("val_{image}.jpg");
        fs::rename(set.val.path(image), root.join("val/images").join(&name)).unwrap();
        labels.push((name, set.val.label(image)));
    }
    (Dataset { train: Arc::new(Split::open(&root.join("train")).unwrap()), ..set }, root, labels)
}

#[test]
fn a_file_of_labels_tells_the_classes_of_a_plain_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (set, root, labels) = flat(folder.path());
    let classes = set.train.classes().to_vec();
    let lines = |line: &dyn Fn(&str, usize) -> String| {
        labels.iter().map(|(name, label)| line(name, *label)).collect::<String>()
    };
    let forms: [(&str, String); 5] = [
        // Tiny ImageNet's own, with a box behind the class.
        ("val/val_annotations.txt", lines(&|name, label| format!("{name}\t{}\t0\t32\t44\t62\n", classes[label]))),
        (
            "val/labels.csv",
            format!(
                "ImageId,PredictionString\n{}",
                lines(&|name, label| format!("{},{} 1 2 3 4\n", &name[..name.len() - 4], classes[label]))
            ),
        ),
        ("val/labels.txt", lines(&|name, label| format!("{name} {label}\n"))),
        ("val.txt", lines(&|name, label| format!("{name} {label}\n\n"))),
        (
            "LOC_val_solution.csv",
            format!(
                "ImageId,PredictionString\n{}",
                lines(&|name, label| format!("{},{}\n", &name[..name.len() - 4], classes[label]))
            ),
        ),
    ];
    let mut fingerprints = HashMap::new();
    for (file, text) in forms {
        let inside = file.starts_with("val/");
        if !inside && root.join("val/images").exists() {
            // A file beside the folder is one of images directly in it.
            fs::rename(root.join("val/images"), root.join("images")).unwrap();
            fs::remove_dir(root.join("val")).unwrap();
            fs::rename(root.join("images"), root.join("val")).unwrap();
        }
        fs::write(root.join(file), text).unwrap();
        let opened = Dataset::open(&root).unwrap();
        assert_eq!(opened.classes(), classes, "{file}");
        assert_eq!((opened.val.len(), opened.notes.len()), (20, 0), "{file}");
        let fingerprint = opened.val.fingerprint();
        assert_eq!(*fingerprints.entry(inside).or_insert(fingerprint), fingerprint, "the same images and labels");
        let expected: Vec<usize> = labels.iter().map(|(_, label)| *label).collect();
        let found: Vec<usize> = (0..20).map(|image| opened.val.label(image)).collect();
        assert_eq!(found, expected, "{file}");
        // A network that knows its classes needs no training split to read the file.
        let alone = Split::open_with_classes(&Split::folder(&root, "val").unwrap(), Some(&classes)).unwrap();
        assert_eq!((0..20).map(|image| alone.label(image)).collect::<Vec<_>>(), expected, "{file}");
        let tenth = if inside { "images/val_10.jpg" } else { "val_10.jpg" };
        assert_eq!(opened.val.name(10), Path::new(tenth), "natural order");
        fs::remove_file(root.join(file)).unwrap();
    }
    // Other labels are other images to a run that goes on.
    fs::write(root.join("val.txt"), lines(&|name, label| format!("{name} {}\n", (label + 1) % classes.len()))).unwrap();
    assert_ne!(Dataset::open(&root).unwrap().val.fingerprint(), fingerprints[&false]);
}

#[test]
fn labels_that_do_not_fit_are_told_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let (_, root, labels) = flat(folder.path());
    let fault = |text: &str| {
        fs::write(root.join("val/labels.txt"), text).unwrap();
        Dataset::open(&root).unwrap_err().to_string()
    };
    let found = fault("val_0.jpg 3\nval_1.jpg\n");
    assert!(
        found.contains("labels.txt, line 2: 'val_1.jpg' is no label; expected an image's name and its class"),
        "{found}"
    );
    let found = fault("val_0.jpg 3\nval_1.jpg 10\n");
    assert!(found.contains("line 2: '10' is none of the 10 classes, nor the number of one, 0 to 9"), "{found}");
    let found = fault("val_0.jpg 3\nval_99.jpg 3\n");
    assert!(found.contains("labels 'val_99.jpg'") && found.contains("has no such image"), "{found}");
    let some: String = labels[..15].iter().map(|(name, label)| format!("{name} {label}\n")).collect();
    fs::write(root.join("val/labels.txt"), some).unwrap();
    let opened = Dataset::open(&root).unwrap();
    assert_eq!(opened.val.len(), 15);
    assert!(opened.notes[0].contains("5 files"), "{:?}", opened.notes);
}

#[test]
fn class_folders_speak_for_themselves_whatever_lies_beside_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    let set = drawn(&root);
    // What is left over from ImageNet's recipe, and Caffe's list.
    fs::write(root.join("train/disc.tar"), b"not even a tar file").unwrap();
    fs::write(root.join("train.txt"), "disc/1.jpg 0\n").unwrap();
    let opened = Dataset::open(&root).unwrap();
    assert_eq!((opened.classes(), opened.train.len()), (set.classes(), 60));
    assert!(opened.notes[0].contains("1 files"), "{:?}", opened.notes);
}

#[test]
fn labels_may_have_spaces_paths_and_a_mark_of_their_encoding() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("a")).unwrap();
    fs::create_dir_all(root.join("b")).unwrap();
    for name in ["a/1.jpg", "b/1.jpg", "my photo.jpg"] {
        fs::write(root.join(name), b"x").unwrap();
    }
    let open = |text: &str| {
        fs::write(root.join("labels.csv"), text).unwrap();
        Split::open(root)
    };
    let split = open("\u{feff}a/1.jpg,golden retriever\nb/1.jpg,golden eagle\nmy photo.jpg,cat\n").unwrap();
    assert_eq!(split.classes(), ["cat", "golden eagle", "golden retriever"]);
    let labels: Vec<usize> = (0..3).map(|image| split.label(image)).collect();
    assert_eq!(labels, [2, 1, 0]);
    let fault = |text: &str| open(text).unwrap_err().to_string();
    assert!(fault("a/1.jpg,x\na/1.jpg,y\n").contains("line 2: 'a/1.jpg' has a label already"));
    assert!(fault("c.jpg,x\n").contains("is labeled in") && fault("c.jpg,x\n").contains("whose first is 'c.jpg'"));
}

#[test]
fn classes_in_another_order_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    let set = drawn(&root);
    fs::remove_dir_all(root.join("val")).unwrap();
    let mut reversed = set.classes().to_vec();
    reversed.reverse();
    // The images are gone; their names and classes are enough.
    fs::create_dir(root.join("val")).unwrap();
    fs::write(root.join("val/classes.txt"), reversed.join("\n")).unwrap();
    let mut tar = tar::Builder::new(File::create(root.join("val/0.tar")).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    tar.append_data(&mut header, "disc/1.jpg", &b"x"[..]).unwrap();
    tar.into_inner().unwrap();
    let found = Dataset::open(&root).unwrap_err().to_string();
    assert!(found.contains("class 0 is 'arrow' in train/ and 'triangle' in val/"), "{found}");
}

#[test]
fn a_test_folder_serves_for_validation() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("set");
    drawn(&root);
    fs::rename(root.join("val"), root.join("test")).unwrap();
    assert_eq!(Dataset::open(&root).unwrap().val.len(), 20);
    assert_eq!(Split::folder(&root, "val"), Some(root.join("test")));
}
