//! The exponential moving average of a network's weights, which often does better than the weights
//! themselves.

use crate::error::Result;
use arch::Network;
use tch::Tensor;
use torch_ext::{Half, Tensors, lerp};

/// A network whose tensors, batch norm statistics included, are the average of another's over its
/// steps.
#[derive(Debug)]
pub(crate) struct Average {
    network: Network,
    decay: f64,
    own: Vec<Tensor>,
    followed: Vec<Tensor>,
}

impl Average {
    /// The average of `network`, so far the network itself.
    pub fn of(network: &Network, decay: f64, half: Option<Half>) -> Result<Self> {
        // Every value is overwritten, so the seed does not matter.
        let mut average = Network::build(network.spec(), network.device(), 0)?;
        average.compute_in(half);
        let all = |tensors: &Tensors| tensors.iter().map(|entry| entry.tensor.f_detach()).collect::<tch::Result<_>>();
        let (own, followed) = (all(average.tensors())?, all(network.tensors())?);
        let mut average = Self { network: average, decay, own, followed };
        average.restart()?;
        Ok(average)
    }

    /// The network with averaged weights.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Forgets the past: where the network has changed at one stroke, what it was before says
    /// nothing.
    pub fn restart(&mut self) -> Result<()> {
        for (own, followed) in self.own.iter_mut().zip(&self.followed) {
            own.f_copy_(followed)?;
        }
        Ok(())
    }

    /// Follows the network after update number `update`, from 1: average ← decay · average + (1 −
    /// decay) · weights. Early on the decay is (1 + update) / (10 + update) if that is less, so
    /// that the initial weights are soon forgotten (as `tf.train.ExponentialMovingAverage`).
    pub fn follow(&self, update: u64) -> Result<()> {
        let early = (1.0 + update as f64) / (10.0 + update as f64);
        Ok(tch::no_grad(|| lerp(&self.own, &self.followed, 1.0 - self.decay.min(early)))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::NetSpec;
    use tch::Device;

    #[test]
    fn the_average_follows_by_its_decay_and_faster_at_first() {
        let network = Network::build(&NetSpec::preset("cifar-resnet20", 2).unwrap(), Device::Cpu, 1).unwrap();
        let tensor = |network: &Network| network.tensors().get("bn1.weight").unwrap().tensor.detach();
        let value = |network: &Network| tensor(network).double_value(&[0]);
        let mut average = Average::of(&network, 0.5, None).unwrap();
        assert_eq!(value(average.network()), 1.0);
        let _ = tensor(&network).fill_(3.0);
        // 2/11 of the old stays after the first update.
        average.follow(1).unwrap();
        let first = 3.0 - 2.0 * 2.0 / 11.0;
        assert!((value(average.network()) - first).abs() < 1e-6);
        average.follow(1000).unwrap();
        assert!((value(average.network()) - f64::midpoint(first, 3.0)).abs() < 1e-6);
        assert_eq!(value(&network), 3.0);
        average.restart().unwrap();
        assert_eq!(value(average.network()), 3.0);
    }
}
