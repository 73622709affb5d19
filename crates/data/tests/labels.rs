//! Every image has the label it was given, or the folder is refused: names that are no text, names
//! with dots, links, and folders and archives that do not tell classes.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use data::{Dataset, Source, Split};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A member of a tar file.
#[derive(Clone, Copy)]
enum Member<'a> {
    Holds(&'a [u8]),
    HardLink(&'a str),
    SymbolicLink(&'a str),
    Pipe,
}
use Member::{HardLink, Holds, Pipe, SymbolicLink};

/// A tar file of members under names that need not be text.
fn packed<N: AsRef<[u8]>>(members: &[(N, Member)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, member) in members {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.as_ref().len()].copy_from_slice(name.as_ref());
        let (kind, content, target) = match *member {
            Holds(content) => (tar::EntryType::Regular, content, None),
            HardLink(target) => (tar::EntryType::Link, &b""[..], Some(target)),
            SymbolicLink(target) => (tar::EntryType::Symlink, &b""[..], Some(target)),
            Pipe => (tar::EntryType::Fifo, &b""[..], None),
        };
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        if let Some(target) = target {
            header.set_link_name_literal(target).unwrap();
        }
        header.set_cksum();
        tar.append(&header, content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn put(path: &Path, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn fault(root: &Path) -> String {
    Dataset::open(root).unwrap_err().to_string()
}

/// `NAME CLASS CONTENT` of every image of a shard of these members and how many of them are left
/// out, or why it is refused.
fn shard(members: &[(&str, Member)]) -> Result<(Vec<String>, usize), String> {
    let folder = tempfile::tempdir().unwrap();
    put(&folder.path().join("0.tar"), packed(members));
    let split = Split::open(folder.path()).map_err(|error| error.to_string())?;
    let one = |image: usize| {
        let mut bytes = Vec::new();
        split.read(image, &mut bytes).unwrap();
        let name = split.name(image).strip_prefix("0.tar").unwrap().display().to_string();
        format!("{name} {} {}", split.classes()[split.label(image)], String::from_utf8(bytes).unwrap())
    };
    let mut images: Vec<_> = (0..split.len()).map(one).collect();
    images.sort();
    Ok((images, split.ignored()))
}

#[cfg(target_os = "linux")]
mod names_that_are_no_text {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    /// Puts an image that holds its class's bytes into each of these class folders.
    fn put_classes<'a>(split: &Path, classes: impl Iterator<Item = &'a Vec<u8>>) {
        for class in classes {
            put(&split.join(OsStr::from_bytes(class)).join("1.jpg"), class);
        }
    }

    fn contents(split: &dyn Source) -> Vec<Vec<u8>> {
        let one = |image: usize| {
            let mut bytes = Vec::new();
            split.read(image, &mut bytes).unwrap();
            bytes
        };
        let mut by_label: Vec<_> = (0..split.len()).map(|image| (split.label(image), one(image))).collect();
        by_label.sort();
        by_label.into_iter().map(|(_, content)| content).collect()
    }

    #[test]
    fn classes_stay_apart_and_readable() {
        let folder = tempfile::tempdir().unwrap();
        let classes = [&b"caf\xe9"[..], b"caf\xe8", br"caf\xE8", "café".as_bytes()].map(<[u8]>::to_vec);
        put_classes(&folder.path().join("train"), classes.iter());
        put_classes(&folder.path().join("val"), classes.iter().rev());
        let set = Dataset::open(folder.path()).unwrap();
        assert_eq!(set.classes(), [r"caf\x5CxE8", "café", r"caf\xE8", r"caf\xE9"]);
        let expected = [br"caf\xE8", "café".as_bytes(), b"caf\xe8", b"caf\xe9"];
        assert_eq!(contents(&*set.train), expected);
        assert_eq!(contents(&*set.val), expected);
    }

    #[test]
    fn members_stay_apart() {
        let folder = tempfile::tempdir().unwrap();
        let members: [(&[u8], Member); 4] = [
            (b"caf\xe8.jpg", Holds(b"8")),
            (b"caf\xe9.jpg", Holds(b"9")),
            (b"caf\xe8.cls", Holds(b"0")),
            (b"caf\xe9.cls", Holds(b"1")),
        ];
        put(&folder.path().join("0.tar"), packed(&members));
        assert_eq!(contents(&Split::open(folder.path()).unwrap()), [b"8", b"9"]);
    }

    /// Names of folders, of which many are no text or read as if they were escaped.
    fn names() -> impl Strategy<Value = BTreeSet<Vec<u8>>> {
        let byte = prop_oneof![prop::sample::select(&b"\\x5CE812a\xc3\xa9\xe8\xe9"[..]), 1..=255_u8];
        let name = prop::collection::vec(byte, 1..6);
        let possible = |name: &Vec<u8>| name[0] != b'.' && !name.contains(&b'/');
        prop::collection::btree_set(name.prop_filter("a name of a folder", possible), 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Folders are listed in the order the file system likes; shards in the order of packing.
        #[test]
        fn train_and_val_agree(classes in names()) {
            let folder = tempfile::tempdir().unwrap();
            put_classes(&folder.path().join("train"), classes.iter());
            put_classes(&folder.path().join("val"), classes.iter().rev());
            let set = Dataset::open(folder.path()).unwrap();
            prop_assert_eq!(set.classes().len(), classes.len());
            prop_assert_eq!(contents(&*set.train), contents(&*set.val));

            fs::remove_dir_all(folder.path().join("val")).unwrap();
            let images: Vec<Vec<u8>> = classes.iter().map(|class| [class, &b"/1.jpg"[..]].concat()).collect();
            let members: Vec<_> = images.iter().zip(&classes).map(|(name, class)| (name, Holds(class))).collect();
            put(&folder.path().join("val/0.tar"), packed(&members));
            let set = Dataset::open(folder.path()).unwrap();
            prop_assert_eq!(contents(&*set.train), contents(&*set.val));
        }
    }
}

#[test]
fn an_image_with_dots_in_its_name_has_the_class_of_its_own_member() {
    let held = shard(&[
        ("img.000.jpg", Holds(b"a")),
        ("img.000.cls", Holds(b"0")),
        ("img.001.jpg", Holds(b"b")),
        ("img.001.cls", Holds(b"1")),
    ]);
    assert_eq!(held.unwrap(), (vec!["img.000.jpg 0 a".to_owned(), "img.001.jpg 1 b".to_owned()], 0));
    // Up to the first dot, as WebDataset has it.
    let held = shard(&[
        ("0.left.jpg", Holds(b"a")),
        ("0.cls", Holds(b"cat")),
        ("1.jpg", Holds(b"b")),
        ("1.x.cls", Holds(b"dog")),
    ]);
    assert_eq!(held.unwrap(), (vec!["0.left.jpg cat a".to_owned(), "1.jpg dog b".to_owned()], 0));
}

#[test]
fn an_image_whose_class_is_not_certain_is_refused() {
    let two = shard(&[("img.000.cls", Holds(b"0")), ("img.001.cls", Holds(b"1")), ("img.002.jpg", Holds(b"c"))]);
    let expected =
        "img.002.jpg has no member img.002.cls, and shares its name up to the first dot with img.000.cls, img.001.cls";
    assert!(two.as_ref().unwrap_err().contains(expected), "{two:?}");
    let neighbor = shard(&[("img.000.jpg", Holds(b"a")), ("img.000.cls", Holds(b"0")), ("img.001.jpg", Holds(b"b"))]);
    assert!(neighbor.unwrap_err().contains("img.001.jpg has no member img.001.cls"));
    let empty = shard(&[("0.jpg", Holds(b"a")), ("0.cls", Holds(b"\n"))]);
    assert!(empty.unwrap_err().contains("0.cls: it names no class"));
}

#[test]
fn other_images_of_a_sample_are_left_out() {
    let held = shard(&[
        ("0.jpg", Holds(b"a")),
        ("0.seg.png", Holds(b"mask")),
        ("0.cls", Holds(b"0")),
        ("0.json", Holds(b"{}")),
        ("1.cls", Holds(b"1")),
        ("1.depth.png", Holds(b"mask")),
        ("1.png", Holds(b"b")),
    ]);
    assert_eq!(held.unwrap(), (vec!["0.jpg 0 a".to_owned(), "1.png 1 b".to_owned()], 3));
    // Without class members, dots mean nothing.
    let held = shard(&[("a/0.jpg", Holds(b"a")), ("a/0.seg.jpg", Holds(b"b"))]);
    assert_eq!(held.unwrap(), (vec!["a/0.jpg a a".to_owned(), "a/0.seg.jpg a b".to_owned()], 0));
}

#[test]
fn links_to_members_are_images_under_their_own_names() {
    let held = shard(&[
        ("./a/0.jpg", Holds(b"zero")),
        ("b/0.jpg", HardLink("a/0.jpg")),
        ("a/1.jpg", Holds(b"one")),
        ("b/1.jpg", SymbolicLink("../a/./1.jpg")),
        ("c/again.jpg", SymbolicLink("../b/1.jpg")),
        ("c/blob.jpg", SymbolicLink("../blobs/9f")),
        ("blobs/9f", Holds(b"blob")),
        // These lead to no file of the shard.
        ("b/absent.jpg", HardLink("a/absent.jpg")),
        ("b/outside.jpg", SymbolicLink("../../a/0.jpg")),
        ("b/absolute.jpg", SymbolicLink("/a/0.jpg")),
        ("b/itself.jpg", SymbolicLink("itself.jpg")),
        ("b/pipe.jpg", Pipe),
    ]);
    let expected = [
        "a/0.jpg a zero",
        "a/1.jpg a one",
        "b/0.jpg b zero",
        "b/1.jpg b one",
        "c/again.jpg c one",
        "c/blob.jpg c blob",
    ];
    assert_eq!(held.unwrap(), (expected.map(str::to_owned).to_vec(), 6));
    // Of class members too.
    let held = shard(&[
        ("images/0.jpg", Holds(b"a")),
        ("images/0.cls", Holds(b"cat")),
        ("images/1.jpg", Holds(b"b")),
        ("images/1.cls", HardLink("images/0.cls")),
        ("images/2.jpg", Holds(b"c")),
        ("images/2.cls", SymbolicLink("two")),
        ("images/two", Holds(b"dog\n")),
    ]);
    assert_eq!(
        held.unwrap(),
        (["images/0.jpg cat a", "images/1.jpg cat b", "images/2.jpg dog c"].map(str::to_owned).to_vec(), 1)
    );
}

#[test]
fn the_last_of_several_members_of_a_name_counts() {
    let held = shard(&[
        ("a/0.jpg", Holds(b"old")),
        ("b/0.jpg", HardLink("a/0.jpg")),
        ("c/0.jpg", SymbolicLink("../a/0.jpg")),
        ("a/0.jpg", Holds(b"new")),
        // What tar makes of a file that it is given twice.
        ("a/0.jpg", HardLink("a/0.jpg")),
        ("1.jpg", Holds(b"one")),
        ("1.cls", Holds(b"a")),
        ("1.cls", Holds(b"b")),
    ]);
    assert_eq!(
        held.unwrap(),
        (["1.jpg b one", "a/0.jpg a new", "b/0.jpg b old", "c/0.jpg c new"].map(str::to_owned).to_vec(), 3)
    );
}

#[test]
fn classes_that_look_alike_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["Cat", "dog", "caf\u{e9}"] {
        put(&folder.path().join("train").join(class).join("1.jpg"), "x");
    }
    for class in ["cat", "dog ", "cafe\u{301}"] {
        put(&folder.path().join("val").join(class).join("1.jpg"), "x");
    }
    let found = fault(folder.path());
    for expected in [
        "'Cat' in train/ and 'cat' in val/ differ only in letter case",
        "'dog' in train/ and 'dog ' in val/ differ only in surrounding spaces",
        "(caf\\u{e9}) in train/ and 'cafe\u{301}' (cafe\\u{301}) in val/ differ only in Unicode normalization",
        "rename",
    ] {
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn images_without_class_folders_or_labels_are_told() {
    let folder = tempfile::tempdir().unwrap();
    put(&folder.path().join("train/a/1.jpg"), "x");
    for image in 1..4 {
        put(&folder.path().join(format!("val/{image}.JPEG")), "x");
    }
    let found = fault(folder.path());
    assert!(found.contains("val holds 3 images directly, and nothing tells their classes"), "{found}");
    for name in [
        "CLASS/IMAGE",
        "labels.txt, labels.csv, labels.tsv in that",
        "val_annotations.txt",
        "LOC_val_solution.csv",
        "val.txt",
        "docs/data.md",
    ] {
        assert!(found.contains(name), "{found}");
    }
    // Beside class folders they are left out, which is said.
    put(&folder.path().join("val/a/1.jpg"), "x");
    put(&folder.path().join("val/notes.md"), "x");
    let set = Dataset::open(folder.path()).unwrap();
    assert_eq!(set.val.len(), 1);
    assert!(set.notes[0].contains("val: 4 files that are no images"), "{:?}", set.notes);
    assert!(set.notes[0].contains("3 of them are images that lie directly in"), "{:?}", set.notes);
}

/// Runs the command that a message ends with.
fn run_what_is_advised(message: &str, before: &str) {
    let command = message.split_once(before).expect("the message ends with a command").1;
    let done = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(done.success(), "{command}");
}

/// Classes, and how many images the splits have.
fn classes_and_counts(root: &Path) -> (Vec<String>, usize, usize) {
    let set = Dataset::open(root).unwrap();
    (set.classes().to_vec(), set.train.len(), set.val.len())
}

#[test]
fn compressed_tar_files_are_told_with_what_unpacks_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a set");
    let tar = packed(&[("n01440764/0.JPEG", Holds(b"x")), ("n01443537/0.JPEG", Holds(b"y"))]);
    put(&root.join("train/0.tar"), &tar);
    put(&root.join("val/0.tar"), &tar);
    for file in ["train/0.tar", "val/0.tar"] {
        assert!(Command::new("gzip").arg(root.join(file)).status().unwrap().success());
    }
    // A compressed file under the name of a plain one.
    fs::rename(root.join("val/0.tar.gz"), root.join("val/0.tar")).unwrap();
    for split in ["train", "val"] {
        let found = fault(&root);
        assert!(found.contains(&format!("{split}/0.tar")) && found.contains("is compressed with gzip"), "{found}");
        run_what_is_advised(&found, "unpack it: ");
    }
    assert_eq!(classes_and_counts(&root), (vec!["n01440764".into(), "n01443537".into()], 2, 2));
    // Beside plain ones they are left out, which is said.
    put(&root.join("val/1.tar.gz"), "x");
    let set = Dataset::open(&root).unwrap();
    assert!(set.notes[0].contains("val: 1 files that are no images"), "{:?}", set.notes);
    // Of other kinds the first bytes or the names are enough.
    for (name, kind) in [("0.tar.zst", "zstd"), ("0.tar.xz", "xz"), ("0.tgz", "gzip"), ("0.tar.bz2", "bzip2")] {
        fs::remove_dir_all(root.join("val")).unwrap();
        put(&root.join("val").join(name), "x");
        put(&root.join("val").join(format!("1{name}")), "x");
        let (found, all) = (fault(&root), format!("val'/*{}", &name[1..]));
        assert!(found.contains(&format!("compressed with {kind}")) && found.ends_with(&all), "{found}");
    }
    for (start, kind) in [(&b"\x28\xb5\x2f\xfd"[..], "zstd"), (b"\xfd7zXZ\0", "xz"), (b"BZh9", "bzip2")] {
        fs::remove_dir_all(root.join("val")).unwrap();
        put(&root.join("val/0.tar"), start);
        assert!(fault(&root).contains(&format!("compressed with {kind}")), "{}", fault(&root));
    }
}

#[test]
fn tar_files_within_tar_files_are_told_with_what_unpacks_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a set");
    let inner = |image: &str| packed(&[(image, Holds(b"x"))]);
    let (first, second) = (inner("n01440764_0.JPEG"), inner("n01443537_0.JPEG"));
    let outer = packed(&[("n01440764.tar", Holds(&first)), ("n01443537.tar", Holds(&second))]);
    put(&root.join("train/ILSVRC2012_img_train.tar"), &outer);
    put(&root.join("val/ILSVRC2012_img_val.tar"), &outer);
    for _ in 0..2 {
        let found = fault(&root);
        assert!(found.contains("holds 2 tar files within it (n01440764.tar, n01443537.tar)"), "{found}");
        run_what_is_advised(&found, "a folder of its class: ");
    }
    assert_eq!(classes_and_counts(&root), (vec!["n01440764".into(), "n01443537".into()], 2, 2));

    // One tar file for each class.
    let root = folder.path().join("by class");
    for split in ["train", "val"] {
        put(&root.join(split).join("n01440764.tar"), &first);
        put(&root.join(split).join("n01443537.tar"), &second);
    }
    for _ in 0..2 {
        let found = fault(&root);
        assert!(found.contains("n01440764_0.JPEG has no class; expected a member n01440764_0.cls"), "{found}");
        run_what_is_advised(&found, "a folder of its class: ");
    }
    assert_eq!(classes_and_counts(&root), (vec!["n01440764".into(), "n01443537".into()], 2, 2));
}
