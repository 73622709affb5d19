//! What a network is: plain data.

use super::channels::Channels;
use super::sites::GateSite;
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
    /// The convolutions of the residual branch, in order. Pruning can leave none, where there is a
    /// path around.
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
    /// Whether a tensor `bias` is added to the sum, one value per channel: a pruned branch that
    /// became a constant.
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
    /// Every `stride`-th pixel of the input, with channels of zeros added on both sides: He et al.
    /// 2015, option A.
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

/// The state dict name of a layer in a block of that name.
pub(crate) fn in_block(block: &str, layer: &str) -> String {
    if block.is_empty() { layer.to_owned() } else { format!("{block}.{layer}") }
}

impl ConvSpec {
    /// Its state dict name in a block of that name; a stem's convolution lies in a block without a
    /// name.
    pub(crate) fn full_name(&self, block: &str) -> String {
        in_block(block, &self.name)
    }

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
    /// Output extent for an input extent, in pixels; `None` if a kernel does not fit or there is no
    /// shortcut.
    pub fn output_extent(&self, extent: usize) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Identity => Some(extent),
            Self::Projection(conv) => conv.output_extent(extent),
            Self::ZeroPadded { stride, .. } => Some(extent.div_ceil((*stride).max(1))),
        }
    }
}
