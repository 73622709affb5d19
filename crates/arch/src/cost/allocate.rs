//! How many channels each site may have within a budget.

use super::macs::Cost;
use crate::error::{Error, Result};

/// What may stay open, and what it may cost.
#[derive(Debug, Clone, Copy)]
pub struct Allocation<'a> {
    /// What the network costs.
    pub cost: &'a Cost,
    /// How much each gate is worth, from 0: a probability, an importance. In the order of
    /// [`gumbel_gates::GateValues::joined`].
    pub scores: &'a [f64],
    /// Each site of filters gets a multiple of so many channels, or all it has.
    pub align: usize,
    /// The most MACs of the network without its gates.
    pub budget: u64,
}

/// A site: its gates by falling score, and how many of them may be open.
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

impl Allocation<'_> {
    /// Which gates are open: of each site those of the highest scores. A step of a site is a multiple
    /// of channels more; steps are taken by their scores for each MAC they cost, as long as the
    /// budget holds. Every site keeps its first step.
    ///
    /// # Errors
    /// If there is not one score for each gate, or the budget is below what the first steps cost.
    pub fn open(&self) -> Result<Vec<bool>> {
        let gates: usize = self.cost.widths.iter().map(|width| width.sizes.len()).sum();
        if self.scores.len() != gates {
            return Err(Error::DecisionCount { decisions: self.scores.len(), gates });
        }
        let mut sites = self.sites();
        let mut open: Vec<u64> = self.cost.widths.iter().map(|width| width.fixed).collect();
        for site in &sites {
            open[site.width] = site.levels[0].1;
        }
        let mut spent = self.macs(&open);
        if spent > self.budget {
            return Err(Error::Budget { budget: self.budget, least: spent });
        }
        // A step that does not fit now never will: other steps only add.
        let mut closed = vec![false; sites.len()];
        loop {
            let mut best: Option<(f64, usize, u64)> = None;
            for (number, site) in sites.iter().enumerate() {
                let Some(&(_, channels, score)) = site.levels.get(site.level + 1).filter(|_| !closed[number]) else {
                    continue;
                };
                let more = self.with(&mut open, site.width, channels);
                if more > self.budget {
                    closed[number] = true;
                    continue;
                }
                let worth = (score - site.levels[site.level].2) / more.saturating_sub(spent).max(1) as f64;
                if best.is_none_or(|(most, ..)| worth > most) {
                    best = Some((worth, number, more));
                }
            }
            let Some((_, number, more)) = best else { break };
            let site = &mut sites[number];
            site.level += 1;
            open[site.width] = site.levels[site.level].1;
            spent = more;
        }
        let mut decided = vec![false; gates];
        for site in &sites {
            for &gate in &site.gates[..site.levels[site.level].0] {
                decided[gate] = true;
            }
        }
        Ok(decided)
    }

    fn sites(&self) -> Vec<Site> {
        let mut first = 0;
        let mut sites = Vec::new();
        for (number, width) in self.cost.widths.iter().enumerate().filter(|(_, width)| !width.sizes.is_empty()) {
            let mut gates: Vec<usize> = (first..first + width.sizes.len()).collect();
            gates.sort_by(|&a, &b| self.scores[b].total_cmp(&self.scores[a]));
            let is_layer = width.fixed == 0 && width.sizes == [1];
            let mut levels = Vec::new();
            if is_layer || (width.fixed > 0 && width.fixed.is_multiple_of(self.align as u64)) {
                levels.push((0, width.fixed, 0.0));
            }
            let (mut channels, mut score) = (width.fixed, 0.0);
            for (count, &gate) in (1..).zip(&gates) {
                channels += width.sizes[gate - first];
                score += self.scores[gate];
                if channels.is_multiple_of(self.align as u64) || count == gates.len() {
                    levels.push((count, channels, score));
                }
            }
            first += width.sizes.len();
            sites.push(Site { width: number, gates, levels, level: 0 });
        }
        sites
    }

    /// MACs where one width has so many channels.
    fn with(&self, open: &mut [u64], width: usize, channels: u64) -> u64 {
        let before = std::mem::replace(&mut open[width], channels);
        let macs = self.macs(open);
        open[width] = before;
        macs
    }

    fn macs(&self, open: &[u64]) -> u64 {
        self.cost.of_widths(open)
    }
}

impl Cost {
    /// MACs of the network without its gates, where these are open and the others closed.
    pub fn of_gates(&self, open: &[bool]) -> u64 {
        let mut left = open.iter();
        let widths = self.widths.iter().map(|width| {
            let open = width.sizes.iter().zip(left.by_ref()).filter(|(_, open)| **open);
            width.fixed + open.map(|(size, _)| size).sum::<u64>()
        });
        self.of_widths(&widths.collect::<Vec<_>>())
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
