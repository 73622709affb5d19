//! A network as a list of operations, each with its inputs by name: what every format for other
//! runtimes can print. Batch norms are folded into the convolutions before them.

use super::fold::Folded;
use crate::error::Result;
use crate::network::Network;
use crate::spec::{Activation, BlockSpec, Channels, ConvSpec, GateSite, Shortcut, Site, in_block};
use std::collections::HashMap;
use tch::Tensor;
use torch_ext::BatchNorm;

/// What is computed of normalized images `images` [N, 3, H, W]: `logits` [N, classes], and the gate
/// values of each site that is left.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// In the order of computation.
    pub nodes: Vec<Node>,
    /// Name and value, in the order of use.
    pub constants: Vec<(String, Tensor)>,
    /// The values [N, n] of each gate site's gates, in the order of the spec's sites.
    pub gate_values: Vec<String>,
}

/// One operation. Its value has its name.
#[derive(Debug)]
pub(super) struct Node {
    pub name: String,
    pub operation: Operation,
    /// Names of values and constants.
    pub inputs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operation {
    /// Of a value, a weight [out, in / groups, k, k] and a bias `[out]`.
    Conv {
        kernel: usize,
        stride: usize,
        padding: usize,
        groups: usize,
    },
    MaxPool {
        kernel: usize,
        stride: usize,
        padding: usize,
    },
    Relu,
    Relu6,
    /// Of two values; extents of 1 repeat.
    Add,
    /// Of two values; extents of 1 repeat.
    Multiply,
    /// Some channels.
    Select(Channels),
    /// The input's channels at these places among `of` channels, the others zero.
    Place {
        channels: Channels,
        of: usize,
    },
    /// Every n-th pixel, in height and width.
    Stride(usize),
    /// Mean over all pixels: [N, C, H, W] to [N, C].
    Mean,
    /// Of a value [N, in], a weight [out, in] and a bias `[out]`.
    Linear,
    /// 1 where a value is above this number, else 0.
    Above(f32),
    /// Gate values [N, n] as factors of channels [N, C, 1, 1]: for each channel its gate, or 1.
    Spread(Vec<Option<usize>>),
}

impl Graph {
    /// The network's operations; gates decide by whether their margins are above `threshold`, and
    /// are all open without one.
    ///
    /// # Errors
    /// If libtorch cannot fold a batch norm.
    pub fn of(network: &Network, threshold: Option<f32>) -> Result<Self> {
        let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor)).collect();
        let mut lowering = Lowering { graph: Self::default(), tensors, folded: network.folded()?, threshold };
        lowering.network(network)?;
        Ok(lowering.graph)
    }
}

struct Lowering<'a> {
    graph: Graph,
    tensors: HashMap<&'a str, &'a Tensor>,
    folded: Folded,
    threshold: Option<f32>,
}

impl Lowering<'_> {
    fn node(&mut self, name: impl Into<String>, operation: Operation, inputs: &[&str]) -> String {
        let name = name.into();
        let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
        self.graph.nodes.push(Node { name: name.clone(), operation, inputs });
        name
    }

    fn constant(&mut self, name: String, value: Tensor) -> String {
        self.graph.constants.push((name.clone(), value));
        name
    }

    /// A tensor of the state dict.
    fn tensor(&self, name: &str) -> Tensor {
        self.tensors[name].detach()
    }

    fn network(&mut self, network: &Network) -> Result<()> {
        let spec = network.spec();
        let mut x = self.conv("images", "", &spec.stem.conv)?;
        if let Some(pool) = &spec.stem.pool {
            let (kernel, stride, padding) = (pool.kernel, pool.stride, pool.padding);
            x = self.node("pool", Operation::MaxPool { kernel, stride, padding }, &[&x]);
        }
        for block in &spec.blocks {
            x = self.block(&x, block)?;
        }
        let pooled = self.node("pooled", Operation::Mean, &[&x]);
        let [weight, bias] = ["weight", "bias"].map(|part| format!("{}.{part}", spec.head.name));
        let [weight, bias] = [weight, bias].map(|name| {
            let value = self.tensor(&name);
            self.constant(name, value)
        });
        self.node("logits", Operation::Linear, &[&pooled, &weight, &bias]);
        Ok(())
    }

    /// A convolution with its batch norm and its activation.
    fn conv(&mut self, x: &str, block: &str, conv: &ConvSpec) -> Result<String> {
        let name = in_block(block, &conv.name);
        let (weight, bias) = &self.folded.convs[&name];
        let (weight, bias) = (weight.shallow_clone(), bias.shallow_clone());
        let weight = self.constant(format!("{name}.weight"), weight);
        let bias = self.constant(format!("{name}.bias"), bias);
        let ConvSpec { kernel, stride, padding, groups, .. } = *conv;
        let y = self.node(name, Operation::Conv { kernel, stride, padding, groups }, &[x, &weight, &bias]);
        Ok(self.activation(y, conv.activation))
    }

    fn activation(&mut self, x: String, activation: Activation) -> String {
        match activation {
            Activation::Identity => x,
            Activation::Relu => self.node(format!("{x}.relu"), Operation::Relu, &[&x]),
            Activation::Relu6 => self.node(format!("{x}.relu6"), Operation::Relu6, &[&x]),
        }
    }

    fn block(&mut self, x: &str, block: &BlockSpec) -> Result<String> {
        let name = &block.name;
        let factors = self.gates(x, block)?;
        let around = self.shortcut(x, block, &factors)?;
        let branch = if block.branch.is_empty() { None } else { Some(self.branch(x, block, &factors)?) };
        let mut sum = match (around, branch) {
            (Some(around), Some(branch)) => self.node(format!("{name}.sum"), Operation::Add, &[&around, &branch]),
            (Some(one), None) | (None, Some(one)) => one,
            // A block has one of them (NetSpec::validate).
            (None, None) => x.to_owned(),
        };
        if block.bias {
            let value = self.tensor(&format!("{name}.bias")).f_view([1, -1, 1, 1])?;
            let bias = self.constant(format!("{name}.bias"), value);
            sum = self.node(format!("{name}.biased"), Operation::Add, &[&sum, &bias]);
        }
        Ok(self.activation(sum, block.activation))
    }

    /// What goes around the branch.
    fn shortcut(&mut self, x: &str, block: &BlockSpec, factors: &Factors) -> Result<Option<String>> {
        let name = format!("{}.shortcut", block.name);
        Ok(match &block.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(x.to_owned()),
            Shortcut::ZeroPadded { stride, outputs } => {
                let mut y = x.to_owned();
                if *stride > 1 {
                    y = self.node(format!("{name}.strided"), Operation::Stride(*stride), &[&y]);
                }
                let first = (outputs - block.inputs) / 2;
                Some(self.place(&name, y, Channels::of(first..first + block.inputs), *outputs))
            }
            Shortcut::Projection(conv) => {
                let y = self.conv(x, &block.name, conv)?;
                let y = self.gated(y, factors.get(&Site::Projection));
                Some(match &block.projects {
                    Some(channels) => self.place(&name, y, channels.clone(), block.outputs),
                    None => y,
                })
            }
        })
    }

    fn branch(&mut self, x: &str, block: &BlockSpec, factors: &Factors) -> Result<String> {
        let name = &block.name;
        let mut y = x.to_owned();
        if let Some(reads) = &block.reads {
            y = self.node(format!("{name}.reads"), Operation::Select(reads.clone()), &[&y]);
        }
        y = self.gated(y, factors.get(&Site::Input));
        for (position, conv) in (1..).zip(&block.branch) {
            y = self.conv(&y, name, conv)?;
            let site = if position < block.branch.len() { Site::Between(position) } else { Site::Output };
            y = self.gated(y, factors.get(&site));
        }
        y = self.gated(y, factors.get(&Site::Layer));
        Ok(match &block.writes {
            Some(writes) => self.place(&format!("{name}.writes"), y, writes.clone(), block.outputs),
            None => y,
        })
    }

    fn place(&mut self, name: &str, y: String, channels: Channels, of: usize) -> String {
        match channels.count() == of {
            true => y,
            false => self.node(name, Operation::Place { channels, of }, &[&y]),
        }
    }

    /// A value times the gate values of a site, if it has gates.
    fn gated(&mut self, y: String, factor: Option<&String>) -> String {
        match factor {
            Some(factor) => self.node(format!("{y}.gated"), Operation::Multiply, &[&y, factor]),
            None => y,
        }
    }

    /// What the features at each site of the block are multiplied by.
    fn gates(&mut self, x: &str, block: &BlockSpec) -> Result<Factors> {
        let mut factors = Factors::new();
        let Some(threshold) = self.threshold.filter(|_| !block.gates.is_empty()) else { return Ok(factors) };
        let pooled = self.node(format!("{}.pooled", block.name), Operation::Mean, &[x]);
        for gates in &block.gates {
            let open = self.open(&pooled, block, gates, threshold)?;
            let channels = match gates.site {
                Site::Layer => vec![Some(0)],
                _ => gates.gate_of_channel(),
            };
            let factor = self.node(format!("{open}.factors"), Operation::Spread(channels), &[&open]);
            factors.insert(gates.site, factor);
            self.graph.gate_values.push(open);
        }
        Ok(factors)
    }

    /// The values of a site's gates: relevance of each from the pooled input by two layers, a batch
    /// norm folded into the first, the difference of the logits into the second.
    fn open(&mut self, pooled: &str, block: &BlockSpec, gates: &GateSite, threshold: f32) -> Result<String> {
        let name = in_block(&block.name, &gates.site.name());
        let part = |part: &str| self.tensor(&format!("{name}.{part}"));
        let scale = part("bn.weight").f_div(&part("bn.running_var").f_add_scalar(BatchNorm::EPSILON)?.f_sqrt()?)?;
        let first = part("fc1.weight").f_mul(&scale.f_unsqueeze(1)?)?;
        let shift = part("bn.bias").f_sub(&part("bn.running_mean").f_mul(&scale)?)?;
        // Logits of "closed" and "open" in turn, for each gate.
        let margin = |logits: Tensor| -> Result<Tensor> {
            let size = [&[-1, 2], &logits.size()[1..]].concat();
            let pairs = logits.f_view(&size[..])?;
            Ok(pairs.f_select(1, 1)?.f_sub(&pairs.f_select(1, 0)?)?)
        };
        let (second, bias) = (margin(part("fc2.weight"))?, margin(part("fc2.bias"))?);
        let first = self.constant(format!("{name}.fc1.weight"), first);
        let shift = self.constant(format!("{name}.fc1.bias"), shift);
        let hidden = self.node(format!("{name}.fc1"), Operation::Linear, &[pooled, &first, &shift]);
        let hidden = self.activation(hidden, Activation::Relu);
        let second = self.constant(format!("{name}.fc2.weight"), second);
        let bias = self.constant(format!("{name}.fc2.bias"), bias);
        let margins = self.node(format!("{name}.margins"), Operation::Linear, &[&hidden, &second, &bias]);
        Ok(self.node(format!("{name}.open"), Operation::Above(threshold), &[&margins]))
    }
}

/// By site the name of what its features are multiplied by.
type Factors = HashMap<Site, String>;
