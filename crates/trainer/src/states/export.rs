//! Networks as files for programs that know nothing of this one.

use crate::error::{Error, Result};
use crate::files::atomic::write_atomically;
use crate::states::input::Input;
use arch::{Cost, Execution, Network, OnnxInput, OnnxOptions, Pass, ScriptOptions, npz_bytes};
use gumbel_gates::{GateKind, Policy};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};
use torch_ext::{Attribute, Script, normal};

/// What an exported network says about itself.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Class names, by label.
    pub classes: &'a [String],
    /// How images are prepared.
    pub input: Input,
    /// Where the network came from.
    pub provenance: &'a str,
}

/// Images in the file that an export is checked against.
const CHECKED_IMAGES: i64 = 2;

/// Where the images and logits lie that an export is checked against: beside it.
pub fn check_path(export: &Path) -> PathBuf {
    export.with_extension("check.pt")
}

/// Writes `network` as a TorchScript file to `path`, and beside it ([`check_path`]) images with the
/// logits this program computes for them. Attributes of the module: `image_size`, `resize`, `mean`,
/// `std`, `classes`, `macs` (per image, with all gates open that remain), `provenance` and `source`, the script
/// as it was compiled.
///
/// # Errors
/// If the network cannot become a script, every gate is closed, or a file cannot be written; then
/// neither is there.
pub fn export_script(network: &Network, about: &About, options: &ScriptOptions, path: &Path) -> Result<Expected> {
    let Input { image_size, resize, mean, std } = about.input;
    let size = image_size as usize;
    let mut script = network.script(options)?;
    let floats = |values: [f32; 3]| values.map(f64::from);
    let macs = macs(network, options.policy, options.keep_gates, size)?;
    let source = network.script_source(options)?;
    for (name, value) in [
        ("image_size", Attribute::Int(image_size.into())),
        ("resize", Attribute::Int(resize.into())),
        ("mean", Attribute::Numbers(&floats(mean))),
        ("std", Attribute::Numbers(&floats(std))),
        ("classes", Attribute::Texts(about.classes)),
        ("macs", Attribute::Int(i64::try_from(macs).unwrap_or(i64::MAX))),
        ("provenance", Attribute::Text(about.provenance)),
        ("source", Attribute::Text(&source)),
    ] {
        script.attribute(name, value)?;
    }

    let images = normal(&[CHECKED_IMAGES, 3, image_size.into(), image_size.into()], 0)?;
    let logits = logits_to_check(network, &images, options.policy)?;
    let mut check = Script::new("Check")?;
    check.tensor("images", &images, true)?;
    check.tensor("logits", &logits, true)?;
    write_both(path, &script.save()?, &check_path(path), &check.save()?)?;
    Ok(Expected { images, logits })
}

/// What an exported network must give.
#[derive(Debug)]
pub struct Expected {
    /// A few images, as it takes them.
    pub images: Tensor,
    /// Its logits [N, classes] for them.
    pub logits: Tensor,
}

/// How a network becomes an ONNX file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OnnxExport {
    /// How gates decide.
    pub policy: Policy,
    /// Whether layers that gates close are multiplied by zero or not computed.
    pub execution: Execution,
    /// Whether gates that ignore the image stay gates; else they are decided and cut.
    pub keep_gates: bool,
    /// Whether it takes bytes, [N, H, W, 3], and normalizes inside.
    pub bytes: bool,
}

/// Writes `network` as an ONNX file to `path`, and beside it ([`onnx_check_path`]) images with the
/// logits this program computes for them. Its metadata are those of a TorchScript export, as text.
///
/// # Errors
/// If the network cannot become such a file, every gate is closed, or a file cannot be written; then
/// neither is there.
pub fn export_onnx(network: &Network, about: &About, export: OnnxExport, path: &Path) -> Result<Expected> {
    let Input { image_size, resize, mean, std } = about.input;
    let size = image_size as usize;
    let listed = |values: [f32; 3]| values.map(|value| value.to_string()).join(", ");
    let metadata = [
        ("image_size", image_size.to_string()),
        ("resize", resize.to_string()),
        ("mean", listed(mean)),
        ("std", listed(std)),
        ("classes", about.classes.join("\n")),
        ("macs", macs(network, export.policy, export.keep_gates, size)?.to_string()),
        ("provenance", about.provenance.to_owned()),
    ];
    let options = OnnxOptions {
        policy: export.policy,
        execution: export.execution,
        keep_gates: export.keep_gates,
        input: if export.bytes { OnnxInput::Bytes { mean, std } } else { OnnxInput::Normalized },
        image_size: size,
        metadata: metadata.map(|(key, value)| (key.to_owned(), value)).to_vec(),
    };
    let file = network.onnx_bytes(&options)?;
    let images = normal(&[CHECKED_IMAGES, 3, image_size.into(), image_size.into()], 0)?;
    let (taken, images) = if export.bytes { as_bytes(&images, mean, std)? } else { (images.shallow_clone(), images) };
    let logits = logits_to_check(network, &images, export.policy)?;
    let check = npz_bytes([("images", &taken), ("logits", &logits)])?;
    write_both(path, &file, &onnx_check_path(path), &check)?;
    Ok(Expected { images: taken, logits })
}

/// MACs per image of what is exported, with all gates open that remain.
fn macs(network: &Network, policy: Policy, keep_gates: bool, size: usize) -> Result<u64> {
    let decided = if keep_gates { None } else { network.decided(policy)? };
    Ok(Cost::of(decided.as_ref().unwrap_or(network).spec(), size, size)?.dense)
}

/// Where the images and logits lie that an ONNX file is checked against: beside it.
pub fn onnx_check_path(export: &Path) -> PathBuf {
    export.with_extension("check.npz")
}

/// Images as bytes [N, H, W, 3], and what a network sees of those.
fn as_bytes(images: &Tensor, mean: [f32; 3], std: [f32; 3]) -> Result<(Tensor, Tensor)> {
    let [mean, std] = [mean, std].map(|values| Tensor::from_slice(&values).view([1, 3, 1, 1]));
    let levels = (images.f_mul(&std)?.f_add(&mean)?.f_mul_scalar(255.0)?).f_clamp(0.0, 255.0)?.f_round()?;
    let seen = levels.f_div_scalar(255.0)?.f_sub(&mean)?.f_div(&std)?;
    Ok((levels.f_to_kind(Kind::Uint8)?.f_permute([0, 2, 3, 1])?, seen))
}

/// The logits of images, for a network of which something is open.
fn logits_to_check(network: &Network, images: &Tensor, policy: Policy) -> Result<Tensor> {
    let output = tch::no_grad(|| network.forward(&images.to_device(network.device()), Pass::inference(policy)))?;
    // Gates that look at the image may well close on noise.
    let independent = network.spec().gate_sites().all(|(_, gates)| gates.kind == GateKind::Independent);
    let gated = !output.gate_values.is_empty();
    if gated && independent && output.gate_values.joined()?.f_max()?.f_double_value(&[])? == 0.0 {
        return Err(Error::AllClosed);
    }
    Ok(output.logits.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?)
}

/// One without the other helps nobody.
fn write_both(path: &Path, content: &[u8], check_path: &Path, check: &[u8]) -> Result<()> {
    write_atomically(check_path, check)?;
    write_atomically(path, content).inspect_err(|_| {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(check_path);
    })
}
