//! Published architectures as data.

use super::net::{Activation, BlockSpec, ConvSpec, HeadSpec, NetSpec, PoolSpec, Shortcut, StemSpec};
use super::sites::GroupSizes;
use crate::error::{Error, Result};

/// A published architecture and the images it was published for.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name: torchvision's, or `cifar-` and the paper's.
    pub name: &'static str,
    /// Side of its images in pixels.
    pub image_size: u32,
    /// Evaluation: the shorter side before the center is cut out, in pixels.
    pub resize: u32,
    family: Family,
    /// Multiplies every number of channels; only MobileNetV2 knows others than 1.
    width: f64,
}

#[derive(Debug, Clone, Copy)]
enum Family {
    /// Stem 7×7 with pooling, widths from 64, projections: torchvision/models/resnet.py.
    ImageNetResNet(ResidualBlock, &'static [usize]),
    /// Stem 3×3, widths from 16, zero-padded shortcuts: He et al. 2015, section 4.2. Blocks per
    /// stage.
    CifarResNet([usize; 3]),
    /// Inverted residuals: torchvision/models/mobilenetv2.py.
    MobileNetV2,
}

#[derive(Debug, Clone, Copy)]
enum ResidualBlock {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1 down, 3×3, 1×1 up by 4; the stride sits on the 3×3 (torchvision's "ResNet V1.5").
    Bottleneck,
}

/// How finely filters are gated. The paper gives two levels for ResNets and one for MobileNetV2;
/// each further level halves the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Few large groups.
    Low,
    /// In between.
    Medium,
    /// Many small groups.
    High,
}

const fn imagenet(name: &'static str, block: ResidualBlock, stages: &'static [usize]) -> Preset {
    Preset { name, image_size: 224, resize: 256, family: Family::ImageNetResNet(block, stages), width: 1.0 }
}

const fn cifar(name: &'static str, blocks: usize) -> Preset {
    Preset { name, image_size: 32, resize: 32, family: Family::CifarResNet([blocks; 3]), width: 1.0 }
}

/// Every known architecture.
pub const PRESETS: [Preset; 11] = [
    imagenet("resnet18", ResidualBlock::Basic, &[2, 2, 2, 2]),
    imagenet("resnet34", ResidualBlock::Basic, &[3, 4, 6, 3]),
    imagenet("resnet50", ResidualBlock::Bottleneck, &[3, 4, 6, 3]),
    imagenet("resnet101", ResidualBlock::Bottleneck, &[3, 4, 23, 3]),
    imagenet("resnet152", ResidualBlock::Bottleneck, &[3, 8, 36, 3]),
    Preset { name: MOBILENET_V2, image_size: 224, resize: 256, family: Family::MobileNetV2, width: 1.0 },
    cifar("cifar-resnet20", 3),
    cifar("cifar-resnet32", 5),
    cifar("cifar-resnet44", 7),
    cifar("cifar-resnet56", 9),
    cifar("cifar-resnet110", 18),
];

const MOBILENET_V2: &str = "mobilenet_v2";

/// A stage of MobileNetV2: Sandler et al. 2018, table 2; torchvision's `inverted_residual_setting`.
struct InvertedStage {
    /// How many times wider the middle of a block is than its input.
    expansion: usize,
    outputs: usize,
    blocks: usize,
    /// Of the first block.
    stride: usize,
    /// Channels per gate at input, between the convolutions and output (ECCV 2020, supplement).
    gates: [usize; 3],
}

const fn inverted(expansion: usize, outputs: usize, blocks: usize, stride: usize, gates: [usize; 3]) -> InvertedStage {
    InvertedStage { expansion, outputs, blocks, stride, gates }
}

const MOBILENET_V2_STAGES: [InvertedStage; 7] = [
    inverted(1, 16, 1, 1, [8, 16, 8]),
    inverted(6, 24, 2, 2, [8, 24, 8]),
    inverted(6, 32, 3, 2, [8, 24, 16]),
    inverted(6, 64, 4, 2, [8, 32, 16]),
    inverted(6, 96, 3, 1, [16, 48, 32]),
    inverted(6, 160, 3, 2, [16, 64, 32]),
    inverted(6, 320, 1, 1, [32, 64, 64]),
];

impl Preset {
    /// The architecture of that name. MobileNetV2 takes a width multiplier behind its name:
    /// `mobilenet_v2_x0.5`.
    ///
    /// # Errors
    /// If there is none, or no network of that width.
    pub fn named(name: &str) -> Result<Self> {
        let known = || PRESETS.iter().map(|preset| preset.name).collect();
        let unknown = || Error::UnknownPreset { name: name.to_owned(), known: known(), meant: meant(name) };
        if let Some(found) = PRESETS.iter().find(|preset| preset.name == name) {
            return Ok(*found);
        }
        let width = name.strip_prefix(MOBILENET_V2).and_then(|rest| rest.strip_prefix("_x")).ok_or_else(unknown)?;
        let width: f64 = width.parse().ok().filter(|width| (0.1..=4.0).contains(width)).ok_or_else(unknown)?;
        Ok(Self { width, ..Self::named(MOBILENET_V2)? })
    }

    /// The network for `classes` classes, without gates.
    pub fn spec(&self, classes: usize) -> NetSpec {
        let name = if self.width == 1.0 { self.name.to_owned() } else { format!("{}_x{}", self.name, self.width) };
        match self.family {
            Family::ImageNetResNet(block, stages) => {
                let pool = Some(PoolSpec { kernel: 3, stride: 2, padding: 1 });
                let stem = StemSpec { conv: conv("conv1", "bn1", [3, 64], 7, 2, Activation::Relu), pool };
                let projection = |inputs, outputs, stride| {
                    let shape = [inputs, outputs];
                    Shortcut::Projection(conv("downsample.0", "downsample.1", shape, 1, stride, Activation::Identity))
                };
                resnet(name, stem, block, stages, projection, ("fc", classes))
            }
            Family::CifarResNet(stages) => {
                let stem = StemSpec { conv: conv("conv1", "bn1", [3, 16], 3, 1, Activation::Relu), pool: None };
                let padded = |_, outputs, stride| Shortcut::ZeroPadded { stride, outputs };
                resnet(name, stem, ResidualBlock::Basic, &stages, padded, ("linear", classes))
            }
            Family::MobileNetV2 => self.mobilenet_v2(name, classes),
        }
    }

    /// Channels per gate in each block at a level; `None` for blocks that are never gated.
    pub fn group_sizes(&self, level: Level) -> Vec<Option<GroupSizes>> {
        let each = |blocks: &[usize], of_stage: &dyn Fn(usize) -> GroupSizes| -> Vec<Option<GroupSizes>> {
            let stages = blocks.iter().enumerate();
            stages.flat_map(|(stage, &count)| std::iter::repeat_n(Some(of_stage(stage)), count)).collect()
        };
        let halvings = match level {
            Level::Low => 0,
            Level::Medium => 1,
            Level::High => 2,
        };
        match self.family {
            Family::ImageNetResNet(_, stages) => each(stages, &|stage| {
                // The paper's low and medium; high halves medium.
                let (sizes, fixed_open): ([usize; 4], usize) = match level {
                    Level::Low => ([16, 32, 64, 128], 1),
                    Level::Medium => ([16, 16, 16, 32], 2),
                    Level::High => ([8, 8, 8, 16], 4),
                };
                let wide = sizes.get(stage).copied().unwrap_or(1);
                GroupSizes { input: wide, between: wide / 2, output: wide, fixed_open }
            }),
            Family::CifarResNet(stages) => each(&stages, &|_| GroupSizes::uniform(8 >> halvings, 0)),
            Family::MobileNetV2 => {
                let stages: Vec<usize> = MOBILENET_V2_STAGES.iter().map(|stage| stage.blocks).collect();
                let mut sizes = each(&stages, &|stage| {
                    let [input, between, output] = MOBILENET_V2_STAGES[stage].gates.map(|size| size >> halvings);
                    GroupSizes { input, between, output, fixed_open: 0 }
                });
                // The last convolution belongs to the head.
                sizes.push(None);
                sizes
            }
        }
    }

    /// torchvision/models/mobilenetv2.py, `MobileNetV2.__init__`.
    fn mobilenet_v2(&self, name: String, classes: usize) -> NetSpec {
        use Activation::{Identity, Relu6};
        let scaled = |channels: usize| divisible_by_8(channels as f64 * self.width);
        let mut inputs = scaled(32);
        let stem = StemSpec { conv: conv("features.0.0", "features.0.1", [3, inputs], 3, 2, Relu6), pool: None };
        let mut blocks = Vec::new();
        for stage in &MOBILENET_V2_STAGES {
            for position in 0..stage.blocks {
                let outputs = scaled(stage.outputs);
                let stride = if position == 0 { stage.stride } else { 1 };
                let hidden = inputs * stage.expansion;
                let mut branch = Vec::new();
                if stage.expansion > 1 {
                    branch.push(conv("conv.0.0", "conv.0.1", [inputs, hidden], 1, 1, Relu6));
                }
                // torchvision numbers the steps of a block in order.
                let step = branch.len();
                let (depthwise, norm) = (format!("conv.{step}.0"), format!("conv.{step}.1"));
                branch.push(ConvSpec { groups: hidden, ..conv(&depthwise, &norm, [hidden, hidden], 3, stride, Relu6) });
                let (project, norm) = (format!("conv.{}", step + 1), format!("conv.{}", step + 2));
                branch.push(conv(&project, &norm, [hidden, outputs], 1, 1, Identity));
                let around = if stride == 1 && inputs == outputs { Shortcut::Identity } else { Shortcut::None };
                blocks.push(block(format!("features.{}", blocks.len() + 1), branch, around, Identity));
                inputs = outputs;
            }
        }
        let last = divisible_by_8(1280.0 * self.width.max(1.0));
        let branch = vec![conv("0", "1", [inputs, last], 1, 1, Relu6)];
        blocks.push(block(format!("features.{}", blocks.len() + 1), branch, Shortcut::None, Identity));
        let head = HeadSpec { name: "classifier.1".into(), inputs: last, classes, dropout: 0.2 };
        NetSpec { name, stem, blocks, head }
    }
}

impl NetSpec {
    /// The named architecture for `classes` classes, without gates.
    ///
    /// # Errors
    /// If no preset has that name.
    pub fn preset(name: &str, classes: usize) -> Result<Self> {
        Ok(Preset::named(name)?.spec(classes))
    }
}

/// torchvision/models/resnet.py, `ResNet.__init__` and `_make_layer`; He et al. 2015 for CIFAR.
/// `around` makes the shortcut where the shape changes, from channels in, channels out and stride.
fn resnet(
    name: String,
    stem: StemSpec,
    kind: ResidualBlock,
    stages: &[usize],
    around: impl Fn(usize, usize, usize) -> Shortcut,
    (head, classes): (&str, usize),
) -> NetSpec {
    let first_width = stem.conv.outputs;
    let mut channels = first_width;
    let mut blocks = Vec::new();
    for (stage, &count) in stages.iter().enumerate() {
        let width = first_width << stage;
        for position in 0..count {
            let stride = if stage > 0 && position == 0 { 2 } else { 1 };
            let outputs = kind.expansion() * width;
            let unchanged = stride == 1 && channels == outputs;
            let shortcut = if unchanged { Shortcut::Identity } else { around(channels, outputs, stride) };
            let name = format!("layer{}.{position}", stage + 1);
            let branch = kind.branch(channels, width, stride);
            blocks.push(block(name, branch, shortcut, Activation::Relu));
            channels = outputs;
        }
    }
    let head = HeadSpec { name: head.into(), inputs: channels, classes, dropout: 0.0 };
    NetSpec { name, stem, blocks, head }
}

impl ResidualBlock {
    fn expansion(self) -> usize {
        match self {
            Self::Basic => 1,
            Self::Bottleneck => 4,
        }
    }

    fn branch(self, inputs: usize, width: usize, stride: usize) -> Vec<ConvSpec> {
        use Activation::{Identity, Relu};
        match self {
            Self::Basic => vec![
                conv("conv1", "bn1", [inputs, width], 3, stride, Relu),
                conv("conv2", "bn2", [width, width], 3, 1, Identity),
            ],
            Self::Bottleneck => vec![
                conv("conv1", "bn1", [inputs, width], 1, 1, Relu),
                conv("conv2", "bn2", [width, width], 3, stride, Relu),
                conv("conv3", "bn3", [width, self.expansion() * width], 1, 1, Identity),
            ],
        }
    }
}

/// A block as published: its branch reads and writes every channel, and nothing is gated.
fn block(name: String, branch: Vec<ConvSpec>, shortcut: Shortcut, activation: Activation) -> BlockSpec {
    let inputs = branch[0].inputs;
    let outputs = branch[branch.len() - 1].outputs;
    let reads = None;
    let writes = None;
    let projects = None;
    let gates = Vec::new();
    BlockSpec { name, inputs, outputs, branch, shortcut, reads, writes, projects, bias: false, activation, gates }
}

/// A convolution of `channels` (in, out) whose padding keeps the extent at stride 1.
fn conv(
    name: &str,
    norm: &str,
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    activation: Activation,
) -> ConvSpec {
    let (name, norm, [inputs, outputs]) = (name.into(), norm.into(), channels);
    ConvSpec { name, norm, inputs, outputs, kernel, stride, padding: kernel / 2, groups: 1, activation }
}

/// The preset that was probably meant: it differs in hyphens and the like, lacks `cifar-`, or has a
/// few other letters.
fn meant(name: &str) -> Option<&'static str> {
    let folded = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let asked = folded(name);
    let known = || PRESETS.iter().map(|preset| preset.name);
    let ends = |known: &&str| !asked.is_empty() && folded(known).ends_with(&asked);
    let alike = |known: &'static str| (strsim::jaro_winkler(&folded(known), &asked), known);
    known().find(|known| folded(known) == asked).or_else(|| known().find(ends)).or_else(|| {
        let (score, best) = known().map(alike).max_by(|a, b| a.0.total_cmp(&b.0))?;
        (score > 0.85).then_some(best)
    })
}

/// torchvision's `_make_divisible`: the nearest multiple of 8, but not more than 10 % less.
fn divisible_by_8(channels: f64) -> usize {
    let nearest = ((channels + 4.0) as usize / 8 * 8).max(8);
    if (nearest as f64) < 0.9 * channels { nearest + 8 } else { nearest }
}
