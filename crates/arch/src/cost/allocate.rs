//! How many channels each site may have within a budget.

use super::macs::Cost;
use crate::error::{Error, Result};

/// Widths to be aligned, and what they may cost.
#[derive(Debug, Clone, Copy)]
pub struct Allocation<'a> {
    /// What the network costs.
    pub cost: &'a Cost,
    /// The gates that are open so far, in the order of [`gumbel_gates::GateValues::joined`].
    pub decided: &'a [bool],
    /// How much each of them is worth, from 0: a probability, an importance.
    pub scores: &'a [f64],
    /// Each site of filters gets a multiple of so many channels, or all it has.
    pub align: usize,
    /// The most MACs of the network without its gates.
    pub budget: u64,
}

/// A site of filters: its gates by falling score, and how many of them may be open.
struct Site {
    /// Its position in [`Cost::widths`].
    width: usize,
    /// Numbers of its gates.
    gates: Vec<usize>,
    /// Counts of gates, ascending, each with the channels it opens and the sum of its scores.
    levels: Vec<(usize, u64, f64)>,
    /// The level it has.
    level: usize,
}

impl Site {
    fn channels(&self, level: usize) -> Option<u64> {
        self.levels.get(level).map(|&(_, channels, _)| channels)
    }
}

impl Allocation<'_> {
    /// Which gates are open: of each site those of the highest scores. A site begins at the multiple
    /// below what is decided, and at the lowest if there is none below; one that is closed
    /// altogether stays closed, and layers stay as they are. What is left of the budget buys steps,
    /// those of the most score for a MAC first; what is over it is given back likewise.
    ///
    /// # Errors
    /// If there is not one decision and one score for each gate, or the budget cannot be met.
    pub fn open(&self) -> Result<Vec<bool>> {
        let gates: usize = self.cost.widths.iter().map(|width| width.sizes.len()).sum();
        for given in [self.scores.len(), self.decided.len()] {
            if given != gates {
                return Err(Error::DecisionCount { decisions: given, gates });
            }
        }
        let mut sites = self.sites();
        let mut open = self.cost.open_widths(self.decided);
        for site in &sites {
            open[site.width] = site.levels[site.level].1;
        }
        let mut spent = self.cost.of_widths(&open);
        while spent > self.budget {
            // The least score for a MAC.
            let Some((number, less)) = self.best_step(&sites, &mut open, spent, Step::Down) else {
                return Err(Error::Budget { budget: self.budget, least: spent });
            };
            sites[number].level -= 1;
            open[sites[number].width] = sites[number].levels[sites[number].level].1;
            spent = less;
        }
        while let Some((number, more)) = self.best_step(&sites, &mut open, spent, Step::Up) {
            sites[number].level += 1;
            open[sites[number].width] = sites[number].levels[sites[number].level].1;
            spent = more;
        }
        let mut decided = self.decided.to_vec();
        for site in &sites {
            for (place, &gate) in site.gates.iter().enumerate() {
                decided[gate] = place < site.levels[site.level].0;
            }
        }
        Ok(decided)
    }

    /// The site whose step up buys, or whose step down costs, the best score for a MAC, and the MACs
    /// behind it. Steps up stay within the budget.
    fn best_step(&self, sites: &[Site], open: &mut [u64], spent: u64, step: Step) -> Option<(usize, u64)> {
        let mut best: Option<(f64, usize, u64)> = None;
        for (number, site) in sites.iter().enumerate() {
            let level = match step {
                Step::Up => Some(site.level + 1),
                Step::Down => site.level.checked_sub(1),
            };
            let Some((level, channels)) = level.and_then(|level| Some((level, site.channels(level)?))) else {
                continue;
            };
            let before = std::mem::replace(&mut open[site.width], channels);
            let macs = self.cost.of_widths(open);
            open[site.width] = before;
            if step == Step::Up && macs > self.budget {
                continue;
            }
            let score = (site.levels[level].2 - site.levels[site.level].2).abs();
            let worth = score / macs.abs_diff(spent).max(1) as f64;
            let worth = if step == Step::Up { worth } else { -worth };
            if best.is_none_or(|(most, ..)| worth > most) {
                best = Some((worth, number, macs));
            }
        }
        best.map(|(_, number, macs)| (number, macs))
    }

    fn sites(&self) -> Vec<Site> {
        let (mut first, mut sites) = (0, Vec::new());
        for (number, width) in self.cost.widths.iter().enumerate() {
            let own = first..first + width.sizes.len();
            first = own.end;
            let decided = self.decided[own.clone()].iter().filter(|open| **open).count();
            let is_layer = width.fixed == 0 && width.sizes == [1];
            if decided == 0 || is_layer {
                continue;
            }
            let mut gates: Vec<usize> = own.clone().collect();
            gates.sort_by(|&a, &b| self.scores[b].total_cmp(&self.scores[a]));
            let mut levels = Vec::new();
            let (mut channels, mut score) = (width.fixed, 0.0);
            for (count, &gate) in (1..).zip(&gates) {
                channels += width.sizes[gate - own.start];
                score += self.scores[gate];
                if channels.is_multiple_of(self.align as u64) || count == gates.len() {
                    levels.push((count, channels, score));
                }
            }
            let level = levels.iter().rposition(|&(count, ..)| count <= decided).unwrap_or(0);
            sites.push(Site { width: number, gates, levels, level });
        }
        sites
    }
}

/// Which way a site's width changes.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Up,
    Down,
}

impl Cost {
    /// MACs of the network without its gates, where these are open and the others closed.
    pub fn of_gates(&self, open: &[bool]) -> u64 {
        self.of_widths(&self.open_widths(open))
    }

    /// The open channels of each width.
    fn open_widths(&self, open: &[bool]) -> Vec<u64> {
        let mut left = open.iter();
        let widths = self.widths.iter().map(|width| {
            let open = width.sizes.iter().zip(left.by_ref()).filter(|(_, open)| **open);
            width.fixed + open.map(|(size, _)| size).sum::<u64>()
        });
        widths.collect()
    }

    /// MACs of the network without its gates, for the open channels of each width.
    fn of_widths(&self, open: &[u64]) -> u64 {
        let terms = self.terms.iter().map(|term| {
            let factors = term.factors.iter();
            factors.fold(term.coefficient, |product, &factor| product.saturating_mul(open[factor]))
        });
        terms.fold(self.outside, u64::saturating_add)
    }
}
