//! Knowledge distillation: the network learns from what another one answers.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::states::checkpoint::{Checkpoint, is_checkpoint};
use crate::states::input::Input;
use arch::{Classifier, Cost, NetSpec, Network, Pass};
use gumbel_gates::Policy;
use std::path::Path;
use tch::{Device, Tensor};

/// A network that is only asked.
#[derive(Debug)]
pub(crate) struct Teacher(Network);

impl Teacher {
    /// The teacher of a configuration, if it names one: a checkpoint with its own network, or
    /// weights for `network.arch`.
    ///
    /// # Errors
    /// If the file cannot be read, or its classes or the way it sees images are not the run's.
    pub fn of(config: &Config, classes: &[String], device: Device) -> Result<Option<Self>> {
        let Some(path) = &config.distillation.teacher else { return Ok(None) };
        let weights = Checkpoint::read_weights(path)?;
        let mut network = match is_checkpoint(&weights) {
            true => Self::from_checkpoint(path, config, classes, device)?,
            false => {
                let network = Network::build(&NetSpec::preset(&config.network.arch, classes.len())?, device, 0)?;
                network.load(&weights, Classifier::Required)?;
                network
            }
        };
        network.compute_in(config.train.precision.half());
        Ok(Some(Self(network)))
    }

    fn from_checkpoint(path: &Path, config: &Config, classes: &[String], device: Device) -> Result<Network> {
        let checkpoint = Checkpoint::read(path)?;
        let refuse = |reason: &str| Error::UnfitTeacher { path: path.to_owned(), reason: reason.to_owned() };
        if checkpoint.classes != classes {
            let its = checkpoint.classes.len();
            let ours = classes.len();
            return Err(refuse(&format!(
                "it tells {its} other classes apart than the {ours} of the images; train a teacher on these images"
            )));
        }
        let its = checkpoint.input;
        let ours = Input::of(config);
        if (its.image_size, its.mean, its.std) != (ours.image_size, ours.mean, ours.std) {
            return Err(refuse(&format!(
                "it sees images of {} pixels with mean {:?} and deviation {:?}, this run of {} with {:?} and {:?}; make data.image_size, \
                 data.mean and data.std the same",
                its.image_size, its.mean, its.std, ours.image_size, ours.mean, ours.std
            )));
        }
        checkpoint.network(device)
    }

    /// MACs of its answer to an image of that size.
    ///
    /// # Errors
    /// If such images are too small for it.
    pub fn macs(&self, image_size: usize) -> Result<u64> {
        let cost = Cost::of(self.0.spec(), image_size, image_size)?;
        Ok(cost.dense + cost.gates)
    }

    /// Its class logits [N, classes] for `images` [N, 3, H, W], its gates as deployed; no gradient.
    ///
    /// # Errors
    /// If the network cannot run.
    pub fn logits(&self, images: &Tensor) -> Result<Tensor> {
        Ok(tch::no_grad(|| self.0.forward(images, Pass::inference(Policy::Argmax)))?.logits)
    }
}
