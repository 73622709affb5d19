//! A convolution with what follows it.

use super::pass::Context;
use crate::error::Result;
use crate::spec::{Activation, ConvSpec};
use std::sync::Arc;
use tch::Tensor;
use torch_ext::{BatchNorm, Init, Path, Pointwise, scale};

/// A convolution, its batch norm and its activation.
#[derive(Debug)]
pub(crate) struct Conv {
    /// Its state dict name, for who observes a pass.
    name: Arc<str>,
    weight: Tensor,
    norm: BatchNorm,
    stride: i64,
    padding: i64,
    groups: i64,
    activation: Activation,
}

impl Conv {
    /// Makes the tensors of `spec` under the `path` of its block, which has this name, drawn as
    /// torchvision draws them: He normal, fan out.
    pub fn build(path: &mut Path, block: &str, spec: &ConvSpec) -> Result<Self> {
        let [outputs, inputs, kernel] = [spec.outputs, spec.inputs / spec.groups, spec.kernel].map(|size| size as i64);
        let fan_out = (spec.outputs * spec.kernel * spec.kernel) as f64;
        let init = Init::Normal { std: (2.0 / fan_out).sqrt() };
        Ok(Self {
            name: spec.full_name(block).into(),
            weight: path.sub(&spec.name).parameter("weight", &[outputs, inputs, kernel, kernel], init)?,
            norm: BatchNorm::build(&mut path.sub(&spec.norm), outputs)?,
            stride: spec.stride as i64,
            padding: spec.padding as i64,
            groups: spec.groups as i64,
            activation: spec.activation,
        })
    }

    /// Channels it reads.
    pub fn inputs(&self) -> usize {
        self.weight.size().get(1).map_or(0, |&inputs| (inputs * self.groups) as usize)
    }

    /// Its filters.
    pub fn outputs(&self) -> usize {
        self.weight.size().first().map_or(0, |&outputs| outputs as usize)
    }

    /// Whether no activation follows its batch norm.
    pub fn is_linear(&self) -> bool {
        self.activation == Activation::Identity
    }

    /// The same convolution with some of its input channels and filters, by their positions; `None`
    /// keeps all. A depthwise convolution goes by its filters alone.
    pub fn narrow(&self, inputs: Option<&Tensor>, outputs: Option<&Tensor>) -> Result<Self> {
        let mut weight = match outputs {
            None => self.weight.shallow_clone(),
            Some(outputs) => self.weight.f_index_select(0, outputs)?,
        };
        let depthwise = self.groups > 1 && self.groups as usize == self.outputs();
        if let Some(inputs) = inputs.filter(|_| !depthwise) {
            weight = weight.f_index_select(1, inputs)?;
        }
        let groups = if depthwise { weight.size4()?.0 } else { self.groups };
        let norm = match outputs {
            None => self.norm.shallow_clone(),
            Some(outputs) => self.norm.narrow(outputs)?,
        };
        Ok(Self { name: self.name.clone(), weight, norm, groups, ..*self })
    }

    /// [N, C, H, W] to [N, filters, H', W'].
    pub fn forward(&self, input: &Tensor, context: &mut Context) -> Result<Tensor> {
        self.activation.apply(self.normalized(input, context)?)
    }

    /// The same, multiplied by `gate_values` [N, filters] or [N, 1].
    pub fn gated(&self, input: &Tensor, gate_values: &Tensor, context: &mut Context) -> Result<Tensor> {
        Ok(scale(&self.normalized(input, context)?, gate_values, self.activation.pointwise())?)
    }

    /// Before the activation.
    fn normalized(&self, input: &Tensor, context: &mut Context) -> Result<Tensor> {
        let output =
            input.f_conv2d(&self.weight, None::<&Tensor>, [self.stride; 2], [self.padding; 2], [1, 1], self.groups)?;
        context.observer.convolution(&self.name, input, &output)?;
        Ok(self.norm.forward(&output, context.statistics())?)
    }
}

impl Activation {
    /// Applies it, in place where it can: the batch norm's or the sum's backward pass does not need
    /// its output.
    pub(crate) fn apply(self, mut input: Tensor) -> Result<Tensor> {
        match self {
            Self::Identity => Ok(input),
            Self::Relu => Ok(input.f_relu_()?),
            Self::Relu6 => Ok(input.f_relu6_()?),
        }
    }

    /// What it does to a single value.
    pub(crate) fn pointwise(self) -> Pointwise {
        match self {
            Self::Identity => Pointwise::Identity,
            Self::Relu => Pointwise::Relu,
            Self::Relu6 => Pointwise::Relu6,
        }
    }
}
