//! The runtimes.

use std::fmt;
use std::str::FromStr;

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

impl FromStr for Runtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|runtime| runtime.key() == text);
        found.ok_or_else(|| format!("expected {}", Self::ALL.map(Self::key).join(", ")))
    }
}
