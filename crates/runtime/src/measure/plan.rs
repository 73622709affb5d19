//! Which probes are timed, and what they say.

use super::alignment::{coarsest, widths_that_tell};
use super::probe::{Change, Probe};
use super::shapes::{Shape, shapes};
use crate::error::Result;
use arch::{NetSpec, Shortcut, Site, SiteKind};

/// What is measured of a network, by probes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The whole network.
    pub dense: Probe,
    /// What it has outside its blocks.
    pub outside: Probe,
    /// Widths are multiples of so many channels.
    pub align: usize,
    /// One for each shape of block.
    pub groups: Vec<Group>,
}

/// The probes of one shape of block, by their numbers in [`Group::probes`].
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The blocks of that shape.
    pub names: Vec<String>,
    /// The sites of the block, each with its channels.
    pub channels: Vec<(Site, usize)>,
    /// How often the block is there in each probe but the first.
    pub copies: usize,
    /// The probes; the first is what surrounds the blocks of the others.
    pub probes: Vec<Probe>,
    /// The block as it is.
    pub open: usize,
    /// Without its branch.
    pub closed: Option<usize>,
    /// With a layer gate that looks at the image.
    pub gate: Option<usize>,
    /// By the widths of sites.
    pub grids: Vec<GroupGrid>,
}

/// Probes for each combination of widths at one or two sites.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupGrid {
    /// The sites.
    pub sites: Vec<Site>,
    /// Channels at each.
    pub widths: Vec<Vec<usize>>,
    /// For each width of the first site one for those of the second.
    pub probes: Vec<usize>,
}

/// How finely a plan samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Sites of filters that are measured.
    pub sites: Vec<SiteKind>,
    /// Widths per site at most.
    pub levels: usize,
    /// Whether layer gates that look at the image are measured.
    pub gates: bool,
}

/// Shapes of blocks that are asked for the best multiples, those with the most MACs.
const ALIGNED: usize = 3;

/// Copies of a block in a probe, where they can follow each other.
const COPIES: usize = 3;

impl Plan {
    /// The probes of a network, at widths that are multiples of `align`.
    ///
    /// # Errors
    /// If the network does not fit images of that size.
    pub fn of(spec: &NetSpec, image_size: u32, align: usize, sampling: &Sampling) -> Result<Self> {
        let shapes = shapes(spec, image_size as usize)?;
        let groups = shapes.iter().map(|shape| Group::of(shape, align, sampling)).collect();
        Ok(Self::with(spec, image_size, align, groups))
    }

    /// Probes of the blocks with the most MACs whose times tell by which multiples widths should be
    /// cut: each group has one site.
    ///
    /// # Errors
    /// If the network does not fit images of that size.
    pub fn of_alignment(spec: &NetSpec, image_size: u32) -> Result<Self> {
        let mut shapes = shapes(spec, image_size as usize)?;
        shapes.sort_by_key(|shape| std::cmp::Reverse(shape.macs * shape.names.len() as u64));
        let between = Sampling { sites: vec![SiteKind::Between], levels: usize::MAX, gates: false };
        let sites = |shape: &Shape| sites_of(shape, &between).into_iter().flatten().max_by_key(|site| site.1);
        // A multiple that leaves the narrowest site but one width is none to cut it by.
        let narrowest =
            shapes.iter().flat_map(|shape| sites_of(shape, &between).into_iter().flatten().min_by_key(|site| site.1));
        let most = coarsest(narrowest.map(|(_, full)| full).min().unwrap_or(1));
        let told = shapes.iter().filter_map(|shape| {
            let (site, full) = sites(shape)?;
            let widths = widths_that_tell(full);
            let mut group = Group::new(shape);
            let probes = widths.iter().map(|&width| group.probe(Change::Widths(vec![(site, width)]))).collect();
            group.grids.push(GroupGrid { sites: vec![site], widths: vec![widths], probes });
            Some(group)
        });
        let groups = told.take(ALIGNED).collect();
        Ok(Self::with(spec, image_size, most, groups))
    }

    fn with(spec: &NetSpec, image_size: u32, align: usize, groups: Vec<Group>) -> Self {
        let dense = Probe { spec: spec.clone(), image_size, change: Change::None };
        Self { dense, outside: Probe::outside(spec, image_size), align, groups }
    }
}

impl Group {
    fn new(shape: &Shape) -> Self {
        let copies = if Probe::repeats(&shape.block) { COPIES } else { 1 };
        let probes = [0, copies].map(|copies| Probe::repeating(&shape.block, shape.extent, copies));
        let (names, probes) = (shape.names.clone(), probes.to_vec());
        let channels = shape.block.sites().into_iter().map(|(site, _, channels)| (site, channels)).collect();
        Self { names, channels, copies, probes, open: 1, closed: None, gate: None, grids: Vec::new() }
    }

    fn of(shape: &Shape, align: usize, sampling: &Sampling) -> Self {
        let mut group = Self::new(shape);
        if shape.block.shortcut != Shortcut::None {
            group.closed = Some(group.probe(Change::Closed));
            group.gate = sampling.gates.then(|| group.probe(Change::Gated));
        }
        for chain in sites_of(shape, sampling) {
            let levels: Vec<Vec<usize>> = chain.iter().map(|&(_, full)| levels(full, align, sampling.levels)).collect();
            if let [(site, full)] = chain[..] {
                group.grid(&[(site, full, &levels[0])]);
            }
            for (pair, levels) in chain.windows(2).zip(levels.windows(2)) {
                let sites: Vec<_> = pair.iter().zip(levels).map(|(&(site, full), own)| (site, full, own)).collect();
                group.grid(&sites);
            }
        }
        group
    }

    /// The number of the probe with that change.
    fn probe(&mut self, change: Change) -> usize {
        let probe = Probe { change, ..self.probes[self.open].clone() };
        if let Some(known) = self.probes.iter().position(|known| *known == probe) {
            return known;
        }
        self.probes.push(probe);
        self.probes.len() - 1
    }

    /// Adds the grid over one site or two, each with the channels it has and those to be timed.
    fn grid(&mut self, sites: &[(Site, usize, &Vec<usize>)]) {
        let mut combinations = vec![Vec::new()];
        for &(site, full, widths) in sites {
            let longer = |known: &Vec<(Site, usize, usize)>| {
                widths.iter().map(|&width| [known.clone(), vec![(site, full, width)]].concat()).collect::<Vec<_>>()
            };
            combinations = combinations.iter().flat_map(longer).collect();
        }
        let probes = combinations.into_iter().map(|combination| {
            // What a site has altogether is no change.
            let changed = combination.into_iter().filter(|(_, full, width)| width < full);
            let widths: Vec<(Site, usize)> = changed.map(|(site, _, width)| (site, width)).collect();
            self.probe(if widths.is_empty() { Change::None } else { Change::Widths(widths) })
        });
        let probes = probes.collect();
        let widths = sites.iter().map(|(.., widths)| (*widths).clone()).collect();
        self.grids.push(GroupGrid { sites: sites.iter().map(|(site, ..)| *site).collect(), widths, probes });
    }
}

/// The sites of a shape that are measured, each with its channels: chains of neighbors.
fn sites_of(shape: &Shape, sampling: &Sampling) -> Vec<Vec<(Site, usize)>> {
    let block = &shape.block;
    let wanted = |kind: SiteKind| sampling.sites.contains(&kind);
    let mut chains = vec![Vec::new()];
    for (site, kind, channels) in block.sites() {
        let projection = site == Site::Projection;
        if projection || !wanted(kind) {
            chains.push(Vec::new());
        }
        if wanted(kind) {
            chains.last_mut().into_iter().for_each(|chain: &mut Vec<_>| chain.push((site, channels)));
        }
    }
    chains.retain(|chain| !chain.is_empty());
    chains
}

/// Widths up to `full`: multiples of `align`, and all there is, evenly chosen where there are more
/// than `most`.
fn levels(full: usize, align: usize, most: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (1..).map(|step| step * align).take_while(|&width| width < full).collect();
    all.push(full);
    let most = most.max(2);
    if all.len() <= most {
        return all;
    }
    let chosen = (0..most).map(|at| all[at * (all.len() - 1) / (most - 1)]);
    chosen.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_multiples_and_all_there_is() {
        assert_eq!(levels(64, 16, 6), [16, 32, 48, 64]);
        assert_eq!(levels(60, 16, 6), [16, 32, 48, 60]);
        assert_eq!(levels(8, 16, 6), [8]);
        assert_eq!(levels(512, 16, 5), [16, 128, 256, 384, 512]);
    }
}
