//! Filters with weights of zero in the place of some that are closed, for widths that devices
//! compute well.

use super::decision::Decision;
use super::tensors::Tensors;
use crate::error::Result;
use crate::spec::{BlockSpec, ConvSpec, GateSite, Shortcut, Site};

/// The decisions about a block's gates with some of the closed ones open, so that each site that
/// keeps something has a multiple of `align` channels, or all. What they decide about computes
/// zeros.
pub(super) fn pad(
    block: &BlockSpec,
    decisions: &[Decision],
    align: usize,
    tensors: &mut Tensors,
) -> Result<Vec<Decision>> {
    let mut padded = decisions.to_vec();
    let mut first = 0;
    let sites: Vec<(&GateSite, usize)> = block
        .gates
        .iter()
        .map(|gates| {
            first += gates.count();
            (gates, first - gates.count())
        })
        .collect();
    let kept = |gates: &GateSite, first: usize| {
        let own = &decisions[first..first + gates.count()];
        let sizes = gates.sizes().into_iter().zip(own).filter(|(_, decision)| **decision != Decision::Closed);
        gates.fixed_open() + sizes.map(|(size, _)| size).sum::<usize>()
    };
    for (gates, first) in sites {
        let mut channels = kept(gates, first);
        if align < 2 || gates.site == Site::Layer || channels == 0 {
            continue;
        }
        let of_channel = gates.gate_of_channel();
        for (gate, size) in gates.sizes().into_iter().enumerate() {
            if channels.is_multiple_of(align) {
                break;
            }
            if padded[first + gate] != Decision::Closed {
                continue;
            }
            padded[first + gate] = Decision::Open;
            channels += size;
            let own = of_channel.iter().enumerate().filter(|(_, found)| **found == Some(gate));
            let own: Vec<usize> = own.map(|(channel, _)| channel).collect();
            silence(block, gates.site, &own, tensors)?;
        }
    }
    Ok(padded)
}

/// Makes channels at a site of a block zeros, or, at its input, read with weights of zero.
fn silence(block: &BlockSpec, site: Site, channels: &[usize], tensors: &mut Tensors) -> Result<()> {
    match (site, &block.shortcut) {
        (Site::Input, _) => match block.branch.first() {
            Some(conv) => tensors.zero_at(&format!("{}.{}.weight", block.name, conv.name), 1, channels),
            None => Ok(()),
        },
        (Site::Projection, Shortcut::Projection(conv)) => silence_filters(block, conv, channels, tensors),
        _ => (1..)
            .zip(&block.branch)
            .filter(|(position, _)| block.site_behind(*position) == site)
            .try_for_each(|(_, conv)| silence_filters(block, conv, channels, tensors)),
    }
}

fn silence_filters(block: &BlockSpec, conv: &ConvSpec, filters: &[usize], tensors: &mut Tensors) -> Result<()> {
    tensors.zero_at(&format!("{}.{}.weight", block.name, conv.name), 0, filters)?;
    ["weight", "bias"]
        .iter()
        .try_for_each(|part| tensors.zero_at(&format!("{}.{}.{part}", block.name, conv.norm), 0, filters))
}
