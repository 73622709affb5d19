//! ONNX Runtime, from the library of its Python package or of the user.

use super::model::Model;
use crate::array::{Array, Values};
use crate::error::{Error, Result};
use crate::installed::{missing, onnx_runtime};
use crate::protocol::Runtime;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::value::{DynValue, Tensor};
use std::path::Path;

/// An ONNX file in ONNX Runtime on the CPU.
pub struct OnnxRuntime {
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
        let session = || -> ort::Result<Session> {
            Ok(Session::builder()?
                .with_intra_threads(threads)?
                .with_log_level(LogLevel::Error)?
                .commit_from_file(path)?)
        };
        Ok(Self { session: session().map_err(refused)?, images: None })
    }
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
        let message = || Error::Refused { runtime: Runtime::OnnxRuntime, message: "no images were given".into() };
        let images = self.images.as_ref().ok_or_else(message)?;
        let mut run = || -> ort::Result<Array> {
            let outputs = self.session.run(ort::inputs!["images" => images])?;
            let (shape, logits) = outputs["logits"].try_extract_tensor::<f32>()?;
            let shape = shape.iter().map(|&extent| extent as usize).collect();
            Ok(Array { shape, values: Values::Floats(logits.to_vec()) })
        };
        run().map_err(refused)
    }
}

fn refused(error: impl std::fmt::Display) -> Error {
    Error::Refused { runtime: Runtime::OnnxRuntime, message: error.to_string() }
}
