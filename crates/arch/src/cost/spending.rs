//! What a network spends by the widths that its gates leave, in any unit.

use super::macs::{Cost, Width};
use crate::error::{Error, Result};

/// What a forward pass spends, as a function of the open channels at each site of gates and of the
/// layers that are open: multiply-accumulates, or the entries of a [`crate::CostTable`]. It is a
/// sum of terms, each linear in every width between two of its widths.
#[derive(Debug, Clone, PartialEq)]
pub struct Spending {
    /// Spent outside the blocks, without the gates themselves.
    pub(super) outside: f64,
    /// Spent by the gates themselves, whatever they decide.
    pub(super) gates: f64,
    /// For each block what it spends with all gates open.
    pub(super) blocks: Vec<f64>,
    /// The widths that gates decide about; the first is 1, for what has none.
    pub(super) widths: Vec<Width>,
    /// For each block the widths of its branch, each with the least of it that terms of the branch
    /// know: below that the branch fades in proportion, until it is gone without any channel. Empty
    /// where terms know all widths.
    pub(super) least: Vec<Vec<(usize, f64)>>,
    pub(super) terms: Vec<Term>,
}

/// A part of what one block spends.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Term {
    pub block: usize,
    /// The width of the layer gate that it is multiplied by.
    pub layer: usize,
    /// Whether it is the branch's, and fades with it.
    pub in_branch: bool,
    pub amount: Amount,
}

/// What a term spends while its branch is open.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Amount {
    /// coefficient · open in · open out, each a width.
    Product { coefficient: f64, factors: [usize; 2] },
    /// sign · the values of a grid, between which it is linear.
    Grid { sign: f64, grid: Grid },
}

/// Values over two widths.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Grid {
    /// Positions in [`Spending::widths`].
    pub factors: [usize; 2],
    /// The widths that are known, ascending, at least two each.
    pub levels: [Vec<f64>; 2],
    /// Row by row: one row for each level of the first.
    pub values: Vec<f64>,
}

impl Grid {
    /// The value between the four known ones around these widths; below the least it is that of the
    /// least.
    pub fn at(&self, widths: [f64; 2]) -> f64 {
        let [rows, columns] = &self.levels;
        let (row, down) = place(rows, widths[0]);
        let (column, right) = place(columns, widths[1]);
        let value = |row: usize, column: usize| self.values[row * columns.len() + column];
        let along = |row: usize| value(row, column) + right * (value(row, column + 1) - value(row, column));
        along(row) + down * (along(row + 1) - along(row))
    }
}

/// The cell of `levels` that a width lies in, and how far in it.
fn place(levels: &[f64], width: f64) -> (usize, f64) {
    let inner = &levels[1..levels.len() - 1];
    let cell = inner.partition_point(|&level| level <= width);
    (cell, ((width - levels[cell]) / (levels[cell + 1] - levels[cell])).max(0.0))
}

impl Cost {
    /// The multiply-accumulates as a function of what gates leave open.
    pub fn spending(&self) -> Spending {
        let terms = self.terms.iter().map(|term| {
            let [input, output, layer] = term.factors;
            let amount = Amount::Product { coefficient: term.coefficient as f64, factors: [input, output] };
            Term { block: term.block, layer, in_branch: false, amount }
        });
        Spending {
            outside: self.outside as f64,
            gates: self.gates as f64,
            blocks: self.blocks.iter().map(|block| block.macs() as f64).collect(),
            widths: self.widths.clone(),
            least: vec![Vec::new(); self.blocks.len()],
            terms: terms.collect(),
        }
    }
}

impl Spending {
    /// Of the network without its gates.
    pub fn dense(&self) -> f64 {
        self.outside + self.blocks.iter().sum::<f64>()
    }

    /// Of each block, all gates open.
    pub fn blocks(&self) -> &[f64] {
        &self.blocks
    }

    /// Of the gates themselves, whatever they decide.
    pub fn gates(&self) -> f64 {
        self.gates
    }

    /// With all gates closed, the gates' own included: the least there can be.
    pub fn least(&self) -> f64 {
        let closed: Vec<f64> = self.widths.iter().map(|width| width.fixed as f64).collect();
        self.of_widths(&closed) + self.gates
    }

    /// With all gates open, the gates' own included: the most there can be.
    pub fn most(&self) -> f64 {
        self.dense() + self.gates
    }

    /// What gates decide about.
    pub fn gated(&self) -> f64 {
        self.most() - self.least()
    }

    /// The same, but never less where a width grows, for what learns from slopes and what searches
    /// for a threshold: costs that were measured have noise, and runtimes have steps.
    pub fn steady(&self) -> Self {
        let terms = self.terms.iter().map(|term| {
            let amount = match &term.amount {
                Amount::Grid { sign, grid } => {
                    let values = steady(&grid.values, grid.levels[1].len());
                    Amount::Grid { sign: *sign, grid: Grid { values, ..grid.clone() } }
                }
                product @ Amount::Product { .. } => product.clone(),
            };
            Term { amount, ..term.clone() }
        });
        Self { terms: terms.collect(), ..self.clone() }
    }

    /// Of the network without its gates, where these are open and the others closed, in the order
    /// of [`gumbel_gates::GateValues::joined`].
    ///
    /// # Errors
    /// If there is not one decision per gate.
    pub fn of_gates(&self, open: &[bool]) -> Result<f64> {
        self.require(open.len())?;
        Ok(self.of_widths(&self.open_widths(open)))
    }

    /// Of the network with its gates, where each is open for so large a share of the images, in the
    /// order of [`gumbel_gates::GateValues::joined`]: exact where they are 0 or 1, and for layers.
    pub fn of_rates(&self, rates: &[f64]) -> f64 {
        self.of_widths(&self.mean_widths(rates.iter().copied())) + self.gates
    }

    /// For each gate what is saved when it alone is closed, in the order of
    /// [`gumbel_gates::GateValues::joined`]: by the size of what it closes its share of what half
    /// of its site saves.
    pub fn per_gate(&self) -> Vec<f64> {
        let full: Vec<f64> = self.widths.iter().map(|width| width.full() as f64).collect();
        let mut saved = Vec::new();
        for (position, width) in self.widths.iter().enumerate().filter(|(_, width)| !width.sizes.is_empty()) {
            let channels = width.sizes.iter().sum::<u64>() as f64;
            let mut half = full.clone();
            half[position] = width.fixed as f64 + channels / 2.0;
            let users = self.users_of(position).into_iter();
            let sum: f64 = users.map(|term| self.of_term(term, &full) - self.of_term(term, &half)).sum();
            saved.extend(width.sizes.iter().map(|&size| 2.0 * sum / channels * size as f64));
        }
        saved
    }

    /// The terms that a width changes.
    pub(super) fn users_of(&self, width: usize) -> Vec<&Term> {
        let fades = |term: &Term| term.in_branch && self.least[term.block].iter().any(|(own, _)| *own == width);
        let uses = |term: &&Term| term.layer == width || term.factors().contains(&width) || fades(term);
        self.terms.iter().filter(uses).collect()
    }

    /// What a term spends for the open channels of each width.
    pub(super) fn of_term(&self, term: &Term, open: &[f64]) -> f64 {
        let left = self.least[term.block].iter().map(|&(width, least)| (open[width] / least).min(1.0));
        let branch = if term.in_branch { left.product() } else { 1.0 };
        term.at(open) * branch
    }

    /// Checks that there is one value per gate.
    pub(super) fn require(&self, decisions: usize) -> Result<()> {
        let gates = self.widths.iter().map(|width| width.sizes.len()).sum();
        if decisions == gates { Ok(()) } else { Err(Error::DecisionCount { decisions, gates }) }
    }

    /// The open channels of each width.
    pub(super) fn open_widths(&self, open: &[bool]) -> Vec<f64> {
        self.mean_widths(open.iter().map(|&open| f64::from(u8::from(open))))
    }

    /// The channels of each width that are open on average, where gates are open so often.
    fn mean_widths(&self, mut rates: impl Iterator<Item = f64>) -> Vec<f64> {
        let widths = self.widths.iter().map(|width| {
            let open = width.sizes.iter().zip(rates.by_ref()).map(|(&size, rate)| size as f64 * rate);
            width.fixed as f64 + open.sum::<f64>()
        });
        widths.collect()
    }

    /// Of the network without its gates, for the open channels of each width.
    pub(super) fn of_widths(&self, open: &[f64]) -> f64 {
        self.outside + self.terms.iter().map(|term| self.of_term(term, open)).sum::<f64>()
    }
}

impl Term {
    fn factors(&self) -> [usize; 2] {
        match &self.amount {
            Amount::Product { factors, .. } | Amount::Grid { grid: Grid { factors, .. }, .. } => *factors,
        }
    }

    /// For the open channels of each width, as if all of the branch were there.
    fn at(&self, open: &[f64]) -> f64 {
        let [input, output] = self.factors().map(|factor| open[factor]);
        let amount = match &self.amount {
            Amount::Product { coefficient, .. } => coefficient * input * output,
            Amount::Grid { sign, grid } => sign * grid.at([input, output]),
        };
        amount * open[self.layer]
    }
}

/// Costs that never fall where a width grows: of each the least of what is at least as wide, for a
/// site could have filters of zeros up to that.
fn steady(costs: &[f64], columns: usize) -> Vec<f64> {
    let mut least = costs.to_vec();
    for at in (0..costs.len()).rev() {
        if at + columns < costs.len() {
            least[at] = least[at].min(least[at + columns]);
        }
        if (at + 1) % columns != 0 {
            least[at] = least[at].min(least[at + 1]);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_is_linear_between_its_values_and_beyond_them() {
        let grid = Grid {
            factors: [1, 2],
            levels: [vec![0.0, 4.0, 8.0], vec![0.0, 2.0]],
            values: vec![0.0, 0.0, 2.0, 6.0, 3.0, 7.0],
        };
        assert_eq!(grid.at([4.0, 2.0]), 6.0);
        assert_eq!(grid.at([8.0, 0.0]), 3.0);
        // A quarter of the way to 2 and to 6, in the middle between them.
        assert_eq!(grid.at([1.0, 1.0]), 1.0);
        assert_eq!(grid.at([6.0, 1.0]), 4.5);
        // Below the least nothing changes; that the branch fades is not the grid's to say.
        assert_eq!(grid.at([-1.0, 2.0]), 0.0);
    }

    #[test]
    fn steady_costs_are_no_more_than_those_of_what_is_wider() {
        assert_eq!(steady(&[1.0, 4.0, 2.0, 5.0], 1), [1.0, 2.0, 2.0, 5.0]);
        assert_eq!(steady(&[0.0, 6.0, 2.0, 1.0, 3.0, 7.0], 2), [0.0, 1.0, 1.0, 1.0, 3.0, 7.0]);
    }
}
