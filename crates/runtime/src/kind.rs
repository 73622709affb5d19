//! The runtimes.

use std::fmt;

/// What runs a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// This program's own forward pass.
    Libtorch,
    /// libtorch's interpreter of scripts.
    TorchScript,
    /// ONNX Runtime on the CPU.
    OnnxRuntime,
    /// OpenVINO on the CPU, in float32.
    OpenVino,
}

impl Runtime {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Libtorch, Self::TorchScript, Self::OnnxRuntime, Self::OpenVino];

    /// Its name in options and files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Libtorch => "libtorch",
            Self::TorchScript => "torchscript",
            Self::OnnxRuntime => "onnxruntime",
            Self::OpenVino => "openvino",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Libtorch => "libtorch",
            Self::TorchScript => "TorchScript",
            Self::OnnxRuntime => "ONNX Runtime",
            Self::OpenVino => "OpenVINO",
        })
    }
}
