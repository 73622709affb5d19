//! What can go wrong in this crate.

use std::path::PathBuf;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A tensor could not be made.
    #[error(transparent)]
    Tensors(#[from] torch_ext::Error),
    /// A network could not be made, cut or written.
    #[error(transparent)]
    Network(#[from] arch::Error),
    /// Images could not be read.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// Training or an evaluation failed.
    #[error(transparent)]
    Trainer(#[from] trainer::Error),
    /// A configuration is wrong.
    #[error(transparent)]
    Config(#[from] trainer::config::ConfigError),
    /// A runtime failed.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{}: {fault}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: String,
    },
    /// There is something where results should go.
    #[error("{} exists and was not begun by this command; choose another --out, or remove it first", path.display())]
    Taken {
        /// The folder.
        path: PathBuf,
    },
    /// Another process works in a folder.
    #[error("another process is at work in {}; wait for it, or choose another --out", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
    },
    /// A folder was begun for another purpose.
    #[error("{} was begun with {}; give what it was begun with to go on, or another --out", path.display(), differences.join(", "))]
    Differs {
        /// The folder.
        path: PathBuf,
        /// What it was, and what is asked for now.
        differences: Vec<String>,
    },
    /// What an earlier stage left has changed since.
    #[error("{} is not there, or not what the stage before left; choose another --out, or remove its folder to begin anew", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The network cannot be shrunk.
    #[error("{network} cannot be shrunk: {why}")]
    Unfit {
        /// The network.
        network: String,
        /// What stands in the way, and what to do.
        why: String,
    },
    /// An exported file gives other logits.
    #[error("{} gives other logits than this program: they differ by {difference:.1e} of the largest; do not use it", path.display())]
    OtherLogits {
        /// The file.
        path: PathBuf,
        /// The largest difference, as a share of the largest logit.
        difference: f64,
    },
    /// A chart could not be drawn.
    #[error("a chart could not be drawn: {0}")]
    Chart(String),
}

/// [`std::result::Result`] with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether somebody asked to stop.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Trainer(trainer::Error::Interrupted))
    }
}
