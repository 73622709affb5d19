//! Published architectures as data.

use crate::error::{Error, Result};
use crate::spec::{Activation, BlockSpec, ConvSpec, HeadSpec, NetSpec, PoolSpec, Shortcut, StemSpec};

/// A published architecture.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name, torchvision's.
    pub name: &'static str,
    block: ResidualBlock,
    /// Blocks per stage.
    stages: [usize; 4],
}

#[derive(Debug, Clone, Copy)]
enum ResidualBlock {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1 down, 3×3, 1×1 up by 4; the stride sits on the 3×3 (torchvision's "ResNet V1.5").
    Bottleneck,
}

/// Every known architecture.
pub const PRESETS: [Preset; 5] = [
    Preset { name: "resnet18", block: ResidualBlock::Basic, stages: [2, 2, 2, 2] },
    Preset { name: "resnet34", block: ResidualBlock::Basic, stages: [3, 4, 6, 3] },
    Preset { name: "resnet50", block: ResidualBlock::Bottleneck, stages: [3, 4, 6, 3] },
    Preset { name: "resnet101", block: ResidualBlock::Bottleneck, stages: [3, 4, 23, 3] },
    Preset { name: "resnet152", block: ResidualBlock::Bottleneck, stages: [3, 8, 36, 3] },
];

impl NetSpec {
    /// The named architecture for `classes` classes, without gates.
    ///
    /// # Errors
    /// If no preset has that name.
    pub fn preset(name: &str, classes: usize) -> Result<Self> {
        let preset = PRESETS
            .iter()
            .find(|preset| preset.name == name)
            .ok_or_else(|| Error::UnknownPreset { name: name.to_owned() })?;
        Ok(preset.spec(classes))
    }
}

impl Preset {
    /// torchvision/models/resnet.py, `ResNet.__init__` and `_make_layer`.
    fn spec(&self, classes: usize) -> NetSpec {
        let mut channels = 64;
        let stem = StemSpec {
            conv: conv("conv1", "bn1", 3, channels, 7, 2, Activation::Relu),
            pool: Some(PoolSpec { kernel: 3, stride: 2, padding: 1 }),
        };
        let mut blocks = Vec::new();
        for (stage, &count) in self.stages.iter().enumerate() {
            let width = 64 << stage;
            for position in 0..count {
                let stride = if stage > 0 && position == 0 { 2 } else { 1 };
                let branch = self.block.branch(channels, width, stride);
                let outputs = self.block.expansion() * width;
                let shortcut = if stride == 1 && channels == outputs {
                    Shortcut::Identity
                } else {
                    let identity = Activation::Identity;
                    Shortcut::Projection(conv("downsample.0", "downsample.1", channels, outputs, 1, stride, identity))
                };
                blocks.push(BlockSpec {
                    name: format!("layer{}.{position}", stage + 1),
                    branch,
                    shortcut,
                    activation: Activation::Relu,
                    gates: Vec::new(),
                });
                channels = outputs;
            }
        }
        let head = HeadSpec { name: "fc".into(), inputs: channels, classes };
        NetSpec { name: self.name.into(), stem, blocks, head }
    }
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
                conv("conv1", "bn1", inputs, width, 3, stride, Relu),
                conv("conv2", "bn2", width, width, 3, 1, Identity),
            ],
            Self::Bottleneck => vec![
                conv("conv1", "bn1", inputs, width, 1, 1, Relu),
                conv("conv2", "bn2", width, width, 3, stride, Relu),
                conv("conv3", "bn3", width, self.expansion() * width, 1, 1, Identity),
            ],
        }
    }
}

/// A convolution whose padding keeps the extent at stride 1.
fn conv(
    name: &str,
    norm: &str,
    inputs: usize,
    outputs: usize,
    kernel: usize,
    stride: usize,
    activation: Activation,
) -> ConvSpec {
    let (name, norm) = (name.into(), norm.into());
    ConvSpec { name, norm, inputs, outputs, kernel, stride, padding: kernel / 2, groups: 1, activation }
}
