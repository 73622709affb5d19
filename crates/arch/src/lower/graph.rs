//! What a network computes, as operations with their inputs by name.

use crate::spec::Channels;
use std::collections::HashSet;
use tch::Tensor;

/// What is computed of normalized images `images` [N, 3, H, W].
#[derive(Debug)]
pub(crate) struct Graph {
    /// Its output are the logits [N, classes]. Each block of the network is a part of its own.
    pub whole: Part,
    /// By site of gates that are left, in the order of the spec: the gate values [N, n], of booleans,
    /// and n.
    pub gate_values: Vec<(String, usize)>,
}

/// Operations in the order of computation. It may read values of the parts around it.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Whose operations these are: a block's name in the state dict; empty for the whole network.
    pub name: String,
    pub nodes: Vec<Node>,
    /// What its nodes read that is known beforehand; names are paths of the state dict.
    pub constants: Vec<(String, Tensor)>,
    /// The value it is for.
    pub output: String,
}

/// One operation. Its value has its name.
#[derive(Debug)]
pub(crate) struct Node {
    pub name: String,
    pub operation: Operation,
    /// Names of values and constants.
    pub inputs: Vec<String>,
}

#[derive(Debug)]
pub(crate) enum Operation {
    /// Of a value, a weight [out, in / groups, k, k] and, if there is one, a bias `[out]`.
    Conv {
        kernel: usize,
        stride: usize,
        padding: usize,
        groups: usize,
    },
    /// Of a value, weight, bias, mean and variance, each `[channels]`.
    BatchNorm,
    MaxPool {
        kernel: usize,
        stride: usize,
        padding: usize,
    },
    Relu,
    Relu6,
    /// Of two values of the same shape.
    Add,
    /// Of values and a factor for each channel [N, C, 1, 1], which may be the same for all.
    Multiply,
    /// Of a value and a constant `[channels]`.
    AddBias,
    /// Some channels.
    Select(Channels),
    /// The input's channels at these places among `of` channels, the others zero.
    Place {
        channels: Channels,
        of: usize,
    },
    /// Of a value and one that is added to some of its channels.
    AddInto {
        channels: Channels,
        of: usize,
    },
    /// Every n-th pixel, in height and width.
    Stride(usize),
    /// Mean over all pixels: [N, C, H, W] to [N, C].
    Mean,
    /// Of a value [N, in], a weight [out, in] and, if there is one, a bias `[out]`.
    Linear,
    /// Logits of "closed" and "open" in turn, [N, 2n], to how much larger those of "open" are [N, n].
    Margins,
    /// The same of logits [n, 2] that are the same for all images; as many rows as a second value has.
    SameMargins(usize),
    /// Whether values are above this number.
    Above(f32),
    /// Gate values [N, n] as factors of channels [N, C, 1, 1]: for each channel its gate, or 1.
    Spread(Vec<Option<usize>>),
    /// A part of the network by itself, for whoever reads.
    Part(Part),
    /// Of gate values [N, 1]: what `open` gives of the images whose gate is open, `closed` of the
    /// others. The inputs behind are what either reads of the parts around, [N, ...].
    Conditional {
        open: Part,
        closed: Part,
    },
}

impl Part {
    /// The values of other parts that its nodes read, or that it gives, in the order of use.
    pub fn reads(&self) -> Vec<&str> {
        let own: HashSet<&str> = (self.nodes.iter().map(|node| node.name.as_str()))
            .chain(self.constants.iter().map(|(name, _)| name.as_str()))
            .collect();
        let mut reads = Vec::new();
        let inputs = self.nodes.iter().flat_map(|node| &node.inputs).chain([&self.output]);
        for input in inputs.map(String::as_str).filter(|input| !own.contains(input)) {
            if !reads.contains(&input) {
                reads.push(input);
            }
        }
        reads
    }

    /// How often its own nodes read a value, or give it.
    pub fn uses(&self, value: &str) -> usize {
        let inputs = self.nodes.iter().flat_map(|node| &node.inputs).chain([&self.output]);
        inputs.filter(|input| *input == value).count()
    }

    /// All nodes, also of the parts within.
    pub fn visit(&self, visit: &mut impl FnMut(&Part)) {
        visit(self);
        for node in &self.nodes {
            match &node.operation {
                Operation::Part(part) => part.visit(visit),
                Operation::Conditional { open, closed } => {
                    open.visit(visit);
                    closed.visit(visit);
                }
                _ => {}
            }
        }
    }
}

impl Graph {
    /// Whether any images are treated unlike others.
    pub fn is_conditional(&self) -> bool {
        let mut any = false;
        self.whole.visit(&mut |part| {
            any |= part.nodes.iter().any(|node| matches!(node.operation, Operation::Conditional { .. }));
        });
        any
    }
}
