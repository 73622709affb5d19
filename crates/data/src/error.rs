use std::path::PathBuf;

/// What can go wrong with a data set as a whole. A single bad image is no error: see [`crate::BadImage`].
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
    #[error("{} has no folder '{split}'; expected the ImageNet layout: {split}/CLASS/IMAGE.jpg", root.display())]
    NoSplit {
        /// The data folder.
        root: PathBuf,
        /// `train` or `val`.
        split: &'static str,
    },
    /// A split holds no class folders or no images.
    #[error("{} holds no images; looked for CLASS/IMAGE with the endings {}", path.display(), crate::IMAGE_ENDINGS.join(", "))]
    NoImages {
        /// The split's folder.
        path: PathBuf,
    },
    /// A class folder holds no images.
    #[error("class folders without images: {}; remove them or add images", list(classes))]
    EmptyClasses {
        /// The folders.
        classes: Vec<String>,
    },
    /// The splits have different classes.
    #[error("{}: classes only in train/: {}; only in val/: {}; both splits need the same class folders", root.display(), list(only_train), list(only_val))]
    ClassesDiffer {
        /// The data folder.
        root: PathBuf,
        /// Classes missing from `val/`.
        only_train: Vec<String>,
        /// Classes missing from `train/`.
        only_val: Vec<String>,
    },
    /// The output folder is there already.
    #[error("{} exists; choose another folder or remove it first", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The threads that decode could not be started.
    #[error("cannot start the loader's threads: {0}")]
    Threads(String),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    match names {
        [] => "none".to_owned(),
        _ if names.len() > SHOWN => format!("{} and {} more", names[..SHOWN].join(", "), names.len() - SHOWN),
        _ => names.join(", "),
    }
}
