//! What the stages of a shrink work with.

use crate::error::{Error, Result};
use crate::shrink::asked::Asked;
use crate::shrink::plan::{Folder, Plan};
use crate::stopwatch::Note;
use crate::workers::Workers;
use arch::{Cost, NetSpec, Network};
use data::Loader;
use runtime::Runtime;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Device;
use trainer::{Config, Input, RunDir};

/// The dense network's checkpoint, below the folder.
pub(super) const DENSE: &str = "dense.safetensors";
/// The dense network as the target runtime reads it, without its ending.
pub(super) const DENSE_FILE: &str = "dense";
/// The table of times.
pub(super) const TIMES: &str = "times.json";
/// The training run.
pub(super) const RUN: &str = "run";
/// The exported files.
pub(super) const ONNX: &str = "network.onnx";
pub(super) const SCRIPT: &str = "network.pt";

/// A network to be made smaller, on the CPU.
#[derive(Debug)]
pub struct Dense {
    /// The network, without gates.
    pub network: Network,
    /// Class names, by label.
    pub classes: Vec<String>,
}

/// What a shrink works with.
#[derive(Debug)]
pub struct Shrink<'a> {
    /// The network.
    pub dense: Dense,
    /// How it is trained ([`crate::shrink::config`]).
    pub config: Config,
    /// The images that it is validated on, prepared as the configuration says.
    pub validation: &'a Loader,
    /// Share of them that may be unusable.
    pub max_bad_share: f64,
    /// Where the smaller network will run.
    pub runtime: Runtime,
    /// Where networks are trained and evaluated.
    pub device: Device,
    /// Processes that run networks.
    pub workers: Workers,
    /// What was asked for.
    pub asked: Asked,
    /// Where everything goes.
    pub out: &'a Path,
    /// The folder of another shrink; what it measured of the same dense network is taken over.
    pub like: Option<&'a Path>,
}

/// Stages that are under way.
pub struct Shrinking<'a> {
    pub(super) shrink: Shrink<'a>,
    pub(super) folder: Folder,
    pub(super) plan: Plan,
    pub(super) interrupt: &'a AtomicBool,
    pub(super) note: Note<'a>,
}

impl Shrinking<'_> {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }

    pub(super) fn tell(&mut self, text: &str) {
        (self.note)(text);
    }

    pub(super) fn refuse_interruption(&self) -> Result<()> {
        if self.interrupt.load(Ordering::Relaxed) { Err(trainer::Error::Interrupted.into()) } else { Ok(()) }
    }

    pub(super) fn input(&self) -> Input {
        Input::of(&self.shrink.config)
    }

    pub(super) fn cost(&self, spec: &NetSpec) -> Result<Cost> {
        let size = self.input().image_size as usize;
        Ok(Cost::of(spec, size, size)?)
    }

    /// The folder of the training run.
    pub fn run_dir(&self) -> RunDir {
        RunDir::at(&self.folder.path.join(RUN))
    }

    /// The files for other programs.
    pub fn files(&self) -> [PathBuf; 2] {
        [self.path(ONNX), self.path(SCRIPT)]
    }
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

pub(super) fn file(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.to_owned(), source }
}

pub(super) fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(|source| file(path, source))?.len())
}
