//! Gates in a network: where a block has room for them, putting them there, and what they leave
//! open.

use super::net::{BlockSpec, ConvSpec, NetSpec, Shortcut};
use super::sites::{GateSite, GroupSizes, Site, SiteKind};
use gumbel_gates::GateKind;

/// The channels of a block that gates leave open, by their positions at each site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenChannels {
    /// As the branch reads them.
    pub input: Vec<usize>,
    /// Behind each convolution of the branch.
    pub behind: Vec<Vec<usize>>,
    /// Of a projection shortcut.
    pub projection: Option<Vec<usize>>,
}

impl OpenChannels {
    /// Whether a convolution of the branch has nothing to read.
    pub fn starves(&self) -> bool {
        let before_the_last = self.behind.len().saturating_sub(1);
        self.input.is_empty() || self.behind[..before_the_last].iter().any(Vec::is_empty)
    }
}

impl BlockSpec {
    /// The gates at a site.
    pub fn gates_at(&self, site: Site) -> Option<&GateSite> {
        self.gates.iter().find(|gates| gates.site == site)
    }

    /// The site whose gates decide about the filters of convolution number `position` (from 1). A
    /// depthwise convolution needs no filter before it whose result is closed behind it, so the
    /// gates behind it decide about both.
    pub(crate) fn site_behind(&self, position: usize) -> Site {
        match self.branch.get(position) {
            None => Site::Output,
            Some(next) if next.is_depthwise() => self.site_behind(position + 1),
            Some(_) => Site::Between(position),
        }
    }

    /// The channels that the gates leave open at every site; `open` gives the decisions at a site
    /// that has gates.
    pub(crate) fn open_channels<'a>(&self, open: impl Fn(Site) -> Option<&'a [bool]>) -> OpenChannels {
        let at = |site: Site, channels: usize| -> Vec<usize> {
            match self.gates_at(site).zip(open(site)) {
                None => (0..channels).collect(),
                Some((gates, open)) => {
                    let gates = gates.gate_of_channel();
                    let is_open =
                        |&channel: &usize| gates.get(channel).copied().flatten().is_none_or(|gate| open[gate]);
                    (0..channels).filter(is_open).collect()
                }
            }
        };
        OpenChannels {
            input: match self.branch.first() {
                None => Vec::new(),
                // It needs no channel whose result is closed behind it.
                Some(first) if first.is_depthwise() => at(self.site_behind(1), first.outputs),
                Some(first) => at(Site::Input, first.inputs),
            },
            behind: (1..)
                .zip(&self.branch)
                .map(|(position, conv)| at(self.site_behind(position), conv.outputs))
                .collect(),
            projection: match &self.shortcut {
                Shortcut::Projection(conv) => Some(at(Site::Projection, conv.outputs)),
                Shortcut::None | Shortcut::Identity | Shortcut::ZeroPadded { .. } => None,
            },
        }
    }

    /// The sites that filter gates can sit at, each with the channels that arrive there, in the
    /// order of the branch and the projection last.
    pub fn sites(&self) -> Vec<(Site, SiteKind, usize)> {
        let between = (1..self.branch.len()).map(|position| (Site::Between(position), SiteKind::Between));
        let sites = [(Site::Input, SiteKind::Input)].into_iter().chain(between);
        let sites = sites.chain([(Site::Output, SiteKind::Output), (Site::Projection, SiteKind::Projection)]);
        sites.filter_map(|(site, kind)| Some((site, kind, self.channels_at(site)?))).collect()
    }

    /// The channels that arrive at a site, `None` if the block has no such site. In front of a
    /// depthwise convolution there is none: a channel closed there would still leave the bias of
    /// that convolution's batch norm.
    pub(super) fn channels_at(&self, site: Site) -> Option<usize> {
        let behind = |position: usize| -> Option<usize> {
            let conv = self.branch.get(position.checked_sub(1)?)?;
            let grouped = conv.is_grouped() || self.branch.get(position).is_some_and(ConvSpec::is_grouped);
            (self.site_behind(position) == site && !grouped).then_some(conv.outputs)
        };
        match (site, &self.shortcut) {
            (Site::Layer, _) => None,
            (Site::Input, _) => {
                self.branch.first().filter(|conv| !conv.is_depthwise() && !conv.is_grouped()).map(|conv| conv.inputs)
            }
            (Site::Between(position), _) => behind(position),
            (Site::Output, _) => behind(self.branch.len()),
            (Site::Projection, Shortcut::Projection(conv)) => (!conv.is_grouped()).then_some(conv.outputs),
            (Site::Projection, _) => None,
        }
    }
}

impl ConvSpec {
    /// Whether every channel is convolved by itself.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.inputs && self.groups == self.outputs
    }

    /// Whether channels are convolved in groups of several.
    fn is_grouped(&self) -> bool {
        self.groups > 1 && !self.is_depthwise()
    }
}

impl NetSpec {
    /// The same network with a layer gate on every block that `gated` accepts (by position) and
    /// that has a path around its branch. Gates already there are replaced.
    pub fn with_layer_gates(mut self, kind: GateKind, gated: impl Fn(usize) -> bool) -> Self {
        for (position, block) in self.blocks.iter_mut().enumerate() {
            let wanted = gated(position) && block.shortcut != Shortcut::None;
            block.gates = if wanted { vec![GateSite::layer(kind)] } else { Vec::new() };
        }
        self
    }

    /// The same network with filter gates at `kinds`, in groups of `sizes` (one per block, `None`
    /// for a block without gates; see [`crate::Preset::group_sizes`]). Gates already there are
    /// replaced. A block without a path around its branch keeps at least one group of every site
    /// open: nothing else would reach the classifier.
    pub fn with_filter_gates(mut self, kind: GateKind, sizes: &[Option<GroupSizes>], kinds: &[SiteKind]) -> Self {
        for (position, block) in self.blocks.iter_mut().enumerate() {
            block.gates = match sizes.get(position) {
                Some(Some(sizes)) => filter_sites(block, kind, *sizes, kinds),
                _ => Vec::new(),
            };
        }
        self
    }

    /// All gate sites with the block they sit in, in the order of
    /// [`gumbel_gates::GateValues::sites`].
    pub fn gate_sites(&self) -> impl Iterator<Item = (&BlockSpec, &GateSite)> {
        self.blocks.iter().flat_map(|block| block.gates.iter().map(move |site| (block, site)))
    }

    /// Number of gates at all sites.
    pub fn gate_count(&self) -> usize {
        self.gate_sites().map(|(_, gates)| gates.count()).sum()
    }

    /// Whether any gate looks at the input: the decisions are then made for each image.
    pub fn has_dependent_gates(&self) -> bool {
        self.gate_sites().any(|(_, gates)| gates.kind == GateKind::Dependent)
    }
}

fn filter_sites(block: &BlockSpec, kind: GateKind, sizes: GroupSizes, kinds: &[SiteKind]) -> Vec<GateSite> {
    let least = usize::from(block.shortcut == Shortcut::None);
    let fixed_open = sizes.fixed_open.max(least);
    let size = |kind: SiteKind| match kind {
        SiteKind::Input => sizes.input,
        SiteKind::Between => sizes.between,
        SiteKind::Output | SiteKind::Projection => sizes.output,
    };
    let sites = block.sites().into_iter().filter(|(_, kind, _)| kinds.contains(kind));
    sites
        .filter_map(|(site, place, channels)| GateSite::filters(site, kind, channels, size(place), fixed_open))
        .collect()
}
