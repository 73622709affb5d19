//! The configuration of a run: plain data, read from TOML.

mod faults;
mod gates;
mod parse;
pub(crate) mod schedule;
mod validate;

pub use faults::{Fault, Faults};
pub use gates::{
    ActivationLoss, GateDecay, GateStart, GatedBlocks, GatesConfig, Granularity, LossOn, NamedGranularity, PerPlace,
    SharedDecay, Weighting,
};
pub use parse::parse;
pub(crate) use validate::{ALL_ALIKE, MOVES_MARGINS};

use crate::config::schedule::LearningRate;
use crate::measure::totals::Summary;
use arch::{GroupSizes, Level, NetSpec, Preset, Shortcut};
use data::{ColourJitter, Transform};
use gumbel_gates::Policy;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use torch_ext::Half;

/// Everything about a run. Keys that are left out keep these defaults, most of them the papers' for ImageNet.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Which network.
    pub network: NetworkConfig,
    /// Which gates, and what pulls on them.
    pub gates: GatesConfig,
    /// Which images, and how they are prepared.
    pub data: DataConfig,
    /// Gradient descent.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: LearningRate,
    /// Another network to learn from.
    pub distillation: DistillationConfig,
    /// Which states are kept.
    pub checkpoints: CheckpointsConfig,
    /// The run itself.
    pub train: TrainConfig,
}

/// Which network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkConfig {
    /// Preset name, such as `resnet50`.
    pub arch: String,
    /// Fresh networks: start every residual branch at zero, which helps training from scratch.
    pub zero_init_residual: bool,
    /// Weights to start from; a fresh network if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Checkpoint to go on from with its own network, pruned perhaps; then `arch` and where gates sit have no say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<PathBuf>,
}

/// Which images, and how they are prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataConfig {
    /// Folder in ImageNet layout; `--data` sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Side of the square the network sees, in pixels.
    pub image_size: u32,
    /// Evaluation: the shorter side is resized to this many pixels before the centre is cut out.
    pub resize: u32,
    /// Training: how images are cropped.
    pub augment: Augment,
    /// `padded-crop`: black pixels added on every side before the crop.
    pub padding: u32,
    /// `resized-crop`: smallest and largest share of the image's area that is cropped.
    pub crop_scale: (f64, f64),
    /// `resized-crop`: smallest and largest width over height of the crop.
    pub crop_ratio: (f64, f64),
    /// Training: probability of mirroring left and right.
    pub flip: f64,
    /// Training: how far brightness, contrast, saturation and hue may change.
    pub colour_jitter: [f64; 4],
    /// Probability of erasing a rectangle in training.
    pub erase: f64,
    /// α of the Beta distribution of mixup's shares in training; 0 for never.
    pub mixup: f64,
    /// The same for CutMix; with both, each comes in half of the steps.
    pub cutmix: f64,
    /// Mean of red, green and blue, values in 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
    /// Threads that decode; 0 means one per core.
    pub threads: usize,
    /// Whole batches that are kept ready; absent, as many as the memory that is free allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batches_ahead: Option<usize>,
    /// Share of a split's images that may be unusable before the run stops.
    pub max_bad_share: f64,
}

/// How training images are cropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augment {
    /// A random part, resized: the ImageNet recipe.
    ResizedCrop,
    /// The whole image with a black border, cut at random: the CIFAR recipe.
    PaddedCrop,
}

/// Gradient descent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerConfig {
    /// How parameters move.
    pub algorithm: Algorithm,
    /// Learning rate before the schedule.
    pub learning_rate: f64,
    /// `sgd`: momentum.
    pub momentum: f64,
    /// `sgd`: Nesterov momentum.
    pub nesterov: bool,
    /// `adamw`: how much of the running means of the gradient and of its square stays in a step.
    pub betas: [f64; 2],
    /// `adamw`: added to the root of the mean square.
    pub epsilon: f64,
    /// Weight decay of convolutions and the classifier.
    pub weight_decay: f64,
    /// Whether batch norms and biases have it too.
    pub decay_all: bool,
    /// Largest norm of all gradients together; longer ones are scaled down to it. No limit if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_norm: Option<f64>,
}

/// How parameters move along their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam with decoupled weight decay.
    AdamW,
}

/// Another network to learn from (Hinton et al. 2015).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DistillationConfig {
    /// Checkpoint of the teacher, or weights for `network.arch`; absent, labels alone teach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<PathBuf>,
    /// Share of the teacher in the loss; the labels have the rest.
    pub share: f64,
    /// Temperature of both networks' class probabilities.
    pub temperature: f64,
}

/// Which states of a run are kept, beside the one after every epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointsConfig {
    /// Steps after which the state is saved in the middle of an epoch too; 0: never.
    pub every_steps: u64,
    /// The same in minutes.
    pub every_minutes: f64,
    /// How many of the last states are kept; a damaged one then leaves the one before.
    pub keep_last: usize,
    /// How many of the best are kept.
    pub keep_best: usize,
    /// What makes one the best.
    pub best_by: Metric,
    /// The state after every so many epochs is kept for good; 0: none.
    pub keep_every_epochs: u64,
}

/// What an evaluation measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The larger the better.
    Top1,
    /// The larger the better.
    Top5,
    /// The smaller the better.
    CrossEntropy,
}

impl Metric {
    /// Its value in an evaluation.
    pub fn of(self, summary: &Summary) -> f64 {
        match self {
            Self::Top1 => summary.top1,
            Self::Top5 => summary.top5,
            Self::CrossEntropy => summary.cross_entropy,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Top1 => "top-1",
            Self::Top5 => "top-5",
            Self::CrossEntropy => "cross entropy",
        }
    }

    /// Whether larger values are better; they then are shares.
    pub fn is_better_high(self) -> bool {
        self != Self::CrossEntropy
    }
}

/// What convolutions and matrix products compute in. Weights, their gradients and updates, batch norm statistics, the logits of gates and
/// classes and all losses are float32 throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32 bits.
    Float32,
    /// 16 bits with the range of float32, under autocast.
    Bfloat16,
    /// 16 bits under autocast; the loss is scaled so that its gradients stay in range. Meant for CUDA: processors compute it slowly.
    Float16,
}

impl Precision {
    /// The 16 bits, if it is not float32.
    pub fn half(self) -> Option<Half> {
        match self {
            Self::Float32 => None,
            Self::Bfloat16 => Some(Half::Bfloat16),
            Self::Float16 => Some(Half::Float16),
        }
    }
}

/// The run itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainConfig {
    /// Name of the run; its folder is `runs/NAME`.
    pub name: String,
    /// Passes over the training split.
    pub epochs: u64,
    /// Images per step.
    pub batch_size: usize,
    /// Parts that a step's images go through the network in, one after the other; their gradients are added up. The memory of a part is
    /// enough then. Batch norms and the batch activation loss see one part at a time.
    pub accumulate: usize,
    /// What convolutions and matrix products compute in.
    pub precision: Precision,
    /// CUDA: whether float32 products may be rounded to TF32.
    pub tf32: bool,
    /// Share of the averaged weights that stays in each step, 0.9999 for example; with it, averaged weights are evaluated and deployed. 0
    /// for no average.
    pub average_decay: f64,
    /// Images per step of an evaluation.
    pub eval_batch_size: usize,
    /// Share of the label spread evenly over all classes.
    pub label_smoothing: f64,
    /// Decides initial values, order, augmentation and sampled gates.
    pub seed: u64,
    /// Steps between two entries of the log.
    pub log_every: u64,
    /// Steps whose loss or gradients are not finite numbers that may be left out before the run stops.
    pub max_bad_steps: u64,
    /// Epochs without a better evaluation after which the run stops early; 0 for never.
    pub patience: u64,
    /// How gates decide in the evaluation after each epoch.
    pub policy: Policy,
    /// Training batches that batch norm statistics are re-estimated over, with that policy, before each evaluation; 0 keeps the
    /// statistics of the training.
    pub calibrate_batches: usize,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { arch: "resnet50".into(), zero_init_residual: false, weights: None, checkpoint: None }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            image_size: 224,
            resize: 256,
            augment: Augment::ResizedCrop,
            padding: 4,
            crop_scale: (0.08, 1.0),
            crop_ratio: (0.75, 4.0 / 3.0),
            flip: 0.5,
            colour_jitter: [0.0; 4],
            erase: 0.0,
            mixup: 0.0,
            cutmix: 0.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            threads: 0,
            batches_ahead: None,
            max_bad_share: 0.01,
        }
    }
}

impl Default for DistillationConfig {
    fn default() -> Self {
        Self { teacher: None, share: 0.9, temperature: 4.0 }
    }
}

impl Default for CheckpointsConfig {
    fn default() -> Self {
        Self {
            every_steps: 0,
            every_minutes: 0.0,
            keep_last: 2,
            keep_best: 1,
            best_by: Metric::Top1,
            keep_every_epochs: 0,
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Sgd,
            learning_rate: 0.1,
            momentum: 0.9,
            nesterov: false,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 1e-4,
            decay_all: false,
            clip_norm: None,
        }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            name: "run".into(),
            epochs: 100,
            batch_size: 256,
            accumulate: 1,
            precision: Precision::Float32,
            tf32: true,
            average_decay: 0.0,
            eval_batch_size: 256,
            label_smoothing: 0.0,
            seed: 0,
            log_every: 50,
            max_bad_steps: 0,
            patience: 0,
            policy: Policy::Argmax,
            calibrate_batches: 0,
        }
    }
}

impl Config {
    /// The network this run trains. Blocks whose target is always 1 get no gate: the papers keep them open.
    ///
    /// # Errors
    /// If the preset is unknown.
    pub fn spec(&self, classes: usize) -> arch::Result<NetSpec> {
        let preset = Preset::named(&self.network.arch)?;
        let (spec, gates) = (preset.spec(classes), &self.gates);
        let same_shape: Vec<bool> = spec.blocks.iter().map(|block| block.shortcut == Shortcut::Identity).collect();
        let chosen = |block: usize| gates.blocks == GatedBlocks::All || same_shape[block];
        let gated = |block: usize| chosen(block) && !gates.target.is_always_open(block);
        let level = match gates.granularity {
            Granularity::Named(NamedGranularity::None) => return Ok(spec),
            Granularity::Named(NamedGranularity::Layer) => return Ok(spec.with_layer_gates(gates.kind, gated)),
            Granularity::Named(NamedGranularity::Medium) => Level::Medium,
            Granularity::Named(NamedGranularity::High) => Level::High,
            // Of the explicit ones it says which blocks can be gated.
            Granularity::Named(NamedGranularity::Low) | Granularity::Filters(_) | Granularity::PerPlace(_) => {
                Level::Low
            }
        };
        let size = |preset: GroupSizes| {
            let explicit = match gates.granularity {
                Granularity::Named(_) => preset,
                Granularity::Filters(channels) => GroupSizes::uniform(channels, 0),
                Granularity::PerPlace(PerPlace { input, between, output }) => {
                    GroupSizes { input, between, output, fixed_open: 0 }
                }
            };
            GroupSizes { fixed_open: gates.fixed_open.unwrap_or(explicit.fixed_open), ..explicit }
        };
        let sizes: Vec<Option<GroupSizes>> = preset
            .group_sizes(level)
            .into_iter()
            .enumerate()
            .map(|(block, preset)| preset.filter(|_| gated(block)).map(size))
            .collect();
        Ok(spec.with_filter_gates(gates.kind, &sizes, &gates.sites))
    }

    /// How training images are prepared.
    pub fn augmentation(&self) -> Transform {
        let data = &self.data;
        let [brightness, contrast, saturation, hue] = data.colour_jitter;
        let colour = ColourJitter { brightness, contrast, saturation, hue };
        match data.augment {
            Augment::ResizedCrop => Transform::RandomResizedCrop {
                size: data.image_size,
                scale: data.crop_scale,
                ratio: data.crop_ratio,
                flip: data.flip,
                colour,
            },
            Augment::PaddedCrop => Transform::RandomPaddedCrop {
                resize: data.resize,
                size: data.image_size,
                padding: data.padding,
                flip: data.flip,
                colour,
            },
        }
    }
}
