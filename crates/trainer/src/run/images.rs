//! The images of a run, as it trains on them and evaluates with them.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::states::input::Input;
use data::{Dataset, Loader, LoaderOptions, Order};

/// The loaders of a run.
#[derive(Debug)]
pub(crate) struct Images {
    /// Training images, augmented.
    pub train: Loader,
    /// Training images prepared as in an evaluation.
    pub train_as_deployed: Loader,
    pub val: Loader,
}

impl Images {
    /// The loaders that a configuration asks for.
    ///
    /// # Errors
    /// If a thread cannot be started, or there is not enough memory.
    pub fn load(dataset: Dataset, config: &Config) -> Result<Self> {
        let data = &config.data;
        let train = &config.train;
        let input = Input::of(config);
        let loader = |source, transform, order, batch_size| {
            let options = LoaderOptions {
                transform,
                normalize: input.normalize(),
                order,
                batch_size,
                threads: data.threads,
                ahead: data.batches_ahead,
                ..Default::default()
            };
            Loader::new(source, options)
        };
        let order = Order::Shuffled(train.seed);
        let training = loader(dataset.train, data.augmentation(), order, train.batch_size)?;
        let val = loader(dataset.val, input.transform(), Order::InOrder, train.eval_batch_size)?;
        Ok(Self { train_as_deployed: training.with_transform(input.transform()), train: training, val })
    }
}

/// A path that is not UTF-8 could not be kept with the run.
///
/// # Errors
/// If a path of the configuration is one.
pub(crate) fn refuse_odd_paths(config: &Config) -> Result<()> {
    let network = &config.network;
    let teacher = &config.distillation.teacher;
    let paths = [&config.data.path, &network.weights, &network.checkpoint, teacher, &config.gates.times];
    match paths.into_iter().flatten().find(|path| path.to_str().is_none()) {
        Some(path) => Err(Error::PathNotText { path: path.clone() }),
        None => Ok(()),
    }
}

/// The data set that a configuration names.
///
/// # Errors
/// If it cannot be indexed.
pub(crate) fn open(config: &Config) -> Result<Dataset> {
    Ok(Dataset::open(&config.data.path.clone().unwrap_or_default())?)
}

/// How many images, and a fingerprint of their names and labels.
pub(crate) fn fingerprint(dataset: &Dataset) -> (usize, u64) {
    let train = &dataset.train;
    let val = &dataset.val;
    (train.len() + val.len(), train.fingerprint() ^ val.fingerprint().rotate_left(1))
}
