//! Repairing what gates cut: over images, without labels.

use crate::error::Result;
use crate::events::{Listener, PassKind};
use crate::measure::pass::ImagePass;
use arch::{CutGates, Network, RepairedBlock};
use std::sync::atomic::AtomicBool;

/// Solves convolutions of `pruned` again so that its blocks give what those of `whole` give, from
/// which `cut` was cut, over the images of a pass ([`Network::repair`]). All its features in front
/// of a block are held at once, of both networks.
///
/// # Errors
/// If too many images are unusable, the networks do not belong together, or `interrupt` was set
/// meanwhile ([`crate::Error::Interrupted`]); then `pruned` may be repaired in part.
pub fn repair(
    pruned: &Network,
    whole: &Network,
    cut: &CutGates,
    pass: &ImagePass,
    listeners: &mut [Box<dyn Listener>],
    interrupt: &AtomicBool,
) -> Result<Vec<RepairedBlock>> {
    let mut batches = Vec::new();
    pass.run(PassKind::Repair, listeners, interrupt, |batch| {
        batches.push(batch.images);
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
