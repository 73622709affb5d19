//! How many channels each site may have within a budget.

use super::spending::Spending;
use crate::error::{Error, Result};
use crate::spec::Site as Place;

/// Widths to be aligned, and what they may cost.
#[derive(Debug, Clone, Copy)]
pub struct Allocation<'a> {
    /// What the network spends by the widths that gates leave.
    pub spending: &'a Spending,
    /// The gates that are open so far, in the order of [`gumbel_gates::GateValues::joined`].
    pub decided: &'a [bool],
    /// How much each of them is worth, from 0: a probability, an importance.
    pub scores: &'a [f64],
    /// Each site of filters gets a multiple of so many channels, or all it has; or none, which
    /// closes the branch, where there is a path around it.
    pub align: usize,
    /// The most that the network without its gates may spend.
    pub budget: f64,
}

/// The relative error of sums of costs.
const ROUNDING: f64 = 1e-12;

/// A site of filters: its gates by falling score, and how many of them may be open.
struct Site {
    /// Its position in [`Spending::widths`].
    width: usize,
    /// Its block.
    block: usize,
    /// Whether the branch is dead without any of its channels.
    in_branch: bool,
    /// Numbers of its gates.
    gates: Vec<usize>,
    /// Counts of gates, ascending, each with the channels it opens and the sum of its scores.
    levels: Vec<(usize, f64, f64)>,
    /// The level it has.
    level: usize,
}

/// The other sites of a site's branch.
fn kin(sites: &[Site], number: usize) -> Vec<usize> {
    let of = &sites[number];
    let is_kin = |(other, site): &(usize, &Site)| *other != number && site.block == of.block && site.in_branch;
    sites.iter().enumerate().filter(is_kin).map(|(other, _)| other).collect()
}

impl Site {
    /// Whether it closes its branch.
    fn is_dead(&self) -> bool {
        self.in_branch && self.channels() == 0.0
    }

    fn channels(&self) -> f64 {
        self.levels[self.level].1
    }
}

impl Allocation<'_> {
    /// Which gates are open: of each site those of the highest scores. A site begins at the
    /// multiple below what is decided, and at the lowest if there is none below; one that is closed
    /// altogether stays closed, and layers stay as they are. What is left of the budget buys wider
    /// sites, those of the most score for what they spend first; what is over it is given back
    /// likewise, a whole branch perhaps. A step may be several multiples wide, for spending need
    /// not grow evenly.
    ///
    /// # Errors
    /// If there is not one decision and one score for each gate, or the budget cannot be met.
    pub fn open(&self) -> Result<Vec<bool>> {
        self.spending.require(self.scores.len())?;
        self.spending.require(self.decided.len())?;
        let mut sites = self.sites();
        let mut open = self.spending.open_widths(self.decided);
        for site in &sites {
            open[site.width] = site.channels();
        }
        let mut spent = self.spending.of_widths(&open);
        let mut take = |step: Step, sites: &mut [Site], spent: &mut f64| {
            let Some((number, level)) = self.best_step(sites, &open, *spent, step) else { return false };
            sites[number].level = level;
            open[sites[number].width] = sites[number].channels();
            if sites[number].is_dead() {
                // What is left of the branch would be of no use.
                for other in kin(sites, number) {
                    sites[other].level = 0;
                    open[sites[other].width] = sites[other].channels();
                }
            }
            *spent = self.spending.of_widths(&open);
            true
        };
        // What sums of shares are off by is no reason to give anything back.
        let budget = self.budget * (1.0 + ROUNDING);
        while spent > budget {
            if !take(Step::Down, &mut sites, &mut spent) {
                return Err(Error::Budget {
                    budget: self.budget,
                    least: spent.min(self.spending.narrowest(self.align)),
                });
            }
        }
        while take(Step::Up, &mut sites, &mut spent) {}
        let mut decided = self.decided.to_vec();
        for site in &sites {
            for (place, &gate) in site.gates.iter().enumerate() {
                decided[gate] = place < site.levels[site.level].0;
            }
        }
        Ok(decided)
    }

    /// The site and its level whose step up buys, or whose step down costs, the best score for what
    /// it spends. Steps up stay within the budget.
    fn best_step(&self, sites: &[Site], open: &[f64], spent: f64, step: Step) -> Option<(usize, usize)> {
        let mut best: Option<(f64, usize, usize)> = None;
        for (number, site) in sites.iter().enumerate() {
            let is_dead =
                site.is_dead() || (site.in_branch && kin(sites, number).iter().any(|&other| sites[other].is_dead()));
            let levels = match step {
                // What is closed stays closed.
                Step::Up if is_dead => continue,
                Step::Up => site.level + 1..site.levels.len(),
                Step::Down => 0..site.level,
            };
            let users = self.spending.users_of(site.width);
            let mut open = open.to_vec();
            let before: f64 = users.iter().map(|term| self.spending.of_term(term, &open)).sum();
            for level in levels {
                open[site.width] = site.levels[level].1;
                let more = users.iter().map(|term| self.spending.of_term(term, &open)).sum::<f64>() - before;
                let mut score = (site.levels[level].2 - site.levels[site.level].2).abs();
                if site.in_branch && site.levels[level].1 == 0.0 {
                    score +=
                        kin(sites, number).iter().map(|&other| sites[other].levels[sites[other].level].2).sum::<f64>();
                }
                let worth = match step {
                    Step::Up if spent + more > self.budget * (1.0 + ROUNDING) => continue,
                    Step::Up if more <= 0.0 => f64::INFINITY,
                    Step::Up => score / more,
                    Step::Down if more >= 0.0 => continue,
                    Step::Down => score / more,
                };
                if best.is_none_or(|(most, ..)| worth > most) {
                    best = Some((worth, number, level));
                }
            }
        }
        best.map(|(_, number, level)| (number, level))
    }

    /// The blocks whose branch is dead, for one of its sites is closed altogether.
    fn dead_blocks(&self) -> Vec<usize> {
        let mut left = self.decided;
        let dead = self.spending.widths.iter().filter_map(|width| {
            let (own, rest) = left.split_at(width.sizes.len());
            left = rest;
            let (block, place) = width.site.filter(|_| width.fixed == 0)?;
            let in_branch = !matches!(place, Place::Layer | Place::Projection);
            (in_branch && !own.contains(&true)).then_some(block)
        });
        dead.collect()
    }

    fn sites(&self) -> Vec<Site> {
        let dead = self.dead_blocks();
        let (mut first, mut sites) = (0, Vec::new());
        for (number, width) in self.spending.widths.iter().enumerate() {
            let own = first..first + width.sizes.len();
            first = own.end;
            let decided = self.decided[own.clone()].iter().filter(|open| **open).count();
            let Some((block, place)) = width.site.filter(|(_, place)| *place != Place::Layer && decided > 0) else {
                continue;
            };
            let in_branch = place != Place::Projection;
            let mut gates: Vec<usize> = own.clone().collect();
            gates.sort_by(|&a, &b| self.scores[b].total_cmp(&self.scores[a]));
            let mut levels = Vec::new();
            let fits = |channels: u64| channels.is_multiple_of(self.align as u64);
            if fits(width.fixed) && (in_branch || width.fixed > 0) {
                levels.push((0, width.fixed as f64, 0.0));
            }
            let (mut channels, mut score) = (width.fixed, 0.0);
            for (count, &gate) in (1..).zip(&gates) {
                channels += width.sizes[gate - own.start];
                score += self.scores[gate];
                if fits(channels) || count == gates.len() {
                    levels.push((count, channels as f64, score));
                }
            }
            let level = if in_branch && dead.contains(&block) {
                // What is left of the branch would be of no use.
                levels.truncate(1);
                0
            } else {
                // Not what closes it: gates were found worth being open.
                let lowest = levels.iter().position(|&(_, channels, _)| channels > 0.0).unwrap_or(0);
                levels.iter().rposition(|&(count, ..)| count <= decided).unwrap_or(0).max(lowest)
            };
            sites.push(Site { width: number, block, in_branch, gates, levels, level });
        }
        sites
    }
}

impl Spending {
    /// The least that a network spends, its gates included, whose sites of filters have a multiple
    /// of `align` channels, or all, and whose layers are closed.
    pub fn narrowest(&self, align: usize) -> f64 {
        let none = vec![0.0; self.widths.iter().map(|width| width.sizes.len()).sum()];
        let all = vec![true; none.len()];
        let narrow = Allocation { spending: self, decided: &all, scores: &none, align, budget: 0.0 };
        let mut open: Vec<f64> = self.widths.iter().map(|width| width.fixed as f64).collect();
        for site in narrow.sites() {
            open[site.width] = site.levels[0].1;
        }
        self.of_widths(&open) + self.gates
    }
}

/// Which way a site's width changes.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Up,
    Down,
}
