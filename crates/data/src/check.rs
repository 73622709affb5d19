use crate::decode::{BadImage, decode};
use crate::index::Split;
use rayon::prelude::*;

/// What decoding every image of a split showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Images that cannot be used, in the order of the index.
    pub bad: Vec<BadImage>,
    /// Width and height in pixels of the image with the smallest area.
    pub smallest: Option<(u32, u32)>,
    /// Width and height in pixels of the image with the largest area.
    pub largest: Option<(u32, u32)>,
}

/// Decodes every image of `split`, on all cores; `progress` is called once for each.
pub fn check(split: &Split, progress: impl Fn() + Sync) -> Check {
    let outcomes: Vec<Result<(u32, u32), BadImage>> = split
        .items
        .par_iter()
        .map(|item| {
            let outcome = decode(&item.path).map(|image| image.dimensions());
            progress();
            outcome
        })
        .collect();
    let area = |&(width, height): &(u32, u32)| u64::from(width) * u64::from(height);
    let sizes = || outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().copied());
    let (smallest, largest) = (sizes().min_by_key(area), sizes().max_by_key(area));
    Check { smallest, largest, bad: outcomes.into_iter().filter_map(Result::err).collect() }
}
