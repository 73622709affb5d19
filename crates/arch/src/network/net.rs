//! A network: its spec, its tensors, and the forward pass through them.

use super::block::Block;
use super::conv::Conv;
use super::pass::{Context, Execution, Mode, Observer, Output, Pass, Unobserved};
use super::select::copy;
use crate::error::Result;
use crate::spec::{NetSpec, Shortcut};
use gumbel_gates::Policy;
use tch::{Device, Kind, Tensor};
use torch_ext::{Autocast, Half, Init, Linear, Tensors, derive_seed, to_device};

/// The group the classifier's tensors are labeled with (see [`torch_ext::Path::group`]).
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

impl Network {
    /// Makes the tensors of `spec` on `device`, with initial values drawn from `seed`: convolutions
    /// and batch norms as in torchvision, the classifier as `torch.nn.Linear`.
    ///
    /// # Errors
    /// If the spec is not consistent or a tensor cannot be made.
    pub fn build(spec: &NetSpec, device: Device, seed: u64) -> Result<Self> {
        spec.validate()?;
        let mut tensors = Tensors::new(device, seed);
        let stem = Conv::build(&mut tensors.root(), "", &spec.stem.conv)?;
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

    /// Makes every pass compute its convolutions and matrix products in 16 bits under autocast, or,
    /// with `None`, in float32. Weights, batch norm statistics and the logits of gates and classes
    /// are float32 either way.
    pub fn compute_in(&mut self, half: Option<Half>) {
        self.half = half;
    }

    /// Sets the scale of the last batch norm of every residual branch to zero, so that each block
    /// with a shortcut starts as that: torchvision's `zero_init_residual` (Goyal et al. 2017,
    /// section 5.1). Deep networks then train from scratch more easily.
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

    /// Moves the margins between open and closed of all gates: `by` `[G]` is added to the logits of
    /// "open", gates in the order of [`NetSpec::gate_sites`]. Not a step of training.
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
    /// A policy that ranks all gates ([`Policy::TopK`]) needs a pass of its own before, with every
    /// gate open; no running statistic moves in it.
    ///
    /// # Errors
    /// If the images have another shape or are too small.
    pub fn forward(&self, images: &Tensor, pass: Pass) -> Result<Output> {
        self.forward_observed(images, pass, &mut Unobserved)
    }

    /// As [`Self::forward`]; `observer` is shown the features and convolutions as soon as they are
    /// computed, but for the pass in which gates are ranked.
    ///
    /// # Errors
    /// As [`Self::forward`], and what `observer` errs with.
    pub fn forward_observed(&self, images: &Tensor, pass: Pass, observer: &mut dyn Observer) -> Result<Output> {
        if !pass.policy.ranks() || self.spec.gate_count() == 0 {
            return self.forward_with(images, Context::new(pass, None, observer));
        }
        let mode = pass.mode.without_effect();
        let policy = Policy::AlwaysOpen;
        let open = Pass { mode, policy, execution: Execution::Masked, ..pass };
        let open = self.forward_with(images, Context::new(open, None, &mut Unobserved))?;
        let ranked = pass.policy.decide(&Tensor::f_cat(&open.gate_logits, 1)?, 0)?;
        let counts: Vec<i64> = self.spec.gate_sites().map(|(_, gates)| gates.count() as i64).collect();
        let made = ranked.f_split_with_sizes(counts, 1)?;
        self.forward_with(images, Context::new(pass, Some(&made), observer))
    }

    fn forward_with(&self, images: &Tensor, mut context: Context) -> Result<Output> {
        let _precision = self.half.map(|half| Autocast::to(half, self.device())).transpose()?;
        let mut features = self.stem_with(images, &mut context)?;
        let mut pooled = None;
        for block in &self.blocks {
            (features, pooled) = block.forward(&features, pooled, &mut context)?;
            context.observer.features(block.name(), &features)?;
        }
        let mut averages = features.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?;
        if let Mode::Training { seed } = context.pass.mode
            && self.spec.head.dropout > 0.0
        {
            averages = dropout(&averages, self.spec.head.dropout, seed)?;
        }
        context.output(self.classifier.forward(&averages)?.f_to_kind(Kind::Float)?)
    }
}

/// Its parts one by one, in inference with every gate open, for who works on them one after the
/// other.
impl Network {
    fn stem_with(&self, images: &Tensor, context: &mut Context) -> Result<Tensor> {
        let features = self.stem.forward(images, context)?;
        context.observer.features(&self.spec.stem.conv.name, &features)?;
        let Some(pool) = &self.spec.stem.pool else { return Ok(features) };
        let [kernel, stride, padding] = [pool.kernel, pool.stride, pool.padding].map(|size| [size as i64; 2]);
        Ok(features.f_max_pool2d(kernel, stride, padding, [1, 1], false)?)
    }

    /// The features in front of the first block, for images [N, 3, H, W].
    pub(crate) fn stem(&self, images: &Tensor) -> Result<Tensor> {
        self.stem_with(images, &mut Context::new(Pass::inference(Policy::AlwaysOpen), None, &mut Unobserved))
    }

    /// The features behind a block for `input` in front of it, which stays as it is; `observer` is
    /// shown its convolutions.
    pub(crate) fn block(&self, number: usize, input: &Tensor, observer: &mut dyn Observer) -> Result<Tensor> {
        let mut context = Context::new(Pass::inference(Policy::AlwaysOpen), None, observer);
        Ok(self.blocks[number].forward(&copy(input)?, None, &mut context)?.0)
    }

    /// What goes around a block's branch for `input` in front of it, unless it is a projection.
    pub(crate) fn shortcut(&self, number: usize, input: &Tensor) -> Result<Option<Tensor>> {
        self.blocks[number].shortcut(input)
    }
}

/// Sets a share of the values to zero and scales the others to keep the mean, as
/// `torch.nn.Dropout`, as a function of `seed`.
fn dropout(features: &Tensor, share: f64, seed: u64) -> Result<Tensor> {
    // A part of the seed that no gate site has.
    let uniform = torch_ext::uniform(&features.size(), derive_seed(seed, u64::MAX))?;
    let kept = uniform.f_ge(share)?.f_to_kind(features.kind())?.f_div_scalar(1.0 - share)?;
    Ok(features.f_mul(&to_device(&kept, features.device())?)?)
}
