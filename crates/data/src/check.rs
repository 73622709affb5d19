//! Every image of a source, looked at before a run depends on it.

use crate::decode::formats::{BadImage, decode_part};
use crate::decode::part::Need;
use crate::source::Source;
use rayon::prelude::*;

/// What decoding every image of a source showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Check {
    /// Images that cannot be used, in the order of the index.
    pub bad: Vec<BadImage>,
    /// Width and height in pixels of every other image.
    pub sizes: Vec<(u32, u32)>,
}

/// Decodes every image of `source` whole, on all cores; `progress` is called once for each.
pub fn check(source: &dyn Source, progress: impl Fn() + Sync) -> Check {
    let one = |(bytes, pixels): &mut (Vec<u8>, Vec<u8>), image: usize| {
        bytes.clear();
        let read = source.read(image, bytes).map_err(|error| error.to_string());
        let decoded = read.and_then(|()| decode_part(bytes, pixels, Need::all));
        progress();
        let bad = |reason| BadImage { path: source.path(image), reason };
        decoded.map(|part| (part.width, part.height)).map_err(bad)
    };
    let outcomes: Vec<Result<(u32, u32), BadImage>> =
        (0..source.len()).into_par_iter().map_init(Default::default, one).collect();
    let mut check = Check::default();
    for outcome in outcomes {
        match outcome {
            Ok(size) => check.sizes.push(size),
            Err(bad) => check.bad.push(bad),
        }
    }
    check
}
