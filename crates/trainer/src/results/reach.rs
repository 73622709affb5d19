//! What gates can reach, before they learn.

use crate::config::{Config, Weighting};
use arch::{CostTable, NetSpec, Spending};
use std::fmt;

/// What a network can spend of what its budget counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Reach {
    /// With all gates closed, or each site at the narrowest width that it may be frozen at.
    pub least: f64,
    /// With all gates open.
    pub most: f64,
    /// Without gates.
    pub dense: f64,
    /// MACs, or the unit of a table of costs.
    pub unit: String,
    /// The blocks that cost most, dearest first, each with what it costs all open.
    pub dearest: Vec<(String, f64)>,
}

/// Blocks that are named.
const DEAREST: usize = 3;

impl Reach {
    /// What a network of that spec can spend, aligned to multiples of `align` channels.
    pub(crate) fn of(spec: &NetSpec, spending: &Spending, align: usize, table: Option<&CostTable>) -> Self {
        let names = spec.blocks.iter().map(|block| block.name.clone());
        let mut dearest: Vec<(String, f64)> = names.zip(spending.blocks().iter().copied()).collect();
        dearest.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        dearest.truncate(DEAREST);
        let least = if align > 1 { spending.narrowest(align) } else { spending.least() };
        let unit = table.map_or("MACs", |table| table.unit.as_str()).to_owned();
        Self { least, most: spending.most(), dense: spending.dense(), unit, dearest }
    }

    /// What stands in the way of a target, if it is out of reach.
    pub(crate) fn fault(&self, config: &Config) -> Option<String> {
        let gates = &config.gates;
        let target = gates.target.last();
        if !gates.weighting.is_of_network() || target >= (self.least / self.dense).min(1.0) {
            return None;
        }
        let (what, are) = match gates.weighting {
            Weighting::CostTable => ("cost", "of it is"),
            _ => ("MACs", "of them are"),
        };
        let closed = match gates.freeze_after.and(gates.align) {
            Some(_) => "with every site at its narrowest",
            None => "with all gates closed",
        };
        Some(format!(
            "{target} of the network's {what} cannot be reached: {:.3} {are} spent {closed}; raise the target or gate more \
             sites (gates.sites, gates.granularity). {self}",
            self.least / self.dense
        ))
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let amount = |amount: f64| match self.unit.as_str() {
            "MACs" => format!("{:.1} MMACs", amount / 1e6),
            unit => format!("{amount:.3} {unit}"),
        };
        let percent = |amount: f64| format!("{:.1}%", 100.0 * amount / self.dense);
        let dearest: Vec<String> =
            self.dearest.iter().map(|(name, cost)| format!("{name} {}", amount(*cost))).collect();
        write!(
            f,
            "reachable: {} ({}) to {} ({}) of the dense {}; most is spent by {}",
            amount(self.least),
            percent(self.least),
            amount(self.most),
            percent(self.most),
            amount(self.dense),
            dearest.join(", ")
        )
    }
}
