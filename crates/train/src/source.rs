//! Where a network comes from: `--checkpoint FILE`, or `--arch NAME [--weights FILE]`.

use crate::usage::Usage;
use anyhow::{Result, bail};
use arch::state_dict::StateDict;
use arch::{Classifier, CutGates, FreshClassifier, NetSpec, Network, Preset};
use clap::Args;
use data::{Source as _, Split, Transform, readable};
use std::io::Write;
use std::path::{Path, PathBuf};
use tch::Device;
use trainer::config::Augment;
use trainer::{Checkpoint, Config, Input, Training, is_checkpoint};

#[derive(Args, Debug)]
#[group(id = "network")]
pub(crate) struct Source {
    /// A checkpoint written by `train fit`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["arch", "weights", "num_classes"])]
    pub checkpoint: Option<PathBuf>,
    /// A preset, such as resnet50
    #[arg(long, value_name = "NAME")]
    pub arch: Option<String>,
    /// Weights for --arch: a .pth or .safetensors state dict with torchvision's names
    #[arg(long, value_name = "FILE", requires = "arch")]
    pub weights: Option<PathBuf>,
    /// Classes of --arch [default: as many as --weights has, else 1000]; if the file has others,
    /// the classifier is fresh
    #[arg(long, value_name = "N", requires = "arch", value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub num_classes: Option<u32>,
}

/// A network and what is needed to use it.
pub(crate) struct Loaded {
    pub network: Network,
    /// Class names; numbers where the file does not know them.
    pub classes: Vec<String>,
    /// Whether the names are real.
    pub named: bool,
    pub input: Input,
    /// How its training images are prepared.
    pub augmentation: Transform,
    /// Where its training stood, if a checkpoint says so.
    pub training: Option<Training>,
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
                let name = readable(path.as_os_str());
                let Checkpoint { classes, input, training, .. } = checkpoint;
                let augmentation = match &training {
                    Some(training) => training.config.data.augmentation(),
                    None => augmentation(input),
                };
                Ok(Loaded { network, classes, named: true, input, augmentation, training, name })
            }
            (None, Some(arch), Some(path)) => {
                let network = network_with_weights(arch, path, self.num_classes, device)?;
                let classes = (0..network.spec().head.classes).map(|class| class.to_string()).collect();
                let name = format!("{arch} with {}", readable(path.as_os_str()));
                let mut input = Input::of(&Config::default());
                let preset = Preset::named(arch)?;
                (input.image_size, input.resize) = (preset.image_size, preset.resize);
                let augmentation = augmentation(input);
                Ok(Loaded { network, classes, named: false, input, augmentation, training: None, name })
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

impl Loaded {
    /// The gates that a run cut out of the network when they froze.
    pub(crate) fn cut(&self) -> Option<&CutGates> {
        self.training.as_ref()?.cut.as_ref()
    }

    /// The spec of the network with its gates, be they cut out of it.
    pub(crate) fn spec(&self) -> &NetSpec {
        self.cut().map_or(self.network.spec(), |cut| &cut.spec)
    }

    /// Refuses a split whose classes are not the network's; one without class names is held to
    /// their number.
    pub(crate) fn refuse_other_classes(&self, split: &Split) -> Result<()> {
        if self.named {
            return Ok(trainer::refuse_other_classes(&self.classes, split)?);
        }
        let network = self.classes.len();
        let data = split.classes().len();
        if network != data {
            let folder = split.location().display();
            bail!("the network knows {network} classes and {folder} holds {data}; use the classes it was trained on");
        }
        if let Some(note) = trainer::note_on_class_order(split) {
            let _ = writeln!(std::io::stderr(), "{note}");
        }
        Ok(())
    }
}

/// How training images are prepared for a network of which only the evaluation is known: the CIFAR
/// recipe for images that are used whole, else ImageNet's.
fn augmentation(input: Input) -> Transform {
    let mut config = Config::default();
    (config.data.image_size, config.data.resize) = (input.image_size, input.resize);
    if input.image_size == input.resize {
        config.data.augment = Augment::PaddedCrop;
    }
    config.data.augmentation()
}

/// A preset with the weights of a file, which says how many classes there are unless `num_classes`
/// does.
pub(crate) fn network_with_weights(
    arch: &str,
    path: &Path,
    num_classes: Option<u32>,
    device: Device,
) -> Result<Network> {
    let weights = StateDict::read(path)?;
    if is_checkpoint(&weights) {
        // It knows its architecture better than the command line.
        bail!(Usage(format!("{} is a checkpoint; give it as --checkpoint, without --arch", path.display())));
    }
    let found = weights.classes_of(&NetSpec::preset(arch, 1)?).unwrap_or(1000).clamp(1, 1 << 20);
    let (classes, classifier) = match num_classes {
        None => (found, Classifier::Required),
        Some(classes) => (classes as usize, Classifier::MayBeFresh),
    };
    let network = Network::build(&NetSpec::preset(arch, classes)?, device, 0)?;
    let mut loaded = network.load(&weights, classifier)?;
    let file = path.display();
    loaded.notes.extend(loaded.fresh_classifier.map(|fresh| match fresh {
        FreshClassifier::OtherClasses(other) => {
            format!("the classifier is fresh: {file} has {other} classes, --num-classes is {classes}")
        }
        FreshClassifier::Absent => format!("the classifier is fresh: {file} has none"),
    }));
    for note in loaded.notes {
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    Ok(network)
}
