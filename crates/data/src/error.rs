//! What can go wrong with a set of images.

use crate::image_file::IMAGE_ENDINGS;
use std::path::PathBuf;

/// What can go wrong with a data set as a whole. A single bad image is no error: see
/// [`crate::BadImage`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A folder or file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder has no such split.
    #[error("{} has no folder '{split}'; expected the ImageNet layout, {split}/CLASS/IMAGE.jpg, or tar files in {split}/", root.display())]
    NoSplit {
        /// The data folder.
        root: PathBuf,
        /// `train` or `val`.
        split: &'static str,
    },
    /// A split holds no class folders or no images.
    #[error("{} holds no images; looked for CLASS/IMAGE with the endings {}", path.display(), IMAGE_ENDINGS.join(", "))]
    NoImages {
        /// The split's folder.
        path: PathBuf,
    },
    /// A split's images lie directly in its folder, and nothing tells their classes.
    #[error("{} holds {images} images directly, and nothing tells their classes; expected class folders, CLASS/IMAGE, or a file with a line 'IMAGE CLASS' for each image: {files}", path.display())]
    LooseImages {
        /// The split's folder.
        path: PathBuf,
        /// How many there are.
        images: usize,
        /// Files of labels that would be read, and which page tells more.
        files: String,
    },
    /// A class folder holds no images.
    #[error("class folders without images: {}; remove them or add images", list(classes))]
    EmptyClasses {
        /// The folders.
        classes: Vec<String>,
    },
    /// The splits have different classes.
    #[error("{}: classes only in train/: {}; only in val/: {}; both splits need the same class folders{}", root.display(), list(only_train), list(only_val), hints(alike))]
    ClassesDiffer {
        /// The data folder.
        root: PathBuf,
        /// Classes missing from `val/`.
        only_train: Vec<String>,
        /// Classes missing from `train/`.
        only_val: Vec<String>,
        /// What tells those of them apart that look alike.
        alike: Vec<String>,
    },
    /// A line of a file of labels is no label.
    #[error("{}, line {line}: '{text}' is no label; expected an image's name and its class", path.display())]
    BadLabel {
        /// The file.
        path: PathBuf,
        /// Which line, from 1 on.
        line: usize,
        /// What it says.
        text: String,
    },
    /// A label is no class.
    #[error("{}, line {line}: '{class}' is none of the {classes} classes, nor the number of one, 0 to {}{alike}", path.display(), classes.saturating_sub(1))]
    UnknownClass {
        /// The file of labels.
        path: PathBuf,
        /// Which line, from 1 on.
        line: usize,
        /// What it says.
        class: String,
        /// Number of classes.
        classes: usize,
        /// Which class looks like it, if one does.
        alike: String,
    },
    /// A labeled image is not there.
    #[error("{} labels '{image}', and {} has no such image; remove the line or add the image", path.display(), root.display())]
    LabeledImageMissing {
        /// The file of labels.
        path: PathBuf,
        /// The image, as the file calls it.
        image: String,
        /// Where it was looked for.
        root: PathBuf,
    },
    /// A tar file cannot be used.
    #[error("{}: {reason}; expected a tar file of images with their classes", path.display())]
    BadShard {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tar file is compressed.
    #[error("{} is compressed with {compression}; expected a plain tar file, since images are read in place; unpack it: {command}", path.display())]
    CompressedShard {
        /// The file, the first of them.
        path: PathBuf,
        /// With what it is compressed.
        compression: &'static str,
        /// What unpacks it and the others.
        command: String,
    },
    /// A tar file holds tar files.
    #[error("{} holds {} tar files within it ({}) and no images; expected images; unpack each into a folder of its class: {command}", path.display(), inner.len(), list(inner))]
    NestedShard {
        /// The file.
        path: PathBuf,
        /// The tar files in it.
        inner: Vec<String>,
        /// What unpacks them into class folders.
        command: String,
    },
    /// Nothing in a tar file tells the classes of its images.
    #[error("{}: {image} has no class; expected a member {wanted} or a class folder; where every tar file holds the images of one class, unpack each into a folder of its class: {command}", path.display())]
    ShardWithoutClasses {
        /// The file.
        path: PathBuf,
        /// Its first image.
        image: String,
        /// The member that would tell its class.
        wanted: String,
        /// What unpacks tar files into class folders.
        command: String,
    },
    /// Several members of a tar file may tell the class of an image.
    #[error("{}: {image} has no member {wanted}, and shares its name up to the first dot with {}, so that its class is not certain; pack the shard again with {wanted} beside it", path.display(), list(members))]
    AmbiguousClass {
        /// The file.
        path: PathBuf,
        /// The image.
        image: String,
        /// The members that may tell its class.
        members: Vec<String>,
        /// The member that would tell it for certain.
        wanted: String,
    },
    /// The class of an image in a shard is none of classes.txt.
    #[error("{}: '{class}' is none of the {classes} classes of classes.txt, nor the number of one, 0 to {}", path.display(), classes.saturating_sub(1))]
    UnknownShardClass {
        /// Shard and image.
        path: PathBuf,
        /// Its class.
        class: String,
        /// Number of classes.
        classes: usize,
    },
    /// The output folder is there already.
    #[error("{} exists; choose another folder or remove it first", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A loader cannot be made like that.
    #[error("{option}: expected {expected}")]
    Options {
        /// Which option or method.
        option: &'static str,
        /// What was expected of it, and what was found.
        expected: String,
    },
    /// The classes of two splits are the same in another order.
    #[error("{}: class {label} is '{train}' in train/ and '{val}' in val/; both splits need the same classes in the same order (classes.txt of shards says theirs)", root.display())]
    ClassOrder {
        /// The data folder.
        root: PathBuf,
        /// The first label whose classes differ.
        label: usize,
        /// Its class in `train/`.
        train: String,
        /// Its class in `val/`.
        val: String,
    },
    /// No label is of an image that is there.
    #[error("none of the images in {} is labeled in {}, whose first is '{first}'; expected lines of an image's name, or path below that folder, and its class", root.display(), path.display())]
    NoLabelMatches {
        /// The file of labels.
        path: PathBuf,
        /// The folder of images.
        root: PathBuf,
        /// The first image of the file.
        first: String,
    },
    /// Two lines of a file of labels are of one image.
    #[error("{}, line {line}: '{image}' has a label already; expected one line for each image", path.display())]
    LabeledTwice {
        /// The file of labels.
        path: PathBuf,
        /// The second of the lines.
        line: usize,
        /// The image.
        image: String,
    },
    /// The threads that decode could not be started.
    #[error("cannot start the loader's threads: {0}")]
    Threads(String),
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn hints(alike: &[String]) -> String {
    if alike.is_empty() { String::new() } else { format!("; {}: rename one of the two", list(alike)) }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names {
        [] => "none".to_owned(),
        _ if names.len() > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
        _ => names.join(", "),
    }
}
