//! Repairing what gates cut: over images, without labels.

use crate::error::Result;
use crate::events::{Listener, PassKind};
use crate::measure::pass::{Extent, ImagePass};
use arch::{CutGates, Network, RepairedBlock};
use std::sync::atomic::AtomicBool;

/// Images that go through the networks at once.
const AT_ONCE: i64 = 64;

/// Solves convolutions of `pruned` again so that its blocks give what those of `whole` give, from
/// which `cut` was cut, over so many images of a pass, or all there are ([`Network::repair`]).
/// Their features in front of a block are held at once, of both networks. CUDA devices should not
/// round products to TF32 meanwhile.
///
/// # Errors
/// If too many images are unusable, the networks do not belong together, or `interrupt` was set
/// meanwhile ([`crate::Error::Interrupted`]); then `pruned` may be repaired in part.
pub fn repair(
    pruned: &Network,
    whole: &Network,
    cut: &CutGates,
    (pass, images): (&ImagePass, usize),
    listeners: &mut [Box<dyn Listener>],
    interrupt: &AtomicBool,
) -> Result<Vec<RepairedBlock>> {
    let (most, epoch) = match pass.extent {
        Extent::Once => (pass.loader.batches(), 0),
        Extent::Batches { count, epoch } => (count, epoch),
    };
    let count = images.div_ceil(pass.loader.batch_size().max(1)).min(most);
    let pass = ImagePass { extent: Extent::Batches { count, epoch }, ..*pass };
    let (mut batches, mut left) = (Vec::new(), images as i64);
    pass.run(PassKind::Repair, listeners, interrupt, |batch| {
        let wanted = batch.images.size4()?.0.min(left);
        left -= wanted;
        if wanted > 0 {
            batches.extend(batch.images.f_narrow(0, 0, wanted)?.f_split(AT_ONCE, 0)?);
        }
        Ok(())
    })?;
    Ok(pruned.repair(whole, &cut.open, &batches)?)
}

/// A line about what repair left, by the block that is farthest from what it should be.
pub(crate) fn note(repaired: &[RepairedBlock]) -> String {
    let percent = |share: f64| format!("{:.1}%", 100.0 * share);
    let Some(last) = repaired.last() else { return "nothing was repaired".to_owned() };
    let worst = repaired.iter().max_by(|a, b| a.after.total_cmp(&b.after)).unwrap_or(last);
    format!(
        "blocks are repaired: {} of the variance behind the last one is off, {} before; most off is {}, {} instead of {}",
        percent(last.after),
        percent(last.before),
        worst.name,
        percent(worst.after),
        percent(worst.before)
    )
}
