//! `--device`

use crate::usage::Usage;
use anyhow::{Result, bail};
use std::fmt;
use std::str::FromStr;
use tch::{Cuda, Device};

/// Where the network runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceChoice {
    /// The first GPU if there is one, else the CPU.
    Auto,
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => match text.strip_prefix("cuda:").and_then(|number| number.parse().ok()) {
                Some(number) => Ok(Self::Cuda(number)),
                None => Err("expected auto, cpu, cuda or cuda:N".into()),
            },
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceChoice {
    /// The device. Call it before any tensor is made: libtorch looks for CUDA once.
    pub(crate) fn resolve(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if !torch_ext::cuda_is_available() => Ok(Device::Cpu),
            Self::Auto => Ok(Device::Cuda(0)),
            Self::Cuda(number) => {
                if let Some(fault) = torch_ext::cuda_fault() {
                    bail!(Usage(format!(
                        "--device cuda:{number}: no CUDA device can be used here ({fault}); use --device cpu"
                    )));
                }
                let count = Cuda::device_count();
                if number as i64 >= count {
                    bail!(Usage(format!(
                        "--device cuda:{number}: this machine has {count} CUDA device(s), counted from 0"
                    )));
                }
                Ok(Device::Cuda(number))
            }
        }
    }
}
