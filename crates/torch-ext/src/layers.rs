//! Layers with the names and initial values of PyTorch.

use crate::error::{Error, Result};
use crate::tensors::{Init, Path};
use tch::Tensor;

/// Which statistics a batch norm normalizes with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistics {
    /// The running ones; nothing changes.
    Running,
    /// The batch's; the running ones move towards them: running ← (1 − momentum) · running +
    /// momentum · batch.
    Batch {
        /// Share of the batch.
        momentum: f64,
    },
}

impl Statistics {
    /// While training: the batch's, with PyTorch's momentum of 0.1.
    pub const TRAINING: Self = Self::Batch { momentum: 0.1 };
}

/// Batch normalization over the channels of [N, C, …], with PyTorch's defaults: weight 1, bias 0, ε
/// 1e-5. (`tch::nn::batch_norm` starts its weights uniform in (0, 1).)
#[derive(Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
}

impl BatchNorm {
    /// Added to the variance.
    pub const EPSILON: f64 = 1e-5;

    /// Makes `weight`, `bias`, `running_mean` and `running_var` for `channels` channels under
    /// `path`.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn build(path: &mut Path, channels: i64) -> Result<Self> {
        Ok(Self {
            weight: path.parameter("weight", &[channels], Init::Constant(1.0))?,
            bias: path.parameter("bias", &[channels], Init::Constant(0.0))?,
            running_mean: path.buffer("running_mean", &[channels], Init::Constant(0.0))?,
            running_var: path.buffer("running_var", &[channels], Init::Constant(1.0))?,
        })
    }

    /// The same batch norm, sharing its tensors.
    pub fn shallow_clone(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
            running_mean: self.running_mean.shallow_clone(),
            running_var: self.running_var.shallow_clone(),
        }
    }

    /// A batch norm over some of the channels, by their positions; it shares nothing with this one.
    ///
    /// # Errors
    /// If a position is out of range.
    pub fn narrow(&self, positions: &Tensor) -> Result<Self> {
        Ok(Self {
            weight: self.weight.f_index_select(0, positions)?,
            bias: self.bias.f_index_select(0, positions)?,
            running_mean: self.running_mean.f_index_select(0, positions)?,
            running_var: self.running_var.f_index_select(0, positions)?,
        })
    }

    /// Normalizes with the given statistics.
    ///
    /// With the batch's a channel needs more than one value: a batch of one image without spatial
    /// extent would turn the running variance into NaN, so it is an error.
    ///
    /// # Errors
    /// If the shape is another, or the batch's statistics are asked for and it has one value per
    /// channel.
    pub fn forward(&self, input: &Tensor, statistics: Statistics) -> Result<Tensor> {
        let (of_the_batch, momentum) = match statistics {
            Statistics::Running => (false, 0.0),
            Statistics::Batch { momentum } => (true, momentum),
        };
        if of_the_batch && input.numel() as i64 <= self.weight.size()[0] {
            return Err(Error::OneValuePerChannel(input.size()));
        }
        Ok(input.f_batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            of_the_batch,
            momentum,
            Self::EPSILON,
            true,
        )?)
    }
}

/// A fully connected layer: [N, in] to [N, out].
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Makes `weight` (outputs × inputs) and, if asked for, `bias` (as many as outputs) under
    /// `path`.
    ///
    /// # Errors
    /// If a tensor cannot be made.
    pub fn build(path: &mut Path, inputs: i64, outputs: i64, weight: Init, bias: Option<Init>) -> Result<Self> {
        Ok(Self {
            weight: path.parameter("weight", &[outputs, inputs], weight)?,
            bias: bias.map(|init| path.parameter("bias", &[outputs], init)).transpose()?,
        })
    }

    /// `[outputs]`, if there is one.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// input · weightᵀ + bias.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn forward(&self, input: &Tensor) -> Result<Tensor> {
        Ok(input.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::Tensors;
    use tch::{Device, Kind};

    #[test]
    fn a_training_batch_of_one_value_per_channel_is_refused_and_changes_nothing() {
        let mut tensors = Tensors::new(Device::Cpu, 0);
        let norm = BatchNorm::build(&mut tensors.root(), 4).unwrap();
        let one = Tensor::ones([1, 4], (Kind::Float, Device::Cpu));
        assert!(
            norm.forward(&one, Statistics::TRAINING)
                .unwrap_err()
                .to_string()
                .contains("more than one value per channel")
        );
        assert!(norm.forward(&one, Statistics::Running).is_ok());
        assert_eq!(tensors.get("running_var").unwrap().tensor, Tensor::ones([4], (Kind::Float, Device::Cpu)));
    }

    #[test]
    fn training_normalizes_with_the_batch_and_follows_it_with_the_running_statistics() {
        let mut tensors = Tensors::new(Device::Cpu, 0);
        let norm = BatchNorm::build(&mut tensors.root(), 1).unwrap();
        let output = norm.forward(&Tensor::from_slice(&[1.0f32, 3.0]).view([2, 1]), Statistics::TRAINING).unwrap();
        assert!((output.double_value(&[1, 0]) - 1.0).abs() < 1e-4);
        // Mean 2; unbiased variance 2: 0.9 · old + 0.1 · new.
        assert!((tensors.get("running_mean").unwrap().tensor.double_value(&[0]) - 0.2).abs() < 1e-6);
        assert!((tensors.get("running_var").unwrap().tensor.double_value(&[0]) - 1.1).abs() < 1e-6);
    }
}
