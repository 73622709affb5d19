use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of a run; see docs/layout.md for what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the folder `path`, which must not exist.
    ///
    /// # Errors
    /// If it exists or cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        if path.exists() {
            return Err(Error::OutputExists { path: path.to_owned() });
        }
        let run = Self { path: path.to_owned() };
        let checkpoints = run.path.join("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(|source| Error::Write { path: checkpoints, bytes: 0, source })?;
        Ok(run)
    }

    /// The first of `runs/NAME`, `runs/NAME-2`, `runs/NAME-3`, … that is free.
    pub fn free_path(name: &str) -> PathBuf {
        let numbered = (2u64..).map(|number| format!("{name}-{number}"));
        std::iter::once(name.to_owned())
            .chain(numbered)
            .map(|name| Path::new("runs").join(name))
            .find(|path| !path.exists())
            .unwrap_or_default()
    }

    /// The folder of a run that exists.
    pub fn existing(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The resolved configuration.
    pub fn config(&self) -> PathBuf {
        self.path.join("config.toml")
    }

    /// The state to resume from.
    pub fn last(&self) -> PathBuf {
        self.path.join("checkpoints/last.safetensors")
    }

    /// The state with the best top-1.
    pub fn best(&self) -> PathBuf {
        self.path.join("checkpoints/best.safetensors")
    }

    /// One line per log step and epoch.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// TensorBoard's event files.
    pub fn tensorboard(&self) -> PathBuf {
        self.path.join("tensorboard")
    }
}
