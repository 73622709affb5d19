//! Taking decided gates away, with everything they closed.

use super::decision::Decision;
use super::pad::pad;
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::network::{Network, positions};
use crate::spec::{Activation, BlockSpec, Channels, ConvSpec, GateSite, Groups, OpenChannels, Shortcut, Site};
use std::collections::HashMap;
use tch::{Kind, Tensor};

impl Network {
    /// The network without its decided gates, one decision per gate in the order of
    /// [`gumbel_gates::GateValues::joined`]. What is closed is gone: filters with their batch
    /// norms, the channels that only they read, and whole branches; a block that then does nothing
    /// vanishes. It computes what this network computes with those gates decided so.
    ///
    /// Input channels that only copying could leave out are read with weights of zero where the
    /// copy would cost more than it saves.
    ///
    /// A site that is closed altogether in front of a batch norm leaves a constant, because the
    /// batch norm's bias stays: it becomes the block's `bias`, or, where a padded convolution makes
    /// it no constant or gates remain, one channel with weights of zero.
    ///
    /// # Errors
    /// If there is not one decision per gate, or nothing would be left to reach the classifier.
    pub fn prune(&self, decisions: &[Decision]) -> Result<Network> {
        self.prune_padded(decisions, 1)
    }

    /// The same, but each site that keeps something gets a multiple of `align` channels, or all:
    /// what is added are filters with weights of zero. It computes what the pruned network
    /// computes.
    ///
    /// # Errors
    /// As [`Self::prune`].
    pub fn prune_padded(&self, decisions: &[Decision], align: usize) -> Result<Network> {
        Ok(self.prune_all(decisions, align, Vec::new(), Closed::WhereItPays)?.0)
    }

    /// As [`Self::prune`], with tensors that go along with parameters: by their names and of their
    /// shapes, such as the buffers of an optimizer, each map for itself. Each is cut as its
    /// parameter is; a parameter that pruning makes, such as a block's bias, has none. For a
    /// network that learns on: closed input channels are left out even where copying the others
    /// costs more, since weights of zero would not stay so.
    ///
    /// # Errors
    /// As [`Self::prune`].
    pub fn prune_along(
        &self,
        decisions: &[Decision],
        along: Vec<HashMap<String, Tensor>>,
    ) -> Result<(Network, Vec<HashMap<String, Tensor>>)> {
        self.prune_all(decisions, 1, along, Closed::Always)
    }

    fn prune_all(
        &self,
        decisions: &[Decision],
        align: usize,
        along: Vec<HashMap<String, Tensor>>,
        closed: Closed,
    ) -> Result<(Network, Vec<HashMap<String, Tensor>>)> {
        let gates = self.spec().gate_count();
        if decisions.len() != gates {
            return Err(Error::DecisionCount { decisions: decisions.len(), gates });
        }
        if gates > 0 && decisions.iter().all(|decision| *decision == Decision::Closed) {
            return Err(Error::AllClosed { network: self.spec().name.clone() });
        }
        let tensors = self.tensors().iter().map(|entry| (entry.name.clone(), entry.tensor.detach())).collect();
        let mut tensors = Tensors { by_name: tensors, along, device: self.device() };
        let mut spec = self.spec().clone();
        let mut left = decisions;
        let mut before = spec.stem.conv.activation;
        let mut blocks = Vec::with_capacity(spec.blocks.len());
        for block in std::mem::take(&mut spec.blocks) {
            let count = block.gates.iter().map(GateSite::count).sum();
            let (own, rest) = left.split_at(count);
            left = rest;
            let activation = block.activation;
            let own = pad(&block, own, align, &mut tensors)?;
            let pruned = Pruning::of(block, &own, closed).apply(&mut tensors)?;
            if does_nothing(&pruned, before) {
                continue;
            }
            before = activation;
            blocks.push(pruned);
        }
        spec.blocks = blocks;
        tensors.into_network(&spec)
    }
}

/// Whether a block hands on what it reads, which came out of `before`.
fn does_nothing(block: &BlockSpec, before: Activation) -> bool {
    let unchanged = block.activation == Activation::Identity || block.activation == before;
    block.branch.is_empty() && !block.bias && block.shortcut == Shortcut::Identity && unchanged
}

/// Whether a convolution that reads `kept` of its input channels and has `filters` filters is
/// faster if those channels are copied out first. Copying one number took as long as some 50
/// multiply-accumulates where it was measured (docs/results.md).
fn selecting_pays(conv: &ConvSpec, kept: usize, filters: usize) -> bool {
    const MACS_PER_COPY: usize = 50;
    let saved = (conv.inputs - kept) * filters * conv.kernel * conv.kernel / (conv.stride * conv.stride);
    saved > MACS_PER_COPY * kept
}

/// The channels of a block that are left where these of its gates are open, one for each gate.
pub(super) fn channels_left(block: &BlockSpec, open: &[bool]) -> OpenChannels {
    let mut first = 0;
    let mut by_site = Vec::with_capacity(block.gates.len());
    for gates in &block.gates {
        by_site.push((gates.site, &open[first..first + gates.count()]));
        first += gates.count();
    }
    block.open_channels(|site| by_site.iter().find(|(found, _)| *found == site).map(|(_, open)| *open))
}

/// Which closed input channels of a branch are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closed {
    /// Those that save more than copying the others costs.
    WhereItPays,
    /// All.
    Always,
}

/// What becomes of a block.
struct Pruning {
    closed: Closed,
    block: BlockSpec,
    /// Per site one decision per gate.
    decisions: Vec<(Site, Vec<Decision>)>,
    /// What is not closed.
    kept: OpenChannels,
}

impl Pruning {
    fn of(block: BlockSpec, decisions: &[Decision], closed: Closed) -> Self {
        let mut left = decisions;
        let mut by_site = Vec::with_capacity(block.gates.len());
        for gates in &block.gates {
            let (own, rest) = left.split_at(gates.count());
            by_site.push((gates.site, own.to_vec()));
            left = rest;
        }
        let open: Vec<bool> = decisions.iter().map(|decision| *decision != Decision::Closed).collect();
        let kept = channels_left(&block, &open);
        Self { closed, block, decisions: by_site, kept }
    }

    fn decisions_at(&self, site: Site) -> &[Decision] {
        self.decisions.iter().find(|(found, _)| *found == site).map_or(&[], |(_, decisions)| decisions)
    }

    fn is_undecided(&self, site: Site) -> bool {
        self.decisions_at(site).contains(&Decision::Undecided)
    }

    /// The pruned block; its tensors become those of the pruned block.
    fn apply(mut self, tensors: &mut Tensors) -> Result<BlockSpec> {
        self.projection(tensors)?;
        let closed = self.decisions_at(Site::Layer) == [Decision::Closed];
        if self.block.branch.is_empty() {
            return Ok(self.block);
        }
        if closed || self.kept.behind.last().is_some_and(Vec::is_empty) {
            return self.without_branch(None, tensors);
        }
        if let Some(constant) = self.constant(tensors)? {
            return self.without_branch(Some(constant), tensors);
        }
        self.narrow(tensors)
    }

    /// Prunes the shortcut's convolution. If all of its filters are closed one stays, with weights
    /// of zero.
    fn projection(&mut self, tensors: &mut Tensors) -> Result<()> {
        let Some(mut kept) = self.kept.projection.take() else { return Ok(()) };
        let Shortcut::Projection(conv) = &mut self.block.shortcut else { return Ok(()) };
        let nothing = kept.is_empty();
        if nothing {
            kept.push(0);
        }
        if kept.len() < conv.outputs {
            tensors.keep_filters(&self.block.name, conv, &kept)?;
            conv.outputs = kept.len();
            self.block.projects = Some(Channels::within(self.block.projects.as_ref(), &kept));
        }
        if nothing {
            tensors.zero(&format!("{}.{}.weight", self.block.name, conv.name))?;
            tensors.zero(&format!("{}.{}.weight", self.block.name, conv.norm))?;
            tensors.zero(&format!("{}.{}.bias", self.block.name, conv.norm))?;
        }
        self.update_gates(Site::Projection, kept.len(), tensors)
    }

    /// What the branch comes to if one of its sites is closed altogether and the rest of it is
    /// pointwise: [1, C, 1, 1] over the branch's last filters.
    fn constant(&self, tensors: &Tensors) -> Result<Option<Tensor>> {
        let sites: Vec<_> = std::iter::once(&self.kept.input).chain(&self.kept.behind).collect();
        let Some(closed) = sites.iter().rposition(|kept| kept.is_empty()) else { return Ok(None) };
        let (first, rest) = self.block.branch[closed..].split_at(1);
        let pointwise = rest.iter().all(|conv| conv.kernel == 1 && conv.padding == 0 && conv.groups == 1);
        let undecided = self.is_undecided(Site::Layer)
            || (closed + 1..=self.block.branch.len())
                .any(|position| self.is_undecided(self.block.site_behind(position)));
        if !pointwise || undecided {
            return Ok(None);
        }
        let masked = |features: Tensor, position: usize| -> Result<Tensor> {
            let kept = positions(&self.kept.behind[position], tensors.device)?;
            let mask = features.f_zeros_like()?.f_index_fill(1, &kept, 1.0)?;
            Ok(features.f_mul(&mask)?)
        };
        let block = &self.block.name;
        let mut features = masked(tensors.behind_nothing(block, &first[0])?, closed)?;
        for (position, conv) in (closed + 1..).zip(rest) {
            let norm = |part: &str| tensors.get(&format!("{block}.{}.{part}", conv.norm));
            let weight = tensors.get(&format!("{block}.{}.weight", conv.name))?;
            let output = features.f_conv2d(weight, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1)?.f_batch_norm(
                Some(norm("weight")?),
                Some(norm("bias")?),
                Some(norm("running_mean")?),
                Some(norm("running_var")?),
                false,
                0.0,
                torch_ext::BatchNorm::EPSILON,
                true,
            )?;
            features = masked(conv.activation.apply(output)?, position)?;
        }
        Ok(Some(features))
    }

    /// The block with what a dead branch leaves: nothing, or a constant.
    fn without_branch(mut self, constant: Option<Tensor>, tensors: &mut Tensors) -> Result<BlockSpec> {
        if self.block.shortcut == Shortcut::None {
            return Err(Error::NothingLeft { block: self.block.name });
        }
        let outputs = self.block.outputs as i64;
        if let Some(constant) = constant {
            let name = format!("{}.bias", self.block.name);
            let written = match &self.block.writes {
                Some(written) => written.numbers().collect(),
                None => (0..self.block.outputs).collect::<Vec<_>>(),
            };
            let before = match self.block.bias {
                true => tensors.get(&name)?.shallow_clone(),
                false => Tensor::f_zeros([outputs], (Kind::Float, tensors.device))?,
            };
            let bias = before.f_index_add(0, &positions(&written, tensors.device)?, &constant.f_view([-1])?)?;
            tensors.by_name.insert(name, bias);
            self.block.bias = true;
        }
        self.block.branch.clear();
        (self.block.reads, self.block.writes) = (None, None);
        // Gates of the branch have nothing left to decide about.
        self.block.gates.retain(|gates| gates.site == Site::Projection);
        Ok(self.block)
    }

    /// The block with narrower convolutions.
    fn narrow(mut self, tensors: &mut Tensors) -> Result<BlockSpec> {
        let name = self.block.name.clone();
        let mut starved = Vec::new();
        for (position, kept) in std::iter::once(&mut self.kept.input).chain(&mut self.kept.behind).enumerate() {
            if kept.is_empty() {
                // One channel stays, read with weights of zero.
                kept.push(0);
                starved.push(position);
            }
        }
        let mut before = self.kept.input.clone();
        let first = &self.block.branch[0];
        if before.len() < first.inputs {
            let always = self.closed == Closed::Always || first.is_depthwise();
            if always || selecting_pays(first, before.len(), self.kept.behind[0].len()) {
                self.block.reads = Some(Channels::within(self.block.reads.as_ref(), &before));
            } else {
                // Everything is read, what is closed with weights of zero.
                tensors.zero_inputs(&format!("{name}.{}.weight", first.name), &before)?;
                before = (0..first.inputs).collect();
                self.kept.input.clone_from(&before);
            }
        }
        for (position, (conv, kept)) in self.block.branch.iter_mut().zip(&self.kept.behind).enumerate() {
            let weight = format!("{name}.{}.weight", conv.name);
            let depthwise = conv.is_depthwise();
            if kept.len() < conv.outputs {
                tensors.keep_filters(&name, conv, kept)?;
                conv.outputs = kept.len();
            }
            if depthwise {
                (conv.inputs, conv.groups) = (kept.len(), kept.len());
            } else if before.len() < conv.inputs {
                tensors.keep(&weight, 1, &before)?;
                conv.inputs = before.len();
            }
            if starved.contains(&position) {
                tensors.zero(&weight)?;
            }
            before.clone_from(kept);
        }
        if before.len() < self.block.writes.as_ref().map_or(self.block.outputs, Channels::count) {
            self.block.writes = Some(Channels::within(self.block.writes.as_ref(), &before));
        }
        let sites: Vec<Site> = self.block.gates.iter().map(|gates| gates.site).collect();
        for site in sites {
            let position = match site {
                Site::Layer => {
                    self.update_gates(site, 0, tensors)?;
                    continue;
                }
                Site::Input => 0,
                Site::Between(position) => position,
                Site::Output => self.kept.behind.len(),
                Site::Projection => continue,
            };
            let channels = if position == 0 { self.kept.input.len() } else { self.kept.behind[position - 1].len() };
            self.update_gates(site, channels, tensors)?;
        }
        Ok(self.block)
    }

    /// Leaves the undecided gates of a site that now has `channels` channels.
    fn update_gates(&mut self, site: Site, channels: usize, tensors: &mut Tensors) -> Result<()> {
        let decisions = self.decisions_at(site).to_vec();
        let undecided: Vec<usize> =
            (0..).zip(&decisions).filter(|(_, d)| **d == Decision::Undecided).map(|(i, _)| i).collect();
        let Some(at) = self.block.gates.iter().position(|gates| gates.site == site) else { return Ok(()) };
        if undecided.is_empty() {
            self.block.gates.remove(at);
            return Ok(());
        }
        let gates = &mut self.block.gates[at];
        if site != Site::Layer {
            // Where all channels stayed, those of closed gates have weights of zero.
            let everything = channels == gates.groups.iter().map(|run| run.count * run.channels).sum::<usize>();
            let mut next = 0;
            let mut groups: Vec<Groups> = Vec::new();
            for run in &gates.groups {
                for _ in 0..run.count {
                    let decision = if run.gated { decisions[next] } else { Decision::Open };
                    next += usize::from(run.gated);
                    let gated = match decision {
                        Decision::Closed if !everything => continue,
                        Decision::Open | Decision::Closed => false,
                        Decision::Undecided => true,
                    };
                    match groups.last_mut() {
                        Some(last) if (last.channels, last.gated) == (run.channels, gated) => last.count += 1,
                        _ => groups.push(Groups { count: 1, channels: run.channels, gated }),
                    }
                }
            }
            debug_assert_eq!(groups.iter().map(|run| run.count * run.channels).sum::<usize>(), channels);
            gates.groups = groups;
        }
        if undecided.len() < decisions.len() {
            let prefix = format!("{}.{}", self.block.name, site.name());
            match gates.kind {
                gumbel_gates::GateKind::Independent => tensors.keep(&format!("{prefix}.logits"), 0, &undecided)?,
                gumbel_gates::GateKind::Dependent => {
                    let rows: Vec<usize> = undecided.iter().flat_map(|&gate| [2 * gate, 2 * gate + 1]).collect();
                    tensors.keep(&format!("{prefix}.fc2.weight"), 0, &rows)?;
                    tensors.keep(&format!("{prefix}.fc2.bias"), 0, &rows)?;
                }
            }
        }
        Ok(())
    }
}
