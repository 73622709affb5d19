//! Small networks that repeat one block.

use crate::error::Result;
use arch::{Activation, BlockSpec, ConvSpec, Decision, GroupSizes, HeadSpec, NetSpec, Network, Shortcut};
use arch::{Site, SiteKind, StemSpec};
use gumbel_gates::GateKind;
use tch::Device;

/// A network that is timed.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// The network, without gates.
    pub spec: NetSpec,
    /// Side of its images in pixels.
    pub image_size: u32,
    /// What is changed of all of its blocks.
    pub change: Change,
}

/// How the blocks of a probe differ from those of the network.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Not at all.
    None,
    /// So many channels are left at these sites.
    Widths(Vec<(Site, usize)>),
    /// Their branches are not there.
    Closed,
    /// They have layer gates that look at the image, and are open.
    Gated,
}

/// Classes of a probe that repeats a block: as good as none.
const CLASSES: usize = 10;

impl Probe {
    /// Copies of a block, or none, between a convolution that makes features of that extent and a
    /// head.
    pub(super) fn repeating(block: &BlockSpec, extent: usize, copies: usize) -> Self {
        let stem = ConvSpec {
            name: "conv1".into(),
            norm: "bn1".into(),
            inputs: 3,
            outputs: block.inputs,
            kernel: 1,
            stride: 1,
            padding: 0,
            groups: 1,
            activation: Activation::Relu,
        };
        let inputs = if copies == 0 { block.inputs } else { block.outputs };
        let named = |copy: usize| BlockSpec { name: format!("layer1.{copy}"), ..block.clone() };
        let spec = NetSpec {
            name: "probe".into(),
            stem: StemSpec { conv: stem, pool: None },
            blocks: (0..copies).map(named).collect(),
            head: HeadSpec { name: "fc".into(), inputs, classes: CLASSES, dropout: 0.0 },
        };
        Self { spec, image_size: extent as u32, change: Change::None }
    }

    /// What a network has outside its blocks.
    pub(super) fn outside(spec: &NetSpec, image_size: u32) -> Self {
        let mut spec = NetSpec { blocks: Vec::new(), ..spec.clone() };
        spec.head.inputs = spec.stem.conv.outputs;
        Self { spec, image_size, change: Change::None }
    }

    /// The network, without gates but for a gated one.
    ///
    /// # Errors
    /// If the blocks do not allow the change.
    pub fn network(&self) -> Result<Network> {
        let spec = self.spec.clone();
        let gated = match &self.change {
            Change::None => spec,
            Change::Closed => {
                let without = |block: BlockSpec| BlockSpec { branch: Vec::new(), ..block };
                NetSpec { blocks: spec.blocks.into_iter().map(without).collect(), ..spec }
            }
            Change::Gated => spec.with_layer_gates(GateKind::Dependent, |_| true),
            Change::Widths(_) => {
                let sizes = vec![Some(GroupSizes::uniform(1, 0)); spec.blocks.len()];
                spec.with_filter_gates(GateKind::Independent, &sizes, &SiteKind::ALL)
            }
        };
        let network = Network::build(&gated, Device::Cpu, 0)?;
        if self.change == Change::Gated {
            // Whatever it sees, what the gate starts at decides.
            for entry in network.tensors().iter().filter(|entry| entry.name.ends_with(".gate.fc2.weight")) {
                let _ = tch::no_grad(|| entry.tensor.shallow_clone().f_zero_())?;
            }
            return Ok(network);
        }
        Ok(network.prune(&self.decisions(&gated))?)
    }

    fn decisions(&self, spec: &NetSpec) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for (_, gates) in spec.gate_sites() {
            let open = match &self.change {
                Change::Widths(widths) => {
                    let width = widths.iter().find(|(site, _)| *site == gates.site);
                    width.map_or(gates.count(), |(_, width)| width.saturating_sub(gates.fixed_open()))
                }
                Change::None | Change::Closed | Change::Gated => gates.count(),
            };
            let decide = |gate| if gate < open { Decision::Open } else { Decision::Closed };
            decisions.extend((0..gates.count()).map(decide));
        }
        decisions
    }

    /// Whether a block's output has the shape of its input, so that copies can follow each other.
    pub(super) fn repeats(block: &BlockSpec) -> bool {
        block.shortcut == Shortcut::Identity
    }
}
