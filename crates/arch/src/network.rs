use crate::block::{Block, Decisions};
use crate::conv::Conv;
use crate::error::Result;
use crate::spec::NetSpec;
use gumbel_gates::{Openings, Policy};
use tch::{Device, Tensor};
use torch_ext::{Init, Linear, Tensors};

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
}

/// How one forward pass runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pass {
    /// Batch norm uses and updates the batch's statistics.
    pub training: bool,
    /// How gates decide.
    pub policy: Policy,
}

/// What one forward pass gives.
#[derive(Debug)]
pub struct Output {
    /// Class logits [N, classes].
    pub logits: Tensor,
    /// Per gate site the logits (closed, open) [N, n, 2], in the order of [`NetSpec::gate_sites`].
    pub gate_logits: Vec<Tensor>,
    /// What the gates decided.
    pub openings: Openings,
}

impl Pass {
    /// Inference: running statistics, gates by `policy`.
    pub fn inference(policy: Policy) -> Self {
        Self { training: false, policy }
    }

    /// Training: batch statistics, gates sampled with noise from `seed`.
    pub fn training(temperature: f64, seed: u64) -> Self {
        Self { training: true, policy: Policy::Sample { temperature, seed } }
    }
}

impl Network {
    /// Makes the tensors of `spec` on `device`, with torchvision's initial values drawn from `seed`.
    ///
    /// # Errors
    /// If the spec is not consistent or a tensor cannot be made.
    pub fn build(spec: &NetSpec, device: Device, seed: u64) -> Result<Self> {
        spec.validate()?;
        let mut tensors = Tensors::new(device, seed);
        let stem = Conv::build(&mut tensors.root(), &spec.stem.conv)?;
        let mut blocks = Vec::with_capacity(spec.blocks.len());
        for block in &spec.blocks {
            blocks.push(Block::build(&mut tensors.root(), block)?);
        }
        // torch.nn.Linear: both uniform within 1/√inputs.
        let init = Init::Uniform { bound: 1.0 / (spec.head.inputs as f64).sqrt() };
        let (inputs, classes) = (spec.head.inputs as i64, spec.head.classes as i64);
        let mut root = tensors.root();
        let mut head = root.sub(&spec.head.name);
        let classifier = Linear::build(&mut head.group(CLASSIFIER_GROUP), inputs, classes, init, Some(init))?;
        Ok(Self { spec: spec.clone(), tensors, stem, blocks, classifier })
    }

    /// Sets the scale of the last batch norm of every residual branch to zero, so that each block starts as its shortcut:
    /// torchvision's `zero_init_residual` (Goyal et al. 2017, section 5.1). Deep networks then train from scratch more easily.
    ///
    /// # Errors
    /// If libtorch refuses to write the tensors.
    pub fn zero_init_residual(&self) -> Result<()> {
        for block in &self.spec.blocks {
            let scale = block.branch.last().map(|conv| format!("{}.{}.weight", block.name, conv.norm));
            if let Some(entry) = scale.and_then(|name| self.tensors.get(&name)) {
                let _ = tch::no_grad(|| entry.tensor.shallow_clone().f_zero_())?;
            }
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
    /// # Errors
    /// If the images have another shape or are too small.
    pub fn forward(&self, images: &Tensor, pass: Pass) -> Result<Output> {
        let mut features = self.stem.forward(images, pass.training)?;
        if let Some(pool) = &self.spec.stem.pool {
            let [kernel, stride, padding] = [pool.kernel, pool.stride, pool.padding].map(|size| [size as i64; 2]);
            features = features.f_max_pool2d(kernel, stride, padding, [1, 1], false)?;
        }
        let mut decisions = Decisions::default();
        for block in &self.blocks {
            features = block.forward(&features, pass, &mut decisions)?;
        }
        let pooled = features.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?;
        let logits = self.classifier.forward(&pooled)?;
        Ok(Output { logits, gate_logits: decisions.logits, openings: Openings::new(decisions.openings)? })
    }
}
