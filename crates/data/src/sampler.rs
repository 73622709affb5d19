//! Which image comes when: a function of the seed.

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// The order of `count` images in an epoch: every image once.
pub(crate) fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.shuffle(&mut order_generator(seed, epoch));
    order
}

/// The generator for the order of an epoch.
pub(crate) fn order_generator(seed: u64, epoch: u64) -> impl Rng {
    generator(seed, epoch, u64::MAX)
}

/// The generator for what happens to one image in one epoch. `image` is its position in the split,
/// so the result depends neither on the batch it falls into nor on the thread that decodes it.
pub(crate) fn generator(seed: u64, epoch: u64, image: u64) -> impl Rng {
    let mut key = [0; 32];
    for (part, value) in key.chunks_exact_mut(8).zip([seed, epoch, image]) {
        part.copy_from_slice(&value.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}
