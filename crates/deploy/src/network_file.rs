//! Networks as the files that runtimes read.

use crate::error::Result;
use arch::{Execution, Network, OnnxInput, OnnxOptions, ScriptOptions};
use gumbel_gates::Policy;
use runtime::Runtime;
use std::path::{Path, PathBuf};
use trainer::{Checkpoint, Input};

/// Writes a network as the file that a runtime reads, with the ending that it has there, unless it
/// is there already. Gates decide by argmax.
///
/// # Errors
/// If the network has no such form, or the file cannot be written.
pub fn write_for(
    runtime: Runtime,
    network: &Network,
    execution: Execution,
    classes: &[String],
    input: Input,
    stem: &Path,
) -> Result<PathBuf> {
    let path = stem.with_extension(match runtime {
        Runtime::Libtorch => "safetensors",
        Runtime::TorchScript => "pt",
        Runtime::OnnxRuntime | Runtime::OpenVino => "onnx",
    });
    if path.exists() {
        return Ok(path);
    }
    let policy = Policy::Argmax;
    let bytes = match runtime {
        Runtime::Libtorch => {
            Checkpoint::write(&path, network, classes, input, None)?;
            return Ok(path);
        }
        Runtime::TorchScript => {
            let options = ScriptOptions { policy, execution, keep_gates: false, fold_batch_norms: true };
            network.script(&options)?.save()?
        }
        Runtime::OnnxRuntime | Runtime::OpenVino => network.onnx_bytes(&OnnxOptions {
            policy,
            execution,
            keep_gates: false,
            input: OnnxInput::Normalized,
            image_size: input.image_size as usize,
            metadata: Vec::new(),
        })?,
    };
    trainer::write_atomically(&path, &bytes)?;
    Ok(path)
}
