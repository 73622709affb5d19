//! `train export`

use crate::commands::runtime_worker::workers;
use crate::device::DeviceChoice;
use crate::done::Done;
use crate::source::{Loaded, Source};
use crate::usage::{Usage, refuse_existing};
use anyhow::{Result, bail};
use arch::state_dict::torch_bytes;
use arch::{Execution, Preset, ScriptOptions};
use clap::ValueEnum;
use deploy::verify::{BOUND, difference};
use gumbel_gates::Policy;
use runtime::Runtime;
use serde_json::json;
use std::collections::HashMap;
use std::path::PathBuf;
use trainer::{
    About, Checkpoint, Expected, OnnxExport, check_path, export_onnx, export_script, onnx_check_path, write_atomically,
};

/// Write a network for other programs
///
/// TorchScript runs in Python and C++ without this program: forward(images) gives class logits for
/// normalized images [N, 3, H, W], forward_with_openings(images) also what each gate decided. An
/// ONNX file runs in ONNX Runtime and others: `images` to `logits`, and `gate_values` where gates
/// remain. Sizes, mean, deviation, class names and MACs are in either. Beside the file lie images
/// with the logits they must give (scripts/verify_export.py).
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train export --checkpoint pruned.safetensors --out network.onnx\n  train export --checkpoint pruned.safetensors --fold-bn --out network.pt\n  train export --checkpoint runs/resnet50-aig/checkpoints/best.safetensors --mode skip --out network.pt\n  train export --checkpoint best.safetensors --format state-dict --out resnet50.pth"
)]
pub(crate) struct Args {
    #[command(flatten)]
    source: Source,
    /// The file to write; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// What to write [default: what the name in --out ends with, else torchscript]
    #[arg(long, value_name = "FORMAT", value_enum)]
    format: Option<Format>,
    /// TorchScript and ONNX: whether layers that gates close are multiplied by zero or not computed
    /// [default: skip]
    #[arg(long, value_name = "MODE", value_enum)]
    mode: Option<Mode>,
    /// TorchScript and ONNX: keep gates that ignore the image instead of cutting what they close
    #[arg(long)]
    keep_gates: bool,
    /// TorchScript: make batch norms part of the convolutions before them
    #[arg(long)]
    fold_bn: bool,
    /// TorchScript and ONNX: how gates decide: argmax, threshold=P or always-open [default: argmax]
    #[arg(long, value_name = "POLICY")]
    policy: Option<Policy>,
    /// ONNX: what it takes [default: normalized]
    #[arg(long, value_name = "WHAT", value_enum)]
    input: Option<Taken>,
    /// State dict: whose names the tensors have [default: torchvision]
    #[arg(long, value_name = "WHOSE", value_enum)]
    names: Option<Names>,
    /// TorchScript and ONNX: run the file and compare its logits [default: if its runtime is
    /// installed]
    #[arg(long, overrides_with = "no_check")]
    check: bool,
    /// Do not run the file
    #[arg(long)]
    no_check: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Taken {
    /// float32 [N, 3, H, W], normalized
    Normalized,
    /// uint8 [N, H, W, 3], resized and cropped, normalized inside
    Uint8,
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
    /// A graph and its weights, for ONNX Runtime and others; batch norms are part of convolutions
    Onnx,
    /// A checkpoint without the state of training
    Safetensors,
    /// The weights alone, for torch.load; for networks of published shape without gates
    StateDict,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Everything is computed
    Masked,
    /// A layer that a gate closes is not computed
    Skip,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    let format = format(&args)?;
    refuse_options_of_others(&args, format)?;
    let name = args.out.to_string_lossy();
    if name.ends_with(".check.pt") || name.ends_with(".check.npz") {
        bail!(Usage("--out: NAME.check.pt and NAME.check.npz hold images to check with; choose another name".into()));
    }
    let beside = match format {
        Format::Torchscript => Some(check_path(&args.out)),
        Format::Onnx => Some(onnx_check_path(&args.out)),
        Format::Safetensors | Format::StateDict => None,
    };
    for path in [Some(&args.out), beside.as_ref()].into_iter().flatten() {
        refuse_existing(path)?;
    }
    if args.keep_gates && args.policy == Some(Policy::AlwaysOpen) {
        bail!(Usage("--keep-gates contradicts --policy always-open, which leaves none".into()));
    }
    if args.check {
        // Before anything is written.
        let runtime = if format == Format::Onnx { Runtime::OnnxRuntime } else { Runtime::TorchScript };
        drop(workers().start(runtime, "cpu")?);
    }
    // Exports run anywhere, so they are made on the CPU.
    let loaded = args.source.load(DeviceChoice::Cpu.resolve()?)?;
    let execution = match args.mode {
        Some(Mode::Masked) => Execution::Masked,
        Some(Mode::Skip) | None => Execution::Skipping,
    };
    let mut checked = Checked::default();
    match format {
        Format::Onnx => {
            let provenance = provenance(&loaded);
            let about = About { classes: &loaded.classes, input: loaded.input, provenance: &provenance };
            let policy = args.policy.unwrap_or(Policy::Argmax);
            let bytes = args.input == Some(Taken::Uint8);
            let export = OnnxExport { policy, execution, keep_gates: args.keep_gates, bytes };
            let expected = export_onnx(&loaded.network, &about, export, &args.out)?;
            checked = check(&args, Runtime::OnnxRuntime, &expected)?;
        }
        Format::Torchscript => {
            let provenance = provenance(&loaded);
            let about = About { classes: &loaded.classes, input: loaded.input, provenance: &provenance };
            let options = ScriptOptions {
                policy: args.policy.unwrap_or(Policy::Argmax),
                execution,
                keep_gates: args.keep_gates,
                fold_batch_norms: args.fold_bn,
            };
            let expected = export_script(&loaded.network, &about, &options, &args.out)?;
            checked = check(&args, Runtime::TorchScript, &expected)?;
        }
        Format::Safetensors => {
            Checkpoint::write(&args.out, &loaded.network, &loaded.classes, loaded.input, None)?;
        }
        Format::StateDict => state_dict(&loaded, &args)?,
    }
    let differs = checked.difference.is_some_and(|difference| difference > BOUND);
    if args.json {
        let check = beside.map(|path| data::readable(path.as_os_str()));
        let out = data::readable(args.out.as_os_str());
        let verdict = match checked.difference {
            None => None,
            Some(_) if differs => Some("differs"),
            Some(_) => Some("agrees"),
        };
        let value = json!({ "out": out, "check": check, "verdict": verdict, "difference": checked.difference });
        return Ok(Done { stdout: format!("{value:#}\n"), stderr: checked.note, code: u8::from(differs) });
    }
    let beside = beside.map(|path| format!("wrote {}, images to check it with\n", path.display())).unwrap_or_default();
    let text = format!("wrote {}\n{beside}{}", args.out.display(), checked.text);
    Ok(Done { stdout: text, stderr: checked.note, code: u8::from(differs) })
}

/// What running an exported file found.
#[derive(Default)]
struct Checked {
    difference: Option<f64>,
    text: String,
    /// Why it was not run.
    note: String,
}

/// Runs the file that was written, all images at once and the first by itself.
fn check(args: &Args, runtime: Runtime, expected: &Expected) -> Result<Checked> {
    if args.no_check {
        return Ok(Checked::default());
    }
    match difference(workers(), runtime, &args.out, expected) {
        Ok(difference) if difference <= BOUND => {
            let text = format!("ran it in {runtime}: logits differ by {difference:.1e} of the largest\n");
            Ok(Checked { difference: Some(difference), text, note: String::new() })
        }
        Ok(difference) => {
            let text = format!(
                "ran it in {runtime}: LOGITS DIFFER by {difference:.1e} of the largest; do not use this file\n"
            );
            Ok(Checked { difference: Some(difference), text, note: String::new() })
        }
        Err(deploy::Error::Runtime(error @ runtime::Error::Missing { .. })) if !args.check => {
            Ok(Checked { note: format!("not run: {error}\n"), ..Checked::default() })
        }
        Err(error) => bail!("{} was written but could not be run: {error}", args.out.display()),
    }
}

/// What `--format` says, or the ending of `--out`; they must not contradict each other.
fn format(args: &Args) -> Result<Format> {
    let ending = args.out.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let of_ending = match ending {
        "onnx" => Some(Format::Onnx),
        "safetensors" => Some(Format::Safetensors),
        _ => None,
    };
    match (args.format, of_ending) {
        (Some(format), Some(other)) if format != other => {
            bail!(Usage(format!("--out {} ends like another format than --format asks for", args.out.display())))
        }
        (Some(Format::Onnx), None) if !ending.is_empty() => {
            bail!(Usage(format!("--out {}: the name of an ONNX file ends in .onnx", args.out.display())))
        }
        (format, of_ending) => Ok(format.or(of_ending).unwrap_or(Format::Torchscript)),
    }
}

fn refuse_options_of_others(args: &Args, format: Format) -> Result<()> {
    let (script, onnx) = (format == Format::Torchscript, format == Format::Onnx);
    for (given, fits, option, whose) in [
        (args.mode.is_some(), script || onnx, "--mode", "torchscript and onnx"),
        (args.keep_gates, script || onnx, "--keep-gates", "torchscript and onnx"),
        (args.fold_bn, script, "--fold-bn", "torchscript; batch norms are folded in ONNX files anyway"),
        (args.policy.is_some(), script || onnx, "--policy", "torchscript and onnx"),
        (args.check, script || onnx, "--check", "torchscript and onnx"),
        (args.no_check, script || onnx, "--no-check", "torchscript and onnx"),
        (args.input.is_some(), onnx, "--input", "onnx"),
        (args.names.is_some(), format == Format::StateDict, "--names", "state-dict"),
    ] {
        if given && !fits {
            bail!(Usage(format!("{option} is for --format {whose}")));
        }
    }
    Ok(())
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
    let renamed = |name: &str| arch::renamed(name, &names);
    let tensors: Vec<_> = loaded.network.tensors().iter().map(|entry| (renamed(&entry.name), &entry.tensor)).collect();
    let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), *tensor));
    Ok(write_atomically(&args.out, &torch_bytes(tensors)?)?)
}
