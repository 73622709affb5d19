//! A table of costs that were measured, block by block.

use super::macs::{Width, widths};
use super::spending::{Amount, Grid, Spending, Term};
use crate::error::{Error, Result};
use crate::spec::{BlockSpec, NetSpec, Shortcut, Site};
use gumbel_gates::GateKind;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
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
    /// The channels at each of its sites, as it was measured.
    pub channels: BTreeMap<String, usize>,
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
            if block.closed.is_some_and(|closed| closed > block.open) {
                faults.push(format!("{first}: it costs more without its branch than with it"));
            }
            faults.extend(block.faults().into_iter().map(|fault| format!("{first}, {fault}")));
        }
        let blocks = self.blocks.iter().map(|block| block.open * block.names.len() as f64).sum::<f64>();
        if !((self.outside + blocks).is_finite() && self.outside + blocks > 0.0) {
            faults.push("the whole network costs nothing".to_owned());
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

    /// What a network spends, one that pruning left too, as a function of what its gates leave
    /// open. What several sites of a block save together is taken from pairs of neighbors: open + Σ
    /// pairs − Σ sites that two pairs share, each as its difference to open. Below the least width
    /// that was measured of a site, its branch fades in proportion.
    ///
    /// # Errors
    /// If the table has no costs for a block or for a site of it.
    pub fn spending(&self, spec: &NetSpec) -> Result<Spending> {
        let mut spending = Spending {
            outside: self.outside,
            gates: 0.0,
            blocks: Vec::with_capacity(spec.blocks.len()),
            widths: widths(spec),
            least: Vec::with_capacity(spec.blocks.len()),
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
            spending.blocks.push(spending.terms[terms..].iter().map(|term| spending.of_term(term, &full)).sum());
            if block.gates_at(Site::Layer).is_some_and(|gates| gates.kind == GateKind::Dependent) {
                spending.gates += entry.gate.unwrap_or_default();
            }
        }
        Ok(spending)
    }

    /// The command that measures a network with gates where this block has them.
    fn how_to_measure(&self, block: &BlockSpec) -> String {
        let kinds = block.gates.iter().filter_map(|gates| match gates.site {
            Site::Layer => None,
            Site::Between(_) => Some("between".to_owned()),
            site => Some(site.to_string()),
        });
        let mut kinds: Vec<String> = kinds.collect();
        kinds.dedup();
        let sites = if kinds.is_empty() { "LIST".to_owned() } else { kinds.join(",") };
        format!("measure it: train measure --sites {sites}")
    }

    fn refused(&self, reason: String) -> Error {
        Error::CostTable { origin: self.origin.clone(), reason }
    }
}

impl TableBlock {
    /// What contradicts itself in its grids.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut seen: HashSet<&String> = HashSet::new();
        for grid in &self.grids {
            let sites = grid.sites.join(" and ");
            let ascending =
                |widths: &Vec<usize>| !widths.is_empty() && widths[0] > 0 && widths.is_sorted_by(|a, b| a < b);
            let count: usize = grid.widths.iter().map(Vec::len).product();
            let fits = [1, 2].contains(&grid.sites.len()) && grid.sites.len() == grid.widths.len();
            if !fits || !grid.widths.iter().all(ascending) || count != grid.costs.len() {
                faults.push(format!(
                    "{sites}: expected ascending widths for one or two sites, and one cost for each combination"
                ));
                continue;
            }
            for (site, widths) in grid.sites.iter().zip(&grid.widths) {
                if self.channels.get(site) != widths.last() {
                    faults.push(format!("{sites}: expected the channels of the block as the last width of '{site}'"));
                }
            }
            let open = grid.costs.last().copied().unwrap_or_default();
            if (open - self.open).abs() > 1e-6 * self.open + 1e-9 {
                faults.push(format!("{sites}: expected what the block costs open as the last cost"));
            }
            let shared = grid.sites.iter().filter(|site| seen.contains(site)).count();
            seen.extend(&grid.sites);
            if shared > 1 || grid.sites.first() == grid.sites.get(1) {
                faults.push(format!("{sites}: expected a chain of neighbors, each pair once"));
            }
        }
        faults
    }
}

/// The terms of one block: closed + layer · what is left of the branch · (open − closed + Σ grids,
/// each as its difference to open).
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
        self.refuse_unknown()?;
        let Self { block, entry, number, .. } = *self;
        let layer = self.gate(Site::Layer).unwrap_or(0);
        let closed = entry.closed.unwrap_or_default();
        // What is left of `open` behind the differences of all grids, in the branch and beside it.
        let (mut branch, mut beside) = (entry.open - closed, closed);
        let (mut seen, mut least) = (HashSet::new(), Vec::new());
        let mut grids = Vec::new();
        for grid in &entry.grids {
            let Some(factors) = self.factors(grid, spending) else { continue };
            let in_branch = grid.sites != [Site::Projection.to_string()];
            let shared = grid.sites.iter().position(|site| seen.contains(site));
            let table = of_table(grid, factors);
            if in_branch {
                for (at, site) in grid.sites.iter().enumerate() {
                    if seen.insert(site) {
                        least.push((factors[at], grid.widths[at][0] as f64));
                    }
                }
                branch -= entry.open;
            } else {
                beside -= entry.open;
            }
            if let Some(at) = shared {
                branch += entry.open;
                grids.push((in_branch, Amount::Grid { sign: -1.0, grid: alone(&table, at) }));
            }
            grids.push((in_branch, Amount::Grid { sign: 1.0, grid: table }));
        }
        if block.branch.is_empty() {
            branch = 0.0;
        }
        let constant = |coefficient: f64| Amount::Product { coefficient, factors: [0; 2] };
        for (in_branch, amount) in [(true, constant(branch)), (false, constant(beside))].into_iter().chain(grids) {
            let layer = if in_branch { layer } else { 0 };
            spending.terms.push(Term { block: number, layer, in_branch, amount });
        }
        spending.least.push(least);
        Ok(())
    }

    /// The position of the gates at a site in [`Spending::widths`].
    fn gate(&self, site: Site) -> Option<usize> {
        self.block.gates.iter().position(|gates| gates.site == site).map(|at| self.first + at)
    }

    /// The widths that a grid is over; none if they are what they were when it was measured, and
    /// always will be.
    fn factors(&self, grid: &TableGrid, spending: &mut Spending) -> Option<[usize; 2]> {
        let mut factors = [0; 2];
        let mut differs = false;
        for (at, name) in grid.sites.iter().enumerate() {
            let site = site(name)?;
            // A branch that is gone has none.
            let channels = channels(self.block, site)?;
            let gate = self.gate(site);
            differs |= gate.is_some() || grid.widths[at].last() != Some(&channels);
            factors[at] = gate.unwrap_or_else(|| {
                spending.widths.push(Width::constant(channels as u64));
                spending.widths.len() - 1
            });
        }
        differs.then_some(factors)
    }

    /// What is not in the table would be free.
    fn refuse_unknown(&self) -> Result<()> {
        let Self { table, block, entry, .. } = *self;
        let name = &block.name;
        let is_known = |site: &str| entry.grids.iter().any(|grid| grid.sites.iter().any(|known| known == site));
        for (place, &full) in &entry.channels {
            let Some(now) = site(place).and_then(|site| channels(block, site)) else { continue };
            if now > full {
                return Err(table.refused(format!("block '{name}' has {now} channels at {place}, the table {full}")));
            }
            if now < full && !is_known(place) {
                return Err(table.refused(format!(
                    "block '{name}' has {now} of {full} channels at {place}, and it has no costs by that; {}",
                    table.how_to_measure(block)
                )));
            }
        }
        for gates in &block.gates {
            let known = match gates.site {
                Site::Layer => entry.closed.is_some() && (gates.kind == GateKind::Independent || entry.gate.is_some()),
                place => is_known(&place.to_string()),
            };
            if !known {
                let place = gates.site;
                return Err(table.refused(format!(
                    "it has no costs for the gates at '{place}' of block '{name}'; {}",
                    table.how_to_measure(block)
                )));
            }
        }
        Ok(())
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

/// A grid of the table.
fn of_table(grid: &TableGrid, factors: [usize; 2]) -> Grid {
    let levels = |widths: &[usize]| -> Vec<f64> {
        // Of one width alone it is known that less does not cost more.
        let none = (widths.len() < 2).then_some(0.0);
        none.into_iter().chain(widths.iter().map(|&width| width as f64)).collect()
    };
    // A single site has two columns alike, between which nothing changes.
    let columns = grid.widths.get(1).map_or(vec![0.0, 1.0], |widths| levels(widths));
    let levels = [levels(&grid.widths[0]), columns];
    let known = grid.widths.get(1).map_or(1, Vec::len);
    let skipped = [levels[0].len() - grid.widths[0].len(), levels[1].len() - known];
    let values = (0..levels[0].len()).flat_map(|row| {
        let row = row.saturating_sub(skipped[0]) * known;
        (0..levels[1].len()).map(move |column| (row, column.saturating_sub(skipped[1])))
    });
    let values = values.map(|(row, column)| grid.costs[row + column]).collect();
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
