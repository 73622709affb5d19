//! A network as an ONNX file: opset 17, IR version 8, any number of images.

use super::graph::{Graph, Node, Operation};
use super::onnx_format::{self, AttributeType, DataType};
use crate::error::{Error, Result};
use crate::network::Network;
use crate::prune::Decision;
use crate::spec::Channels;
use gumbel_gates::{GateKind, Policy};
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
    /// `logits` [N, classes]; where gates remain that look at the image, a second output
    /// `gate_values` [N, gates]. Gates that ignore the image are decided by the policy, and what
    /// they close is cut away; what others close is computed and multiplied by zero. Constants have
    /// the names of the state dict, batch norms folded into the convolutions before them.
    ///
    /// # Errors
    /// If the policy draws noise or ranks gates, nothing of the network is open, or the file would
    /// be larger than 2 GB.
    pub fn onnx_bytes(&self, options: &OnnxOptions) -> Result<Vec<u8>> {
        let threshold = match options.policy {
            Policy::Argmax | Policy::StraightThrough { .. } => Some(0.0),
            // σ(margin) > p
            Policy::Threshold(p) => Some((p / (1.0 - p)).ln() as f32),
            Policy::AlwaysOpen => None,
            Policy::Sample { .. } | Policy::TopK(_) => {
                return Err(Error::NotScriptable { policy: options.policy.to_string() });
            }
        };
        let cut = self.without_decided_gates(threshold)?;
        let network = cut.as_ref().unwrap_or(self);
        let graph = Graph::of(network, threshold)?;
        let bytes = Printer::default().model(&graph, network, options)?.encode_to_vec();
        if bytes.len() > MOST_BYTES {
            return Err(Error::TooLarge { bytes: bytes.len(), most: MOST_BYTES, format: "ONNX" });
        }
        Ok(bytes)
    }

    /// The network without the gates that ignore the image, if it has any; without a threshold all
    /// of them are open.
    fn without_decided_gates(&self, threshold: Option<f32>) -> Result<Option<Self>> {
        let mut decisions = Vec::with_capacity(self.spec().gate_count());
        for (block, gates) in self.spec().gate_sites() {
            let name = format!("{}.{}.logits", block.name, gates.site.name());
            let logits = self.tensors().get(&name).filter(|_| gates.kind == GateKind::Independent);
            let Some(logits) = logits else {
                decisions.extend(std::iter::repeat_n(Decision::Undecided, gates.count()));
                continue;
            };
            let logits = logits.tensor.f_detach()?;
            let margins = Vec::<f32>::try_from(logits.f_select(1, 1)?.f_sub(&logits.f_select(1, 0)?)?)?;
            let open = |margin| threshold.is_none_or(|threshold| margin > threshold);
            decisions.extend(margins.into_iter().map(|m| if open(m) { Decision::Open } else { Decision::Closed }));
        }
        let decided = decisions.iter().any(|decision| *decision != Decision::Undecided);
        if decided { self.prune(&decisions).map(Some) } else { Ok(None) }
    }
}

/// Prints operations as nodes of ONNX.
#[derive(Default)]
struct Printer {
    nodes: Vec<onnx_format::Node>,
    constants: Vec<onnx_format::Tensor>,
}

impl Printer {
    fn model(mut self, graph: &Graph, network: &Network, options: &OnnxOptions) -> Result<onnx_format::Model> {
        let size = options.image_size as i64;
        let (element, shape) = match options.input {
            OnnxInput::Normalized => (DataType::Float, [3, size, size]),
            OnnxInput::Bytes { .. } => (DataType::Uint8, [size, size, 3]),
        };
        let mut images = "images";
        if let OnnxInput::Bytes { mean, std } = options.input {
            self.normalize(mean, std);
            images = NORMALIZED;
        }
        for (name, value) in &graph.constants {
            self.floats(name, value)?;
        }
        for node in &graph.nodes {
            self.print(node, images);
        }
        let classes = network.spec().head.classes as i64;
        let mut output = vec![value("logits", DataType::Float, &[classes])];
        if let [first, more @ ..] = &graph.gate_values[..] {
            let inputs: Vec<&str> = std::iter::once(first).chain(more).map(String::as_str).collect();
            self.node("Concat", "gate_values", &inputs, vec![int("axis", 1)]);
            output.push(value("gate_values", DataType::Float, &[network.spec().gate_count() as i64]));
        }
        let metadata = options.metadata.iter();
        Ok(onnx_format::Model {
            ir_version: Some(IR_VERSION),
            opset_import: vec![onnx_format::OperatorSet { domain: Some(String::new()), version: Some(OPSET) }],
            producer_name: Some("gumbel-gates".into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            doc_string: None,
            graph: Some(onnx_format::Graph {
                node: self.nodes,
                name: Some(network.spec().name.clone()),
                initializer: self.constants,
                input: vec![value("images", element, &shape)],
                output,
            }),
            metadata_props: metadata
                .map(|(key, value)| onnx_format::Entry { key: Some(key.clone()), value: Some(value.clone()) })
                .collect(),
        })
    }

    /// Bytes [N, H, W, 3] to what the network was trained on.
    fn normalize(&mut self, mean: [f32; 3], std: [f32; 3]) {
        self.node("Cast", "images.float", &["images"], vec![int("to", DataType::Float as i64)]);
        self.node("Transpose", "images.channels", &["images.float"], vec![ints("perm", &[0, 3, 1, 2])]);
        self.raw("images.scale", &[1, 3, 1, 1], &std.map(|std| 1.0 / (255.0 * std)));
        self.raw("images.shift", &[1, 3, 1, 1], &[0, 1, 2].map(|channel| -mean[channel] / std[channel]));
        self.node("Mul", "images.scaled", &["images.channels", "images.scale"], Vec::new());
        self.node("Add", NORMALIZED, &["images.scaled", "images.shift"], Vec::new());
    }

    fn print(&mut self, Node { name, operation, inputs }: &Node, images: &str) {
        let inputs: Vec<&str> = inputs.iter().map(|input| if input == "images" { images } else { input }).collect();
        let window = |kernel: usize, stride: usize, padding: usize| {
            let [kernel, stride, padding] = [kernel, stride, padding].map(|size| size as i64);
            vec![ints("kernel_shape", &[kernel; 2]), ints("strides", &[stride; 2]), ints("pads", &[padding; 4])]
        };
        match operation {
            Operation::Conv { kernel, stride, padding, groups } => {
                let mut attributes = window(*kernel, *stride, *padding);
                attributes.push(int("group", *groups as i64));
                self.node("Conv", name, &inputs, attributes);
            }
            Operation::MaxPool { kernel, stride, padding } => {
                self.node("MaxPool", name, &inputs, window(*kernel, *stride, *padding));
            }
            Operation::Relu => self.node("Relu", name, &inputs, Vec::new()),
            Operation::Relu6 => {
                let [least, most] = [("zero", 0.0), ("six", 6.0)].map(|(name, bound)| self.number(name, bound));
                self.node("Clip", name, &[inputs[0], &least, &most], Vec::new());
            }
            Operation::Add => self.node("Add", name, &inputs, Vec::new()),
            Operation::Multiply => self.node("Mul", name, &inputs, Vec::new()),
            Operation::Select(channels) => self.select(name, inputs[0], channels),
            Operation::Place { channels, of } => self.place(name, inputs[0], channels, *of),
            Operation::Stride(stride) => {
                let stride = *stride as i64;
                self.slice(name, inputs[0], &[0, 0], &[i64::MAX; 2], &[2, 3], &[stride; 2]);
            }
            Operation::Mean => {
                let mean = format!("{name}.mean");
                self.node("GlobalAveragePool", &mean, &inputs, Vec::new());
                self.node("Flatten", name, &[&mean], vec![int("axis", 1)]);
            }
            Operation::Linear => self.node("Gemm", name, &inputs, vec![int("transB", 1)]),
            Operation::Above(threshold) => {
                let threshold = self.number(&format!("{name}.threshold"), *threshold);
                let above = format!("{name}.above");
                self.node("Greater", &above, &[inputs[0], &threshold], Vec::new());
                self.node("Cast", name, &[&above], vec![int("to", DataType::Float as i64)]);
            }
            Operation::Spread(gates) => self.spread(name, inputs[0], gates),
        }
    }

    fn select(&mut self, name: &str, x: &str, channels: &Channels) {
        if let [(first, count)] = channels.runs() {
            let (first, end) = (*first as i64, (first + count) as i64);
            return self.slice(name, x, &[first], &[end], &[1], &[1]);
        }
        let numbers: Vec<i64> = channels.numbers().map(|number| number as i64).collect();
        let numbers = self.integers(&format!("{name}.channels"), &numbers);
        self.node("Gather", name, &[x, &numbers], vec![int("axis", 1)]);
    }

    fn slice(&mut self, name: &str, x: &str, starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64]) {
        let parts = [("starts", starts), ("ends", ends), ("axes", axes), ("steps", steps)];
        let parts = parts.map(|(part, values)| self.integers(&format!("{name}.{part}"), values));
        let inputs: Vec<&str> = std::iter::once(x).chain(parts.iter().map(String::as_str)).collect();
        self.node("Slice", name, &inputs, Vec::new());
    }

    /// Neighboring channels are padded; others are picked from themselves and one channel of zeros.
    fn place(&mut self, name: &str, x: &str, channels: &Channels, of: usize) {
        if let [(first, count)] = channels.runs() {
            let (before, after) = (*first as i64, (of - first - count) as i64);
            let pads = self.integers(&format!("{name}.pads"), &[0, before, 0, 0, 0, after, 0, 0]);
            return self.node("Pad", name, &[x, &pads], Vec::new());
        }
        let zero = channels.count() as i64;
        let mut from = vec![zero; of];
        channels.numbers().enumerate().for_each(|(position, number)| from[number] = position as i64);
        let pads = self.integers(&format!("{name}.pads"), &[0, 0, 0, 0, 0, 1, 0, 0]);
        let from = self.integers(&format!("{name}.from"), &from);
        let padded = format!("{name}.padded");
        self.node("Pad", &padded, &[x, &pads], Vec::new());
        self.node("Gather", name, &[&padded, &from], vec![int("axis", 1)]);
    }

    /// Behind the gates' values [N, n] stands a 1 for channels that are always open.
    fn spread(&mut self, name: &str, open: &str, gates: &[Option<usize>]) {
        let mut values = open.to_owned();
        let count = gates.iter().flatten().max().map_or(0, |last| last + 1);
        if gates.contains(&None) {
            let pads = self.integers(&format!("{name}.pads"), &[0, 0, 0, 1]);
            let one = self.number("one", 1.0);
            let padded = format!("{name}.padded");
            self.node("Pad", &padded, &[&values, &pads, &one], Vec::new());
            values = padded;
        }
        if !gates.iter().copied().eq((0..count).map(Some)) {
            let from: Vec<i64> = gates.iter().map(|gate| gate.unwrap_or(count) as i64).collect();
            let from = self.integers(&format!("{name}.gates"), &from);
            let gathered = format!("{name}.gathered");
            self.node("Gather", &gathered, &[&values, &from], vec![int("axis", 1)]);
            values = gathered;
        }
        let axes = self.integers("pixel_axes", &[2, 3]);
        self.node("Unsqueeze", name, &[&values, &axes], Vec::new());
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

/// The value that a network reads where images are normalized inside.
const NORMALIZED: &str = "images.normalized";

/// A value of N rows of this shape.
fn value(name: &str, element: DataType, shape: &[i64]) -> onnx_format::Value {
    let batch = onnx_format::Dimension { value: None, name: Some("N".into()) };
    let fixed = shape.iter().map(|&size| onnx_format::Dimension { value: Some(size), name: None });
    let shape = onnx_format::Shape { dim: std::iter::once(batch).chain(fixed).collect() };
    let tensor = onnx_format::TensorType { element: Some(element as i32), shape: Some(shape) };
    onnx_format::Value { name: Some(name.to_owned()), kind: Some(onnx_format::Type { tensor: Some(tensor) }) }
}

fn int(name: &str, value: i64) -> onnx_format::Attribute {
    let kind = Some(AttributeType::Int as i32);
    onnx_format::Attribute { name: Some(name.to_owned()), i: Some(value), ints: Vec::new(), kind }
}

fn ints(name: &str, values: &[i64]) -> onnx_format::Attribute {
    let kind = Some(AttributeType::Ints as i32);
    onnx_format::Attribute { name: Some(name.to_owned()), i: None, ints: values.to_vec(), kind }
}
