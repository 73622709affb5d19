//! `train export`

use crate::device::DeviceChoice;
use crate::done::Done;
use crate::source::{Loaded, Source};
use crate::usage::{Usage, refuse_existing};
use anyhow::{Result, bail};
use arch::state_dict::torch_bytes;
use arch::{Execution, Preset, ScriptOptions};
use clap::ValueEnum;
use gumbel_gates::Policy;
use std::collections::HashMap;
use std::path::PathBuf;
use trainer::{About, Checkpoint, check_path, export_script, write_atomically};

/// Write a network for other programs
///
/// TorchScript runs in Python and C++ without this program: forward(images) gives class logits for
/// normalized images [N, 3, H, W], forward_with_openings(images) also what each gate decided.
/// Sizes, mean, deviation, class names, MACs and the script's source are attributes of the module.
/// Beside the file lie images with the logits they must give (scripts/verify_export.py).
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train export --checkpoint pruned.safetensors --fold-bn --out network.pt\n  train export --checkpoint runs/resnet50-aig/checkpoints/best.safetensors --mode skip --out network.pt\n  train export --checkpoint best.safetensors --format state-dict --out resnet50.pth"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// The file to write; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What to write
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Torchscript)]
    format: Format,
    /// TorchScript: whether closed layers and filters are multiplied by zero or not computed
    /// [default: skip]
    #[arg(long, value_name = "MODE", value_enum)]
    mode: Option<Mode>,
    /// TorchScript: make batch norms part of the convolutions before them
    #[arg(long)]
    fold_bn: bool,
    /// TorchScript: how gates decide: argmax, threshold=P or always-open [default: argmax]
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
    /// State dict: whose names the tensors have [default: torchvision]
    #[arg(long, value_name = "WHOSE", value_enum)]
    names: Option<Names>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Names {
    /// torchvision.models
    Torchvision,
    /// timm; other names for MobileNetV2 only
    Timm,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A program and its weights, for torch.jit.load
    Torchscript,
    /// A checkpoint without the state of training
    Safetensors,
    /// The weights alone, for torch.load; for networks of published shape without gates
    StateDict,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Everything is computed
    Masked,
    /// What is closed is not computed
    Skip,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let only_torchscript = args.mode.is_some() || args.policy.is_some() || args.fold_bn;
    if args.format != Format::Torchscript && only_torchscript {
        bail!(Usage(
            "--mode, --policy and --fold-bn are for --format torchscript; the other formats hold weights alone".into()
        ));
    }
    if args.format != Format::StateDict && args.names.is_some() {
        bail!(Usage("--names is for --format state-dict".into()));
    }
    if args.out.to_string_lossy().ends_with(".check.pt") {
        bail!(Usage("--out: choose another name than NAME.check.pt, which holds the images to check with".into()));
    }
    let beside = match args.format {
        Format::Torchscript => Some(check_path(&args.out)),
        Format::Safetensors | Format::StateDict => None,
    };
    for path in [Some(&args.out), beside.as_ref()].into_iter().flatten() {
        refuse_existing(path)?;
    }
    // Exports run anywhere, so they are made on the CPU.
    let loaded = args.source.load(DeviceChoice::Cpu.resolve()?)?;
    match args.format {
        Format::Torchscript => {
            let provenance = provenance(&loaded);
            let about = About { classes: &loaded.classes, input: loaded.input, provenance: &provenance };
            let options = ScriptOptions {
                execution: match args.mode {
                    Some(Mode::Masked) => Execution::Masked,
                    Some(Mode::Skip) | None => Execution::Skipping,
                },
                policy: args.policy.unwrap_or(Policy::Argmax),
                fold_batch_norms: args.fold_bn,
            };
            export_script(&loaded.network, &about, &options, &args.out)?;
        }
        Format::Safetensors => {
            Checkpoint::write(&args.out, &loaded.network, &loaded.classes, loaded.input, None)?;
        }
        Format::StateDict => state_dict(&loaded, &args)?,
    }
    let beside = beside.map(|path| format!("wrote {}, images to check it with\n", path.display())).unwrap_or_default();
    Ok(Done::ok(format!("wrote {}\n{beside}", args.out.display())))
}

fn provenance(loaded: &Loaded) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let trained = match &loaded.training {
        Some(training) => format!(", trained for {} epochs ({} steps)", training.epoch, training.step),
        None => String::new(),
    };
    format!("gumbel-gates {version}: {} from {}{trained}", loaded.network.spec().name, loaded.name)
}

fn state_dict(loaded: &Loaded, args: &Args) -> Result<()> {
    let spec = loaded.network.spec();
    let published = Preset::named(&spec.name).map(|preset| preset.spec(spec.head.classes));
    if !published.is_ok_and(|published| published == *spec) {
        let why = if spec.gate_count() > 0 { "it has gates" } else { "it was changed" };
        bail!(
            "{} has not the shapes of the published {}: {why}; --format torchscript or safetensors can hold it",
            loaded.name,
            spec.name
        );
    }
    let names = if args.names == Some(Names::Timm) { spec.timm_names() } else { HashMap::new() };
    let name = |own: &str| {
        let theirs = own.rsplit_once('.').and_then(|(layer, kind)| Some(format!("{}.{kind}", names.get(layer)?)));
        theirs.unwrap_or_else(|| own.to_owned())
    };
    let tensors: Vec<_> = loaded.network.tensors().iter().map(|entry| (name(&entry.name), &entry.tensor)).collect();
    let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor));
    Ok(write_atomically(&args.out, &torch_bytes(tensors)?)?)
}
