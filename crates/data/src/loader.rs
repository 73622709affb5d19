//! Batches, decoded ahead of their use.

use crate::decode::{BadImage, decode};
use crate::error::{Error, Result};
use crate::index::Split;
use crate::sampler;
use crate::transform::{Normalise, Transform};
use fast_image_resize::Resizer;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// In which order images come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are indexed; the last batch may be smaller.
    InOrder,
    /// Shuffled anew every epoch, as a function of this seed; images that do not fill a last batch wait for another epoch.
    Shuffled(u64),
}

/// Some images, ready for a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its number within the epoch.
    pub number: usize,
    /// Normalised pixels [N, size, size, 3], N as many as `labels`.
    pub pixels: Vec<f32>,
    /// Position in [`Split::classes`] of each image.
    pub labels: Vec<i64>,
    /// Position in [`Split::items`] of each image.
    pub items: Vec<usize>,
    /// Images that belong here and could not be used.
    pub bad: Vec<BadImage>,
}

/// Makes batches of a split.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    ahead: usize,
}

#[derive(Debug)]
struct Shared {
    split: Arc<Split>,
    transform: Transform,
    normalise: Normalise,
    order: Order,
    batch_size: usize,
    threads: Arc<ThreadPool>,
}

impl Loader {
    /// A loader that decodes on `threads` threads of its own (0: one per core) and keeps at most `ahead` whole batches ready.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn new(
        split: Split,
        transform: Transform,
        normalise: Normalise,
        order: Order,
        batch_size: usize,
        threads: usize,
        ahead: usize,
    ) -> Result<Self> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("decode-{i}"));
        let threads = pool.build().map_err(|error| Error::Threads(error.to_string()))?;
        let (split, threads, batch_size) = (Arc::new(split), Arc::new(threads), batch_size.max(1));
        Ok(Self { shared: Arc::new(Shared { split, transform, normalise, order, batch_size, threads }), ahead })
    }

    /// The same batches, prepared in another way; split and threads are shared.
    pub fn with_transform(&self, transform: Transform) -> Self {
        let Shared { normalise, order, batch_size, .. } = *self.shared;
        let (split, threads) = (Arc::clone(&self.shared.split), Arc::clone(&self.shared.threads));
        let shared = Shared { split, transform, normalise, order, batch_size, threads };
        Self { shared: Arc::new(shared), ahead: self.ahead }
    }

    /// The split the batches come from.
    pub fn split(&self) -> &Split {
        &self.shared.split
    }

    /// Batches in an epoch. A shuffled split smaller than a batch makes one batch.
    pub fn batches(&self) -> usize {
        let (images, size) = (self.shared.split.items.len(), self.shared.batch_size);
        match self.shared.order {
            Order::InOrder => images.div_ceil(size),
            Order::Shuffled(_) => (images / size).max(1),
        }
    }

    /// The batches of an epoch from number `first` on. Dropping them stops the decoding.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn epoch(&self, epoch: u64, first: usize) -> Result<Batches> {
        let shared = Arc::clone(&self.shared);
        let numbers = first..self.batches();
        let (sender, receiver) = sync_channel(self.ahead);
        let producer = std::thread::Builder::new().name("batches".into()).spawn(move || {
            let order = shared.epoch_order(epoch);
            for number in numbers {
                // An error means that nobody waits for more.
                if sender.send(shared.batch(&order, epoch, number)).is_err() {
                    return;
                }
            }
        });
        let producer = producer.map_err(|error| Error::Threads(error.to_string()))?;
        Ok(Batches { receiver: Some(receiver), producer: Some(producer) })
    }
}

impl Shared {
    fn epoch_order(&self, epoch: u64) -> Vec<usize> {
        match self.order {
            Order::InOrder => (0..self.split.items.len()).collect(),
            Order::Shuffled(seed) => sampler::shuffled(self.split.items.len(), seed, epoch),
        }
    }

    fn batch(&self, order: &[usize], epoch: u64, number: usize) -> Batch {
        let start = number * self.batch_size;
        let items = &order[start..order.len().min(start + self.batch_size)];
        let image_values = (self.transform.size() as usize).pow(2) * 3;
        let mut pixels = vec![0.0; items.len() * image_values];
        let seed = match self.order {
            Order::InOrder => 0,
            Order::Shuffled(seed) => seed,
        };
        let outcomes: Vec<_> = self.threads.install(|| {
            let outputs = pixels.par_chunks_exact_mut(image_values).zip(items);
            let one = |resizer: &mut Resizer, (output, &item): (&mut [f32], &usize)| {
                let path = &self.split.items[item].path;
                let mut rng = sampler::generator(seed, epoch, item as u64);
                let image = decode(path)?;
                let applied = self.transform.apply(&image, &self.normalise, &mut rng, resizer, output);
                applied.map_err(|reason| BadImage { path: path.clone(), reason })
            };
            // One image is a fair share of work: do not hand out runs of them.
            outputs.with_max_len(1).map_init(Resizer::new, one).collect()
        });

        // Close the gaps that bad images leave.
        let (mut kept, mut bad) = (Vec::with_capacity(items.len()), Vec::new());
        for (position, (outcome, &item)) in outcomes.into_iter().zip(items).enumerate() {
            match outcome {
                Ok(()) => {
                    if kept.len() < position {
                        let from = position * image_values;
                        pixels.copy_within(from..from + image_values, kept.len() * image_values);
                    }
                    kept.push(item);
                }
                Err(image) => bad.push(image),
            }
        }
        pixels.truncate(kept.len() * image_values);
        let labels = kept.iter().map(|&item| self.split.items[item].class as i64).collect();
        Batch { number, pixels, labels, items: kept, bad }
    }
}

/// The batches of an epoch, in order.
#[derive(Debug)]
pub struct Batches {
    receiver: Option<Receiver<Batch>>,
    producer: Option<JoinHandle<()>>,
}

impl Iterator for Batches {
    type Item = Batch;
    fn next(&mut self) -> Option<Batch> {
        let batch = self.receiver.as_ref()?.recv().ok();
        if batch.is_none()
            && let Some(producer) = self.producer.take()
            && let Err(panic) = producer.join()
        {
            // A bug in the producer must not look like the end of the epoch.
            std::panic::resume_unwind(panic);
        }
        batch
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        drop(self.receiver.take());
        if let Some(producer) = self.producer.take() {
            // Its panic, if any, was the end of somebody who no longer listens.
            let _ = producer.join();
        }
    }
}
