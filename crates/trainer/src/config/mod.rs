//! The configuration of a run: plain data, read from TOML.

mod faults;
mod parse;
mod validate;

pub use faults::{Fault, Faults};
pub use parse::parse;

use crate::schedule::{ActivationTarget, LearningRate};
use arch::NetSpec;
use gumbel_gates::{GateKind, Policy};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything about a run. Keys that are left out keep these defaults: the paper's ImageNet recipe.
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
}

/// Which gates, and what pulls on them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GatesConfig {
    /// Where gates sit.
    pub granularity: Granularity,
    /// Whether they look at the input.
    pub kind: GateKind,
    /// Which activation loss.
    pub loss: ActivationLoss,
    /// Which openings it sees.
    pub loss_on: LossOn,
    /// Weight of the activation loss beside the cross entropy.
    pub loss_factor: f64,
    /// Share of images for which a gate should be open.
    pub target: ActivationTarget,
    /// Temperature of the softmax behind the gates' gradient.
    pub temperature: f64,
    /// Learning rate of the gates relative to the network's.
    pub learning_rate_factor: f64,
    /// Weight decay of the gates' parameters.
    pub weight_decay: f64,
}

/// Where gates sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// Nowhere: the ordinary network.
    None,
    /// One over each residual branch.
    Layer,
}

/// Which activation loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationLoss {
    /// Every gate is held to its own target ([`gumbel_gates::loss::per_gate`]).
    PerGate,
    /// The mean over all gates is held to the mean target ([`gumbel_gates::loss::batch`]).
    Batch,
}

/// Which openings the activation loss sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossOn {
    /// The sampled ones that the batch ran with: the papers' form.
    Sampled,
    /// The ones that argmax would choose for the batch ([`gumbel_gates::sampling::decide`]), so that the deployed network
    /// meets the target.
    Deployed,
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
    /// Training: smallest and largest share of the image's area that is cropped.
    pub crop_scale: (f64, f64),
    /// Training: smallest and largest width over height of the crop.
    pub crop_ratio: (f64, f64),
    /// Training: probability of mirroring left and right.
    pub flip: f64,
    /// Mean of red, green and blue, values in 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
    /// Threads that decode; 0 means one per core.
    pub threads: usize,
    /// Whole batches that are kept ready.
    pub batches_ahead: usize,
    /// Share of a split's images that may be unusable before the run stops.
    pub max_bad_share: f64,
}

/// Gradient descent with momentum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimizerConfig {
    /// Learning rate before the schedule.
    pub learning_rate: f64,
    /// Momentum.
    pub momentum: f64,
    /// Nesterov momentum.
    pub nesterov: bool,
    /// Weight decay of convolutions and the classifier; batch norms and biases have none.
    pub weight_decay: f64,
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
    /// Images per step of an evaluation.
    pub eval_batch_size: usize,
    /// Share of the label spread evenly over all classes.
    pub label_smoothing: f64,
    /// Decides initial values, order, augmentation and sampled gates.
    pub seed: u64,
    /// Steps between two entries of the log.
    pub log_every: u64,
    /// How gates decide in the evaluation after each epoch.
    pub policy: Policy,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { arch: "resnet50".into(), zero_init_residual: false, weights: None }
    }
}

impl Default for GatesConfig {
    fn default() -> Self {
        Self {
            granularity: Granularity::Layer,
            kind: GateKind::Dependent,
            loss: ActivationLoss::PerGate,
            loss_on: LossOn::Sampled,
            loss_factor: 1.0,
            target: ActivationTarget::Constant(0.6),
            temperature: 1.0,
            learning_rate_factor: 1.0,
            weight_decay: 0.0,
        }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: None,
            image_size: 224,
            resize: 256,
            crop_scale: (0.08, 1.0),
            crop_ratio: (0.75, 4.0 / 3.0),
            flip: 0.5,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            threads: 0,
            batches_ahead: 2,
            max_bad_share: 0.01,
        }
    }
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { learning_rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 1e-4 }
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            name: "run".into(),
            epochs: 100,
            batch_size: 256,
            eval_batch_size: 256,
            label_smoothing: 0.0,
            seed: 0,
            log_every: 50,
            policy: Policy::Argmax,
        }
    }
}

impl Config {
    /// The network this run trains. Blocks whose target is always 1 get no gate: the papers keep them open.
    ///
    /// # Errors
    /// If the preset is unknown.
    pub fn spec(&self, classes: usize) -> arch::Result<NetSpec> {
        let spec = NetSpec::preset(&self.network.arch, classes)?;
        Ok(match self.gates.granularity {
            Granularity::None => spec,
            Granularity::Layer => {
                spec.with_layer_gates(self.gates.kind, |block| !self.gates.target.is_always_open(block))
            }
        })
    }
}
