//! A network in the forms that other programs run.

mod npz;
mod onnx;
mod onnx_format;
mod source;
mod torchscript;

pub use npz::npz_bytes;
pub use onnx::{OnnxInput, OnnxOptions};
pub use torchscript::ScriptOptions;
