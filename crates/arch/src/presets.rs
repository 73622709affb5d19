//! Published architectures as data.

use crate::error::{Error, Result};
use crate::spec::{Activation, BlockSpec, ConvSpec, HeadSpec, NetSpec, PoolSpec, Shortcut, StemSpec};

/// A published architecture and the images it was published for.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// Its name: torchvision's, or `cifar-` and the paper's.
    pub name: &'static str,
    /// Side of its images in pixels.
    pub image_size: u32,
    /// Evaluation: the shorter side before the centre is cut out, in pixels.
    pub resize: u32,
    family: Family,
    block: ResidualBlock,
    /// Blocks per stage.
    stages: &'static [usize],
}

#[derive(Debug, Clone, Copy)]
enum Family {
    /// Stem 7×7 with pooling, widths from 64, projections: torchvision/models/resnet.py.
    ImageNet,
    /// Stem 3×3, widths from 16, zero-padded shortcuts: He et al. 2015, section 4.2.
    Cifar,
}

#[derive(Debug, Clone, Copy)]
enum ResidualBlock {
    /// Two 3×3 convolutions.
    Basic,
    /// 1×1 down, 3×3, 1×1 up by 4; the stride sits on the 3×3 (torchvision's "ResNet V1.5").
    Bottleneck,
}

const fn imagenet(name: &'static str, block: ResidualBlock, stages: &'static [usize]) -> Preset {
    Preset { name, image_size: 224, resize: 256, family: Family::ImageNet, block, stages }
}

const fn cifar(name: &'static str, stages: &'static [usize]) -> Preset {
    Preset { name, image_size: 32, resize: 32, family: Family::Cifar, block: ResidualBlock::Basic, stages }
}

/// Every known architecture.
pub const PRESETS: [Preset; 10] = [
    imagenet("resnet18", ResidualBlock::Basic, &[2, 2, 2, 2]),
    imagenet("resnet34", ResidualBlock::Basic, &[3, 4, 6, 3]),
    imagenet("resnet50", ResidualBlock::Bottleneck, &[3, 4, 6, 3]),
    imagenet("resnet101", ResidualBlock::Bottleneck, &[3, 4, 23, 3]),
    imagenet("resnet152", ResidualBlock::Bottleneck, &[3, 8, 36, 3]),
    cifar("cifar-resnet20", &[3, 3, 3]),
    cifar("cifar-resnet32", &[5, 5, 5]),
    cifar("cifar-resnet44", &[7, 7, 7]),
    cifar("cifar-resnet56", &[9, 9, 9]),
    cifar("cifar-resnet110", &[18, 18, 18]),
];

impl Preset {
    /// The architecture of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<&'static Self> {
        let found = PRESETS.iter().find(|preset| preset.name == name);
        found.ok_or_else(|| Error::UnknownPreset { name: name.to_owned() })
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

impl Preset {
    /// torchvision/models/resnet.py, `ResNet.__init__` and `_make_layer`.
    fn spec(&self, classes: usize) -> NetSpec {
        let (first_width, kernel, stride, pool, head) = match self.family {
            Family::ImageNet => (64, 7, 2, Some(PoolSpec { kernel: 3, stride: 2, padding: 1 }), "fc"),
            Family::Cifar => (16, 3, 1, None, "linear"),
        };
        let mut channels = first_width;
        let stem = StemSpec { conv: conv("conv1", "bn1", 3, channels, kernel, stride, Activation::Relu), pool };
        let mut blocks = Vec::new();
        for (stage, &count) in self.stages.iter().enumerate() {
            let width = first_width << stage;
            for position in 0..count {
                let stride = if stage > 0 && position == 0 { 2 } else { 1 };
                let branch = self.block.branch(channels, width, stride);
                let outputs = self.block.expansion() * width;
                blocks.push(BlockSpec {
                    name: format!("layer{}.{position}", stage + 1),
                    branch,
                    shortcut: self.family.shortcut(channels, outputs, stride),
                    activation: Activation::Relu,
                    gates: Vec::new(),
                });
                channels = outputs;
            }
        }
        let head = HeadSpec { name: head.into(), inputs: channels, classes };
        NetSpec { name: self.name.into(), stem, blocks, head }
    }
}

impl Family {
    fn shortcut(self, inputs: usize, outputs: usize, stride: usize) -> Shortcut {
        if stride == 1 && inputs == outputs {
            return Shortcut::Identity;
        }
        match self {
            Self::ImageNet => {
                let identity = Activation::Identity;
                Shortcut::Projection(conv("downsample.0", "downsample.1", inputs, outputs, 1, stride, identity))
            }
            Self::Cifar => Shortcut::ZeroPadded { stride, outputs },
        }
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
