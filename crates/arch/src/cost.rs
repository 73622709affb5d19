//! What a forward pass costs, in multiply-accumulates (1 MAC = 2 FLOPs).

use crate::error::{Error, Result};
use crate::spec::{BlockSpec, ConvSpec, NetSpec, Shortcut};
use gumbel_gates::{Gates, Openings};
use tch::{Kind, Tensor};

/// The cost of a network for one image, from its spec alone. Convolutions and fully connected layers count; batch norm,
/// activations and pooling do not, as usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// Learned numbers of the network without its gates.
    pub parameters: u64,
    /// Learned numbers of the gates.
    pub gate_parameters: u64,
    /// MACs of the network without gates.
    pub dense: u64,
    /// MACs of the gates themselves: spent whatever they decide.
    pub gates: u64,
    /// Per block, in order.
    pub blocks: Vec<BlockCost>,
    /// Per gate site, the MACs it saves where it is closed.
    gated: Vec<u64>,
}

/// The cost of one block for one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockCost {
    /// The block's name.
    pub name: String,
    /// Extent (height, width) of its output in pixels.
    pub extent: (usize, usize),
    /// Learned numbers, gates left out.
    pub parameters: u64,
    /// MACs of the branch: what a layer gate saves.
    pub branch: u64,
    /// MACs of the shortcut.
    pub shortcut: u64,
}

impl BlockCost {
    /// MACs of the block without its gates.
    pub fn macs(&self) -> u64 {
        self.branch.saturating_add(self.shortcut)
    }

    /// MACs used per image if its layer gate is open for this share of the images.
    pub fn used(&self, rate: f64) -> f64 {
        self.branch as f64 * rate + self.shortcut as f64
    }
}

impl Cost {
    /// The cost of `spec` for images of `height` × `width` pixels.
    ///
    /// # Errors
    /// If the spec is not consistent or the images are too small for it.
    pub fn of(spec: &NetSpec, height: usize, width: usize) -> Result<Self> {
        spec.validate()?;
        let too_small =
            |layer: &str| Error::ImageTooSmall { name: spec.name.clone(), layer: layer.into(), height, width };
        // MACs and output extent of one convolution.
        let conv = |prefix: &str, conv: &ConvSpec, extent: (usize, usize)| -> Result<(u64, (usize, usize))> {
            let output = conv.output_extent(extent.0).zip(conv.output_extent(extent.1));
            let output = output.ok_or_else(|| too_small(&format!("{prefix}{}", conv.name)))?;
            Ok((weights(conv).saturating_mul((output.0 * output.1) as u64), output))
        };

        let (mut dense, mut extent) = conv("", &spec.stem.conv, (height, width))?;
        let mut parameters = conv_parameters(&spec.stem.conv);
        if let Some(pool) = &spec.stem.pool {
            let pooled = pool.output_extent(extent.0).zip(pool.output_extent(extent.1));
            extent = pooled.ok_or_else(|| too_small("pooling"))?;
        }
        let (mut blocks, mut gated) = (Vec::new(), Vec::new());
        let (mut gates, mut gate_parameters) = (0, 0);
        for block in &spec.blocks {
            let prefix = format!("{}.", block.name);
            let (mut branch, mut output) = (0, extent);
            for layer in &block.branch {
                let (macs, next) = conv(&prefix, layer, output)?;
                branch = macs.saturating_add(branch);
                output = next;
            }
            let shortcut = match &block.shortcut {
                Shortcut::Projection(layer) => conv(&prefix, layer, extent)?.0,
                Shortcut::None | Shortcut::Identity | Shortcut::ZeroPadded { .. } => 0,
            };
            extent = output;
            for gate in &block.gates {
                gated.push(branch);
                gates += Gates::macs(gate.kind, gate.site.count(), block.inputs());
                gate_parameters += Gates::parameters(gate.kind, gate.site.count(), block.inputs());
            }
            dense = dense.saturating_add(branch).saturating_add(shortcut);
            let own = block_parameters(block);
            parameters = own.saturating_add(parameters);
            blocks.push(BlockCost { name: block.name.clone(), extent, parameters: own, branch, shortcut });
        }
        let classifier = (spec.head.inputs * spec.head.classes) as u64;
        dense = dense.saturating_add(classifier);
        parameters = parameters.saturating_add(classifier + spec.head.classes as u64);
        Ok(Self { parameters, gate_parameters, dense, gates, blocks, gated })
    }

    /// MACs that gates decide about.
    pub fn gated(&self) -> u64 {
        self.gated.iter().copied().fold(0, u64::saturating_add)
    }

    /// MACs spent whatever the gates decide, the gates' own included.
    pub fn constant(&self) -> u64 {
        self.dense.saturating_sub(self.gated()).saturating_add(self.gates)
    }

    /// MACs used per image with these openings, gates included: `[N]` in float64, differentiable with respect to the openings.
    ///
    /// # Errors
    /// If there are no gates, or the openings belong to another network.
    pub fn used(&self, openings: &Openings) -> Result<Tensor> {
        if openings.is_empty() {
            return Err(gumbel_gates::Error::NoGates.into());
        }
        let sites = Tensor::f_cat(openings.sites(), 1)?.f_to_kind(Kind::Double)?;
        let gated: Vec<f64> = self.gated.iter().map(|&macs| macs as f64).collect();
        let gated = Tensor::f_from_slice(&gated)?.f_to_device(sites.device())?;
        Ok(sites.f_matmul(&gated)?.f_add_scalar(self.constant() as f64)?)
    }
}

/// MACs of a convolution per output pixel: k·k·(in / groups)·out, which is also the size of its weight.
fn weights(conv: &ConvSpec) -> u64 {
    // Saturating: a spec may come from a damaged file.
    [conv.kernel, conv.kernel, conv.inputs / conv.groups, conv.outputs]
        .into_iter()
        .fold(1, |product: u64, size| product.saturating_mul(size as u64))
}

/// Weight of the convolution, weight and bias of its batch norm.
fn conv_parameters(conv: &ConvSpec) -> u64 {
    weights(conv).saturating_add(2 * conv.outputs as u64)
}

fn block_parameters(block: &BlockSpec) -> u64 {
    let shortcut = match &block.shortcut {
        Shortcut::Projection(conv) => conv_parameters(conv),
        Shortcut::None | Shortcut::Identity | Shortcut::ZeroPadded { .. } => 0,
    };
    block.branch.iter().map(conv_parameters).fold(shortcut, u64::saturating_add)
}
