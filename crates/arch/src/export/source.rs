//! The TorchScript source of a network, compiled by libtorch's own compiler, so that conditional
//! execution is real control flow and not the trace of one image. Each block is a method.

use crate::lower::{Graph, Node, Operation, Part};
use crate::spec::Channels;
use std::collections::HashMap;
use std::fmt::Write;
use torch_ext::BatchNorm;

/// The source of a network's methods.
pub(super) fn source(graph: &Graph) -> String {
    let mut source = Source::default();
    source.network(graph);
    source.text
}

/// The source as it grows.
#[derive(Default)]
struct Source {
    text: String,
}

/// A part within its method.
struct Method<'a> {
    part: &'a Part,
    /// What its own values, and those of other parts that it reads, are called here.
    names: HashMap<&'a str, String>,
    gate_values: &'a [(String, usize)],
}

/// What values in a method must not be called.
const TAKEN: &str = "self block torch images gate_values rows opened x \
    and as assert break class continue def del elif else except finally for from global if import in is lambda \
    nonlocal not or pass raise return try while with yield True False None async await";

/// An expression for what lies at a dotted path below `root`: `getattr(root.layer1, "0").conv1`.
fn at(root: &str, path: &str) -> String {
    path.split('.').fold(root.to_owned(), |owner, name| match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("getattr({owner}, \"{name}\")"),
        false => format!("{owner}.{name}"),
    })
}

/// A name for what has this path.
fn identifier(path: &str) -> String {
    let name = path.replace(['.', '/'], "_");
    let fits = !name.starts_with(|c: char| c.is_ascii_digit()) && !TAKEN.split_whitespace().any(|taken| taken == name);
    if fits { name } else { format!("y_{name}") }
}

fn pair(size: usize) -> String {
    format!("[{size}, {size}]")
}

impl<'a> Method<'a> {
    fn new(part: &'a Part, arguments: HashMap<&'a str, String>, gate_values: &'a [(String, usize)]) -> Self {
        let mut method = Self { part, names: arguments, gate_values };
        for node in &part.nodes {
            let mut name = identifier(method.within(&node.name));
            while method.names.values().any(|other| *other == name) {
                name += "_";
            }
            method.names.insert(&node.name, name);
        }
        method
    }

    /// A path below the part's own.
    fn within<'b>(&self, path: &'b str) -> &'b str {
        path.strip_prefix(&self.part.name).and_then(|rest| rest.strip_prefix(['.', '/'])).unwrap_or(path)
    }

    /// A value or constant, in the words of this method.
    fn name(&self, value: &str) -> String {
        let root = if self.part.name.is_empty() { "self" } else { "block" };
        self.names.get(value).cloned().unwrap_or_else(|| at(root, self.within(value)))
    }

    /// Whether an operation may change this value: nobody else reads it, and it has memory of its own.
    fn is_free(&self, value: &str) -> bool {
        let own = self.part.nodes.iter().find(|node| node.name == value);
        let owns_memory = own.is_some_and(|node| {
            matches!(
                node.operation,
                Operation::Conv { .. }
                    | Operation::BatchNorm
                    | Operation::Relu
                    | Operation::Relu6
                    | Operation::Add
                    | Operation::AddBias
                    | Operation::AddInto { .. }
                    | Operation::Multiply
            )
        });
        owns_memory && self.part.uses(value) == 1
    }
}

impl Source {
    fn line(&mut self, level: usize, line: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{}", "", line.as_ref(), indent = 4 * level);
    }

    fn network(&mut self, graph: &Graph) {
        self.helpers(graph);
        for node in &graph.whole.nodes {
            if let Operation::Part(block) = &node.operation {
                self.block(block, &node.inputs, &graph.gate_values);
            }
        }
        self.line(0, "def classify(self, images: Tensor, gate_values: List[Tensor]) -> Tensor:");
        self.line(1, "# Channels last, the layout convolutions are fastest in.");
        self.line(1, "x = images.contiguous(memory_format=2)");
        let arguments = HashMap::from([("images", "x".to_owned())]);
        self.nodes(&Method::new(&graph.whole, arguments, &graph.gate_values));
        self.line(0, "def forward(self, images: Tensor) -> Tensor:");
        self.line(1, "# Class logits [N, classes] of normalized images [N, 3, H, W]. For inference only.");
        self.line(1, "gate_values: List[Tensor] = []");
        self.line(1, "return self.classify(images, gate_values)");
        self.line(0, "");
        self.line(0, "def forward_with_openings(self, images: Tensor) -> Tuple[Tensor, List[Tensor]]:");
        self.line(1, "# And the gate values [N, n] of each site of gates.");
        self.line(1, "gate_values: List[Tensor] = []");
        self.line(1, "logits = self.classify(images, gate_values)");
        self.line(1, "return logits, gate_values");
    }

    /// Methods that blocks share, where any needs them.
    fn helpers(&mut self, graph: &Graph) {
        let mut selects = false;
        graph.whole.visit(&mut |part| {
            selects |= part.nodes.iter().any(|node| matches!(node.operation, Operation::Select(_)));
        });
        if selects {
            self.text += "\
def select_channels(self, x: Tensor, runs: List[int]) -> Tensor:
    # The channels that `runs` names: first and count of each.
    parts: List[Tensor] = []
    for i in range(len(runs) // 2):
        parts.append(x.narrow(1, runs[2 * i], runs[2 * i + 1]))
    return torch.cat(parts, 1)

";
        }
        if graph.is_conditional() {
            self.text += "\
def select_images(self, x: Tensor, rows: Tensor) -> Tensor:
    # Unlike index_select and index_copy, these are fast in either layout.
    return x[rows]

def replace_images(self, x: Tensor, rows: Tensor, y: Tensor) -> Tensor:
    return torch.index_put(x, [rows], y)

";
        }
    }

    /// A block, and the branches of its condition.
    fn block(&mut self, block: &Part, inputs: &[String], gate_values: &[(String, usize)]) {
        // A block reads nothing but what the one before it gives.
        let arguments: HashMap<&str, String> = inputs.iter().map(|input| (input.as_str(), "x".to_owned())).collect();
        let method = Method::new(block, arguments, gate_values);
        for node in &block.nodes {
            if let Operation::Conditional { open, closed } = &node.operation {
                for (which, part) in [("open", open), ("closed", closed)] {
                    if !part.nodes.is_empty() {
                        self.branch(which, part, &method);
                    }
                }
            }
        }
        let name = identifier(&block.name);
        self.line(0, format!("def {name}(self, x: Tensor, gate_values: List[Tensor]) -> Tensor:"));
        self.nodes(&method);
    }

    /// A branch of a condition as a method: it reads what `outer` calls the same.
    fn branch(&mut self, which: &str, part: &Part, outer: &Method) {
        let reads = part.reads();
        let list: String = reads.iter().map(|read| format!(", {}: Tensor", outer.name(read))).collect();
        self.line(0, format!("def {}_{which}(self{list}) -> Tensor:", identifier(&part.name)));
        let arguments = reads.iter().map(|&read| (read, outer.name(read))).collect();
        self.nodes(&Method::new(part, arguments, &[]));
    }

    /// What a method does.
    fn nodes(&mut self, method: &Method) {
        let Method { part, gate_values, .. } = method;
        if !part.constants.is_empty() && !part.name.is_empty() {
            self.line(1, format!("block = {}", at("self", &part.name)));
        }
        for node in &part.nodes {
            self.node(node, method);
            if gate_values.iter().any(|(name, _)| *name == node.name) {
                self.line(1, format!("gate_values.append({}.type_as(x))", method.name(&node.name)));
            }
        }
        self.line(1, format!("return {}", method.name(&part.output)));
        self.line(0, "");
    }

    fn node(&mut self, node: &Node, method: &Method) {
        let target = method.name(&node.name);
        let inputs: Vec<String> = node.inputs.iter().map(|input| method.name(input)).collect();
        let in_place = node.inputs.first().is_some_and(|input| method.is_free(input));
        let mark = if in_place { "_" } else { "" };
        let x = inputs.first().map_or("", String::as_str);
        let optional = |input: usize| inputs.get(input).map_or("None", String::as_str);
        let result = match &node.operation {
            Operation::Conv { kernel: _, stride, padding, groups } => {
                let (weight, bias, stride, padding) = (&inputs[1], optional(2), pair(*stride), pair(*padding));
                format!("torch.conv2d({x}, {weight}, {bias}, {stride}, {padding}, [1, 1], {groups})")
            }
            Operation::BatchNorm => {
                format!("torch.batch_norm({}, False, 0.0, {:?}, True)", inputs.join(", "), BatchNorm::EPSILON)
            }
            Operation::MaxPool { kernel, stride, padding } => {
                let [kernel, stride, padding] = [*kernel, *stride, *padding].map(pair);
                format!("torch.max_pool2d({x}, {kernel}, {stride}, {padding}, [1, 1], False)")
            }
            Operation::Relu => format!("torch.relu{mark}({x})"),
            Operation::Relu6 => format!("torch.clamp{mark}({x}, 0.0, 6.0)"),
            Operation::Add => format!("{x}.add{mark}({})", inputs[1]),
            Operation::Multiply => format!("{x}.mul{mark}({})", inputs[1]),
            Operation::AddBias => format!("{x}.add{mark}({}.view([1, -1, 1, 1]))", inputs[1]),
            Operation::Select(channels) => {
                let runs: Vec<String> =
                    channels.runs().iter().map(|(first, count)| format!("{first}, {count}")).collect();
                format!("self.select_channels({x}, [{}])", runs.join(", "))
            }
            Operation::Place { channels, of } => placed(None, x, channels, *of),
            Operation::AddInto { channels, of } => placed(Some(x), &inputs[1], channels, *of),
            Operation::Stride(stride) => format!("{x}.slice(2, None, None, {stride}).slice(3, None, None, {stride})"),
            Operation::Mean => format!("{x}.mean([2, 3])"),
            Operation::Linear => format!("torch.linear({x}, {}, {})", inputs[1], optional(2)),
            Operation::Margins => {
                let target = format!("{target}_pairs");
                self.line(1, format!("{target} = {x}.view([{x}.size(0), -1, 2])"));
                format!("{target}.select(2, 1) - {target}.select(2, 0)")
            }
            Operation::SameMargins(gates) => {
                let rows = format!("[{}.size(0), {gates}]", inputs[1]);
                format!("({x}.select(1, 1) - {x}.select(1, 0)).unsqueeze(0).expand({rows})")
            }
            Operation::Above(threshold) if threshold.is_finite() => format!("torch.gt({x}, {threshold:?})"),
            Operation::Above(threshold) => format!("torch.gt({x}, float(\"{threshold}\"))"),
            Operation::Spread(gates) => {
                self.line(1, format!("{target} = {x}.type_as(x)"));
                format!("{}.unsqueeze(2).unsqueeze(3)", spread(&target, gates))
            }
            Operation::Part(block) => format!("self.{}({x}, gate_values)", identifier(&block.name)),
            Operation::Conditional { open, closed } => return self.condition(node, open, closed, method),
        };
        self.line(1, format!("{target} = {result}"));
    }

    /// All images, some or none through the open branch.
    fn condition(&mut self, node: &Node, open: &Part, closed: &Part, method: &Method) {
        let target = method.name(&node.name);
        let name = identifier(&open.name);
        let list = |part: &Part, of: &dyn Fn(String) -> String| {
            let arguments: Vec<String> = part.reads().into_iter().map(|read| of(method.name(read))).collect();
            arguments.join(", ")
        };
        let all = list(open, &|read| read);
        let some = list(open, &|read| format!("self.select_images({read}, rows)"));
        let closed = match closed.nodes.is_empty() {
            true => method.name(&closed.output),
            false => format!("self.{name}_closed({})", list(closed, &|read| read)),
        };
        let gates = method.name(&node.inputs[0]);
        self.line(1, format!("rows = torch.nonzero({gates}.view([-1])).view([-1])"));
        self.line(1, format!("if rows.size(0) == {gates}.size(0):"));
        self.line(2, format!("{target} = self.{name}_open({all})"));
        self.line(1, "else:");
        self.line(2, format!("{target} = {closed}"));
        self.line(2, "if rows.size(0) > 0:");
        self.line(3, format!("opened = self.{name}_open({some})"));
        self.line(3, format!("{target} = self.replace_images({target}, rows, opened)"));
    }
}

/// An expression for what channels are multiplied by, [N, channels], from values [N, n].
fn spread(values: &str, gates: &[Option<usize>]) -> String {
    // Runs of channels: the first gate, how many gates, and how many channels each has.
    let mut runs: Vec<(Option<usize>, usize, usize)> = Vec::new();
    for channels in gates.chunk_by(|one, next| one == next) {
        match runs.last_mut() {
            Some((Some(first), count, each)) if channels[0] == Some(*first + *count) && channels.len() == *each => {
                *count += 1;
            }
            _ => runs.push((channels[0], 1, channels.len())),
        }
    }
    let parts: Vec<String> = runs
        .iter()
        .map(|&(first, count, each)| match first {
            None => format!("{values}.new_ones([{values}.size(0), {each}])"),
            Some(first) if each == 1 => format!("{values}.narrow(1, {first}, {count})"),
            Some(first) => format!("{values}.narrow(1, {first}, {count}).repeat_interleave({each}, 1)"),
        })
        .collect();
    match parts.as_slice() {
        [part] => part.clone(),
        parts => format!("torch.cat([{}], 1)", parts.join(", ")),
    }
}

/// An expression for `y` at these places among `of` channels of `base`, which it is added to; of zeros
/// without one. Not in place: programs that convert scripts lose sums into a part of a tensor.
fn placed(base: Option<&str>, y: &str, channels: &Channels, of: usize) -> String {
    let gap = |first: usize, count: usize| match base {
        Some(base) => format!("{base}.narrow(1, {first}, {count})"),
        // Channels last.
        None => format!("{y}.new_zeros([{y}.size(0), {y}.size(2), {y}.size(3), {count}]).permute([0, 3, 1, 2])"),
    };
    let (mut parts, mut next, mut taken) = (Vec::new(), 0, 0);
    for &(first, count) in channels.runs() {
        if first > next {
            parts.push(gap(next, first - next));
        }
        let own = format!("{y}.narrow(1, {taken}, {count})");
        parts.push(match base {
            Some(base) => format!("{base}.narrow(1, {first}, {count}) + {own}"),
            None => own,
        });
        (next, taken) = (first + count, taken + count);
    }
    if next < of {
        parts.push(gap(next, of - next));
    }
    format!("torch.cat([{}], 1)", parts.join(", "))
}
