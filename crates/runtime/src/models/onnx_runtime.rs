//! ONNX Runtime, from the library of its Python package or of the user.

use super::model::Model;
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::installed::{missing, onnx_runtime};
use crate::kind::Runtime;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::value::{DynValue, Tensor};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// An ONNX file in ONNX Runtime on the CPU.
pub struct OnnxRuntime {
    path: PathBuf,
    threads: usize,
    session: Session,
    images: Option<DynValue>,
}

impl OnnxRuntime {
    /// Loads the library, once in a process.
    ///
    /// # Errors
    /// If it is not there, or older than 1.17.
    pub fn init() -> Result<()> {
        let library = onnx_runtime()?;
        let environment = ort::init_from(&library).map_err(|error| missing(Runtime::OnnxRuntime, error.to_string()))?;
        environment.with_telemetry(false).commit();
        Ok(())
    }

    /// Reads a file; [`OnnxRuntime::init`] comes before.
    ///
    /// # Errors
    /// If ONNX Runtime does not take it.
    pub fn load(path: &Path, threads: usize) -> Result<Self> {
        let session = session(path, threads, None).map_err(refused)?;
        Ok(Self { path: path.to_owned(), threads, session, images: None })
    }

    /// Computes the images given with a session.
    fn run_in(session: &mut Session, images: Option<&DynValue>) -> Result<Array> {
        let message = || Error::Refused { runtime: Runtime::OnnxRuntime, message: "no images were given".into() };
        let images = images.ok_or_else(message)?;
        let mut run = || -> ort::Result<Array> {
            let outputs = session.run(ort::inputs!["images" => images])?;
            let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>()?;
            let shape = shape.iter().map(|&extent| extent as usize).collect();
            Ok(Array { shape, values: Values::Floats(logits.to_vec()) })
        };
        run().map_err(refused)
    }
}

/// A session; one that writes what its operations take to files that begin with `profile`.
fn session(path: &Path, threads: usize, profile: Option<&Path>) -> ort::Result<Session> {
    let mut builder = Session::builder()?.with_intra_threads(threads)?.with_log_level(LogLevel::Error)?;
    // The threads of a session otherwise wait awake for more, and stand in the way of the next
    // session.
    builder = builder.with_config_entry("session.force_spinning_stop", "1")?;
    if let Some(profile) = profile {
        builder = builder.with_profiling(profile)?;
    }
    builder.commit_from_file(path)
}

/// An event of ONNX Runtime's profile, as far as it is needed; `dur` in microseconds.
#[derive(Deserialize)]
struct Profiled {
    cat: String,
    name: String,
    dur: f64,
}

impl Model for OnnxRuntime {
    fn give(&mut self, images: &Array) -> Result<()> {
        let shape = images.shape.clone();
        let images = match &images.values {
            Values::Floats(values) => Tensor::from_array((shape, values.clone())).map(Tensor::into_dyn),
            Values::Bytes(values) => Tensor::from_array((shape, values.clone())).map(Tensor::into_dyn),
        };
        self.images = Some(images.map_err(refused)?);
        Ok(())
    }

    fn run(&mut self) -> Result<Array> {
        Self::run_in(&mut self.session, self.images.as_ref())
    }

    fn operations(&mut self, runs: u32) -> Result<Vec<(String, f64)>> {
        let folder = tempfile::tempdir()?;
        let mut session = session(&self.path, self.threads, Some(&folder.path().join("profile"))).map_err(refused)?;
        for _ in 0..runs {
            Self::run_in(&mut session, self.images.as_ref())?;
        }
        let file = session.end_profiling().map_err(refused)?;
        let text = fs::read_to_string(&file).map_err(|source| Error::File { path: file.into(), source })?;
        let events: Vec<Profiled> = serde_json::from_str(&text).map_err(refused)?;
        let mut operations: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for event in events.into_iter().filter(|event| event.cat == "Node") {
            if let Some(name) = event.name.strip_suffix("_kernel_time") {
                operations.entry(name.to_owned()).or_default().push(event.dur / 1e6);
            }
        }
        // The median, as often as it runs: single runs are interrupted.
        let of_one = |mut seconds: Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2] * seconds.len() as f64 / f64::from(runs)
        };
        Ok(operations.into_iter().map(|(name, seconds)| (name, of_one(seconds))).collect())
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Refused { runtime: Runtime::OnnxRuntime, message: error.to_string() }
}
