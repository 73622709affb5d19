//! The TorchScript source of a network, written by its spec and compiled by libtorch's own
//! compiler, so that conditional execution is real control flow and not the trace of one image.

use crate::error::{Error, Result};
use crate::network::Execution;
use crate::spec::{Activation, BlockSpec, Channels, ConvSpec, GateSite, NetSpec, Shortcut, Site};
use gumbel_gates::{GateKind, Policy};
use std::fmt::Write;
use torch_ext::BatchNorm;

/// How a network becomes a script.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScriptOptions {
    /// What is computed.
    pub execution: Execution,
    /// How gates decide: argmax, always-open or a threshold.
    pub policy: Policy,
    /// Whether batch norms become part of the convolutions before them.
    pub fold_batch_norms: bool,
}

/// The source of a network's methods.
///
/// # Errors
/// If the policy draws noise or ranks gates.
pub(super) fn source(spec: &NetSpec, options: &ScriptOptions) -> Result<String> {
    let opens = match options.policy {
        Policy::Argmax | Policy::StraightThrough { .. } => "torch.gt(margin, 0.0)".to_owned(),
        Policy::AlwaysOpen => "torch.ones_like(margin)".to_owned(),
        Policy::Threshold(p) => format!("torch.gt(torch.sigmoid(margin), {p:?})"),
        Policy::Sample { .. } | Policy::TopK(_) => {
            return Err(Error::NotScriptable { policy: options.policy.to_string() });
        }
    };
    let skip = options.execution == Execution::Skipping;
    let mut source = Source { text: String::new(), opens, skip, folded: options.fold_batch_norms };
    source.network(spec);
    Ok(source.text)
}

/// The source as it grows.
struct Source {
    text: String,
    /// What makes gate values of `margin`.
    opens: String,
    skip: bool,
    folded: bool,
}

/// An expression for what lies at a dotted path below `root`: `getattr(root.layer1, "0").conv1`.
fn at(root: &str, path: &str) -> String {
    path.split('.').fold(root.to_owned(), |owner, name| match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("getattr({owner}, \"{name}\")"),
        false => format!("{owner}.{name}"),
    })
}

/// The name of a block's method.
fn method(block: &BlockSpec) -> String {
    block.name.replace('.', "_")
}

/// The name of what a site's gates decided.
fn gate_value(site: Site) -> String {
    format!("open_{site}")
}

fn pair(size: usize) -> String {
    format!("[{size}, {size}]")
}

/// Runs as TorchScript takes them: first and count of each.
fn runs(channels: &Channels) -> String {
    let runs: Vec<String> = channels.runs().iter().map(|(first, count)| format!("{first}, {count}")).collect();
    format!("[{}]", runs.join(", "))
}

impl Source {
    fn line(&mut self, level: usize, line: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:indent$}{}", "", line.as_ref(), indent = 4 * level);
    }

    fn network(&mut self, spec: &NetSpec) {
        self.helpers(spec);
        for block in &spec.blocks {
            self.branch(block);
            self.block(block);
        }
        self.line(0, "def classify(self, images: Tensor, gate_values: List[Tensor]) -> Tensor:");
        self.line(1, "# Channels last, the layout convolutions are fastest in.");
        self.line(1, "x = images.contiguous(memory_format=2)");
        self.conv(1, "x", "x", "self", &spec.stem.conv, (None, None));
        if let Some(pool) = &spec.stem.pool {
            let [kernel, stride, padding] = [pool.kernel, pool.stride, pool.padding].map(pair);
            self.line(1, format!("x = torch.max_pool2d(x, {kernel}, {stride}, {padding}, [1, 1], False)"));
        }
        for block in &spec.blocks {
            self.line(1, format!("x = self.{}(x, gate_values)", method(block)));
        }
        self.line(1, "x = torch.flatten(torch.adaptive_avg_pool2d(x, [1, 1]), 1)");
        let head = at("self", &spec.head.name);
        self.line(1, format!("return torch.linear(x, {head}.weight, {head}.bias)"));
        self.line(0, "");
        self.line(0, "def forward(self, images: Tensor) -> Tensor:");
        self.line(
            1,
            "# Class logits [N, classes] of normalized images [N, 3, H, W]. For inference: sums are made in place.",
        );
        self.line(1, "gate_values: List[Tensor] = []");
        self.line(1, "return self.classify(images, gate_values)");
        self.line(0, "");
        self.line(0, "def forward_with_openings(self, images: Tensor) -> Tuple[Tensor, List[Tensor]]:");
        self.line(1, "# And per gate site the gate values [N, n].");
        self.line(1, "gate_values: List[Tensor] = []");
        self.line(1, "logits = self.classify(images, gate_values)");
        self.line(1, "return logits, gate_values");
    }

    /// Methods that blocks share, where any needs them.
    fn helpers(&mut self, spec: &NetSpec) {
        let any = |test: &dyn Fn(&BlockSpec) -> bool| spec.blocks.iter().any(test);
        if any(&|block| block.reads.is_some()) {
            self.text += "\
def select_channels(self, x: Tensor, runs: List[int]) -> Tensor:
    # The channels that `runs` names: first and count of each.
    parts: List[Tensor] = []
    for i in range(len(runs) // 2):
        parts.append(x.narrow(1, runs[2 * i], runs[2 * i + 1]))
    return torch.cat(parts, 1)

";
        }
        if self.skip && any(&|block| block.gates_at(Site::Layer).is_some()) {
            self.text += "\
def select_images(self, x: Tensor, rows: Tensor) -> Tensor:
    return x.permute([0, 2, 3, 1]).index_select(0, rows).permute([0, 3, 1, 2])

";
        }
        if self.skip && any(&|block| block.gates.iter().any(|gates| gates.site != Site::Layer)) {
            self.text += "\
def is_alike(self, gate_values: Tensor) -> bool:
    # Whether a site's gates decided the same for every image.
    return bool(torch.all(torch.eq(gate_values, gate_values.narrow(0, 0, 1))))

def place_channels(self, y: Tensor, positions: Tensor, channels: int) -> Tensor:
    # y at these channels of zeros, channels last.
    full = y.new_zeros([y.size(0), y.size(2), y.size(3), channels]).permute([0, 3, 1, 2])
    return full.index_add_(1, positions, y)

";
        }
    }

    /// `target` = convolution, batch norm and activation of `input`; `narrow` names positions of
    /// input channels and filters.
    fn conv(
        &mut self,
        level: usize,
        target: &str,
        input: &str,
        owner: &str,
        conv: &ConvSpec,
        narrow: (Option<&str>, Option<&str>),
    ) {
        let (inputs, filters) = narrow;
        let module = at(owner, &conv.name);
        let of_filters = |tensor: String| match filters {
            Some(filters) => format!("{tensor}.index_select(0, {filters})"),
            None => tensor,
        };
        let mut weight = of_filters(format!("{module}.weight"));
        let mut groups = conv.groups.to_string();
        if conv.is_depthwise() {
            if let Some(filters) = filters {
                groups = format!("{filters}.size(0)");
            }
        } else if let Some(inputs) = inputs {
            weight = format!("{weight}.index_select(1, {inputs})");
        }
        let bias = if self.folded { of_filters(format!("{module}.bias")) } else { "None".into() };
        let (stride, padding) = (pair(conv.stride), pair(conv.padding));
        self.line(
            level,
            format!("{target} = torch.conv2d({input}, {weight}, {bias}, {stride}, {padding}, [1, 1], {groups})"),
        );
        if !self.folded {
            let norm = at(owner, &conv.norm);
            let parts = ["weight", "bias", "running_mean", "running_var"];
            let parts = parts.map(|part| of_filters(format!("{norm}.{part}"))).join(", ");
            let epsilon = BatchNorm::EPSILON;
            self.line(level, format!("{target} = torch.batch_norm({target}, {parts}, False, 0.0, {epsilon:?}, True)"));
        }
        self.activation(level, target, conv.activation);
    }

    fn activation(&mut self, level: usize, target: &str, activation: Activation) {
        match activation {
            Activation::Identity => {}
            Activation::Relu => self.line(level, format!("{target} = torch.relu_({target})")),
            Activation::Relu6 => self.line(level, format!("{target} = torch.clamp_({target}, 0.0, 6.0)")),
        }
    }

    /// The branch of a block as a method of its own: it makes the channels the branch writes.
    fn branch(&mut self, block: &BlockSpec) {
        if block.branch.is_empty() {
            return;
        }
        let sites: Vec<&GateSite> = branch_sites(block);
        let gate_values: String = sites.iter().map(|gates| format!(", {}: Tensor", gate_value(gates.site))).collect();
        self.line(0, format!("def {}_branch(self, x: Tensor{gate_values}) -> Tensor:", method(block)));
        self.line(1, format!("block = {}", at("self", &block.name)));
        for gates in &sites {
            self.line(1, format!("mask_{} = {}", gates.site, mask(gates)));
        }
        if self.skip && !sites.is_empty() {
            self.narrow_branch(block, &sites);
        }
        let mut input = "x".to_owned();
        if let Some(reads) = &block.reads {
            self.line(1, format!("y = self.select_channels(x, {})", runs(reads)));
            input = "y".into();
        }
        if block.gates_at(Site::Input).is_some() {
            self.line(1, format!("y = {input} * mask_input.unsqueeze(2).unsqueeze(3)"));
            input = "y".into();
        }
        for (position, conv) in (1..).zip(&block.branch) {
            self.conv(1, "y", &input, "block", conv, (None, None));
            input = "y".into();
            let site = if position < block.branch.len() { Site::Between(position) } else { Site::Output };
            if block.gates_at(site).is_some() {
                self.line(1, format!("y = y * mask_{site}.unsqueeze(2).unsqueeze(3)"));
            }
        }
        self.line(1, "return y");
        self.line(0, "");
    }

    /// What a branch does first when skipping: if all images agree, it runs with its open filters
    /// alone.
    fn narrow_branch(&mut self, block: &BlockSpec, sites: &[&GateSite]) {
        let alike: Vec<String> =
            sites.iter().map(|gates| format!("self.is_alike({})", gate_value(gates.site))).collect();
        self.line(1, format!("if {}:", alike.join(" and ")));
        for gates in sites {
            self.line(2, format!("at_{site} = torch.nonzero(mask_{site}.select(0, 0)).view([-1])", site = gates.site));
        }
        let last = block.gates_at(Site::Output).map(|_| "at_output".to_owned());
        // Behind a convolution of nothing a batch norm still has its bias: such a block runs
        // masked.
        let fed: Vec<String> = sites.iter().map(|gates| format!("at_{}.size(0) > 0", gates.site)).collect();
        self.line(2, format!("if {}:", fed.join(" and ")));
        let position_at = |site: Site| block.gates_at(site).map(|_| format!("at_{site}"));
        let first_is_depthwise = block.branch.first().is_some_and(ConvSpec::is_depthwise);
        let mut before = if first_is_depthwise { position_at(block.site_behind(1)) } else { position_at(Site::Input) };
        let mut input = "x".to_owned();
        if let Some(reads) = &block.reads {
            self.line(3, format!("y = self.select_channels(x, {})", runs(reads)));
            input = "y".into();
        }
        if let Some(before) = &before {
            self.line(3, format!("y = {input}.index_select(1, {before})"));
            input = "y".into();
        }
        for (position, conv) in (1..).zip(&block.branch) {
            let behind = position_at(block.site_behind(position));
            self.conv(3, "y", &input, "block", conv, (before.as_deref(), behind.as_deref()));
            input = "y".into();
            before = behind;
        }
        match last {
            None => self.line(3, "return y"),
            Some(last) => {
                let channels = block.branch.last().map_or(0, |conv| conv.outputs);
                self.line(3, format!("return self.place_channels(y, {last}, {channels})"));
            }
        }
    }

    /// The gate values of a block's gates.
    fn gates(&mut self, block: &BlockSpec) {
        if block.gates.iter().any(|gates| gates.kind == GateKind::Dependent) {
            self.line(1, "pooled = x.mean([2, 3])");
        }
        for gates in &block.gates {
            let gate = at("block", &gates.site.name());
            let count = gates.count();
            match gates.kind {
                GateKind::Independent => {
                    self.line(1, format!("logits = {gate}.logits.unsqueeze(0).expand([x.size(0), {count}, 2])"));
                }
                GateKind::Dependent => {
                    let parts = ["weight", "bias", "running_mean", "running_var"];
                    let parts = parts.map(|part| format!("{gate}.bn.{part}")).join(", ");
                    let epsilon = BatchNorm::EPSILON;
                    self.line(1, format!("hidden = torch.linear(pooled, {gate}.fc1.weight, None)"));
                    self.line(1, format!("hidden = torch.batch_norm(hidden, {parts}, False, 0.0, {epsilon:?}, True)"));
                    let linear = format!("torch.linear(torch.relu(hidden), {gate}.fc2.weight, {gate}.fc2.bias)");
                    self.line(1, format!("logits = {linear}.view([-1, {count}, 2])"));
                }
            }
            self.line(1, "margin = logits.select(2, 1) - logits.select(2, 0)");
            let name = gate_value(gates.site);
            let opens = self.opens.clone();
            self.line(1, format!("{name} = {opens}.type_as(x)"));
            self.line(1, format!("gate_values.append({name})"));
        }
    }

    fn block(&mut self, block: &BlockSpec) {
        let name = method(block);
        self.line(0, format!("def {name}(self, x: Tensor, gate_values: List[Tensor]) -> Tensor:"));
        // A block that pruning left without tensors is no part of the module.
        if block.bias || !block.gates.is_empty() || matches!(block.shortcut, Shortcut::Projection(_)) {
            self.line(1, format!("block = {}", at("self", &block.name)));
        }
        self.gates(block);
        let has_shortcut = self.shortcut(block);
        if !block.branch.is_empty() {
            self.add_branch(block, has_shortcut);
        }
        if block.bias {
            self.line(1, "total = total.add_(block.bias.view([1, -1, 1, 1]))");
        }
        self.activation(1, "total", block.activation);
        self.line(1, "return total");
        self.line(0, "");
    }

    /// `total` = the shortcut; whether there is one.
    fn shortcut(&mut self, block: &BlockSpec) -> bool {
        match &block.shortcut {
            Shortcut::None => return false,
            // Nobody reads x after the sum, so it is summed into.
            Shortcut::Identity => self.line(1, "total = x"),
            Shortcut::ZeroPadded { stride, outputs } => {
                let channels = (outputs - block.inputs) / 2;
                self.line(1, format!("total = x.slice(2, None, None, {stride}).slice(3, None, None, {stride})"));
                self.line(1, format!("total = torch.constant_pad_nd(total, [0, 0, 0, 0, {channels}, {channels}])"));
            }
            Shortcut::Projection(conv) => {
                self.conv(1, "total", "x", "block", conv, (None, None));
                if let Some(gates) = block.gates_at(Site::Projection) {
                    self.line(1, format!("total = total * ({}).unsqueeze(2).unsqueeze(3)", mask(gates)));
                }
                if let Some(projects) = &block.projects {
                    self.line(1, format!("total = {}", placed(None, "total", projects, block.outputs)));
                }
            }
        }
        true
    }

    /// Adds the branch to `total`.
    fn add_branch(&mut self, block: &BlockSpec, has_shortcut: bool) {
        let arguments = |input: &str, rows: &str| -> String {
            let sites = branch_sites(block);
            let gate_values: String = sites.iter().map(|gates| format!(", {}{rows}", gate_value(gates.site))).collect();
            format!("self.{}_branch({input}{gate_values})", method(block))
        };
        let layer = block.gates_at(Site::Layer).is_some();
        let level = if layer && self.skip {
            self.line(1, "rows = torch.nonzero(open_layer.view([-1])).view([-1])");
            self.line(1, "if rows.size(0) > 0 and rows.size(0) < x.size(0):");
            let call = arguments("self.select_images(x, rows)", ".index_select(0, rows)");
            self.line(2, format!("y = {call}"));
            if let Some(writes) = &block.writes {
                self.line(2, format!("y = {}", placed(None, "y", writes, block.outputs)));
            }
            self.line(2, "total = total.index_add_(0, rows, y)");
            self.line(1, "elif rows.size(0) > 0:");
            2
        } else {
            1
        };
        self.line(level, format!("y = {}", arguments("x", "")));
        if layer && !self.skip {
            self.line(level, "y = y * open_layer.view([-1, 1, 1, 1])");
        }
        match (&block.writes, has_shortcut) {
            (None, true) => self.line(level, "total = total.add_(y)"),
            (None, false) => self.line(level, "total = y"),
            (Some(writes), has_shortcut) => {
                let base = has_shortcut.then_some("total");
                self.line(level, format!("total = {}", placed(base, "y", writes, block.outputs)));
            }
        }
    }
}

/// The sites whose gates a branch needs.
fn branch_sites(block: &BlockSpec) -> Vec<&GateSite> {
    block.gates.iter().filter(|gates| !matches!(gates.site, Site::Layer | Site::Projection)).collect()
}

/// An expression for what the channels of a site are multiplied by, [N, channels], from its
/// gate values [N, n].
fn mask(gates: &GateSite) -> String {
    let open = gate_value(gates.site);
    let mut first = 0;
    let parts: Vec<String> = gates
        .groups
        .iter()
        .map(|run| {
            if !run.gated {
                return format!("{open}.new_ones([{open}.size(0), {}])", run.count * run.channels);
            }
            let part = format!("{open}.narrow(1, {first}, {})", run.count);
            first += run.count;
            if run.channels == 1 { part } else { format!("{part}.repeat_interleave({}, 1)", run.channels) }
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
