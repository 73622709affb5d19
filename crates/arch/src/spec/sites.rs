//! The sites of a block where gates sit, and which channels each gate decides about.

use gumbel_gates::GateKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The gates at one site of a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSite {
    /// The site.
    pub site: Site,
    /// Whether the gates look at the input.
    pub kind: GateKind,
    /// Logits (closed, open) a new gate starts at.
    pub initial: (f64, f64),
    /// The channels of the site in their order, cut into groups; empty for [`Site::Layer`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Groups>,
}

/// Neighboring groups of channels of one size. A gate opens and closes a whole group.
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

/// Where in a block gates can sit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// The kinds of sites filter gates can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SiteKind {
    /// The block's input channels, as the branch reads them.
    Input,
    /// The filters of the convolutions within the branch.
    Between,
    /// The filters of the branch's last convolution.
    Output,
    /// The filters of the projection shortcut.
    Projection,
}

impl SiteKind {
    /// Everywhere the paper puts filter gates.
    pub const ALL: [Self; 4] = [Self::Input, Self::Between, Self::Output, Self::Projection];
}

/// Channels per gate in one block, and how many groups of each site are never gated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSizes {
    /// At the branch's input.
    pub input: usize,
    /// Between its convolutions.
    pub between: usize,
    /// At its output and on a projection shortcut.
    pub output: usize,
    /// Groups that stay open, the first of each site.
    pub fixed_open: usize,
}

impl GroupSizes {
    /// The same everywhere.
    pub fn uniform(channels: usize, fixed_open: usize) -> Self {
        Self { input: channels, between: channels, output: channels, fixed_open }
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

/// Logits a new gate starts at: dependent layer gates about 87 % open, all others 98 % (both
/// papers).
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

    /// One gate for every `size` of `channels` channels, the first `fixed_open` groups left open.
    /// The last group may be smaller. `None` if no group is left to gate.
    pub fn filters(site: Site, kind: GateKind, channels: usize, size: usize, fixed_open: usize) -> Option<Self> {
        let size = size.clamp(1, channels.max(1));
        let whole = channels / size;
        let rest = channels % size;
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
        let mut gates = Vec::new();
        let mut next = 0;
        for run in &self.groups {
            for _ in 0..run.count {
                gates.extend(std::iter::repeat_n(run.gated.then_some(next), run.channels));
                next += usize::from(run.gated);
            }
        }
        gates
    }
}
