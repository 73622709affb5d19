//! A network in the forms that other programs run.

mod fold;
mod graph;
mod npz;
mod onnx;
mod onnx_format;
mod source;
mod torchscript;

pub use npz::npz_bytes;
pub use onnx::{OnnxInput, OnnxOptions};
pub use source::ScriptOptions;
