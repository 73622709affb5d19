//! A network in each runtime.

mod eager;
mod model;
mod onnx_runtime;
mod torchscript;

pub use eager::Eager;
pub use model::Model;
pub use onnx_runtime::OnnxRuntime;
pub use torchscript::TorchScript;
