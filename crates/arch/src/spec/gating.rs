//! Where gates sit in a block.

use super::net::{BlockSpec, ConvSpec, NetSpec, Shortcut};
use gumbel_gates::GateKind;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The gates at one place of a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSite {
    /// The place.
    pub site: Site,
    /// Whether the gates look at the input.
    pub kind: GateKind,
    /// Logits (closed, open) a new gate starts at.
    pub initial: (f64, f64),
    /// The channels of the place in their order, cut into groups; empty for [`Site::Layer`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Groups>,
}

/// Neighbouring groups of channels of one size. A gate opens and closes a whole group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// How many groups.
    pub count: usize,
    /// Channels in each.
    pub channels: usize,
    /// Whether each has a gate; the others are always open.
    pub gated: bool,
}

/// A place in a block that gates can sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Site {
    /// One gate over the whole residual branch (ConvNet-AIG); state dict name `gate`.
    Layer,
    /// The block's input channels as the branch reads them; the shortcut reads all of them.
    Input,
    /// The filters of a convolution of the branch, by its position from 1, behind its activation.
    Between(usize),
    /// The filters of the branch's last convolution.
    Output,
    /// The filters of the projection shortcut.
    Projection,
}

/// The kinds of places filter gates can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// [`Site::Input`]
    Input,
    /// [`Site::Between`]
    Between,
    /// [`Site::Output`]
    Output,
    /// [`Site::Projection`]
    Projection,
}

impl Place {
    /// Everywhere the paper puts filter gates.
    pub const ALL: [Self; 4] = [Self::Input, Self::Between, Self::Output, Self::Projection];
}

/// Channels per gate in one block, and how many groups of each place are never gated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSizes {
    /// At the branch's input.
    pub input: usize,
    /// Between its convolutions.
    pub between: usize,
    /// At its output and on a projection shortcut.
    pub output: usize,
    /// Groups that stay open, the first of each place.
    pub fixed_open: usize,
}

impl GroupSizes {
    /// The same everywhere.
    pub fn uniform(channels: usize, fixed_open: usize) -> Self {
        Self { input: channels, between: channels, output: channels, fixed_open }
    }
}

/// The channels of a block that gates leave open, by their positions at each place.
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

impl Site {
    /// State dict name of the gates, below their block's.
    pub fn name(self) -> String {
        match self {
            Self::Layer => "gate".into(),
            Self::Input => "gate.input".into(),
            Self::Between(position) => format!("gate.between{position}"),
            Self::Output => "gate.output".into(),
            Self::Projection => "gate.projection".into(),
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Layer => f.write_str("layer"),
            Self::Input => f.write_str("input"),
            Self::Between(position) => write!(f, "between{position}"),
            Self::Output => f.write_str("output"),
            Self::Projection => f.write_str("projection"),
        }
    }
}

/// Logits a new gate starts at: dependent layer gates about 87 % open, all others 98 % (both papers).
fn initial_logits(site: Site, kind: GateKind) -> (f64, f64) {
    match (site, kind) {
        (Site::Layer, GateKind::Dependent) => (0.1, 2.0),
        _ => (0.1, 4.0),
    }
}

impl GateSite {
    /// One gate over a whole branch.
    pub fn layer(kind: GateKind) -> Self {
        Self { site: Site::Layer, kind, initial: initial_logits(Site::Layer, kind), groups: Vec::new() }
    }

    /// One gate for every `size` of `channels` channels, the first `fixed_open` groups left open. The last group may be smaller.
    /// `None` if no group is left to gate.
    pub fn filters(site: Site, kind: GateKind, channels: usize, size: usize, fixed_open: usize) -> Option<Self> {
        let size = size.clamp(1, channels.max(1));
        let (whole, rest) = (channels / size, channels % size);
        let open = fixed_open.min(whole);
        let runs = [
            Groups { count: open, channels: size, gated: false },
            Groups { count: whole - open, channels: size, gated: true },
            Groups { count: usize::from(rest > 0), channels: rest, gated: fixed_open <= whole },
        ];
        let groups: Vec<Groups> = runs.into_iter().filter(|run| run.count > 0).collect();
        let site = Self { site, kind, initial: initial_logits(site, kind), groups };
        (site.count() > 0).then_some(site)
    }

    /// How many gates sit there.
    pub fn count(&self) -> usize {
        match self.site {
            Site::Layer => 1,
            _ => self.groups.iter().filter(|run| run.gated).map(|run| run.count).sum(),
        }
    }

    /// The channels behind each gate; for a layer gate none.
    pub fn sizes(&self) -> Vec<usize> {
        let runs = self.groups.iter().filter(|run| run.gated);
        runs.flat_map(|run| std::iter::repeat_n(run.channels, run.count)).collect()
    }

    /// The channels that are always open.
    pub fn fixed_open(&self) -> usize {
        self.groups.iter().filter(|run| !run.gated).map(|run| run.count * run.channels).sum()
    }

    /// For every channel the gate it depends on, `None` where it is always open.
    pub fn gate_of_channel(&self) -> Vec<Option<usize>> {
        let (mut gates, mut next) = (Vec::new(), 0);
        for run in &self.groups {
            for _ in 0..run.count {
                gates.extend(std::iter::repeat_n(run.gated.then_some(next), run.channels));
                next += usize::from(run.gated);
            }
        }
        gates
    }
}

impl BlockSpec {
    /// The gates at a place.
    pub fn gates_at(&self, site: Site) -> Option<&GateSite> {
        self.gates.iter().find(|gates| gates.site == site)
    }

    /// The place whose gates decide about the filters of convolution number `position` (from 1). A depthwise convolution
    /// needs no filter before it whose result is closed behind it, so the gates behind it decide about both.
    pub(crate) fn site_behind(&self, position: usize) -> Site {
        match self.branch.get(position) {
            None => Site::Output,
            Some(next) if next.is_depthwise() => self.site_behind(position + 1),
            Some(_) => Site::Between(position),
        }
    }

    /// The channels that the gates leave open at every place; `open` gives the decisions at a site that has gates.
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

    /// The channels that arrive at a place, `None` if the block has no such place. In front of a depthwise convolution there is
    /// none: a channel closed there would still leave the bias of that convolution's batch norm.
    fn channels_at(&self, site: Site) -> Option<usize> {
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

    /// What is wrong with the block's gates.
    pub(crate) fn gate_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (i, gates) in self.gates.iter().enumerate() {
            let place = format!("block '{}' has gates at its {}", self.name, gates.site);
            if self.gates[..i].iter().any(|other| other.site == gates.site) {
                faults.push(format!("{place} twice"));
            }
            if !gates.initial.0.is_finite() || !gates.initial.1.is_finite() {
                faults.push(format!("{place} that start at {:?}", gates.initial));
            }
            if gates.site == Site::Layer {
                if self.shortcut == Shortcut::None {
                    faults.push(format!("block '{}' has a layer gate but no path around its branch", self.name));
                }
                continue;
            }
            let covered = gates.groups.iter().try_fold(0usize, |sum, run| {
                let channels = run.count.checked_mul(run.channels).filter(|&channels| channels > 0);
                channels.and_then(|channels| sum.checked_add(channels))
            });
            match self.channels_at(gates.site) {
                None => faults.push(format!("{place}, where none can be")),
                Some(channels) if covered != Some(channels) => {
                    faults.push(format!("{place} whose groups do not cover its {channels} channels"));
                }
                Some(_) if gates.count() == 0 => faults.push(format!("{place}, but no group is gated")),
                Some(_) => {}
            }
        }
        faults
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
    /// The same network with a layer gate on every block that `gated` accepts (by position) and that has a path around its
    /// branch. Gates already there are replaced.
    pub fn with_layer_gates(mut self, kind: GateKind, gated: impl Fn(usize) -> bool) -> Self {
        for (position, block) in self.blocks.iter_mut().enumerate() {
            let wanted = gated(position) && block.shortcut != Shortcut::None;
            block.gates = if wanted { vec![GateSite::layer(kind)] } else { Vec::new() };
        }
        self
    }

    /// The same network with filter gates at `places`, in groups of `sizes` (one per block, `None` for a block without gates;
    /// see [`crate::Preset::group_sizes`]). Gates already there are replaced. A block without a path around its branch keeps at
    /// least one group of every place open: nothing else would reach the classifier.
    pub fn with_filter_gates(mut self, kind: GateKind, sizes: &[Option<GroupSizes>], places: &[Place]) -> Self {
        for (position, block) in self.blocks.iter_mut().enumerate() {
            block.gates = match sizes.get(position) {
                Some(Some(sizes)) => filter_sites(block, kind, *sizes, places),
                _ => Vec::new(),
            };
        }
        self
    }

    /// All gate sites with the block they sit in, in the order of [`gumbel_gates::Openings::sites`].
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

fn filter_sites(block: &BlockSpec, kind: GateKind, sizes: GroupSizes, places: &[Place]) -> Vec<GateSite> {
    let least = usize::from(block.shortcut == Shortcut::None);
    let fixed_open = sizes.fixed_open.max(least);
    let between = (1..block.branch.len()).map(|position| (Place::Between, Site::Between(position), sizes.between));
    let sites = [(Place::Input, Site::Input, sizes.input)]
        .into_iter()
        .chain(between)
        .chain([(Place::Output, Site::Output, sizes.output), (Place::Projection, Site::Projection, sizes.output)]);
    sites
        .filter(|(place, ..)| places.contains(place))
        .filter_map(|(_, site, size)| GateSite::filters(site, kind, block.channels_at(site)?, size, fixed_open))
        .collect()
}
