//! What a forward pass costs, in multiply-accumulates (1 MAC = 2 FLOPs).

use crate::error::{Error, Result};
use crate::spec::{BlockSpec, ConvSpec, GateSite, NetSpec, Shortcut, Site};
use gumbel_gates::Gates;

/// Height and width in pixels.
type Extent = (usize, usize);

/// What fits the images, or the name of the layer that would have no output.
type Fit<T> = std::result::Result<T, String>;

/// The cost of a network for one image, from its spec alone. Convolutions and fully connected
/// layers count; batch norm, activations and pooling do not, as usual.
///
/// A convolution costs k·k·(open in / groups)·(open out)·H·W. Channels count as open that no gate
/// of their own block closes.
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
    /// Per convolution: the stem's, then block by block the branch's and that of the shortcut.
    pub convs: Vec<ConvCost>,
    /// MACs outside the blocks.
    pub(crate) outside: u64,
    /// The widths that gates decide about; the first is 1, for what has none.
    pub(crate) widths: Vec<Width>,
    /// One per convolution of the blocks.
    pub(crate) terms: Vec<Term>,
}

/// The cost of one block for one image, with all gates open.
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

/// The cost of one convolution for one image, with all gates open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvCost {
    /// Its path in the state dict.
    pub name: String,
    /// MACs.
    pub macs: u64,
    /// Channels it reads.
    pub inputs: usize,
    /// Its filters.
    pub outputs: usize,
    /// Values that it reads and writes, weights included.
    pub values: u64,
}

/// The open channels of a gate site: fixed + Σ size · gate value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Width {
    /// The block and its site; absent for a width that no gate decides about.
    pub site: Option<(usize, Site)>,
    pub fixed: u64,
    /// Channels behind each gate of the site.
    pub sizes: Vec<u64>,
}

impl Width {
    /// One that no gate decides about.
    pub fn constant(channels: u64) -> Self {
        Self { site: None, fixed: channels, sizes: Vec::new() }
    }

    pub fn full(&self) -> u64 {
        self.sizes.iter().fold(self.fixed, |sum, &size| sum.saturating_add(size))
    }
}

/// The MACs of a convolution as a product: coefficient · open in · open out · layer gate value,
/// each factor a width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    pub block: usize,
    pub coefficient: u64,
    /// Positions in [`Cost::widths`].
    pub factors: [usize; 3],
}

impl Term {
    /// The term of a convolution of block number `block` that takes `macs` with all gates open.
    fn of(conv: &ConvSpec, block: usize, macs: u64, factors: [usize; 3]) -> Self {
        // The full widths are factors of the whole.
        let gated = |factor: usize, channels: usize| if factor == 0 { 1 } else { channels as u64 };
        let inputs = gated(factors[0], conv.inputs);
        let full = inputs.saturating_mul(gated(factors[1], conv.outputs));
        Self { block, coefficient: macs / full.max(1), factors }
    }
}

impl BlockCost {
    /// MACs of the block without its gates.
    pub fn macs(&self) -> u64 {
        self.branch.saturating_add(self.shortcut)
    }
}

impl Cost {
    /// The MACs of the published network that `spec` is called by, for images of `size` × `size`
    /// pixels, where `spec` was made smaller.
    pub fn of_published(spec: &NetSpec, size: usize) -> Option<u64> {
        let own = Self::of(spec, size, size).ok()?.dense;
        let published = Self::of(&NetSpec::preset(&spec.name, spec.head.classes).ok()?, size, size).ok()?.dense;
        (own < published).then_some(published)
    }

    /// The cost of `spec` for images of `height` × `width` pixels.
    ///
    /// # Errors
    /// If the spec is not consistent or the images are too small for it.
    pub fn of(spec: &NetSpec, height: usize, width: usize) -> Result<Self> {
        spec.validate()?;
        let name = &spec.name;
        let too_small = |layer| Error::ImageTooSmall { name: name.clone(), layer, height, width };
        let stem = &spec.stem.conv;
        let (first, mut extent) = conv_cost(stem, "", (height, width)).map_err(too_small)?;
        let mut cost = Self {
            parameters: conv_parameters(stem),
            gate_parameters: 0,
            dense: 0,
            gates: 0,
            blocks: Vec::with_capacity(spec.blocks.len()),
            outside: first.macs,
            convs: vec![first],
            widths: widths(spec),
            terms: Vec::new(),
        };
        if let Some(pool) = &spec.stem.pool {
            let pooled = pool.output_extent(extent.0).zip(pool.output_extent(extent.1));
            extent = pooled.ok_or_else(|| too_small("pooling".into()))?;
        }
        let mut first = 1;
        for block in &spec.blocks {
            extent = cost.add_block(block, first, extent).map_err(too_small)?;
            first += block.gates.len();
        }
        let classifier = (spec.head.inputs * spec.head.classes) as u64;
        cost.outside = cost.outside.saturating_add(classifier);
        cost.parameters = cost.parameters.saturating_add(classifier + spec.head.classes as u64);
        let blocks = cost.blocks.iter().map(BlockCost::macs);
        cost.dense = blocks.fold(cost.outside, u64::saturating_add);
        Ok(cost)
    }

    /// Adds a block that reads features of this extent, and whose first site has that position in
    /// [`Cost::widths`]. Gives the extent behind it.
    fn add_block(&mut self, block: &BlockSpec, first: usize, input: Extent) -> Fit<Extent> {
        let factors = Factors { block, first };
        self.add_gates(block);
        let number = self.blocks.len();
        let (mut branch, mut output) = (0u64, input);
        for (position, conv) in (1..).zip(&block.branch) {
            let (cost, next) = conv_cost(conv, &block.name, output)?;
            self.terms.push(Term::of(conv, number, cost.macs, factors.of_branch(position)));
            branch = branch.saturating_add(cost.macs);
            self.convs.push(cost);
            output = next;
        }
        let shortcut = match &block.shortcut {
            Shortcut::Projection(conv) => {
                let (cost, _) = conv_cost(conv, &block.name, input)?;
                let behind = factors.position(Site::Projection);
                self.terms.push(Term::of(conv, number, cost.macs, [0, behind, 0]));
                let macs = cost.macs;
                self.convs.push(cost);
                macs
            }
            Shortcut::None | Shortcut::Identity | Shortcut::ZeroPadded { .. } => 0,
        };
        // A branch that was pruned away has no extent of its own.
        let around = |extent: usize| block.shortcut.output_extent(extent);
        let extent = match block.branch.is_empty() {
            true => around(input.0).zip(around(input.1)).unwrap_or(output),
            false => output,
        };
        let parameters = block_parameters(block);
        self.parameters = self.parameters.saturating_add(parameters);
        let name = block.name.clone();
        self.blocks.push(BlockCost { name, extent, parameters, branch, shortcut });
        Ok(extent)
    }

    /// Adds the gates of a block.
    fn add_gates(&mut self, block: &BlockSpec) {
        for site in &block.gates {
            self.gates += Gates::macs(site.kind, site.count(), block.inputs);
            self.gate_parameters += Gates::parameters(site.kind, site.count(), block.inputs);
        }
    }

    /// MACs that gates decide about: what is saved when all are closed.
    pub fn gated(&self) -> u64 {
        self.terms.iter().fold(0, |sum: u64, term| {
            let saved = self.product(term, Width::full) - self.product(term, |width| width.fixed);
            sum.saturating_add(saved)
        })
    }

    /// MACs spent whatever the gates decide, the gates' own included.
    pub fn constant(&self) -> u64 {
        self.dense.saturating_sub(self.gated()).saturating_add(self.gates)
    }

    fn product(&self, term: &Term, open: impl Fn(&Width) -> u64) -> u64 {
        // Saturating: a spec may come from a damaged file.
        term.factors
            .iter()
            .fold(term.coefficient, |product, &factor| product.saturating_mul(open(&self.widths[factor])))
    }
}

/// The widths that the gates of a network decide about, in the order of its sites; the first is 1,
/// for what has none.
pub(super) fn widths(spec: &NetSpec) -> Vec<Width> {
    let of_site = |block: usize, gates: &GateSite| {
        let (fixed, sizes) = match gates.site {
            Site::Layer => (0, vec![1]),
            _ => (gates.fixed_open(), gates.sizes()),
        };
        let sizes = sizes.into_iter().map(|size| size as u64).collect();
        Width { site: Some((block, gates.site)), fixed: fixed as u64, sizes }
    };
    let blocks = spec.blocks.iter().enumerate();
    let sites = blocks.flat_map(|(number, block)| block.gates.iter().map(move |gates| of_site(number, gates)));
    std::iter::once(Width::constant(1)).chain(sites).collect()
}

/// The positions in [`Cost::widths`] of a block's sites, which begin at `first`.
struct Factors<'a> {
    block: &'a BlockSpec,
    first: usize,
}

impl Factors<'_> {
    /// 0 where no gates are.
    fn position(&self, site: Site) -> usize {
        self.block.gates.iter().position(|gates| gates.site == site).map_or(0, |found| self.first + found)
    }

    /// (in, out, layer) of a convolution of the branch, counted from 1.
    fn of_branch(&self, position: usize) -> [usize; 3] {
        let layer = self.position(Site::Layer);
        let behind = self.position(self.block.site_behind(position));
        if self.block.branch[position - 1].is_depthwise() {
            // Each channel is read and written by itself.
            return [0, behind, layer];
        }
        let before = if position == 1 { Site::Input } else { self.block.site_behind(position - 1) };
        [self.position(before), behind, layer]
    }
}

/// What a convolution of that block costs with all gates open, and the extent behind it.
fn conv_cost(conv: &ConvSpec, block: &str, input: Extent) -> Fit<(ConvCost, Extent)> {
    let name = conv.full_name(block);
    let output = conv.output_extent(input.0).zip(conv.output_extent(input.1)).ok_or_else(|| name.clone())?;
    let macs = weights(conv).saturating_mul((output.0 * output.1) as u64);
    // Saturating: a spec may come from a damaged file.
    let features = |channels: usize, extent: Extent| (channels as u64).saturating_mul((extent.0 * extent.1) as u64);
    let values = [features(conv.inputs, input), features(conv.outputs, output)];
    let values = values.into_iter().fold(weights(conv), u64::saturating_add);
    Ok((ConvCost { name, macs, inputs: conv.inputs, outputs: conv.outputs, values }, output))
}

/// MACs of a convolution per output pixel: k·k·(in / groups)·out, which is also the size of its
/// weight.
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
    let bias = if block.bias { block.outputs as u64 } else { 0 };
    block.branch.iter().map(conv_parameters).fold(shortcut.saturating_add(bias), u64::saturating_add)
}
