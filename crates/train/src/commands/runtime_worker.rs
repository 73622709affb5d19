//! What `train bench inference` and others start to run networks in a process of its own.

use crate::device::DeviceChoice;
use crate::done::Done;
use anyhow::Result;
use arch::{Execution, Pass};
use deploy::Workers;
use gumbel_gates::Policy;
use runtime::{Eager, Error, Model, OnnxRuntime, Runtime, TorchScript, serve};
use std::io;
use std::path::Path;
use std::process::Command;
use trainer::Checkpoint;

/// Answer requests to run networks, for other commands of this program
#[derive(clap::Args)]
pub(crate) struct Args {
    /// libtorch, torchscript or onnxruntime
    runtime: Runtime,
    /// Where libtorch runs
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,
}

/// Processes of this program that run networks.
pub(crate) fn workers() -> Workers {
    Workers::new(|runtime, device| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["runtime-worker", runtime.key(), "--device", device]);
        Ok(command)
    })
}

pub(crate) fn run(args: &Args) -> Result<Done> {
    let runtime = args.runtime;
    let device = args.device.resolve()?;
    let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
    let ready = if runtime == Runtime::OnnxRuntime { OnnxRuntime::init() } else { Ok(()) };
    let load = |path: &Path, skip: bool| -> runtime::Result<Box<dyn Model>> {
        Ok(match runtime {
            Runtime::Libtorch => {
                let refused = |error: trainer::Error| Error::Refused { runtime, message: error.to_string() };
                let network = Checkpoint::read(path).and_then(|read| read.network(device)).map_err(refused)?;
                let execution = if skip { Execution::Skipping } else { Execution::Masked };
                Box::new(Eager::new(network, Pass { execution, ..Pass::inference(Policy::Argmax) }))
            }
            Runtime::TorchScript => Box::new(TorchScript::load(path)?),
            Runtime::OnnxRuntime | Runtime::OpenVino => Box::new(OnnxRuntime::load(path, threads)?),
        })
    };
    serve(io::stdin().lock(), io::stdout().lock(), ready, load)?;
    Ok(Done::default())
}
