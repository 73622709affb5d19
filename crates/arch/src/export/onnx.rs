//! A network as an ONNX file: opset 17, IR version 8, any number of images.

use super::onnx_format::{self, AttributeType, DataType};
use crate::error::{Error, Result};
use crate::lower::{Graph, Lowering, Node, Operation, Part};
use crate::network::{Execution, Network};
use crate::spec::Channels;
use gumbel_gates::Policy;
use prost::Message;
use tch::{Device, Kind, Tensor};

/// What an ONNX network takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OnnxInput {
    /// `images`, float32 [N, 3, H, W], normalized.
    Normalized,
    /// `images`, uint8 [N, H, W, 3], resized and cropped; this mean and standard deviation of each
    /// channel, of values from 0 to 1, are taken inside.
    Bytes {
        /// Per channel.
        mean: [f32; 3],
        /// Per channel.
        std: [f32; 3],
    },
}

/// How a network becomes an ONNX file.
#[derive(Debug, Clone)]
pub struct OnnxOptions {
    /// How gates decide: argmax, always-open or a threshold.
    pub policy: Policy,
    /// Whether layers that gates close are multiplied by zero or not computed.
    pub execution: Execution,
    /// Whether gates that ignore the image stay gates; else they are decided and cut.
    pub keep_gates: bool,
    /// What it takes.
    pub input: OnnxInput,
    /// Height and width of the images, in pixels.
    pub image_size: usize,
    /// Keys and values that any reader of ONNX shows.
    pub metadata: Vec<(String, String)>,
}

/// No message of Protocol Buffers is larger.
const MOST_BYTES: usize = i32::MAX as usize;

const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

impl Network {
    /// The bytes of an ONNX file of this network. Its input is `images` ([`OnnxInput`]), its output
    /// `logits` [N, classes]; where gates remain, a second output `gate_values` [N, gates]. Gates
    /// that ignore the image are decided by the policy, and what they close is cut away, unless
    /// they are to be kept. A layer that others close is skipped: then a `Loop` takes each image by
    /// itself, and the layer is the branch of an `If`. Filters that others close are computed and
    /// multiplied by zero. Constants have the names of the state dict, batch norms folded into the
    /// layers before them.
    ///
    /// # Errors
    /// If the policy draws noise or ranks gates, nothing of the network is open, or the file would
    /// be larger than 2 GB.
    pub fn onnx_bytes(&self, options: &OnnxOptions) -> Result<Vec<u8>> {
        let OnnxOptions { policy, execution, keep_gates, .. } = *options;
        let graph = Lowering { policy, execution, keep_gates, fold_batch_norms: true }.of(self)?;
        let bytes = model(&graph, self, options)?.encode_to_vec();
        if bytes.len() > MOST_BYTES {
            return Err(Error::TooLarge { bytes: bytes.len(), most: MOST_BYTES, format: "ONNX" });
        }
        Ok(bytes)
    }
}

fn model(graph: &Graph, network: &Network, options: &OnnxOptions) -> Result<onnx_format::Model> {
    let size = options.image_size as i64;
    let (element, shape) = match options.input {
        OnnxInput::Normalized => (DataType::Float, [3, size, size]),
        OnnxInput::Bytes { .. } => (DataType::Uint8, [size, size, 3]),
    };
    let printed = if graph.is_conditional() { each_image(graph, options)? } else { all_images(graph, options)? };
    let mut output = vec![value("logits", DataType::Float, &[network.spec().head.classes as i64])];
    if !graph.gate_values.is_empty() {
        let count: usize = graph.gate_values.iter().map(|(_, count)| count).sum();
        output.push(value("gate_values", DataType::Float, &[count as i64]));
    }
    let entry =
        |(key, value): &(String, String)| onnx_format::Entry { key: Some(key.clone()), value: Some(value.clone()) };
    Ok(onnx_format::Model {
        ir_version: Some(IR_VERSION),
        opset_import: vec![onnx_format::OperatorSet { domain: Some(String::new()), version: Some(OPSET) }],
        producer_name: Some("gumbel-gates".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        doc_string: None,
        graph: Some(onnx_format::Graph {
            input: vec![value("images", element, &shape)],
            output,
            ..printed.graph(&network.spec().name)
        }),
        metadata_props: options.metadata.iter().map(entry).collect(),
    })
}

/// Everything of all images at once.
fn all_images(graph: &Graph, options: &OnnxOptions) -> Result<Printer> {
    let mut printer = Printer::default();
    printer.network(graph, options, "images")?;
    Ok(printer)
}

/// Each image by itself: runtimes compute batches of images no faster than one after the other, and
/// gathering some images of a batch, and putting them back, costs them more than it saves.
fn each_image(graph: &Graph, options: &OnnxOptions) -> Result<Printer> {
    let mut body = Printer { scope: "image/".into(), alone: true, ..Printer::default() };
    let first = body.integers("image/axis", &[0]);
    body.node("Unsqueeze", "image/position", &["image/number", &first], Vec::new());
    body.node("Gather", "image", &["images", "image/position"], vec![int("axis", 0)]);
    body.network(graph, options, "image")?;
    body.node("Identity", "image/next", &["image/more"], Vec::new());
    let gates = if graph.gate_values.is_empty() { None } else { Some("gate_values") };
    let results = std::iter::once("logits").chain(gates);
    for result in results.clone() {
        body.node("Squeeze", &format!("image/{result}"), &[result, &first], Vec::new());
    }
    // Names of an inner graph must not be those of the outer one.
    for node in &mut body.nodes {
        for name in node.input.iter_mut().chain(&mut node.output) {
            if results.clone().any(|result| result == name) {
                *name = format!("image/{name}.row");
            }
        }
    }
    let scalar = |name: &str, kind| onnx_format::Value {
        name: Some(name.to_owned()),
        kind: Some(onnx_format::Type {
            tensor: Some(onnx_format::TensorType {
                element: Some(kind as i32),
                shape: Some(onnx_format::Shape::default()),
            }),
        }),
    };
    let names = std::iter::once("image/next".to_owned()).chain(results.clone().map(|result| format!("image/{result}")));
    let body = onnx_format::Graph {
        input: vec![scalar("image/number", DataType::Int64), scalar("image/more", DataType::Bool)],
        output: names.map(|name| untyped(&name)).collect(),
        ..body.graph("image")
    };
    let mut printer = Printer::default();
    printer.node("Shape", "images/shape", &["images"], Vec::new());
    let batch = printer.add("images/axis", DataType::Int64, &[], 0_i64.to_le_bytes().to_vec());
    printer.node("Gather", "images/count", &["images/shape", &batch], vec![int("axis", 0)]);
    printer.nodes.push(onnx_format::Node {
        input: vec!["images/count".into(), String::new()],
        output: results.map(str::to_owned).collect(),
        name: Some("each_image".into()),
        op_type: Some("Loop".into()),
        attribute: vec![part("body", body)],
    });
    Ok(printer)
}

/// Prints operations as nodes of ONNX.
#[derive(Default)]
struct Printer {
    /// Begins the names of constants that many nodes share: an inner graph has its own, for
    /// runtimes look no further when they prepare weights.
    scope: String,
    /// Whether the nodes compute one image.
    alone: bool,
    /// What the network's input is called.
    images: String,
    nodes: Vec<onnx_format::Node>,
    constants: Vec<onnx_format::Tensor>,
}

impl Printer {
    /// The whole network, of `images`.
    fn network(&mut self, graph: &Graph, options: &OnnxOptions, images: &str) -> Result<()> {
        self.images = images.to_owned();
        if let OnnxInput::Bytes { mean, std } = options.input {
            self.normalize(images, mean, std);
            self.images = format!("{images}/normalized");
        }
        self.part(&graph.whole)?;
        if !graph.gate_values.is_empty() {
            let names: Vec<&str> = graph.gate_values.iter().map(|(name, _)| name.as_str()).collect();
            self.node("Concat", "gates/open", &names, vec![int("axis", 1)]);
            self.node("Cast", "gate_values", &["gates/open"], vec![int("to", DataType::Float as i64)]);
        }
        Ok(())
    }

    fn graph(self, name: &str) -> onnx_format::Graph {
        onnx_format::Graph {
            node: self.nodes,
            name: Some(name.to_owned()),
            initializer: self.constants,
            ..onnx_format::Graph::default()
        }
    }

    fn part(&mut self, part: &Part) -> Result<()> {
        for (name, value) in &part.constants {
            self.floats(name, value)?;
        }
        part.nodes.iter().try_for_each(|node| self.print(node))
    }

    /// A part as a graph of its own.
    fn inner(&self, name: &str, content: &Part) -> Result<onnx_format::Graph> {
        let mut inner =
            Self { scope: format!("{name}/"), alone: self.alone, images: self.images.clone(), ..Self::default() };
        inner.part(content)?;
        let mut output = content.output.clone();
        if content.nodes.is_empty() {
            output = format!("{name}/same");
            inner.node("Identity", &output, &[&content.output], Vec::new());
        }
        Ok(onnx_format::Graph { output: vec![untyped(&output)], ..inner.graph(name) })
    }

    /// Bytes [N, H, W, 3] to what the network was trained on.
    fn normalize(&mut self, images: &str, mean: [f32; 3], std: [f32; 3]) {
        let named = |part: &str| format!("{images}/{part}");
        self.node("Cast", &named("float"), &[images], vec![int("to", DataType::Float as i64)]);
        self.node("Transpose", &named("channels"), &[&named("float")], vec![ints("perm", &[0, 3, 1, 2])]);
        let scale = self.raw(&named("scale"), &[1, 3, 1, 1], &std.map(|std| 1.0 / (255.0 * std)));
        let shift = [0, 1, 2].map(|channel| -mean[channel] / std[channel]);
        let shift = self.raw(&named("shift"), &[1, 3, 1, 1], &shift);
        self.node("Mul", &named("scaled"), &[&named("channels"), &scale], Vec::new());
        self.node("Add", &named("normalized"), &[&named("scaled"), &shift], Vec::new());
    }

    fn print(&mut self, Node { name, operation, inputs }: &Node) -> Result<()> {
        let images = self.images.clone();
        let inputs: Vec<&str> =
            inputs.iter().map(|input| if input == "images" { images.as_str() } else { input }).collect();
        match operation {
            Operation::Conv { kernel, stride, padding, groups } => {
                let mut attributes = window(*kernel, *stride, *padding);
                attributes.push(int("group", *groups as i64));
                self.node("Conv", name, &inputs, attributes);
            }
            // A file without batch norms is what runtimes want, so none asks for them.
            Operation::BatchNorm | Operation::Margins => {
                return Err(Error::Spec { faults: vec![format!("{name}: batch norms must be folded before")] });
            }
            Operation::MaxPool { kernel, stride, padding } => {
                self.node("MaxPool", name, &inputs, window(*kernel, *stride, *padding));
            }
            Operation::Relu => self.node("Relu", name, &inputs, Vec::new()),
            Operation::Relu6 => {
                let [least, most] =
                    [("zero", 0.0), ("six", 6.0)].map(|(name, bound)| self.number(&self.shared(name), bound));
                self.node("Clip", name, &[inputs[0], &least, &most], Vec::new());
            }
            Operation::Add => self.node("Add", name, &inputs, Vec::new()),
            Operation::Multiply => self.node("Mul", name, &inputs, Vec::new()),
            Operation::AddBias => self.add_bias(name, inputs[0], inputs[1])?,
            Operation::Select(channels) => self.select(name, inputs[0], channels),
            Operation::Place { channels, of } => self.place(name, inputs[0], channels, *of),
            Operation::AddInto { channels, of } => {
                let placed = format!("{name}/placed");
                self.place(&placed, inputs[1], channels, *of);
                self.node("Add", name, &[&placed, inputs[0]], Vec::new());
            }
            Operation::Stride(stride) => {
                let stride = *stride as i64;
                self.slice(name, inputs[0], &[0, 0], &[i64::MAX; 2], &[2, 3], &[stride; 2]);
            }
            Operation::Mean if self.alone => {
                // Behind a branch features lie channel by channel, where this needs no copy.
                self.node("ReduceMean", name, &inputs, vec![ints("axes", &[2, 3]), int("keepdims", 0)]);
            }
            Operation::Mean => {
                let mean = format!("{name}/mean");
                self.node("GlobalAveragePool", &mean, &inputs, Vec::new());
                self.node("Flatten", name, &[&mean], vec![int("axis", 1)]);
            }
            Operation::Linear => self.node("Gemm", name, &inputs, vec![int("transB", 1)]),
            Operation::SameMargins(gates) => {
                let margins = format!("{name}/of_one");
                self.differences(&margins, inputs[0]);
                let [shape, batch, size] = ["shape", "batch", "size"].map(|part| format!("{name}/{part}"));
                self.node("Shape", &shape, &[inputs[1]], Vec::new());
                let first = self.integers(&self.shared("first"), &[0]);
                self.node("Gather", &batch, &[&shape, &first], vec![int("axis", 0)]);
                let gates = self.integers(&format!("{name}/gates"), &[*gates as i64]);
                self.node("Concat", &size, &[&batch, &gates], vec![int("axis", 0)]);
                self.node("Expand", name, &[&margins, &size], Vec::new());
            }
            Operation::Above(threshold) => {
                let threshold = self.number(&format!("{name}/threshold"), *threshold);
                self.node("Greater", name, &[inputs[0], &threshold], Vec::new());
            }
            Operation::Spread(gates) => self.spread(name, inputs[0], gates),
            Operation::Part(part) => self.part(part)?,
            Operation::Conditional { open, closed } => {
                let branches = [("then_branch", open, "open"), ("else_branch", closed, "closed")];
                let attributes = branches.map(|(attribute, content, which)| {
                    Ok(part(attribute, self.inner(&format!("{}/{which}", content.name), content)?))
                });
                let attributes = attributes.into_iter().collect::<Result<_>>()?;
                // Of one element, and some runtimes want it without dimensions too.
                let condition = format!("{name}/condition");
                self.node("Squeeze", &condition, &inputs[..1], Vec::new());
                self.node("If", name, &[&condition], attributes);
            }
        }
        Ok(())
    }

    /// The second of each pair [n, 2] less the first.
    fn differences(&mut self, name: &str, pairs: &str) {
        let [open, closed] = ["open", "closed"].map(|which| format!("{name}/{which}"));
        for (of, number) in [(&closed, 0_i64), (&open, 1)] {
            let number =
                self.add(&self.shared(&format!("pair/{number}")), DataType::Int64, &[], number.to_le_bytes().to_vec());
            self.node("Gather", of, &[pairs, &number], vec![int("axis", 1)]);
        }
        self.node("Sub", name, &[&open, &closed], Vec::new());
    }

    fn select(&mut self, name: &str, x: &str, channels: &Channels) {
        if let [(first, count)] = channels.runs() {
            let (first, end) = (*first as i64, (first + count) as i64);
            return self.slice(name, x, &[first], &[end], &[1], &[1]);
        }
        let numbers: Vec<i64> = channels.numbers().map(|number| number as i64).collect();
        let numbers = self.integers(&format!("{name}/channels"), &numbers);
        self.node("Gather", name, &[x, &numbers], vec![int("axis", 1)]);
    }

    fn slice(&mut self, name: &str, x: &str, starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]) {
        let parts = [("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps)];
        let parts = parts.map(|(part, values)| self.integers(&format!("{name}/{part}"), values));
        let inputs: Vec<&str> = std::iter::once(x).chain(parts.iter().map(String::as_str)).collect();
        self.node("Slice", name, &inputs, Vec::new());
    }

    /// Neighboring channels are padded; others are picked from themselves and one channel of zeros.
    fn place(&mut self, name: &str, x: &str, channels: &Channels, of: usize) {
        if let [(first, count)] = channels.runs() {
            let (before, after) = (*first as i64, (of - first - count) as i64);
            let pads = self.integers(&format!("{name}/pads"), &[0, before, 0, 0, 0, after, 0, 0]);
            return self.node("Pad", name, &[x, &pads], Vec::new());
        }
        let zero = channels.count() as i64;
        let mut from = vec![zero; of];
        channels.numbers().enumerate().for_each(|(position, number)| from[number] = position as i64);
        let pads = self.integers(&format!("{name}/pads"), &[0, 0, 0, 0, 0, 1, 0, 0]);
        let from = self.integers(&format!("{name}/from"), &from);
        let padded = format!("{name}/padded");
        self.node("Pad", &padded, &[x, &pads], Vec::new());
        self.node("Gather", name, &[&padded, &from], vec![int("axis", 1)]);
    }

    /// Behind the gates' values [N, n] stands a 1 for channels that are always open.
    fn spread(&mut self, name: &str, open: &str, gates: &[Option<usize>]) {
        let mut values = format!("{name}/values");
        self.node("Cast", &values, &[open], vec![int("to", DataType::Float as i64)]);
        let count = gates.iter().flatten().max().map_or(0, |last| last + 1);
        if gates.contains(&None) {
            let pads = self.integers(&format!("{name}/pads"), &[0, 0, 0, 1]);
            let one = self.number(&self.shared("one"), 1.0);
            let padded = format!("{name}/padded");
            self.node("Pad", &padded, &[&values, &pads, &one], Vec::new());
            values = padded;
        }
        if !gates.iter().copied().eq((0..count).map(Some)) {
            let from: Vec<i64> = gates.iter().map(|gate| gate.unwrap_or(count) as i64).collect();
            let from = self.integers(&format!("{name}/gates"), &from);
            let gathered = format!("{name}/gathered");
            self.node("Gather", &gathered, &[&values, &from], vec![int("axis", 1)]);
            values = gathered;
        }
        let axes = self.integers(&self.shared("pixel_axes"), &[2, 3]);
        self.node("Unsqueeze", name, &[&values, &axes], Vec::new());
    }

    /// Adds a bias `[C]` to features: as a convolution of each channel by itself with a weight of
    /// 1, for which runtimes keep the layout that convolutions compute fastest in. A sum would
    /// convert it twice.
    fn add_bias(&mut self, name: &str, features: &str, bias: &str) -> Result<()> {
        let is_bias = |constant: &&onnx_format::Tensor| constant.name.as_deref() == Some(bias);
        let channels = self.constants.iter().find(is_bias).and_then(|constant| constant.dims.first().copied());
        // It is a constant of the same part.
        let channels = channels.ok_or_else(|| Error::Spec { faults: vec![format!("{bias} has no values")] })?;
        let ones = self.raw(&format!("{name}/ones"), &[channels, 1, 1, 1], &vec![1.0; channels as usize]);
        let mut attributes = window(1, 1, 0);
        attributes.push(int("group", channels));
        self.node("Conv", name, &[features, &ones, bias], attributes);
        Ok(())
    }

    fn node(&mut self, operation: &str, name: &str, inputs: &[&str], attribute: Vec<onnx_format::Attribute>) {
        self.nodes.push(onnx_format::Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.to_owned()],
            name: Some(name.to_owned()),
            op_type: Some(operation.to_owned()),
            attribute,
        });
    }

    /// The name of a constant that many nodes share.
    fn shared(&self, name: &str) -> String {
        format!("{}{name}", self.scope)
    }

    /// A constant, once.
    fn add(&mut self, name: &str, kind: DataType, dims: &[i64], bytes: Vec<u8>) -> String {
        if !self.constants.iter().any(|constant| constant.name.as_deref() == Some(name)) {
            self.constants.push(onnx_format::Tensor {
                dims: dims.to_vec(),
                data_type: Some(kind as i32),
                name: Some(name.to_owned()),
                raw_data: Some(bytes),
            });
        }
        name.to_owned()
    }

    fn floats(&mut self, name: &str, value: &Tensor) -> Result<()> {
        let value = value.f_detach()?.f_to_device(Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        let mut bytes = vec![0; 4 * value.numel()];
        value.f_copy_data_u8(&mut bytes, value.numel())?;
        self.add(name, DataType::Float, &value.size(), bytes);
        Ok(())
    }

    fn raw(&mut self, name: &str, dims: &[i64], values: &[f32]) -> String {
        self.add(name, DataType::Float, dims, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn number(&mut self, name: &str, value: f32) -> String {
        self.raw(name, &[], &[value])
    }

    fn integers(&mut self, name: &str, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add(name, DataType::Int64, &[values.len() as i64], bytes)
    }
}

/// A value of N rows of this shape.
fn value(name: &str, element: DataType, shape: &[i64]) -> onnx_format::Value {
    let batch = onnx_format::Dimension { value: None, name: Some("N".into()) };
    let fixed = shape.iter().map(|&size| onnx_format::Dimension { value: Some(size), name: None });
    let shape = onnx_format::Shape { dim: std::iter::once(batch).chain(fixed).collect() };
    let tensor = onnx_format::TensorType { element: Some(element as i32), shape: Some(shape) };
    onnx_format::Value { name: Some(name.to_owned()), kind: Some(onnx_format::Type { tensor: Some(tensor) }) }
}

/// A value of an inner graph, whose type follows from its nodes.
fn untyped(name: &str) -> onnx_format::Value {
    onnx_format::Value { name: Some(name.to_owned()), kind: None }
}

fn window(kernel: usize, stride: usize, padding: usize) -> Vec<onnx_format::Attribute> {
    let [kernel, stride, padding] = [kernel, stride, padding].map(|size| size as i64);
    vec![ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[padding; 4])]
}

fn attribute(name: &str, kind: AttributeType) -> onnx_format::Attribute {
    onnx_format::Attribute { name: Some(name.to_owned()), kind: Some(kind as i32), ..onnx_format::Attribute::default() }
}

fn int(name: &str, value: i64) -> onnx_format::Attribute {
    onnx_format::Attribute { i: Some(value), ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, values: &[i64]) -> onnx_format::Attribute {
    onnx_format::Attribute { ints: values.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn part(name: &str, content: onnx_format::Graph) -> onnx_format::Attribute {
    onnx_format::Attribute { graph: Some(content), ..attribute(name, AttributeType::Graph) }
}
