//! How published files name and shape what a spec describes.

use super::net::{ConvSpec, NetSpec, Shortcut, in_block};
use super::presets::PRESETS;
use std::collections::HashMap;

/// Blocks of the stages of MobileNetV2.
const MOBILENET_V2_BLOCKS: [usize; 7] = [1, 2, 3, 4, 3, 3, 1];

impl NetSpec {
    /// The names that timm gives to layers, by torchvision's names, which are those of this crate;
    /// without the layers that both call the same. ResNets have equal names in both.
    pub fn timm_names(&self) -> HashMap<String, String> {
        let mut names = HashMap::new();
        if self.stem.conv.name != "features.0.0" {
            return names;
        }
        let mut add = |block: &str, conv: &ConvSpec, theirs: String, norm: String| {
            names.insert(in_block(block, &conv.name), theirs);
            names.insert(in_block(block, &conv.norm), norm);
        };
        add("", &self.stem.conv, "conv_stem".into(), "bn1".into());
        for block in &self.blocks {
            let number = block.name.strip_prefix("features.").and_then(|number| number.parse().ok());
            let place = number.and_then(place);
            let layers: &[[&str; 2]] = match (block.branch.len(), place) {
                (3, Some(_)) => &[["conv_pw", "bn1"], ["conv_dw", "bn2"], ["conv_pwl", "bn3"]],
                (2, Some(_)) => &[["conv_dw", "bn1"], ["conv_pw", "bn2"]],
                _ => &[["conv_head", "bn2"]],
            };
            let before = place.map(|(stage, position)| format!("blocks.{stage}.{position}.")).unwrap_or_default();
            for (conv, [theirs, norm]) in block.branch.iter().zip(layers) {
                add(&block.name, conv, format!("{before}{theirs}"), format!("{before}{norm}"));
            }
        }
        names.insert(self.head.name.clone(), "classifier".into());
        names
    }
}

/// A tensor's name with that of its layer replaced, where `layers` names another.
pub fn renamed(tensor: &str, layers: &HashMap<String, String>) -> String {
    let layer_and_part = tensor.rsplit_once('.');
    let other = layer_and_part.and_then(|(layer, part)| Some(format!("{}.{part}", layers.get(layer)?)));
    other.unwrap_or_else(|| tensor.to_owned())
}

/// Stage and position of the inverted residual with this number, from 1 on.
fn place(number: usize) -> Option<(usize, usize)> {
    let mut left = number.checked_sub(1)?;
    for (stage, &blocks) in MOBILENET_V2_BLOCKS.iter().enumerate() {
        match left.checked_sub(blocks) {
            None => return Some((stage, left)),
            Some(rest) => left = rest,
        }
    }
    None
}

/// Whether all convolutions of a network are among tensors of these names and sizes.
pub(crate) fn fits(spec: &NetSpec, sizes: &HashMap<String, Vec<i64>>) -> bool {
    let fits = |block: &str, conv: &ConvSpec| {
        let shape = [conv.outputs, conv.inputs / conv.groups, conv.kernel, conv.kernel].map(|size| size as i64);
        sizes.get(&format!("{}.weight", in_block(block, &conv.name))).is_some_and(|size| *size == shape)
    };
    fits("", &spec.stem.conv)
        && spec.blocks.iter().all(|block| {
            let around = if let Shortcut::Projection(conv) = &block.shortcut { Some(conv) } else { None };
            block.branch.iter().chain(around).all(|conv| fits(&block.name, conv))
        })
}

/// The preset all of whose convolutions are among tensors of these names and sizes, if there is
/// one: of several the deepest.
pub(crate) fn weights_of(sizes: &HashMap<String, Vec<i64>>) -> Option<String> {
    let specs = PRESETS.iter().map(|preset| (preset.name, preset.spec(1)));
    let fitting = specs.filter(|(_, spec)| fits(spec, sizes));
    fitting.max_by_key(|(_, spec)| spec.blocks.len()).map(|(name, _)| name.to_owned())
}
