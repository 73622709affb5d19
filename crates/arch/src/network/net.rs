use super::block::Block;
use super::conv::Conv;
use crate::error::Result;
use crate::spec::{NetSpec, Shortcut};
use gumbel_gates::{Openings, Policy};
use tch::{Device, Kind, Tensor};
use torch_ext::{Autocast, Half, Init, Linear, Statistics, Tensors, derive_seed, to_device};

/// The group the classifier's tensors are labelled with (see [`torch_ext::Path::group`]).
pub const CLASSIFIER_GROUP: &str = "classifier";

/// A spec and its tensors.
#[derive(Debug)]
pub struct Network {
    spec: NetSpec,
    tensors: Tensors,
    stem: Conv,
    blocks: Vec<Block>,
    classifier: Linear,
    /// What convolutions and matrix products compute in; absent: float32.
    half: Option<Half>,
}

/// How one forward pass runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// What it is for.
    pub mode: Mode,
    /// How gates decide.
    pub policy: Policy,
    /// What is computed.
    pub execution: Execution,
    /// Whether gates decide as in inference whatever the mode: their batch norms use running statistics, and those stay.
    pub frozen_gates: bool,
}

/// What a forward pass computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// Everything, multiplied by the openings: training, and the reference.
    Masked,
    /// What is open: a closed layer is not computed, in a batch only the open images are, and filters that are closed for the
    /// whole batch are left out. The same logits up to rounding, without gradients.
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
    /// Re-estimating the running statistics: as training, without dropout, with a momentum of its own. Batch k of many, from
    /// 0, with momentum 1 / (k + 1) leaves the mean over the batches.
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
    /// Per gate site the logits (closed, open) [N, n, 2], in the order of [`NetSpec::gate_sites`].
    pub gate_logits: Vec<Tensor>,
    /// What the gates decided.
    pub openings: Openings,
}

/// Somebody who looks at features on their way through a network.
pub type Observe<'a> = dyn FnMut(&str, &Tensor) + 'a;

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

    /// What the batch norms of gates use.
    fn gate_statistics(self) -> Statistics {
        if self.frozen_gates { Statistics::Running } else { self.mode.statistics() }
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
    fn without_effect(self) -> Self {
        match self {
            Self::Inference => Self::Inference,
            Self::Training { .. } | Self::Calibration { .. } => Self::Calibration { momentum: 0.0 },
        }
    }
}

/// How the gates of one pass decide, and what they decided, in the order of the sites.
#[derive(Debug)]
pub(crate) struct Decide<'a> {
    policy: Policy,
    /// What their batch norms use.
    pub statistics: Statistics,
    /// Decisions made before the pass, which then go before the policy.
    made: Option<&'a [Tensor]>,
    /// Per site [N, n, 2].
    logits: Vec<Tensor>,
    /// Per site [N, n].
    openings: Vec<Tensor>,
}

impl<'a> Decide<'a> {
    fn new(pass: Pass, made: Option<&'a [Tensor]>) -> Self {
        let (policy, statistics) = (pass.policy, pass.gate_statistics());
        Self { policy, statistics, made, logits: Vec::new(), openings: Vec::new() }
    }

    /// The openings of the next site, whose logits are these.
    pub fn site(&mut self, logits: Tensor) -> Result<Tensor> {
        let number = self.openings.len();
        let openings = match self.made.and_then(|made| made.get(number)) {
            Some(made) => made.shallow_clone(),
            None => self.policy.decide(&logits, number)?,
        };
        self.logits.push(logits);
        self.openings.push(openings.shallow_clone());
        Ok(openings)
    }
}

impl Network {
    /// Makes the tensors of `spec` on `device`, with initial values drawn from `seed`: convolutions and batch norms as in torchvision, the
    /// classifier as `torch.nn.Linear`.
    ///
    /// # Errors
    /// If the spec is not consistent or a tensor cannot be made.
    pub fn build(spec: &NetSpec, device: Device, seed: u64) -> Result<Self> {
        spec.validate()?;
        let mut tensors = Tensors::new(device, seed);
        let stem = Conv::build(&mut tensors.root(), &spec.stem.conv)?;
        let mut blocks = Vec::with_capacity(spec.blocks.len());
        for block in &spec.blocks {
            blocks.push(Block::build(&mut tensors.root(), block, device)?);
        }
        // torch.nn.Linear: both uniform within 1/√inputs.
        let init = Init::Uniform { bound: 1.0 / (spec.head.inputs as f64).sqrt() };
        let (inputs, classes) = (spec.head.inputs as i64, spec.head.classes as i64);
        let mut root = tensors.root();
        let mut head = root.sub(&spec.head.name);
        let classifier = Linear::build(&mut head.group(CLASSIFIER_GROUP), inputs, classes, init, Some(init))?;
        Ok(Self { spec: spec.clone(), tensors, stem, blocks, classifier, half: None })
    }

    /// Makes every pass compute its convolutions and matrix products in 16 bits under autocast, or, with `None`, in float32. Weights,
    /// batch norm statistics and the logits of gates and classes are float32 either way.
    pub fn compute_in(&mut self, half: Option<Half>) {
        self.half = half;
    }

    /// Sets the scale of the last batch norm of every residual branch to zero, so that each block with a shortcut starts as that:
    /// torchvision's `zero_init_residual` (Goyal et al. 2017, section 5.1). Deep networks then train from scratch more easily.
    ///
    /// # Errors
    /// If libtorch refuses to write the tensors.
    pub fn zero_init_residual(&self) -> Result<()> {
        // A block without a shortcut would give nothing, and learn nothing.
        for block in self.spec.blocks.iter().filter(|block| block.shortcut != Shortcut::None) {
            let scale = block.branch.last().map(|conv| format!("{}.{}.weight", block.name, conv.norm));
            if let Some(entry) = scale.and_then(|name| self.tensors.get(&name)) {
                let _ = tch::no_grad(|| entry.tensor.shallow_clone().f_zero_())?;
            }
        }
        Ok(())
    }

    /// Moves the margins between open and closed of all gates: `by` `[G]` is added to the logits of "open", gates in the order of
    /// [`NetSpec::gate_sites`]. Not a step of training.
    ///
    /// # Errors
    /// If there is not one number per gate.
    pub fn shift_gates(&self, by: &Tensor) -> Result<()> {
        let sites = self.blocks.iter().flat_map(Block::gates);
        let counts: Vec<i64> = self.spec.gate_sites().map(|(_, gates)| gates.count() as i64).collect();
        for (gates, by) in sites.zip(by.f_split_with_sizes(counts, 0)?) {
            gates.shift(&by)?;
        }
        Ok(())
    }

    /// What the network is.
    pub fn spec(&self) -> &NetSpec {
        &self.spec
    }

    /// Its named tensors, shared with the layers: writing to one changes the network.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The device it lives on.
    pub fn device(&self) -> Device {
        self.tensors.device()
    }

    /// Classifies `images` [N, 3, H, W].
    ///
    /// A policy that ranks all gates ([`Policy::TopK`]) needs a pass of its own before, with every gate open; no running
    /// statistic moves in it.
    ///
    /// # Errors
    /// If the images have another shape or are too small.
    pub fn forward(&self, images: &Tensor, pass: Pass) -> Result<Output> {
        if !pass.policy.ranks() || self.spec.gate_count() == 0 {
            return self.forward_observed(images, pass, &mut |_, _| {});
        }
        let (mode, policy) = (pass.mode.without_effect(), Policy::AlwaysOpen);
        let open = Pass { mode, policy, execution: Execution::Masked, ..pass };
        let open = self.forward_observed(images, open, &mut |_, _| {})?;
        let ranked = pass.policy.decide(&Tensor::f_cat(&open.gate_logits, 1)?, 0)?;
        let counts: Vec<i64> = self.spec.gate_sites().map(|(_, gates)| gates.count() as i64).collect();
        let made = ranked.f_split_with_sizes(counts, 1)?;
        self.forward_with(images, pass, Decide::new(pass, Some(&made)), &mut |_, _| {})
    }

    /// As [`Self::forward`] with a policy that does not rank; `observe` is shown the features [N, C, H, W] behind the stem and every
    /// block, with the names these have in the spec, as soon as they are computed.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_observed(&self, images: &Tensor, pass: Pass, observe: &mut Observe) -> Result<Output> {
        self.forward_with(images, pass, Decide::new(pass, None), observe)
    }

    fn forward_with(&self, images: &Tensor, pass: Pass, mut decide: Decide, observe: &mut Observe) -> Result<Output> {
        let Pass { mode, execution, .. } = pass;
        let _precision = self.half.map(|half| Autocast::to(half, self.device())).transpose()?;
        let statistics = mode.statistics();
        let mut features = self.stem.forward(images, statistics)?;
        observe(&self.spec.stem.conv.name, &features);
        if let Some(pool) = &self.spec.stem.pool {
            let [kernel, stride, padding] = [pool.kernel, pool.stride, pool.padding].map(|size| [size as i64; 2]);
            features = features.f_max_pool2d(kernel, stride, padding, [1, 1], false)?;
        }
        let mut pooled = None;
        for block in &self.blocks {
            (features, pooled) = block.forward(&features, pooled, statistics, execution, &mut decide)?;
            observe(block.name(), &features);
        }
        let mut averages = features.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?;
        if let Mode::Training { seed } = mode
            && self.spec.head.dropout > 0.0
        {
            averages = dropout(&averages, self.spec.head.dropout, seed)?;
        }
        let logits = self.classifier.forward(&averages)?.f_to_kind(Kind::Float)?;
        Ok(Output { logits, gate_logits: decide.logits, openings: Openings::new(decide.openings)? })
    }
}

/// Sets a share of the values to zero and scales the others to keep the mean, as `torch.nn.Dropout`, as a function of `seed`.
fn dropout(features: &Tensor, share: f64, seed: u64) -> Result<Tensor> {
    // A part of the seed that no gate site has.
    let uniform = torch_ext::uniform(&features.size(), derive_seed(seed, u64::MAX))?;
    let kept = uniform.f_ge(share)?.f_to_kind(features.kind())?.f_div_scalar(1.0 - share)?;
    Ok(features.f_mul(&to_device(&kept, features.device())?)?)
}
