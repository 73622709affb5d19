//! The folder of a run.

use crate::error::{Error, Result};
use crate::files::atomic::remove_scratch;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The folder of a run; docs/layout.md says what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// The folder at `path`, whether it exists or not.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Makes the folder `path`, which must not exist.
    ///
    /// # Errors
    /// If it exists or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let failed = |source| Error::Write { path: path.to_owned(), bytes: None, source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        // Made in one step, so that of two runs started together one fails.
        match fs::create_dir(path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::OutputExists { path: path.to_owned() });
            }
            Err(source) => return Err(failed(source)),
        }
        fs::create_dir(Self::at(path).checkpoints()).map_err(failed)?;
        Ok(Self::at(path))
    }

    /// Makes the first of `runs/NAME`, `runs/NAME-2`, `runs/NAME-3`, … that is free.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create_numbered(name: &str) -> Result<Self> {
        let mut path = Path::new("runs").join(name);
        let mut number = 1;
        loop {
            match Self::create(&path) {
                Err(Error::OutputExists { .. }) => number += 1,
                outcome => return outcome,
            }
            path.set_file_name(format!("{name}-{number}"));
        }
    }

    /// Claims the run for this process until the file is dropped, by a lock on the folder of its
    /// states, which is never replaced.
    ///
    /// # Errors
    /// If another process has it, or the folder cannot be opened.
    pub fn lock(&self) -> Result<File> {
        let path = self.checkpoints();
        let file = File::open(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Error::Busy { path: self.path.clone() }),
            Err(TryLockError::Error(source)) => Err(Error::Read { path, source }),
        }
    }

    /// Removes what an interrupted write left behind.
    pub fn remove_scratch(&self) {
        remove_scratch(&self.checkpoints());
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The table of costs that its gates are held to, if there is one.
    pub fn times(&self) -> PathBuf {
        self.path.join("times.json")
    }

    /// The folder of all states.
    pub fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// The state to resume from.
    pub fn last(&self) -> PathBuf {
        self.last_but(0)
    }

    /// The state saved that many times before the last one: `last-2.safetensors` is the one before
    /// it.
    pub fn last_but(&self, places: usize) -> PathBuf {
        let name = if places == 0 { "last".to_owned() } else { format!("last-{}", places + 1) };
        self.checkpoints().join(format!("{name}.safetensors"))
    }

    /// The best state.
    pub fn best(&self) -> PathBuf {
        self.checkpoints().join("best.safetensors")
    }

    /// A state that was among the best after that epoch (from 1), where several are kept.
    pub fn best_of_epoch(&self, epoch: u64) -> PathBuf {
        self.checkpoints().join(format!("best-epoch-{epoch}.safetensors"))
    }

    /// The state after that epoch (from 1), kept for good.
    pub fn after_epoch(&self, epoch: u64) -> PathBuf {
        self.checkpoints().join(format!("epoch-{epoch}.safetensors"))
    }

    /// One line per log step and epoch.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Whether a state was saved, from which the run can go on.
    pub fn has_state(&self) -> bool {
        self.last().exists() || self.last_but(1).exists()
    }

    /// `images-of-step-N.txt`: the images of the step that ended the run, one a line.
    pub fn images_of_step(&self, step: u64) -> PathBuf {
        self.path.join(format!("images-of-step-{step}.txt"))
    }

    /// What the gates did in the last evaluation ([`crate::write_gate_report`]).
    pub fn gates(&self) -> PathBuf {
        self.path.join("gates")
    }

    /// TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }
}
