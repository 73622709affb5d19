//! A residual block: what is computed of it, and how it is summed.

use super::conv::Conv;
use super::gates::{Decided, SiteGates};
use super::pass::{Context, Execution};
use super::select::{copy, positions, select, select_rows};
use crate::error::Result;
use crate::spec::{BlockSpec, Channels, ConvSpec, OpenChannels, Shortcut, Site};
use gumbel_gates::{GateInput, Gates};
use tch::{Device, Tensor};
use torch_ext::{Init, Path, Pointwise, scale, scaled_sum};

/// A residual block with its gates: activation(shortcut(x) + branch(x)), the features at each site
/// multiplied by its gate values.
#[derive(Debug)]
pub(crate) struct Block {
    spec: BlockSpec,
    branch: Vec<Conv>,
    projection: Option<Conv>,
    /// `[outputs]`
    bias: Option<Tensor>,
    gates: Vec<SiteGates>,
}

/// Values on their way into a block's sum.
struct Addend {
    /// [n, channels, H, W]
    values: Tensor,
    /// The images they belong to; absent: all.
    rows: Option<Tensor>,
    /// The channels they belong to; absent: all.
    channels: Option<Channels>,
    /// What they have yet to be multiplied by, [N, channels] or [N, 1]; absent: nothing.
    gate_values: Option<Tensor>,
}

impl Block {
    pub fn build(path: &mut Path, spec: &BlockSpec, device: Device) -> Result<Self> {
        let mut path = path.sub(&spec.name);
        let mut build = |conv: &ConvSpec| Conv::build(&mut path, &spec.name, conv);
        let branch = spec.branch.iter().map(&mut build).collect::<Result<_>>()?;
        let projection = match &spec.shortcut {
            Shortcut::Projection(conv) => Some(build(conv)?),
            Shortcut::None | Shortcut::Identity | Shortcut::ZeroPadded { .. } => None,
        };
        let bias = match spec.bias {
            true => Some(path.parameter("bias", &[spec.outputs as i64], Init::Constant(0.0))?),
            false => None,
        };
        let mut gates = Vec::with_capacity(spec.gates.len());
        for site in &spec.gates {
            gates.push(SiteGates::build(&mut path, site, spec.inputs, device)?);
        }
        Ok(Self { spec: spec.clone(), branch, projection, bias, gates })
    }

    /// Its name, as in the spec.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The gates, in the order of the spec's sites.
    pub fn gates(&self) -> impl Iterator<Item = &Gates> {
        self.gates.iter().map(SiteGates::gates)
    }

    /// [N, C, H, W] to [N, C', H', W'], and the means [N, C'] of its channels where they come for
    /// free; `context` keeps what the gates decided. `pooled` [N, C] are the means of the input, if
    /// they are known. An input without gradients is overwritten.
    pub fn forward(
        &self,
        input: &Tensor,
        pooled: Option<Tensor>,
        context: &mut Context,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let gate_input = match pooled {
            Some(pooled) => GateInput::pooled_to(input, pooled),
            None => GateInput::new(input),
        };
        let decided = Decided::by(&self.gates, &gate_input, context)?;
        let mut addends = Vec::with_capacity(2);
        match context.pass.execution {
            Execution::Masked => {
                addends.extend(self.masked_projection(input, &decided, context)?);
                addends.extend(self.masked_branch(input, &decided, context)?);
            }
            Execution::Skipping => {
                addends.extend(self.skipping_projection(input, &decided, context)?);
                addends.extend(self.skipping_branch(input, &decided, context)?);
            }
        }
        if let Some(output_and_means) = self.gated_sum(input, &addends)? {
            return Ok(output_and_means);
        }
        let sum = self.sum(input, addends)?;
        let output = self.spec.activation.apply(match &self.bias {
            Some(bias) => sum.f_add(&bias.f_view([1, -1, 1, 1])?)?,
            None => sum,
        })?;
        Ok((output, None))
    }

    /// The block's output and its channels' means in one pass, where all that is added to the
    /// shortcut or a projection is a gated branch.
    fn gated_sum(&self, input: &Tensor, addends: &[Addend]) -> Result<Option<(Tensor, Option<Tensor>)>> {
        let is_whole = |addend: &Addend| addend.rows.is_none() && addend.channels.is_none();
        let Some(Addend { values, gate_values: Some(gate_values), .. }) = addends.last() else { return Ok(None) };
        if self.bias.is_some() || !addends.iter().all(is_whole) {
            return Ok(None);
        }
        let base = match (&self.spec.shortcut, addends) {
            (Shortcut::Projection(_), [projection, _]) => projection.values.shallow_clone(),
            (Shortcut::Identity | Shortcut::ZeroPadded { .. }, [_]) => match self.shortcut(input)? {
                Some(base) => base,
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some(scaled_sum(&base, values, gate_values, self.spec.activation.pointwise())?))
    }

    /// What goes around the branch, unless it is a projection.
    pub fn shortcut(&self, input: &Tensor) -> Result<Option<Tensor>> {
        Ok(match &self.spec.shortcut {
            Shortcut::None | Shortcut::Projection(_) => None,
            Shortcut::Identity => Some(input.shallow_clone()),
            Shortcut::ZeroPadded { stride, outputs } => {
                let stride = *stride as i64;
                let channels = (outputs - self.spec.inputs) as i64 / 2;
                let picked = input.f_slice(2, None, None, stride)?.f_slice(3, None, None, stride)?;
                Some(picked.f_constant_pad_nd([0, 0, 0, 0, channels, channels])?)
            }
        })
    }

    fn masked_branch(&self, input: &Tensor, decided: &Decided, context: &mut Context) -> Result<Option<Addend>> {
        if self.branch.is_empty() {
            return Ok(None);
        }
        let mut values = select(input, self.spec.reads.as_ref())?;
        if let Some(gate_values) = decided.mask(Site::Input)? {
            values = scale(&values, &gate_values, Pointwise::Identity)?;
        }
        // A layer gate waits for the sum, which multiplies along the way.
        let mut waiting = decided.mask(Site::Layer)?;
        for (position, conv) in (1..).zip(&self.branch) {
            let is_last = position == self.branch.len();
            let gate_values = decided.mask(if is_last { Site::Output } else { Site::Between(position) })?;
            // So does a gate over the output, where nothing lies between it and the sum.
            let waits = is_last && waiting.is_none() && conv.is_linear();
            values = match gate_values {
                Some(gate_values) if !waits => conv.gated(&values, &gate_values, context)?,
                gate_values => {
                    waiting = waiting.or(gate_values);
                    conv.forward(&values, context)?
                }
            };
        }
        Ok(Some(Addend { values, rows: None, channels: self.spec.writes.clone(), gate_values: waiting }))
    }

    fn masked_projection(&self, input: &Tensor, decided: &Decided, context: &mut Context) -> Result<Option<Addend>> {
        let Some(projection) = &self.projection else { return Ok(None) };
        let values = match decided.mask(Site::Projection)? {
            Some(gate_values) => projection.gated(input, &gate_values, context)?,
            None => projection.forward(input, context)?,
        };
        Ok(Some(Addend { values, rows: None, channels: self.spec.projects.clone(), gate_values: None }))
    }

    /// The branch for the images whose layer gate is open; with the same filters open for all of
    /// them only those are computed.
    fn skipping_branch(&self, input: &Tensor, decided: &Decided, context: &mut Context) -> Result<Option<Addend>> {
        let rows = match decided.gate_values(Site::Layer) {
            None => None,
            Some(gate_values) => {
                let open = gate_values.f_view([-1])?.f_nonzero()?.f_view([-1])?;
                match open.size1()? {
                    0 => return Ok(None),
                    count if count == gate_values.size2()?.0 => None,
                    _ => Some(open),
                }
            }
        };
        let (gathered, of_rows);
        let (input, decided) = match &rows {
            None => (input, decided),
            Some(rows) => {
                gathered = select_rows(input, rows)?;
                of_rows = decided.of_rows(rows)?;
                (&gathered, &of_rows)
            }
        };
        let addend = match decided.open_channels(&self.spec)? {
            Some(open) if open.behind.last().is_some_and(Vec::is_empty) => return Ok(None),
            Some(open) if !open.starves() => self.narrow_branch(input, &open, context)?,
            // A batch norm behind a convolution of nothing still has its bias.
            _ => self.masked_branch(input, decided, context)?,
        };
        Ok(addend.map(|addend| Addend { rows, ..addend }))
    }

    fn skipping_projection(&self, input: &Tensor, decided: &Decided, context: &mut Context) -> Result<Option<Addend>> {
        let Some(projection) = &self.projection else { return Ok(None) };
        match decided.open_channels(&self.spec)?.and_then(|open| open.projection) {
            Some(open) if open.is_empty() => Ok(None),
            Some(open) if open.len() < projection.outputs() => {
                let narrow = projection.narrow(None, Some(&positions(&open, input.device())?))?;
                let channels = Some(Channels::within(self.spec.projects.as_ref(), &open));
                let values = narrow.forward(input, context)?;
                Ok(Some(Addend { values, rows: None, channels, gate_values: None }))
            }
            _ => self.masked_projection(input, decided, context),
        }
    }

    /// The branch with only its open filters.
    fn narrow_branch(&self, input: &Tensor, open: &OpenChannels, context: &mut Context) -> Result<Option<Addend>> {
        let reads = Channels::within(self.spec.reads.as_ref(), &open.input);
        let everything = reads.count() == self.spec.inputs;
        let mut values = select(input, (!everything).then_some(&reads))?;
        let mut before = &open.input;
        for (conv, behind) in self.branch.iter().zip(&open.behind) {
            let some = |open: &Vec<usize>, all: usize| match open.len() < all {
                true => positions(open, input.device()).map(Some),
                false => Ok(None),
            };
            let (inputs, outputs) = (some(before, conv.inputs())?, some(behind, conv.outputs())?);
            values = conv.narrow(inputs.as_ref(), outputs.as_ref())?.forward(&values, context)?;
            before = behind;
        }
        let written = Channels::within(self.spec.writes.as_ref(), before);
        let channels = (written.count() < self.spec.outputs).then_some(written);
        Ok(Some(Addend { values, rows: None, channels, gate_values: None }))
    }

    /// The shortcut with everything that is added to it. Without gradients the input is
    /// overwritten.
    fn sum(&self, input: &Tensor, mut addends: Vec<Addend>) -> Result<Tensor> {
        let shortcut = self.shortcut(input)?;
        for addend in &mut addends {
            if let Some(gate_values) = addend.gate_values.take() {
                addend.values = scale(&addend.values, &gate_values, Pointwise::Identity)?;
            }
        }
        // Nobody reads a block's input after its sum, so without a gradient to keep it for it is
        // summed into.
        let may_change = !input.requires_grad() && !addends.iter().any(|addend| addend.values.requires_grad());
        let is_whole = |addend: &Addend| addend.rows.is_none() && addend.channels.is_none();
        let (mut sum, mut is_own) = match shortcut {
            Some(shortcut) => (shortcut, may_change || matches!(self.spec.shortcut, Shortcut::ZeroPadded { .. })),
            None => match addends.iter().position(is_whole) {
                Some(first) => (addends.swap_remove(first).values, true),
                None => (self.nothing(input)?, true),
            },
        };
        for Addend { values, rows, channels, .. } in addends {
            let Some(channels) = channels.or_else(|| rows.is_some().then(|| Channels::of(0..self.spec.outputs))) else {
                sum = if may_change { sum.f_add_(&values)? } else { sum.f_add(&values)? };
                is_own = true;
                continue;
            };
            if !is_own {
                sum = copy(&sum)?;
                is_own = true;
            }
            let mut from = 0;
            for &(first, count) in channels.runs() {
                let (first, count) = (first as i64, count as i64);
                let mut target = sum.f_narrow(1, first, count)?;
                let values = values.f_narrow(1, from, count)?;
                let _ = match &rows {
                    None => target.f_add_(&values)?,
                    Some(rows) => target.f_index_add_(0, rows, &values)?,
                };
                from += count;
            }
        }
        Ok(if is_own { sum } else { copy(&sum)? })
    }

    /// Zeros of the block's output shape.
    fn nothing(&self, input: &Tensor) -> Result<Tensor> {
        let (batch, _, mut height, mut width) = input.size4()?;
        let convs = match &self.spec.shortcut {
            Shortcut::Projection(conv) => std::slice::from_ref(conv),
            _ => self.spec.branch.as_slice(),
        };
        for conv in convs {
            let extent = |extent: i64| conv.output_extent(extent as usize).unwrap_or(0) as i64;
            (height, width) = (extent(height), extent(width));
        }
        let zeros =
            input.f_new_zeros([batch, height, width, self.spec.outputs as i64], (input.kind(), input.device()))?;
        Ok(zeros.f_permute([0, 3, 1, 2])?)
    }
}
