//! A table of costs that were measured, block by block.

use super::macs::{Width, widths};
use super::spending::{Amount, Grid, Spending, Term};
use crate::error::{Error, Result};
use crate::spec::{BlockSpec, GateSite, NetSpec, Shortcut, Site};
use gumbel_gates::GateKind;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the blocks of a network cost by their widths, in any unit: milliseconds on a device, as
/// `train measure` finds them, or what else was measured. Plain data, in JSON as it stands here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTable {
    /// The unit of all costs, such as `ms`.
    pub unit: String,
    /// The network: its preset.
    pub network: String,
    /// Side of its images in pixels.
    pub image_size: u32,
    /// Where it was measured.
    pub measured: Measured,
    /// Widths are measured in multiples of so many channels, those that the device computes well.
    pub align: usize,
    /// What is spent outside the blocks.
    pub outside: f64,
    /// The blocks; those of one shape together.
    pub blocks: Vec<TableBlock>,
    /// The file that it was read from.
    #[serde(skip)]
    pub origin: PathBuf,
}

/// Where and how costs were measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// The processor.
    pub machine: String,
    /// The runtime, such as `onnxruntime`.
    pub runtime: String,
    /// Its threads.
    pub threads: usize,
    /// Images per batch; costs are those of a batch.
    pub batch: usize,
}

/// What blocks of one shape cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableBlock {
    /// Their names.
    pub names: Vec<String>,
    /// Each of them as it is, all of its filters open.
    pub open: f64,
    /// Each of them without its branch; absent where there is no path around.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<f64>,
    /// What a layer gate that looks at the image adds: the gate itself and the condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<f64>,
    /// Costs by the widths of sites.
    pub grids: Vec<TableGrid>,
}

/// What a block costs by the channels at one or two sites, the others as they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableGrid {
    /// One site, or two neighbors: `input`, `between1`, `output`, `projection`.
    pub sites: Vec<String>,
    /// For each site the channels that were measured, ascending; the last are all it has.
    pub widths: Vec<Vec<usize>>,
    /// One cost for each combination: for each width of the first site those of the second.
    pub costs: Vec<f64>,
}

impl CostTable {
    /// Reads a table.
    ///
    /// # Errors
    /// If the file cannot be read, or is not a table of costs.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// A table as JSON; `origin` is the file that errors name.
    ///
    /// # Errors
    /// If it is not a table of costs.
    pub fn parse(text: &str, origin: &Path) -> Result<Self> {
        let refused = |reason: String| Error::CostTable { origin: origin.to_owned(), reason };
        let table: Self = serde_json::from_str(text).map_err(|error| refused(error.to_string()))?;
        let table = Self { origin: origin.to_owned(), ..table };
        let faults = table.faults();
        if faults.is_empty() { Ok(table) } else { Err(refused(faults.join("; "))) }
    }

    /// What contradicts itself.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let is_cost = |cost: f64| cost.is_finite() && cost >= 0.0;
        if self.align == 0 {
            faults.push("align: expected at least 1".to_owned());
        }
        if !is_cost(self.outside) {
            faults.push(format!("outside: {} is not a cost", self.outside));
        }
        let mut names = HashSet::new();
        for block in &self.blocks {
            let Some(first) = block.names.first() else {
                faults.push("blocks: names are missing".to_owned());
                continue;
            };
            faults.extend(block.names.iter().filter(|name| !names.insert(*name)).map(|name| format!("{name}: twice")));
            let single = [Some(block.open), block.closed, block.gate];
            let costs = single.into_iter().flatten().chain(block.grids.iter().flat_map(|grid| grid.costs.clone()));
            faults.extend(costs.filter(|&cost| !is_cost(cost)).map(|cost| format!("{first}: {cost} is not a cost")));
            for grid in &block.grids {
                let ascending =
                    |widths: &Vec<usize>| !widths.is_empty() && widths[0] > 0 && widths.is_sorted_by(|a, b| a < b);
                let count: usize = grid.widths.iter().map(Vec::len).product();
                let fits = [1, 2].contains(&grid.sites.len()) && grid.sites.len() == grid.widths.len();
                if !fits || !grid.widths.iter().all(ascending) || count != grid.costs.len() {
                    faults.push(format!(
                        "{first}, {}: expected ascending widths for one or two sites, and one cost for each combination",
                        grid.sites.join(" and ")
                    ));
                }
            }
        }
        faults
    }

    /// Whether it was measured for that network and those images.
    ///
    /// # Errors
    /// If not; it names what differs.
    pub fn require(&self, network: &str, image_size: u32) -> Result<()> {
        if self.network == network && self.image_size == image_size {
            return Ok(());
        }
        Err(self.refused(format!(
            "it was measured for {} with images of {} pixels, not for {network} with images of {image_size}; measure \
             that: train measure",
            self.network, self.image_size
        )))
    }

    /// What a network spends, one that pruning left too, as a function of what its gates leave open.
    /// What several sites of a block save together is taken from pairs of neighbors:
    /// open + Σ pairs − Σ sites that two pairs share, each as its difference to open.
    ///
    /// # Errors
    /// If the table has no costs for a block or for a site of it.
    pub fn spending(&self, spec: &NetSpec) -> Result<Spending> {
        let mut spending = Spending {
            outside: self.outside,
            gates: 0.0,
            blocks: Vec::with_capacity(spec.blocks.len()),
            widths: widths(spec),
            terms: Vec::new(),
        };
        let mut first = 1;
        for (number, block) in spec.blocks.iter().enumerate() {
            let entry = self.blocks.iter().find(|entry| entry.names.contains(&block.name));
            let entry = entry.ok_or_else(|| self.refused(format!("it has no costs for block '{}'", block.name)))?;
            let terms = spending.terms.len();
            Terms { table: self, block, entry, number, first }.add(&mut spending)?;
            first += block.gates.len();
            let full: Vec<f64> = spending.widths.iter().map(|width| width.full() as f64).collect();
            spending.blocks.push(spending.terms[terms..].iter().map(|term| term.at(&full)).sum());
            if block.gates_at(Site::Layer).is_some_and(|gates| gates.kind == GateKind::Dependent) {
                spending.gates += entry.gate.unwrap_or_default();
            }
        }
        Ok(spending)
    }

    fn refused(&self, reason: String) -> Error {
        Error::CostTable { origin: self.origin.clone(), reason }
    }
}

/// The terms of one block.
struct Terms<'a> {
    table: &'a CostTable,
    block: &'a BlockSpec,
    entry: &'a TableBlock,
    /// The block's number.
    number: usize,
    /// The position of its first site in [`Spending::widths`].
    first: usize,
}

impl Terms<'_> {
    fn add(&self, spending: &mut Spending) -> Result<()> {
        let Self { block, entry, number, .. } = *self;
        let gate = |site: Site| block.gates.iter().position(|gates| gates.site == site).map(|at| self.first + at);
        let layer = gate(Site::Layer).unwrap_or(0);
        let closed = entry.closed.unwrap_or_default();
        // What is left of `open` behind the differences of all grids.
        let mut constant = entry.open;
        let mut seen = HashSet::new();
        for grid in &entry.grids {
            let sites: Vec<Option<Site>> = grid.sites.iter().map(|name| site(name)).collect();
            let mut factors = [0; 2];
            let mut differs = false;
            let mut shared = None;
            for (at, (found, name)) in sites.iter().zip(&grid.sites).enumerate() {
                let Some(channels) = found.and_then(|site| channels(block, site)) else {
                    return match block.branch.is_empty() {
                        true => continue,
                        false => Err(self.table.refused(format!("block '{}' has no site '{name}'", block.name))),
                    };
                };
                let most = grid.widths[at].last().copied().unwrap_or_default();
                if channels > most {
                    let reason = format!("block '{}' has {channels} channels at {name}, the table {most}", block.name);
                    return Err(self.table.refused(reason));
                }
                differs |= channels < most || found.and_then(gate).is_some();
                factors[at] = found.and_then(gate).unwrap_or_else(|| {
                    spending.widths.push(Width::constant(channels as u64));
                    spending.widths.len() - 1
                });
            }
            if !differs {
                continue;
            }
            let floor = entry.closed.filter(|_| sites != [Some(Site::Projection)]);
            let of_projection = sites == [Some(Site::Projection)];
            let layer = if of_projection { 0 } else { layer };
            for (at, name) in grid.sites.iter().enumerate() {
                if !seen.insert(name) {
                    shared = Some(at);
                }
            }
            let grid = of_table(grid, factors, floor);
            if let Some(at) = shared {
                let amount = Amount::Grid { sign: -1.0, grid: alone(&grid, at) };
                spending.terms.push(Term { block: number, layer, amount });
                constant += entry.open;
            }
            spending.terms.push(Term { block: number, layer, amount: Amount::Grid { sign: 1.0, grid } });
            if of_projection {
                let amount = Amount::Product { coefficient: -entry.open, factors: [0; 2] };
                spending.terms.push(Term { block: number, layer: 0, amount });
            } else {
                constant -= entry.open;
            }
        }
        let branch = if block.branch.is_empty() { 0.0 } else { constant - closed };
        for (coefficient, layer) in [(closed, 0), (branch, layer)] {
            let amount = Amount::Product { coefficient, factors: [0; 2] };
            spending.terms.push(Term { block: number, layer, amount });
        }
        // A site without costs would be free.
        let known =
            |site: Site| site == Site::Layer || entry.grids.iter().any(|grid| grid.sites.contains(&site.to_string()));
        let unknown = |gates: &&GateSite| !known(gates.site) || (gates.site == Site::Layer && entry.closed.is_none());
        match block.gates.iter().find(unknown) {
            None => Ok(()),
            Some(gates) => Err(self.table.refused(format!(
                "it has no costs for the gates at '{}' of block '{}'; measure them: train measure --sites",
                gates.site, block.name
            ))),
        }
    }
}

/// The site of that name.
fn site(name: &str) -> Option<Site> {
    let plain = [Site::Input, Site::Output, Site::Projection].into_iter().find(|site| site.to_string() == name);
    plain.or_else(|| name.strip_prefix("between")?.parse().ok().map(Site::Between))
}

/// The channels at a site of a block, as it is.
fn channels(block: &BlockSpec, site: Site) -> Option<usize> {
    match (site, &block.shortcut) {
        (Site::Input, _) => block.branch.first().map(|conv| conv.inputs),
        (Site::Between(position), _) => block.branch.get(position.checked_sub(1)?).map(|conv| conv.outputs),
        (Site::Output, _) => block.branch.last().map(|conv| conv.outputs),
        (Site::Projection, Shortcut::Projection(conv)) => Some(conv.outputs),
        (Site::Projection | Site::Layer, _) => None,
    }
}

/// A grid of the table. Without any channel of a site a block costs `floor`, if that is known.
fn of_table(grid: &TableGrid, factors: [usize; 2], floor: Option<f64>) -> Grid {
    let single = vec![0];
    let rows = &grid.widths[0];
    let columns = grid.widths.get(1).unwrap_or(&single);
    let pairs = grid.widths.len() == 2;
    let levels = |widths: &[usize]| -> Vec<f64> {
        let none = (floor.is_some() || widths.len() < 2).then_some(0.0);
        none.into_iter().chain(widths.iter().map(|&width| width as f64)).collect()
    };
    // A single site has two columns alike, between which nothing changes.
    let levels = [levels(rows), if pairs { levels(columns) } else { vec![0.0, 1.0] }];
    let skipped = [levels[0].len() - rows.len(), if pairs { levels[1].len() - columns.len() } else { 0 }];
    let mut values = Vec::new();
    for row in 0..levels[0].len() {
        for column in 0..levels[1].len() {
            let none = row < skipped[0] || (pairs && column < skipped[1]);
            let column = if pairs { column.saturating_sub(skipped[1]) } else { 0 };
            let least = grid.costs[row.saturating_sub(skipped[0]) * columns.len() + column];
            values.push(if none { floor.unwrap_or(least).min(least) } else { least });
        }
    }
    Grid { factors, levels, values }
}

/// The costs of one site of a grid, the other one as it is in the full network.
fn alone(grid: &Grid, at: usize) -> Grid {
    let [rows, columns] = [0, 1].map(|at| grid.levels[at].len());
    let of = |level: usize| match at {
        0 => grid.values[level * columns + columns - 1],
        _ => grid.values[(rows - 1) * columns + level],
    };
    Grid {
        factors: [grid.factors[at], 0],
        levels: [grid.levels[at].clone(), vec![0.0, 1.0]],
        values: (0..grid.levels[at].len()).flat_map(|level| [of(level); 2]).collect(),
    }
}
