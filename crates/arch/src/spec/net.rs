//! What a network is: plain data.

use super::channels::Channels;
use super::gating::{GateSite, Site};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// A network: stem, residual blocks, head. Only data; see [`crate::Network`] for its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// The preset it came from, such as `resnet50`.
    pub name: String,
    /// What comes before the blocks.
    pub stem: StemSpec,
    /// The blocks, in the order they run.
    pub blocks: Vec<BlockSpec>,
    /// Global average pooling and the classifier.
    pub head: HeadSpec,
}

/// The stem: a convolution and, for ImageNet networks, a max pooling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StemSpec {
    /// The first convolution; reads the image.
    pub conv: ConvSpec,
    /// Max pooling behind it.
    pub pool: Option<PoolSpec>,
}

/// Max pooling with a square window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSpec {
    /// Window size in pixels.
    pub kernel: usize,
    /// Step in pixels.
    pub stride: usize,
    /// Zero padding on each side in pixels.
    pub padding: usize,
}

/// A square convolution without bias, the batch norm behind it, and an activation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvSpec {
    /// State dict name of the convolution, below its block's.
    pub name: String,
    /// State dict name of the batch norm, below its block's.
    pub norm: String,
    /// Channels in.
    pub inputs: usize,
    /// Filters.
    pub outputs: usize,
    /// Kernel size in pixels.
    pub kernel: usize,
    /// Step in pixels.
    pub stride: usize,
    /// Zero padding on each side in pixels.
    pub padding: usize,
    /// Groups of channels that are convolved apart from each other.
    pub groups: usize,
    /// What follows the batch norm.
    pub activation: Activation,
}

/// A pointwise non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// None.
    Identity,
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
}

/// A residual block: activation(shortcut(x) + branch(x)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSpec {
    /// State dict prefix, such as `layer1.0`.
    pub name: String,
    /// Channels the block reads.
    pub inputs: usize,
    /// Channels the block writes.
    pub outputs: usize,
    /// The convolutions of the residual branch, in order. Pruning can leave none, where there is a path around.
    pub branch: Vec<ConvSpec>,
    /// The path around the branch.
    pub shortcut: Shortcut,
    /// The channels the branch reads, all if absent: what pruning left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Channels>,
    /// The channels the branch writes, all if absent: what pruning left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<Channels>,
    /// The channels a projection shortcut writes, all if absent: what pruning left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub projects: Option<Channels>,
    /// Whether a tensor `bias` is added to the sum, one value per channel: a pruned branch that came to a constant.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bias: bool,
    /// What follows the sum.
    pub activation: Activation,
    /// Where gates sit.
    pub gates: Vec<GateSite>,
}

/// The path around a branch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shortcut {
    /// There is none: the block is a plain stack.
    None,
    /// The input itself.
    Identity,
    /// A convolution of the input, where the shape changes.
    Projection(ConvSpec),
    /// Every `stride`-th pixel of the input, with channels of zeros added on both sides: He et al. 2015, option A.
    ZeroPadded {
        /// Step in pixels.
        stride: usize,
        /// Channels out.
        outputs: usize,
    },
}

/// Global average pooling, dropout and a fully connected classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSpec {
    /// State dict name of the classifier.
    pub name: String,
    /// Channels in.
    pub inputs: usize,
    /// Classes out.
    pub classes: usize,
    /// While training, the share of the channels in front of the classifier that are set to zero.
    #[serde(default)]
    pub dropout: f64,
}

impl ConvSpec {
    /// Output extent for an input extent, in pixels; `None` if the kernel does not fit.
    pub fn output_extent(&self, extent: usize) -> Option<usize> {
        output_extent(extent, self.kernel, self.stride, self.padding)
    }
}

impl PoolSpec {
    /// Output extent for an input extent, in pixels; `None` if the window does not fit.
    pub fn output_extent(&self, extent: usize) -> Option<usize> {
        output_extent(extent, self.kernel, self.stride, self.padding)
    }
}

fn output_extent(extent: usize, kernel: usize, stride: usize, padding: usize) -> Option<usize> {
    Some((extent + 2 * padding).checked_sub(kernel)? / stride + 1)
}

impl Shortcut {
    /// Output extent for an input extent, in pixels; `None` if a kernel does not fit or there is no shortcut.
    pub fn output_extent(&self, extent: usize) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Identity => Some(extent),
            Self::Projection(conv) => conv.output_extent(extent),
            Self::ZeroPadded { stride, .. } => Some(extent.div_ceil((*stride).max(1))),
        }
    }
}

impl NetSpec {
    /// Checks that the pieces fit together. Specs come from files too, so sizes are bounded.
    ///
    /// # Errors
    /// All contradictions at once.
    pub fn validate(&self) -> Result<()> {
        let mut faults = Vec::new();
        let mut conv = |block: &str, conv: &ConvSpec, inputs: usize| {
            let name = if block.is_empty() { conv.name.clone() } else { format!("{block}.{}", conv.name) };
            if conv.inputs != inputs {
                faults.push(format!("'{name}' reads {} channels where {inputs} arrive", conv.inputs));
            }
            let sizes = [conv.inputs, conv.outputs, conv.kernel, conv.stride, conv.groups];
            if sizes.iter().any(|&size| size == 0 || size > MAX_SIZE) || conv.padding > MAX_SIZE {
                faults.push(format!("'{name}' has a size outside 1 to {MAX_SIZE}"));
            } else if !conv.inputs.is_multiple_of(conv.groups) || !conv.outputs.is_multiple_of(conv.groups) {
                faults.push(format!("'{name}' has channels that {} groups do not divide", conv.groups));
            }
        };
        conv("", &self.stem.conv, 3);
        let mut channels = self.stem.conv.outputs;
        let mut block_faults = Vec::new();
        if let Some(pool) = &self.stem.pool
            && (pool.kernel == 0 || pool.stride == 0 || pool.padding > pool.kernel / 2 || pool.kernel > MAX_SIZE)
        {
            block_faults.push("the stem's pooling has a window, stride or padding that cannot be".to_owned());
        }
        for block in &self.blocks {
            let (inputs, outputs) = (channels, block.outputs);
            if block.inputs != inputs {
                block_faults
                    .push(format!("block '{}' reads {} channels where {inputs} arrive", block.name, block.inputs));
            }
            for (name, selection, of) in [
                ("reads", &block.reads, inputs),
                ("writes", &block.writes, outputs),
                ("projects", &block.projects, outputs),
            ] {
                if let Some(fault) = selection.as_ref().and_then(|channels| channels.fault(of)) {
                    block_faults.push(format!("'{name}' of block '{}' {fault}", block.name));
                }
            }
            let selected = |selection: &Option<Channels>, all| selection.as_ref().map_or(all, Channels::count);
            let mut width = selected(&block.reads, inputs);
            for layer in &block.branch {
                conv(&block.name, layer, width);
                width = layer.outputs;
            }
            if let Shortcut::Projection(layer) = &block.shortcut {
                conv(&block.name, layer, inputs);
            }
            let around = match &block.shortcut {
                Shortcut::None => None,
                Shortcut::Identity => Some((inputs, outputs)),
                Shortcut::Projection(layer) => Some((layer.outputs, selected(&block.projects, outputs))),
                Shortcut::ZeroPadded { outputs: padded, .. } => Some((*padded, outputs)),
            };
            if block.outputs == 0 || block.outputs > MAX_SIZE {
                block_faults.push(format!("block '{}' has a size outside 1 to {MAX_SIZE}", block.name));
            }
            if let Shortcut::ZeroPadded { stride, outputs } = block.shortcut
                && (stride == 0 || stride > MAX_SIZE || outputs < inputs || !(outputs - inputs).is_multiple_of(2))
            {
                block_faults.push(format!("block '{}' cannot pad {inputs} channels to {outputs}", block.name));
            }
            let gated = block.gates.iter().any(|gates| gates.site != Site::Projection);
            if block.branch.is_empty() && (block.shortcut == Shortcut::None || gated) {
                block_faults.push(format!("block '{}' has no convolution", block.name));
            }
            let written = selected(&block.writes, outputs);
            if !block.branch.is_empty() && width != written {
                block_faults
                    .push(format!("the branch of block '{}' makes {width} channels and writes {written}", block.name));
            }
            if let Some((found, expected)) = around.filter(|(found, expected)| found != expected) {
                block_faults
                    .push(format!("the shortcut of block '{}' makes {found} channels for {expected}", block.name));
            }
            channels = outputs;
            block_faults.extend(block.gate_faults());
        }
        if self.head.inputs != channels || self.head.classes == 0 || self.head.classes > 1 << 20 {
            block_faults.push(format!(
                "the head reads {} channels where {channels} arrive, for {} classes",
                self.head.inputs, self.head.classes
            ));
        }
        if !(0.0..1.0).contains(&self.head.dropout) {
            block_faults.push(format!("the head has a dropout of {}; expected 0 to below 1", self.head.dropout));
        }
        faults.extend(block_faults);
        if faults.is_empty() { Ok(()) } else { Err(Error::Spec { faults }) }
    }
}

/// No width, kernel or stride of a network is larger.
const MAX_SIZE: usize = 1 << 16;
