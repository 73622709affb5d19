//! Whether the pieces of a network fit together. Specs come from files too, so nothing is taken for
//! granted.

use super::channels::Channels;
use super::net::{BlockSpec, ConvSpec, HeadSpec, NetSpec, PoolSpec, Shortcut, in_block};
use super::sites::Site;
use crate::error::{Error, Result};
use std::collections::HashSet;

/// No width, kernel or stride of a network is larger.
const MAX_SIZE: usize = 1 << 16;

impl NetSpec {
    /// Checks that the pieces fit together. Specs come from files too, so sizes are bounded.
    ///
    /// # Errors
    /// All contradictions at once.
    pub fn validate(&self) -> Result<()> {
        let mut faults = self.name_faults();
        faults.extend(self.conv_faults());
        faults.extend(self.stem.pool.as_ref().and_then(PoolSpec::fault));
        let mut channels = self.stem.conv.outputs;
        for block in &self.blocks {
            faults.extend(block.faults(channels));
            channels = block.outputs;
        }
        faults.extend(self.head.faults(channels));
        if faults.is_empty() { Ok(()) } else { Err(Error::Spec { faults }) }
    }

    /// What is wrong with names. They become those of tensors and, in exports, of a program's
    /// variables, so they are identifiers joined by dots, and no two layers share one.
    fn name_faults(&self) -> Vec<String> {
        let mut layers = vec![self.head.name.clone(), self.stem.conv.name.clone(), self.stem.conv.norm.clone()];
        for block in &self.blocks {
            let around = if let Shortcut::Projection(conv) = &block.shortcut { Some(conv) } else { None };
            let layer = |conv: &ConvSpec| [&conv.name, &conv.norm].map(|layer| in_block(&block.name, layer));
            layers.extend(block.branch.iter().chain(around).flat_map(layer));
        }
        let blocks = self.blocks.iter().map(|block| &block.name);
        let mut faults: Vec<String> = layers
            .iter()
            .chain(blocks.clone())
            .filter(|name| !is_name(name))
            .map(|name| format!("{name:?} is no name of a layer; expected letters, digits and _, joined by dots"))
            .collect();
        let mut seen = HashSet::new();
        let twice = layers.iter().filter(|name| !seen.insert(name.as_str())).cloned();
        let mut seen = HashSet::new();
        let blocks = blocks.filter(|name| !seen.insert(name.replace('.', "_"))).cloned();
        faults.extend(twice.chain(blocks).map(|name| format!("two layers are called '{name}'")));
        if !is_name(&self.name.replace('-', "_")) {
            faults.push(format!("{:?} is no name of a network; expected letters, digits, _, - and dots", self.name));
        }
        faults
    }

    /// What is wrong with convolutions, of the whole network.
    fn conv_faults(&self) -> Vec<String> {
        let mut faults = self.stem.conv.faults("", 3);
        let mut channels = self.stem.conv.outputs;
        for block in &self.blocks {
            let mut width = selected(block.reads.as_ref(), channels);
            for conv in &block.branch {
                faults.extend(conv.faults(&block.name, width));
                width = conv.outputs;
            }
            if let Shortcut::Projection(conv) = &block.shortcut {
                faults.extend(conv.faults(&block.name, channels));
            }
            channels = block.outputs;
        }
        faults
    }
}

impl ConvSpec {
    /// What is wrong with a convolution of a block where `inputs` channels arrive.
    fn faults(&self, block: &str, inputs: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let name = self.full_name(block);
        if self.inputs != inputs {
            faults.push(format!("'{name}' reads {} channels where {inputs} arrive", self.inputs));
        }
        let sizes = [self.inputs, self.outputs, self.kernel, self.stride, self.groups];
        if !sizes.into_iter().all(is_size) || self.padding >= self.kernel {
            faults.push(format!("'{name}' has a size outside 1 to {MAX_SIZE}, or a padding as wide as its kernel"));
        } else if ![self.inputs, self.outputs].iter().all(|size| size.is_multiple_of(self.groups)) {
            faults.push(format!("'{name}' has channels that {} groups do not divide", self.groups));
        }
        faults
    }
}

impl PoolSpec {
    fn fault(&self) -> Option<String> {
        let is_possible = is_size(self.kernel) && is_size(self.stride) && self.padding <= self.kernel / 2;
        let fault = "the stem's pooling has a window, stride or padding that cannot be";
        (!is_possible).then(|| fault.to_owned())
    }
}

impl BlockSpec {
    /// What is wrong with a block where `inputs` channels arrive, but for its convolutions.
    fn faults(&self, inputs: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let name = &self.name;
        if self.inputs != inputs {
            let reads = self.inputs;
            faults.push(format!("block '{name}' reads {reads} channels where {inputs} arrive"));
        }
        for (key, selection, of) in [
            ("reads", &self.reads, inputs),
            ("writes", &self.writes, self.outputs),
            ("projects", &self.projects, self.outputs),
        ] {
            if let Some(fault) = selection.as_ref().and_then(|channels| channels.fault(of)) {
                faults.push(format!("'{key}' of block '{name}' {fault}"));
            }
        }
        if !is_size(self.outputs) {
            faults.push(format!("block '{name}' has a size outside 1 to {MAX_SIZE}"));
        }
        if let Shortcut::ZeroPadded { stride, outputs } = self.shortcut
            && (!is_size(stride) || outputs < inputs || !(outputs - inputs).is_multiple_of(2))
        {
            faults.push(format!("block '{name}' cannot pad {inputs} channels to {outputs}"));
        }
        let is_gated = self.gates.iter().any(|gates| gates.site != Site::Projection);
        let strides = |convs: &[ConvSpec]| convs.iter().try_fold(1, |all: usize, conv| all.checked_mul(conv.stride));
        let around = match &self.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(1),
            Shortcut::ZeroPadded { stride, .. } => Some(*stride),
            Shortcut::Projection(conv) => Some(conv.stride),
        };
        if !self.branch.is_empty() && around.is_some_and(|around| strides(&self.branch) != Some(around)) {
            faults.push(format!("the strides of branch and shortcut of block '{name}' differ"));
        }
        if self.branch.is_empty() && (self.shortcut == Shortcut::None || is_gated) {
            faults.push(format!("block '{name}' has no convolution"));
        }
        faults.extend(self.sum_faults(inputs));
        faults.extend(self.gate_faults());
        faults
    }

    /// Where branch and shortcut make other channels than the sum has.
    fn sum_faults(&self, inputs: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let name = &self.name;
        let written = selected(self.writes.as_ref(), self.outputs);
        if let Some(last) = self.branch.last().filter(|last| last.outputs != written) {
            let made = format!("makes {} channels and writes {written}", last.outputs);
            faults.push(format!("the branch of block '{name}' {made}"));
        }
        let around = match &self.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some((inputs, self.outputs)),
            Shortcut::Projection(conv) => Some((conv.outputs, selected(self.projects.as_ref(), self.outputs))),
            Shortcut::ZeroPadded { outputs, .. } => Some((*outputs, self.outputs)),
        };
        if let Some((found, expected)) = around.filter(|(found, expected)| found != expected) {
            let made = format!("makes {found} channels for {expected}");
            faults.push(format!("the shortcut of block '{name}' {made}"));
        }
        faults
    }

    /// What is wrong with the block's gates.
    fn gate_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (i, gates) in self.gates.iter().enumerate() {
            let site = format!("block '{}' has gates at its {}", self.name, gates.site);
            if self.gates[..i].iter().any(|other| other.site == gates.site) {
                faults.push(format!("{site} twice"));
            }
            if !gates.initial.0.is_finite() || !gates.initial.1.is_finite() {
                faults.push(format!("{site} that start at {:?}", gates.initial));
            }
            if gates.site == Site::Layer {
                if self.shortcut == Shortcut::None {
                    faults.push(format!("block '{}' has a layer gate but no path around its branch", self.name));
                }
                continue;
            }
            let covered = gates.groups.iter().try_fold(0usize, |sum, run| {
                let channels = run.count.checked_mul(run.channels).filter(|&channels| channels > 0);
                channels.and_then(|channels| sum.checked_add(channels))
            });
            match self.channels_at(gates.site) {
                None => faults.push(format!("{site}, where none can be")),
                Some(channels) if covered != Some(channels) => {
                    faults.push(format!("{site} whose groups do not cover its {channels} channels"));
                }
                Some(_) if gates.count() == 0 => faults.push(format!("{site}, but no group is gated")),
                Some(_) => {}
            }
        }
        faults
    }
}

impl HeadSpec {
    /// What is wrong with a head where `channels` channels arrive.
    fn faults(&self, channels: usize) -> Vec<String> {
        let mut faults = Vec::new();
        if self.inputs != channels || self.classes == 0 || self.classes > 1 << 20 {
            let (inputs, classes) = (self.inputs, self.classes);
            faults.push(format!("the head reads {inputs} channels where {channels} arrive, for {classes} classes"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            faults.push(format!("the head has a dropout of {}; expected 0 to below 1", self.dropout));
        }
        faults
    }
}

/// What the module of an export has beside layers, and words of its language.
const TAKEN: [&str; 46] = [
    "forward",
    "forward_with_openings",
    "classify",
    "select_channels",
    "select_images",
    "replace_images",
    "images",
    "logits",
    "gate_values",
    "training",
    "self",
    "image_size",
    "resize",
    "mean",
    "std",
    "classes",
    "macs",
    "provenance",
    "source",
    "False",
    "None",
    "True",
    "and",
    "as",
    "assert",
    "break",
    "class",
    "continue",
    "def",
    "del",
    "elif",
    "else",
    "except",
    "finally",
    "for",
    "from",
    "if",
    "import",
    "in",
    "is",
    "lambda",
    "not",
    "or",
    "pass",
    "return",
    "while",
];

/// Whether a name is made of identifiers and numbers, joined by dots.
fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        let plain = part.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
        !part.is_empty() && plain && !part.starts_with("__") && !TAKEN.contains(&part)
    };
    name.len() <= 200 && name.split('.').all(part) && !TAKEN.contains(&&*name.replace('.', "_"))
}

/// Whether a width, kernel or stride can be.
fn is_size(size: usize) -> bool {
    (1..=MAX_SIZE).contains(&size)
}

/// How many channels a selection of `all` has.
fn selected(selection: Option<&Channels>, all: usize) -> usize {
    selection.map_or(all, Channels::count)
}
