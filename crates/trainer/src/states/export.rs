//! Networks as files for programs that know nothing of this one.

use crate::error::{Error, Result};
use crate::files::atomic::write_atomically;
use crate::states::input::Input;
use arch::{Cost, Network, Pass, ScriptOptions};
use gumbel_gates::GateKind;
use std::path::{Path, PathBuf};
use tch::Kind;
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
/// `std`, `classes`, `macs` (per image with all gates open), `provenance` and `source`, the script
/// as it was compiled.
///
/// # Errors
/// If the network cannot become a script, every gate is closed, or a file cannot be written; then
/// neither is there.
pub fn export_script(network: &Network, about: &About, options: &ScriptOptions, path: &Path) -> Result<()> {
    let Input { image_size, resize, mean, std } = about.input;
    let size = image_size as usize;
    let mut script = network.script(options)?;
    let floats = |values: [f32; 3]| values.map(f64::from);
    let macs = Cost::of(network.spec(), size, size)?.dense;
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
    let pass = Pass::inference(options.policy);
    let output = tch::no_grad(|| network.forward(&images.to_device(network.device()), pass))?;
    // Gates that look at the image may well close on noise.
    let independent = network.spec().gate_sites().all(|(_, gates)| gates.kind == GateKind::Independent);
    let gated = !output.gate_values.is_empty();
    if gated && independent && output.gate_values.joined()?.f_max()?.f_double_value(&[])? == 0.0 {
        return Err(Error::AllClosed);
    }
    let mut check = Script::new("Check")?;
    check.tensor("images", &images, true)?;
    check.tensor("logits", &output.logits.f_to_kind(Kind::Float)?.f_to_device(tch::Device::Cpu)?, true)?;
    let (script, check) = (script.save()?, check.save()?);
    let check_path = check_path(path);
    write_atomically(&check_path, &check)?;
    write_atomically(path, &script).inspect_err(|_| {
        // One without the other helps nobody; the first error is the one to tell.
        let _ = std::fs::remove_file(&check_path);
    })
}
