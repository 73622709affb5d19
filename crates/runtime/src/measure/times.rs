//! From seconds to a table of costs.

use super::alignment::best_alignment;
use super::plan::{Group, Plan};
use arch::{CostTable, Measured, TableBlock, TableGrid};
use std::path::PathBuf;

/// What was timed of a group: seconds of the whole network and of the probes, timed in turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Timed {
    /// Of the whole network.
    pub dense: f64,
    /// Of each probe.
    pub probes: Vec<f64>,
}

impl Timed {
    /// How often the whole network is timed in a round: its errors are those of all probes.
    pub const DENSE: usize = 3;

    /// From the seconds of each round, those of the whole network first, [`Timed::DENSE`] times.
    /// The machine's pace is that of the round: what all take longer in one does not count. Of what
    /// is left each one's median does.
    pub fn of(seconds: &[Vec<f64>]) -> Self {
        let medians: Vec<f64> = seconds.iter().map(|rounds| median(rounds.clone())).collect();
        let rounds = seconds.first().map_or(0, Vec::len);
        let pace = |round: usize| median(seconds.iter().zip(&medians).map(|(own, usual)| own[round] / usual).collect());
        let paces: Vec<f64> = (0..rounds).map(pace).collect();
        let even = |own: &Vec<f64>| median(own.iter().zip(&paces).map(|(seconds, pace)| seconds / pace).collect());
        let all: Vec<f64> = seconds.iter().map(even).collect();
        let (dense, probes) = all.split_at(Self::DENSE.min(all.len()));
        Self { dense: dense.iter().sum::<f64>() / dense.len().max(1) as f64, probes: probes.to_vec() }
    }

    /// What one block of a probe takes as a share of the whole network.
    fn share(&self, group: &Group, probe: usize) -> f64 {
        let around = self.probes.first().copied().unwrap_or_default();
        ((self.probes[probe] - around) / group.copies as f64 / self.dense).max(0.0)
    }
}

impl Plan {
    /// By which multiples widths should be cut, from the times of the groups of
    /// [`Plan::of_alignment`]: the largest that one of them asks for, of those that leave every
    /// site a choice.
    pub fn best_alignment(&self, timed: &[Timed]) -> usize {
        let of_group = |(group, timed): (&Group, &Timed)| {
            let grid = group.grids.first()?;
            let widths = grid.widths.first()?;
            let times: Vec<f64> = grid.probes.iter().map(|&probe| timed.share(group, probe)).collect();
            Some(best_alignment(*widths.last()?, widths, &times))
        };
        self.groups.iter().zip(timed).filter_map(of_group).max().unwrap_or(1).min(self.align)
    }

    /// The table of costs in milliseconds, from what was timed of what is outside the blocks, and
    /// of each group. The sum over the whole network is what that takes.
    pub fn table(&self, outside: &Timed, timed: &[Timed], measured: Measured) -> CostTable {
        let groups = || self.groups.iter().zip(timed);
        let of_outside = outside.probes[0] / outside.dense;
        let of_blocks: f64 =
            groups().map(|(group, timed)| group.names.len() as f64 * timed.share(group, group.open)).sum();
        let dense = median(timed.iter().chain([outside]).map(|timed| timed.dense).collect());
        let scale = 1e3 * dense / (of_outside + of_blocks);
        let block = |(group, timed): (&Group, &Timed)| {
            let cost = |probe: usize| rounded(scale * timed.share(group, probe));
            let open = cost(group.open);
            TableBlock {
                names: group.names.clone(),
                open,
                closed: group.closed.map(|probe| cost(probe).min(open)),
                gate: group.gate.map(|probe| rounded((cost(probe) - open).max(0.0))),
                channels: group.channels.iter().map(|(site, channels)| (site.to_string(), *channels)).collect(),
                grids: group
                    .grids
                    .iter()
                    .map(|grid| TableGrid {
                        sites: grid.sites.iter().map(ToString::to_string).collect(),
                        widths: grid.widths.clone(),
                        costs: grid.probes.iter().map(|&probe| cost(probe)).collect(),
                    })
                    .collect(),
            }
        };
        CostTable {
            unit: "ms".to_owned(),
            network: self.dense.spec.name.clone(),
            image_size: self.dense.image_size,
            measured,
            align: self.align,
            outside: rounded(scale * of_outside),
            blocks: groups().map(block).collect(),
            origin: PathBuf::new(),
        }
    }
}

/// The middle one; of none it is not a number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// To a nanosecond, in milliseconds.
fn rounded(cost: f64) -> f64 {
    (cost * 1e6).round() / 1e6
}
