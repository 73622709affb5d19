//! Where a network comes from: `--checkpoint FILE`, or `--arch NAME [--weights FILE]`.

use crate::commands::Usage;
use anyhow::{Result, bail};
use arch::state_dict::StateDict;
use arch::{Classifier, NetSpec, Network, Preset};
use clap::Args;
use std::path::{Path, PathBuf};
use tch::Device;
use trainer::{Checkpoint, Config, Input, is_checkpoint};

#[derive(Args, Debug)]
#[group(id = "network")]
pub(crate) struct Source {
    /// A checkpoint written by `train fit`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arch", "weights"])]
    pub checkpoint: Option<PathBuf>,
    /// A preset, such as resnet50
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Weights for --arch: a .pth or .safetensors state dict with torchvision's names
    #[arg(long, value_name = "FILE", requires = "arch")]
    pub weights: Option<PathBuf>,
}

/// A network and what is needed to use it.
pub(crate) struct Loaded {
    pub network: Network,
    /// Class names; numbers where the file does not know them.
    pub classes: Vec<String>,
    /// Whether the names are real.
    pub named: bool,
    pub input: Input,
    /// What to call it.
    pub name: String,
}

impl Source {
    /// Loads the network with its weights.
    pub(crate) fn load(&self, device: Device) -> Result<Loaded> {
        match (&self.checkpoint, &self.arch, &self.weights) {
            (Some(path), ..) => {
                let checkpoint = Checkpoint::read(path)?;
                let network = checkpoint.network(device)?;
                let name = path.display().to_string();
                Ok(Loaded { network, classes: checkpoint.classes, named: true, input: checkpoint.input, name })
            }
            (None, Some(arch), Some(path)) => {
                let network = network_with_weights(arch, path, device)?;
                let classes = (0..network.spec().head.classes).map(|class| class.to_string()).collect();
                let name = format!("{arch} with {}", path.display());
                let mut input = Input::of(&Config::default());
                let preset = Preset::named(arch)?;
                (input.image_size, input.resize) = (preset.image_size, preset.resize);
                Ok(Loaded { network, classes, named: false, input, name })
            }
            (None, Some(arch), None) => {
                bail!(Usage(format!("--arch {arch} alone is an untrained network; give --weights FILE too")))
            }
            (None, None, _) => {
                bail!(Usage("which network? Give --checkpoint FILE, or --arch NAME --weights FILE".into()))
            }
        }
    }
}

/// A preset with the weights of a file, which says how many classes there are.
pub(crate) fn network_with_weights(arch: &str, path: &Path, device: Device) -> Result<Network> {
    let weights = StateDict::read(path)?;
    if is_checkpoint(&weights) {
        // It knows its architecture better than the command line.
        bail!(Usage(format!("{} is a checkpoint; give it as --checkpoint, without --arch", path.display())));
    }
    let bias = format!("{}.bias", NetSpec::preset(arch, 1)?.head.name);
    let found = weights.tensors.iter().find(|(name, _)| *name == bias);
    let classes = found.and_then(|(_, bias)| bias.size1().ok()).unwrap_or(1000).clamp(1, 1 << 20);
    let network = Network::build(&NetSpec::preset(arch, classes as usize)?, device, 0)?;
    network.load(&weights, Classifier::Required)?;
    Ok(network)
}
