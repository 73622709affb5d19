//! Batches, decoded ahead of their use.

use crate::batches::memory;
use crate::batches::transform::{Normalize, Transform};
use crate::decode::formats::{BadImage, decode_part};
use crate::error::{Error, Result};
use crate::sampler;
use crate::source::Source;
use fast_image_resize::images::Image;
use fast_image_resize::{PixelType, Resizer};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::cell::Cell;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

/// In which order images come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they are indexed; the last batch may be smaller.
    InOrder,
    /// Shuffled anew every epoch, as a function of this seed; images that do not fill a last batch
    /// wait for another epoch.
    Shuffled(u64),
}

/// One of several processes that read a set together, each its share of every batch. Together they
/// read what a single process reads in batches `of` times as large: in training every image at most
/// once per epoch, the same number of full batches each; in order every image exactly once, where
/// the last batches may be smaller by one image for some, or missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Its number, 0 to `of` - 1.
    pub rank: usize,
    /// How many there are.
    pub of: usize,
}

/// How a loader prepares batches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoaderOptions {
    /// How an image becomes a square.
    pub transform: Transform,
    /// What is done to its values.
    pub normalize: Normalize,
    /// In which order images come.
    pub order: Order,
    /// Images per batch and process; at least one.
    pub batch_size: usize,
    /// Which share of the batches is this process's.
    pub rank: Rank,
    /// Threads that decode; 0 means one per core.
    pub threads: usize,
    /// Whole batches that are kept ready. `None`: as many as fit in a sixteenth of the memory that
    /// is free, 2 to 16, and never more than 1 GiB beyond the two. Two more can be in the making.
    pub ahead: Option<usize>,
}

impl Default for LoaderOptions {
    /// The evaluation of ImageNet: 256 pixels, 224 in the middle, in order, batches of 64.
    fn default() -> Self {
        Self {
            transform: Transform::ResizeCenterCrop { resize: 256, size: 224 },
            normalize: Normalize { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
            order: Order::InOrder,
            batch_size: 64,
            rank: Rank { rank: 0, of: 1 },
            threads: 0,
            ahead: None,
        }
    }
}

/// Some images, ready for a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its number within the epoch.
    pub number: usize,
    /// Normalized pixels [N, size, size, 3], N as many as `labels`.
    pub pixels: Pixels,
    /// Position in [`Source::classes`] of each image.
    pub labels: Vec<i64>,
    /// Position in the source of each image.
    pub items: Vec<usize>,
    /// Images that belong here and could not be used.
    pub bad: Vec<BadImage>,
}

/// The values of a batch. Their memory goes back to the loader: asking the system for it anew costs
/// as much as a resize.
#[derive(Debug)]
pub struct Pixels {
    values: Vec<f32>,
    spare: Weak<Spare>,
}

/// Memory of batches that were dropped.
type Spare = Mutex<Vec<Vec<f32>>>;

impl Deref for Pixels {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl Clone for Pixels {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), spare: Weak::new() }
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        // Where nobody makes batches any more there is no need.
        if let Some(spare) = self.spare.upgrade() {
            spare.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.values));
        }
    }
}

/// Makes batches of a source.
#[derive(Debug)]
pub struct Loader {
    shared: Arc<Shared>,
    ahead: usize,
}

#[derive(Debug)]
struct Shared {
    source: Arc<dyn Source>,
    options: LoaderOptions,
    threads: Arc<ThreadPool>,
    spent: Spent,
}

/// Nanoseconds of all threads together.
#[derive(Debug, Default)]
struct Spent {
    read: AtomicU64,
    decode: AtomicU64,
    prepare: AtomicU64,
}

/// Where a loader's threads spent their time, in seconds of all of them together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadTime {
    /// Waiting for the source's bytes.
    pub read: f64,
    /// From bytes to pixels.
    pub decode: f64,
    /// Resizing, colors and normalizing.
    pub prepare: f64,
}

/// What a thread needs for one image after the other.
struct Scratch {
    bytes: Vec<u8>,
    pixels: Vec<u8>,
    resizer: Resizer,
    resized: Image<'static>,
}

/// What a thread keeps at most after an image, in bytes: single large images shall not hold the
/// memory of all the rest.
const MOST_KEPT: usize = 64 << 20;

thread_local! {
    /// Taken out while it is used: a source that waits for work of its own may find this thread
    /// preparing another image meanwhile.
    static SCRATCH: Cell<Option<Scratch>> = const { Cell::new(None) };
}

impl Default for Scratch {
    fn default() -> Self {
        let resized = Image::new(1, 1, PixelType::U8x3);
        Self { bytes: Vec::new(), pixels: Vec::new(), resizer: Resizer::new(), resized }
    }
}

impl Loader {
    /// A loader with threads of its own.
    ///
    /// # Errors
    /// If an option is out of its range, or the threads cannot be started.
    pub fn new(source: Arc<dyn Source>, options: LoaderOptions) -> Result<Self> {
        let Rank { rank, of } = options.rank;
        if rank >= of {
            return Err(Error::Options {
                option: "rank",
                expected: format!("0 to of - 1, and at least one process; found {rank} of {of}"),
            });
        }
        options.transform.validate().map_err(|expected| Error::Options { option: "transform", expected })?;
        let pool = ThreadPoolBuilder::new().num_threads(options.threads).thread_name(|i| format!("decode-{i}"));
        let threads = pool.build().map_err(|error| Error::Threads(error.to_string()))?;
        let options = LoaderOptions { batch_size: options.batch_size.max(1), ..options };
        let shared = Shared { source, options, threads: Arc::new(threads), spent: Spent::default() };
        let ahead = options.ahead.unwrap_or_else(|| memory::batches_ahead(shared.batch_bytes()));
        Ok(Self { shared: Arc::new(shared), ahead })
    }

    /// The same batches, prepared in another way; source and threads are shared.
    pub fn with_transform(&self, transform: Transform) -> Self {
        let Shared { source, options, threads, .. } = &*self.shared;
        let options = LoaderOptions { transform, ..*options };
        let spent = Spent::default();
        let shared = Shared { source: Arc::clone(source), options, threads: Arc::clone(threads), spent };
        Self { shared: Arc::new(shared), ahead: self.ahead }
    }

    /// Where the images come from.
    pub fn source(&self) -> &dyn Source {
        &*self.shared.source
    }

    /// How batches are prepared.
    pub fn options(&self) -> &LoaderOptions {
        &self.shared.options
    }

    /// Where its threads have spent their time so far.
    pub fn time(&self) -> LoadTime {
        let seconds = |nanoseconds: &AtomicU64| nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        let Spent { read, decode, prepare } = &self.shared.spent;
        LoadTime { read: seconds(read), decode: seconds(decode), prepare: seconds(prepare) }
    }

    /// Most bytes of pixels that are ready or in the making at any time.
    pub fn bytes_ahead(&self) -> usize {
        (self.ahead + PRODUCERS) * self.shared.batch_bytes()
    }

    /// Images in a full batch.
    pub fn batch_size(&self) -> usize {
        self.shared.options.batch_size
    }

    /// Batches in an epoch. A shuffled source smaller than a batch makes one batch.
    pub fn batches(&self) -> usize {
        let Shared { source, options, .. } = &*self.shared;
        let images = source.len();
        let together = options.batch_size * options.rank.of;
        match options.order {
            Order::InOrder => {
                let last = images % together;
                // Its share of the last batch begins at its rank.
                images / together + usize::from(last > options.rank.rank)
            }
            Order::Shuffled(_) => (images / together).max(1),
        }
    }

    /// The batches of an epoch from number `first` on. Dropping them stops the decoding at once.
    ///
    /// # Errors
    /// If the source's order has not as many images as the source, or the threads cannot be
    /// started.
    pub fn epoch(&self, epoch: u64, first: usize) -> Result<Batches> {
        let stop = Arc::new(AtomicBool::new(false));
        let spare = Arc::new(Spare::default());
        let order = Arc::new(self.shared.epoch_order(epoch));
        let found = order.len();
        let images = self.shared.source.len();
        if found != images {
            let expected = format!("an order of all {images} images; found one of {found}");
            return Err(Error::Options { option: "Source::shuffled", expected });
        }
        let last = self.batches();
        let mut producers = Vec::new();
        for turn in 0..PRODUCERS {
            let ahead = self.ahead / PRODUCERS + usize::from(turn < self.ahead % PRODUCERS);
            let (sender, receiver) = sync_channel(ahead);
            let shared = Arc::clone(&self.shared);
            let order = Arc::clone(&order);
            let (stop, spare) = (Arc::clone(&stop), Arc::clone(&spare));
            let numbers = (first + turn..last).step_by(PRODUCERS);
            let producer = std::thread::Builder::new().name("batches".into()).spawn(move || {
                for number in numbers {
                    let batch = shared.batch(&order, epoch, number, &stop, &spare);
                    // An error means that nobody waits for more.
                    if stop.load(Ordering::Relaxed) || sender.send(batch).is_err() {
                        return;
                    }
                }
            });
            producers.push((receiver, producer.map_err(|error| Error::Threads(error.to_string()))?));
        }
        Ok(Batches { producers, turn: 0, stop })
    }
}

/// Batches in the making at the same time, so that no thread waits for the slowest image of a
/// batch.
const PRODUCERS: usize = 2;

impl Shared {
    fn batch_bytes(&self) -> usize {
        self.options.batch_size * self.image_values() * size_of::<f32>()
    }

    fn image_values(&self) -> usize {
        (self.options.transform.size() as usize).pow(2) * 3
    }

    fn epoch_order(&self, epoch: u64) -> Vec<u32> {
        match self.options.order {
            Order::InOrder => (0..self.source.len() as u32).collect(),
            Order::Shuffled(seed) => self.source.shuffled(seed, epoch),
        }
    }

    fn batch(&self, order: &[u32], epoch: u64, number: usize, stop: &AtomicBool, spare: &Arc<Spare>) -> Batch {
        let LoaderOptions { batch_size, rank, .. } = self.options;
        let together = batch_size * rank.of;
        let of_all = &order[number * together..order.len().min((number + 1) * together)];
        let items: Vec<usize> = of_all.iter().skip(rank.rank).step_by(rank.of).map(|&item| item as usize).collect();
        let image_values = self.image_values();
        let values = spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let mut pixels = Pixels { values, spare: Arc::downgrade(spare) };
        pixels.values.resize(items.len() * image_values, 0.0);
        let outcomes: Vec<Result<(), BadImage>> = self.threads.install(|| {
            let outputs = pixels.values.par_chunks_exact_mut(image_values).zip(&items);
            let one = |(output, &item): (&mut [f32], &usize)| {
                if stop.load(Ordering::Relaxed) {
                    return Ok(()); // nobody will see it
                }
                let mut scratch = SCRATCH.take().unwrap_or_default();
                let outcome = self.image(item, epoch, &mut scratch, output);
                SCRATCH.set(Some(scratch));
                outcome
            };
            // One image is a fair share of work: do not hand out runs of them.
            outputs.with_max_len(1).map(one).collect()
        });

        // Close the gaps that bad images leave.
        let mut kept = Vec::with_capacity(items.len());
        let mut bad = Vec::new();
        for (position, (outcome, &item)) in outcomes.into_iter().zip(&items).enumerate() {
            match outcome {
                Ok(()) => {
                    if kept.len() < position {
                        let from = position * image_values;
                        pixels.values.copy_within(from..from + image_values, kept.len() * image_values);
                    }
                    kept.push(item);
                }
                Err(image) => bad.push(image),
            }
        }
        pixels.values.truncate(kept.len() * image_values);
        let labels = kept.iter().map(|&item| self.source.label(item) as i64).collect();
        Batch { number, pixels, labels, items: kept, bad }
    }

    /// Reads, decodes and prepares one image into `output` [size, size, 3].
    fn image(&self, item: usize, epoch: u64, scratch: &mut Scratch, output: &mut [f32]) -> Result<(), BadImage> {
        let Scratch { bytes, pixels, resizer, resized } = scratch;
        let LoaderOptions { transform, normalize, order, .. } = self.options;
        let seed = match order {
            Order::InOrder => 0,
            Order::Shuffled(seed) => seed,
        };
        let bad = |reason| BadImage { path: self.source.path(item), reason };
        let mut since = Instant::now();
        let mut spent = |on: &AtomicU64| {
            let now = Instant::now();
            on.fetch_add((now - since).as_nanos() as u64, Ordering::Relaxed);
            since = now;
        };
        bytes.clear();
        self.source.read(item, bytes).map_err(|error| bad(error.to_string()))?;
        spent(&self.spent.read);
        let mut rng = sampler::generator(seed, epoch, item as u64);
        let mut geometry = None;
        let need = |width, height| geometry.insert(transform.geometry(width, height, &mut rng)).need(height);
        let part = decode_part(bytes, pixels, need).map_err(bad)?;
        spent(&self.spent.decode);
        let size = transform.size();
        if resized.width() != size {
            *resized = Image::new(size, size, PixelType::U8x3);
        }
        if let Some(geometry) = geometry {
            geometry.resize(part, pixels, resizer, resized).map_err(bad)?;
            transform.color().apply(resized.buffer_mut(), &mut rng);
            normalize.write(resized.buffer(), size, geometry.mirrored, output);
        }
        spent(&self.spent.prepare);
        if bytes.capacity() + pixels.capacity() > MOST_KEPT {
            (*bytes, *pixels) = (Vec::new(), Vec::new());
            resizer.reset_internal_buffers();
        }
        Ok(())
    }
}

/// The batches of an epoch, in order.
#[derive(Debug)]
pub struct Batches {
    /// They take turns.
    producers: Vec<(Receiver<Batch>, JoinHandle<()>)>,
    turn: usize,
    stop: Arc<AtomicBool>,
}

impl Iterator for Batches {
    type Item = Batch;
    fn next(&mut self) -> Option<Batch> {
        let (receiver, _) = self.producers.get(self.turn)?;
        let batch = receiver.recv().ok();
        self.turn = (self.turn + 1) % PRODUCERS;
        if batch.is_none() {
            // The first that has no more is past the end of the epoch: so are the others.
            for (receiver, producer) in self.producers.drain(..) {
                drop(receiver);
                if let Err(panic) = producer.join() {
                    // A bug in the producer must not look like the end of the epoch.
                    std::panic::resume_unwind(panic);
                }
            }
        }
        batch
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for (receiver, producer) in self.producers.drain(..) {
            drop(receiver);
            // Its panic, if any, was the end of somebody who no longer listens.
            let _ = producer.join();
        }
    }
}
