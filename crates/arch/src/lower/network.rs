//! From a network's description and tensors to its operations.

use super::decided::least_margin;
use super::fold::Folded;
use super::graph::{Graph, Node, Operation, Part};
use crate::error::Result;
use crate::network::{Execution, Network};
use crate::spec::{Activation, BlockSpec, Channels, ConvSpec, GateSite, Shortcut, Site, in_block};
use gumbel_gates::{GateKind, Policy};
use std::collections::HashMap;
use tch::Tensor;
use torch_ext::BatchNorm;

/// How a network becomes operations. Values that are not those of a layer have a slash in their
/// names, which no layer's has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lowering {
    /// How gates decide: argmax, always-open or a threshold. None are left if all are open.
    pub policy: Policy,
    /// Whether layers that gates close for some images are multiplied by zero or not computed.
    /// Filters are multiplied in either case.
    pub execution: Execution,
    /// Whether batch norms become part of the layers before them.
    pub fold_batch_norms: bool,
    /// Whether gates that ignore the image are asked at every call, and multiply; else they are
    /// decided here, and what they close is cut.
    pub keep_gates: bool,
}

impl Lowering {
    /// The operations of a network.
    ///
    /// # Errors
    /// If the policy draws noise or ranks gates, or gates leave nothing of the network open.
    pub fn of(&self, network: &Network) -> Result<Graph> {
        let threshold = least_margin(self.policy)?;
        let cut = if self.keep_gates { None } else { network.decided(self.policy)? };
        let network = cut.as_ref().unwrap_or(network);
        let tensors = network.tensors().iter().map(|entry| (entry.name.as_str(), &entry.tensor)).collect();
        let folded = if self.fold_batch_norms { Some(network.folded()?) } else { None };
        let mut lowered = Lowered {
            tensors,
            folded,
            threshold,
            skip: self.execution == Execution::Skipping,
            part: Part::default(),
            gate_values: Vec::new(),
            activated: HashMap::new(),
        };
        lowered.network(network)?;
        Ok(Graph { whole: lowered.part, gate_values: lowered.gate_values })
    }
}

struct Lowered<'a> {
    tensors: HashMap<&'a str, &'a Tensor>,
    folded: Option<Folded>,
    threshold: Option<f32>,
    skip: bool,
    /// Where operations are added.
    part: Part,
    gate_values: Vec<(String, usize)>,
    /// Values that an activation gave: it changes nothing of them.
    activated: HashMap<String, Activation>,
}

/// By site the name of what its features are multiplied by.
type Factors = HashMap<Site, String>;

impl Lowered<'_> {
    fn node(&mut self, name: impl Into<String>, operation: Operation, inputs: &[&str]) -> String {
        let name = name.into();
        let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
        self.part.nodes.push(Node { name: name.clone(), operation, inputs });
        name
    }

    fn constant(&mut self, name: String, value: Tensor) -> String {
        self.part.constants.push((name.clone(), value));
        name
    }

    /// A tensor of the state dict as a constant.
    fn tensor(&mut self, name: String) -> String {
        let value = self.tensors[name.as_str()].detach();
        self.constant(name, value)
    }

    /// What `fill` adds, as a part that gives what it returns.
    fn part(&mut self, name: &str, fill: impl FnOnce(&mut Self) -> Result<String>) -> Result<Part> {
        let around = std::mem::replace(&mut self.part, Part { name: name.to_owned(), ..Part::default() });
        let output = fill(self);
        let part = std::mem::replace(&mut self.part, around);
        Ok(Part { output: output?, ..part })
    }

    fn network(&mut self, network: &Network) -> Result<()> {
        let spec = network.spec();
        let mut x = self.conv("images", "", &spec.stem.conv)?;
        if let Some(pool) = &spec.stem.pool {
            let (kernel, stride, padding) = (pool.kernel, pool.stride, pool.padding);
            let pooled = self.node("stem/pool", Operation::MaxPool { kernel, stride, padding }, &[&x]);
            if let Some(&activation) = self.activated.get(&x) {
                self.activated.insert(pooled.clone(), activation);
            }
            x = pooled;
        }
        for block in &spec.blocks {
            let part = self.part(&block.name, |lowered| lowered.block(&x, block))?;
            if part.output == x {
                continue; // nothing is left of it
            }
            let inputs: Vec<String> = part.reads().into_iter().map(str::to_owned).collect();
            x = part.output.clone();
            self.part.nodes.push(Node { name: x.clone(), operation: Operation::Part(part), inputs });
        }
        let pooled = self.node("head/pooled", Operation::Mean, &[&x]);
        let [weight, bias] = ["weight", "bias"].map(|part| self.tensor(format!("{}.{part}", spec.head.name)));
        self.part.output = self.node("logits", Operation::Linear, &[&pooled, &weight, &bias]);
        Ok(())
    }

    /// A convolution with its batch norm and its activation.
    fn conv(&mut self, x: &str, block: &str, conv: &ConvSpec) -> Result<String> {
        let name = in_block(block, &conv.name);
        let ConvSpec { kernel, stride, padding, groups, .. } = *conv;
        let operation = Operation::Conv { kernel, stride, padding, groups };
        let y = if let Some(folded) = &self.folded {
            let (weight, bias) = &folded[&name];
            let (weight, bias) = (weight.shallow_clone(), bias.shallow_clone());
            let weight = self.constant(format!("{name}.weight"), weight);
            let bias = self.constant(format!("{name}.bias"), bias);
            self.node(name, operation, &[x, &weight, &bias])
        } else {
            let weight = self.tensor(format!("{name}.weight"));
            let y = self.node(name, operation, &[x, &weight]);
            self.batch_norm(&y, &in_block(block, &conv.norm))
        };
        Ok(self.activation(y, conv.activation))
    }

    fn batch_norm(&mut self, x: &str, name: &str) -> String {
        let parts = ["weight", "bias", "running_mean", "running_var"];
        let parts = parts.map(|part| self.tensor(format!("{name}.{part}")));
        let inputs: Vec<&str> = std::iter::once(x).chain(parts.iter().map(String::as_str)).collect();
        self.node(name, Operation::BatchNorm, &inputs)
    }

    fn activation(&mut self, x: String, activation: Activation) -> String {
        let (name, operation) = match activation {
            Activation::Relu => ("relu", Operation::Relu),
            Activation::Relu6 => ("relu6", Operation::Relu6),
            Activation::Identity => return x,
        };
        if self.activated.get(&x) == Some(&activation) {
            return x;
        }
        let y = self.node(format!("{x}/{name}"), operation, &[&x]);
        self.activated.insert(y.clone(), activation);
        y
    }

    fn block(&mut self, x: &str, block: &BlockSpec) -> Result<String> {
        let factors = self.gates(x, block)?;
        let around = self.shortcut(x, block, &factors)?;
        let skips = block.gates_at(Site::Layer).is_some_and(|gates| self.skips(gates));
        let layer = factors.get(&Site::Layer).filter(|_| skips);
        let (Some(open), Some(around)) = (layer, &around) else {
            let sum = self.sum(x, around.as_deref(), block, &factors)?;
            return Ok(self.finish(sum, block));
        };
        let name = &block.name;
        let mut ungated = factors.clone();
        ungated.remove(&Site::Layer);
        let opened = self.part(name, |lowered| {
            let sum = lowered.sum(x, Some(around), block, &ungated)?;
            Ok(lowered.finish(sum, block))
        })?;
        let closed = self.part(name, |lowered| Ok(lowered.finish(around.clone(), block)))?;
        let mut inputs = vec![open.as_str()];
        for read in opened.reads().into_iter().chain(closed.reads()) {
            if !inputs[1..].contains(&read) {
                inputs.push(read);
            }
        }
        let (output, inputs) = (format!("{name}/output"), inputs.into_iter().map(str::to_owned).collect());
        let operation = Operation::Conditional { open: opened, closed };
        self.part.nodes.push(Node { name: output.clone(), operation, inputs });
        if block.activation != Activation::Identity {
            self.activated.insert(output.clone(), block.activation);
        }
        Ok(output)
    }

    /// The branch of a block and what goes around it.
    fn sum(&mut self, x: &str, around: Option<&str>, block: &BlockSpec, factors: &Factors) -> Result<String> {
        let name = &block.name;
        if block.branch.is_empty() {
            // A block has one of them (NetSpec::validate).
            return Ok(around.unwrap_or(x).to_owned());
        }
        let y = self.branch(x, block, factors)?;
        let writes = block.writes.as_ref().filter(|writes| writes.count() < block.outputs);
        Ok(match (around, writes) {
            (Some(around), None) => self.node(format!("{name}/sum"), Operation::Add, &[&y, around]),
            (Some(around), Some(writes)) => {
                let operation = Operation::AddInto { channels: writes.clone(), of: block.outputs };
                self.node(format!("{name}/sum"), operation, &[around, &y])
            }
            (None, None) => y,
            (None, Some(writes)) => self.place(&format!("{name}/writes"), y, writes, block.outputs),
        })
    }

    /// What follows the sum.
    fn finish(&mut self, mut sum: String, block: &BlockSpec) -> String {
        if block.bias {
            let bias = self.tensor(format!("{}.bias", block.name));
            sum = self.node(format!("{sum}/biased"), Operation::AddBias, &[&sum, &bias]);
        }
        self.activation(sum, block.activation)
    }

    /// What goes around the branch.
    fn shortcut(&mut self, x: &str, block: &BlockSpec, factors: &Factors) -> Result<Option<String>> {
        let name = format!("{}/shortcut", block.name);
        Ok(match &block.shortcut {
            Shortcut::None => None,
            Shortcut::Identity => Some(x.to_owned()),
            Shortcut::ZeroPadded { stride, outputs } => {
                let mut y = x.to_owned();
                if *stride > 1 {
                    y = self.node(format!("{name}/strided"), Operation::Stride(*stride), &[&y]);
                }
                let first = (outputs - block.inputs) / 2;
                Some(self.place(&name, y, &Channels::of(first..first + block.inputs), *outputs))
            }
            Shortcut::Projection(conv) => {
                let y = self.conv(x, &block.name, conv)?;
                let y = self.gated(y, factors.get(&Site::Projection));
                Some(match &block.projects {
                    Some(channels) => self.place(&name, y, channels, block.outputs),
                    None => y,
                })
            }
        })
    }

    fn branch(&mut self, x: &str, block: &BlockSpec, factors: &Factors) -> Result<String> {
        let name = &block.name;
        let mut y = x.to_owned();
        if let Some(reads) = &block.reads {
            y = self.node(format!("{name}/reads"), Operation::Select(reads.clone()), &[&y]);
        }
        y = self.gated(y, factors.get(&Site::Input));
        for (position, conv) in (1..).zip(&block.branch) {
            y = self.conv(&y, name, conv)?;
            let site = if position < block.branch.len() { Site::Between(position) } else { Site::Output };
            y = self.gated(y, factors.get(&site));
        }
        Ok(self.gated(y, factors.get(&Site::Layer)))
    }

    fn place(&mut self, name: &str, y: String, channels: &Channels, of: usize) -> String {
        match channels.count() == of {
            true => y,
            false => self.node(name, Operation::Place { channels: channels.clone(), of }, &[&y]),
        }
    }

    /// A value times the gate values of a site, if it has gates.
    fn gated(&mut self, y: String, factor: Option<&String>) -> String {
        match factor {
            Some(factor) => self.node(format!("{y}/gated"), Operation::Multiply, &[&y, factor]),
            None => y,
        }
    }

    /// Whether a layer is not computed where its gate closes. What is closed for all images is cut,
    /// or to be seen.
    fn skips(&self, gates: &GateSite) -> bool {
        self.skip && gates.kind == GateKind::Dependent
    }

    /// What the features at each site of the block are multiplied by; for a layer that is skipped
    /// its gate values.
    fn gates(&mut self, x: &str, block: &BlockSpec) -> Result<Factors> {
        let mut factors = Factors::new();
        let Some(threshold) = self.threshold.filter(|_| !block.gates.is_empty()) else { return Ok(factors) };
        let mut pooled = None;
        for gates in &block.gates {
            let margins = match gates.kind {
                GateKind::Independent => self.same_margins(x, block, gates),
                GateKind::Dependent => {
                    let name = format!("{}/pooled", block.name);
                    let pooled = pooled.get_or_insert_with(|| self.node(name, Operation::Mean, &[x]));
                    let pooled = pooled.clone();
                    self.margins(&pooled, block, gates)?
                }
            };
            let name = in_block(&block.name, &gates.site.name());
            let open = self.node(format!("{name}/open"), Operation::Above(threshold), &[&margins]);
            self.gate_values.push((open.clone(), gates.count()));
            let factor = match gates.site {
                Site::Layer if self.skips(gates) => open,
                Site::Layer => self.node(format!("{open}/factors"), Operation::Spread(vec![Some(0)]), &[&open]),
                _ => self.node(format!("{open}/factors"), Operation::Spread(gates.gate_of_channel()), &[&open]),
            };
            factors.insert(gates.site, factor);
        }
        Ok(factors)
    }

    /// The margins of gates that ignore the image, for as many images as x has.
    fn same_margins(&mut self, x: &str, block: &BlockSpec, gates: &GateSite) -> String {
        let name = in_block(&block.name, &gates.site.name());
        let logits = self.tensor(format!("{name}.logits"));
        self.node(format!("{name}/margins"), Operation::SameMargins(gates.count()), &[&logits, x])
    }

    /// The margins of gates that look at the image, from the pooled input by two layers. With
    /// folded batch norms the first layer holds its own, the second one the difference of the
    /// logits.
    fn margins(&mut self, pooled: &str, block: &BlockSpec, gates: &GateSite) -> Result<String> {
        let name = in_block(&block.name, &gates.site.name());
        let [first, second] = ["fc1", "fc2"].map(|layer| format!("{name}.{layer}"));
        let margins = format!("{name}/margins");
        if self.folded.is_none() {
            let weight = self.tensor(format!("{first}.weight"));
            let hidden = self.node(first, Operation::Linear, &[pooled, &weight]);
            let hidden = self.batch_norm(&hidden, &format!("{name}.bn"));
            let hidden = self.activation(hidden, Activation::Relu);
            let [weight, bias] = ["weight", "bias"].map(|part| self.tensor(format!("{second}.{part}")));
            let logits = self.node(second, Operation::Linear, &[&hidden, &weight, &bias]);
            return Ok(self.node(margins, Operation::Margins, &[&logits]));
        }
        let part = |part: &str| self.tensors[format!("{name}.{part}").as_str()].detach();
        let scale = part("bn.weight").f_div(&part("bn.running_var").f_add_scalar(BatchNorm::EPSILON)?.f_sqrt()?)?;
        let weight = part("fc1.weight").f_mul(&scale.f_unsqueeze(1)?)?;
        let shift = part("bn.bias").f_sub(&part("bn.running_mean").f_mul(&scale)?)?;
        // Logits of "closed" and "open" in turn, for each gate.
        let margin = |logits: Tensor| -> Result<Tensor> {
            let size = [&[-1, 2], &logits.size()[1..]].concat();
            let pairs = logits.f_view(&size[..])?;
            Ok(pairs.f_select(1, 1)?.f_sub(&pairs.f_select(1, 0)?)?)
        };
        let (margin_weight, margin_bias) = (margin(part("fc2.weight"))?, margin(part("fc2.bias"))?);
        let weight = self.constant(format!("{first}.weight"), weight);
        let shift = self.constant(format!("{first}.bias"), shift);
        let hidden = self.node(first, Operation::Linear, &[pooled, &weight, &shift]);
        let hidden = self.activation(hidden, Activation::Relu);
        let weight = self.constant(format!("{second}.weight"), margin_weight);
        let bias = self.constant(format!("{second}.bias"), margin_bias);
        Ok(self.node(margins, Operation::Linear, &[&hidden, &weight, &bias]))
    }
}
