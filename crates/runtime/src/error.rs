//! What can go wrong in this crate.

use crate::kind::Runtime;
use std::path::PathBuf;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libtorch refused an operation.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A script could not be loaded or run.
    #[error(transparent)]
    Script(#[from] torch_ext::Error),
    /// A network could not run.
    #[error(transparent)]
    Network(#[from] arch::Error),
    /// A runtime is not there, or too old.
    #[error("{runtime} cannot be used: {why}; {advice}")]
    Missing {
        /// The runtime.
        runtime: Runtime,
        /// What was looked for and not found.
        why: String,
        /// What to do.
        advice: &'static str,
    },
    /// A runtime refused a file or images.
    #[error("{runtime}: {message}")]
    Refused {
        /// The runtime.
        runtime: Runtime,
        /// In its own words.
        message: String,
    },
    /// The process of a runtime ended before it answered.
    #[error(
        "the process of {runtime} ended without an answer ({how}); it says why above, unless the system ended it, for want of memory perhaps"
    )]
    Ended {
        /// The runtime.
        runtime: Runtime,
        /// How it ended.
        how: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A process could not be started or spoken to.
    #[error("the process of a runtime: {0}")]
    Process(#[from] std::io::Error),
    /// A message between processes could not be read.
    #[error("the process of a runtime answered what was not asked: {0}")]
    Answer(String),
}

/// [`std::result::Result`] with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
