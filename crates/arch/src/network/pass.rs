//! How a forward pass runs, what it carries from layer to layer, and who may look at it on its way.

use crate::error::Result;
use gumbel_gates::{GateValues, Policy};
use tch::Tensor;
use torch_ext::Statistics;

/// How one forward pass runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// What it is for.
    pub mode: Mode,
    /// How gates decide.
    pub policy: Policy,
    /// What is computed.
    pub execution: Execution,
    /// Whether gates decide as in inference whatever the mode: their batch norms use running
    /// statistics, and those stay.
    pub frozen_gates: bool,
}

/// What a forward pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// Everything, multiplied by the gate values: training, and the reference.
    Masked,
    /// What is open: a closed layer is not computed, in a batch only the open images are, and
    /// filters that are closed for the whole batch are left out. The same logits up to rounding,
    /// without gradients.
    Skipping,
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    /// Running statistics; nothing changes.
    Inference,
    /// The batch's statistics, which the running ones follow; dropout drawn from `seed`.
    Training {
        /// One per step.
        seed: u64,
    },
    /// Re-estimating the running statistics: as training, without dropout, with a momentum of its
    /// own. Batch k of many, from 0, with momentum 1 / (k + 1) leaves the mean over the batches.
    Calibration {
        /// Share of the batch.
        momentum: f64,
    },
}

/// What one forward pass gives.
#[derive(Debug)]
pub struct Output {
    /// Class logits [N, classes] in float32, under autocast too.
    pub logits: Tensor,
    /// Per gate site the logits (closed, open) [N, n, 2], in the order of
    /// [`crate::NetSpec::gate_sites`].
    pub gate_logits: Vec<Tensor>,
    /// What the gates decided.
    pub gate_values: GateValues,
}

/// Somebody who looks at a forward pass on its way through a network
/// ([`crate::Network::forward_observed`]), whatever its [`Mode`] and [`Execution`].
///
/// What is shown is shown as it is computed: in training it carries its gradient, under autocast it
/// may have 16 bits. Later layers may overwrite it (activations and sums are made in place), so
/// copy what is kept.
///
/// While skipping only what is computed is shown: of a batch the images whose layer gate is open,
/// of channels those that are read and made, and a convolution that is left out not at all.
pub trait Observer {
    /// The features [N, C, H, W] behind the stem, with its activation and before the pooling, and
    /// behind every block; `name` is that of the stem's convolution or of the block, as in the
    /// spec.
    ///
    /// # Errors
    /// What the observer errs with, which ends the pass.
    fn features(&mut self, name: &str, features: &Tensor) -> Result<()> {
        let _ = (name, features);
        Ok(())
    }

    /// Every convolution, in the order they run: its state dict name, such as `conv1`,
    /// `layer1.0.conv2`, `layer1.0.downsample.0` or `features.3.conv.0.0`, the `input` [n, C, H, W]
    /// it reads, multiplied by the gate values of gates in front of it, and the `output`
    /// [n, C', H', W'] it makes, before the batch norm.
    ///
    /// # Errors
    /// What the observer errs with, which ends the pass.
    fn convolution(&mut self, name: &str, input: &Tensor, output: &Tensor) -> Result<()> {
        let _ = (name, input, output);
        Ok(())
    }
}

/// Nobody looks.
pub(crate) struct Unobserved;

impl Observer for Unobserved {}

impl Pass {
    /// Inference: running statistics, gates by `policy`.
    pub fn inference(policy: Policy) -> Self {
        Self { mode: Mode::Inference, policy, execution: Execution::Masked, frozen_gates: false }
    }

    /// Inference that computes only what is open.
    pub fn skipping(policy: Policy) -> Self {
        Self { execution: Execution::Skipping, ..Self::inference(policy) }
    }

    /// Training: batch statistics, gates sampled and channels dropped with randomness from `seed`.
    pub fn training(temperature: f64, seed: u64) -> Self {
        let policy = Policy::Sample { temperature, seed };
        Self { mode: Mode::Training { seed }, ..Self::inference(policy) }
    }
}

impl Mode {
    fn statistics(self) -> Statistics {
        match self {
            Self::Inference => Statistics::Running,
            Self::Training { .. } => Statistics::TRAINING,
            Self::Calibration { momentum } => Statistics::Batch { momentum },
        }
    }

    /// The same statistics, and nothing changes.
    pub(crate) fn without_effect(self) -> Self {
        match self {
            Self::Inference => Self::Inference,
            Self::Training { .. } | Self::Calibration { .. } => Self::Calibration { momentum: 0.0 },
        }
    }
}

/// A pass on its way through the layers.
pub(crate) struct Context<'a> {
    /// How it runs.
    pub pass: Pass,
    /// Who looks.
    pub observer: &'a mut dyn Observer,
    /// Decisions made before the pass, which then go before the policy.
    made: Option<&'a [Tensor]>,
    /// What the gates gave so far, in the order of the sites, each [N, n, 2].
    gate_logits: Vec<Tensor>,
    /// What they decided so far, each [N, n].
    gate_values: Vec<Tensor>,
}

impl<'a> Context<'a> {
    /// At the start of a pass.
    pub fn new(pass: Pass, made: Option<&'a [Tensor]>, observer: &'a mut dyn Observer) -> Self {
        Self { pass, observer, made, gate_logits: Vec::new(), gate_values: Vec::new() }
    }

    /// What the batch norms of convolutions use.
    pub fn statistics(&self) -> Statistics {
        self.pass.mode.statistics()
    }

    /// What the batch norms of gates use.
    pub fn gate_statistics(&self) -> Statistics {
        if self.pass.frozen_gates { Statistics::Running } else { self.statistics() }
    }

    /// The gate values [N, n] of the next site, whose logits [N, n, 2] are these.
    pub fn decide(&mut self, logits: Tensor) -> Result<Tensor> {
        let number = self.gate_values.len();
        let gate_values = match self.made.and_then(|made| made.get(number)) {
            Some(made) => made.shallow_clone(),
            None => self.pass.policy.decide(&logits, number)?,
        };
        self.gate_logits.push(logits);
        self.gate_values.push(gate_values.shallow_clone());
        Ok(gate_values)
    }

    /// What the pass gives, at its end.
    pub fn output(self, logits: Tensor) -> Result<Output> {
        let gate_values = GateValues::new(self.gate_values)?;
        Ok(Output { logits, gate_logits: self.gate_logits, gate_values })
    }
}
