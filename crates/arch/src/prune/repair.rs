//! Solving convolutions of a smaller network again, so that its blocks give what those of the whole
//! network give.
//!
//! Cutting filters takes from every convolution that read them a part of what it adds up. What is
//! left is often able to make up for much of that: the weights that do it best are a linear
//! regression of what the convolution should give on what it still reads (He et al. 2017, "Channel
//! pruning for accelerating very deep neural networks", section 3.1), which needs no labels and no
//! gradients. Block by block, on the inputs that the repaired blocks before it leave.

use super::cut::channels_left;
use super::least_squares::LeastSquares;
use crate::error::{Error, Result};
use crate::network::{Network, Observer, Unobserved, copy, positions};
use crate::spec::{Activation, BlockSpec, Channels, ConvSpec, GateSite, Shortcut};
use std::collections::HashMap;
use tch::{Kind, Tensor};
use torch_ext::{BatchNorm, derive_seed, uniform};

/// Pixels of a feature map that are looked at, of each batch other ones.
const PIXELS: usize = 128;
/// How strongly solved weights are pulled to what they were, and less strongly where the first of
/// these is best: images that the weights were not solved for judge.
const RIDGES: [f64; 4] = [1e-2, 1e-1, 1.0, 10.0];
const WEAKER: f64 = 1e-3;
/// Of so many batches one is kept for that.
const HELD_OUT: usize = 4;
/// Numbers of unfolded features at once.
const MOST_UNFOLDED: i64 = 1 << 24;
/// Batch norms whose scale is a smaller share of the mean scale silence their channel.
const SILENT: f64 = 1e-3;

/// What repair did for a block.
#[derive(Debug, Clone, PartialEq)]
pub struct RepairedBlock {
    /// Its name in the spec.
    pub name: String,
    /// How far its features were from those of the whole network, given the repaired blocks before
    /// it: mean squared error as a share of their variance.
    pub before: f64,
    /// How far they are now.
    pub after: f64,
}

impl Network {
    /// Solves convolutions of this network again, in place, which was cut from `whole`, over
    /// batches of images [N, 3, H, W]: those that lost inputs, and the last one of each branch,
    /// which also makes up for what the blocks before it could not. Their batch norms take over the
    /// intercept, and the statistics of what they now see. `whole` runs with every gate open; this
    /// network must have none, and be cut from it with the gates that are `open`.
    ///
    /// # Errors
    /// If this network has gates, there is not one decision per gate of `whole`, there are no
    /// images, or libtorch refuses an operation.
    pub fn repair(&self, whole: &Network, open: &[bool], batches: &[Tensor]) -> Result<Vec<RepairedBlock>> {
        let gates = whole.spec().gate_count();
        if open.len() != gates {
            return Err(Error::DecisionCount { decisions: open.len(), gates });
        }
        if self.spec().gate_count() > 0 {
            return Err(Error::GatesLeft { gates: self.spec().gate_count() });
        }
        if batches.is_empty() {
            return Err(Error::NoImages);
        }
        tch::no_grad(|| {
            let stem =
                |network: &Network| batches.iter().map(|images| network.stem(images)).collect::<Result<Vec<_>>>();
            let mut features = Features { whole: stem(whole)?, pruned: stem(self)? };
            let mut repaired = Vec::new();
            let (mut own, mut left) = (0, open);
            for (number, block) in whole.spec().blocks.iter().enumerate() {
                let (of_block, rest) = left.split_at(block.gates.iter().map(GateSite::count).sum());
                left = rest;
                let kept = channels_left(block, of_block).behind;
                let whole = Side { network: whole, number, block };
                // A block that does nothing any more has left the spec.
                let Some(block) = self.spec().blocks.get(own).filter(|own| own.name == block.name) else {
                    features.whole = whole.outputs(&features.whole)?;
                    continue;
                };
                let pruned = Side { network: self, number: own, block };
                repaired.push(repair_block(&whole, &pruned, &kept, &mut features)?);
                own += 1;
            }
            Ok(repaired)
        })
    }
}

/// The features in front of a block, batch by batch.
struct Features {
    whole: Vec<Tensor>,
    pruned: Vec<Tensor>,
}

/// A block of one of the two networks.
struct Side<'a> {
    network: &'a Network,
    number: usize,
    block: &'a BlockSpec,
}

/// What a block read, made and gave.
struct Ran {
    input: Tensor,
    output: Tensor,
    /// What its convolutions read and made, by their names.
    convs: HashMap<String, (Tensor, Tensor)>,
}

/// Keeps what convolutions read and make.
#[derive(Default)]
struct Keeper(HashMap<String, (Tensor, Tensor)>);

impl Observer for Keeper {
    fn convolution(&mut self, name: &str, input: &Tensor, output: &Tensor) -> Result<()> {
        self.0.insert(name.to_owned(), (copy(input)?, copy(output)?));
        Ok(())
    }
}

/// Scale, shift and statistics of a batch norm, each `[C]`.
struct Norm {
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    deviation: Tensor,
}

impl Norm {
    /// [N, C, H, W] behind it.
    fn apply(&self, values: &Tensor) -> Result<Tensor> {
        let normalized = values.f_sub(&along(&self.mean)?)?.f_div(&along(&self.deviation)?)?;
        Ok(normalized.f_mul(&along(&self.scale)?)?.f_add(&along(&self.shift)?)?)
    }

    /// What [N, C, H, W] was in front of it, and `otherwise` for channels that it silences.
    fn undo(&self, values: &Tensor, otherwise: &Tensor) -> Result<Tensor> {
        let scale = self.scale.f_abs()?;
        let least = scale.f_mean(Kind::Float)?.f_mul_scalar(SILENT)?;
        let silent = along(&scale.f_le_tensor(&least)?)?;
        let before = values.f_sub(&along(&self.shift)?)?.f_div(&along(&self.scale)?)?;
        let before = before.f_mul(&along(&self.deviation)?)?.f_add(&along(&self.mean)?)?;
        Ok(otherwise.f_where_self(&silent, &before)?)
    }
}

/// `[C]` as [1, C, 1, 1].
fn along(channels: &Tensor) -> Result<Tensor> {
    Ok(channels.f_view([1, -1, 1, 1])?)
}

impl Side<'_> {
    fn run(&self, input: &Tensor) -> Result<Ran> {
        let mut keeper = Keeper::default();
        let output = self.network.block(self.number, input, &mut keeper)?;
        Ok(Ran { input: input.shallow_clone(), output, convs: keeper.0 })
    }

    /// The features behind the block, for those in front of it.
    fn outputs(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        inputs.iter().map(|input| self.network.block(self.number, input, &mut Unobserved)).collect()
    }

    /// A tensor of the block, such as `conv1.weight`.
    fn tensor(&self, name: &str) -> Result<Tensor> {
        let name = format!("{}.{name}", self.block.name);
        let found = self.network.tensors().get(&name);
        // The network was built from its spec, so each of its names is there.
        let found = found.ok_or_else(|| Error::Spec { faults: vec![format!("tensor '{name}' is missing")] })?;
        Ok(found.tensor.f_detach()?)
    }

    fn norm(&self, conv: &ConvSpec) -> Result<Norm> {
        let part = |part: &str| self.tensor(&format!("{}.{part}", conv.norm));
        let deviation = part("running_var")?.f_add_scalar(BatchNorm::EPSILON)?.f_sqrt()?;
        Ok(Norm { scale: part("weight")?, shift: part("bias")?, mean: part("running_mean")?, deviation })
    }

    /// What a convolution read and made.
    fn seen<'r>(&self, conv: &ConvSpec, ran: &'r Ran) -> Result<&'r (Tensor, Tensor)> {
        let name = conv.full_name(&self.block.name);
        // A pass shows every convolution of the block.
        ran.convs.get(&name).ok_or_else(|| Error::Spec { faults: vec![format!("{name} was not run")] })
    }

    /// What is added up in the block beside its branch: [N, C, H, W].
    fn around(&self, ran: &Ran) -> Result<Tensor> {
        let mut around = match &self.block.shortcut {
            Shortcut::Projection(conv) => {
                let values = self.norm(conv)?.apply(&self.seen(conv, ran)?.1)?;
                spread(&values, self.block.projects.as_ref(), self.block.outputs)?
            }
            _ => match self.network.shortcut(self.number, &ran.input)? {
                Some(shortcut) => shortcut,
                None => ran.output.f_zeros_like()?,
            },
        };
        if self.block.bias {
            around = around.f_add(&along(&self.tensor("bias")?)?)?;
        }
        Ok(around)
    }

    /// What the branch adds: [N, C, H, W].
    fn branch(&self, ran: &Ran) -> Result<Tensor> {
        match self.block.branch.last() {
            None => Ok(ran.output.f_zeros_like()?),
            Some(conv) => {
                let values = self.norm(conv)?.apply(&self.seen(conv, ran)?.1)?;
                spread(&values, self.block.writes.as_ref(), self.block.outputs)
            }
        }
    }
}

/// Values of some channels among zeros for the others.
fn spread(values: &Tensor, channels: Option<&Channels>, outputs: usize) -> Result<Tensor> {
    let Some(channels) = channels else { return Ok(values.shallow_clone()) };
    let at = positions(&channels.numbers().collect::<Vec<_>>(), values.device())?;
    let (batch, _, height, width) = values.size4()?;
    let zeros = Tensor::f_zeros([batch, outputs as i64, height, width], (values.kind(), values.device()))?;
    Ok(zeros.f_index_copy(1, &at, values)?)
}

/// Repairs one block, and moves the features behind it.
fn repair_block(whole: &Side, pruned: &Side, kept: &[Vec<usize>], features: &mut Features) -> Result<RepairedBlock> {
    let names = |side: &Side| side.block.branch.iter().map(|conv| conv.name.clone()).collect::<Vec<_>>();
    if !pruned.block.branch.is_empty() && names(whole) != names(pruned) {
        let fault = format!("block '{}' is not one that was cut from the whole network", pruned.block.name);
        return Err(Error::Spec { faults: vec![fault] });
    }
    let wanted = whole.outputs(&features.whole)?;
    let before = distance(&wanted, &pruned.outputs(&features.pruned)?)?;
    for (number, conv) in pruned.block.branch.iter().enumerate() {
        let is_last = number + 1 == pruned.block.branch.len();
        // Pruning takes away whole branches, and never a convolution from within one. Where nothing
        // was left at a site there is a channel of zeros.
        let starved = kept[number].len() != conv.outputs;
        if !starved && (is_last || conv.inputs < whole.block.branch[number].inputs) {
            solve(whole, pruned, number, &kept[number], features)?;
        }
    }
    if pruned.block.branch.is_empty() && pruned.block.bias {
        center_bias(whole, pruned, features)?;
    }
    let found = pruned.outputs(&features.pruned)?;
    let after = distance(&wanted, &found)?;
    *features = Features { whole: wanted, pruned: found };
    Ok(RepairedBlock { name: pruned.block.name.clone(), before, after })
}

/// How far features are from those that are wanted: mean squared error as a share of their
/// variance.
fn distance(wanted: &[Tensor], found: &[Tensor]) -> Result<f64> {
    let (mut error, mut variance) = (0.0, 0.0);
    for (wanted, found) in wanted.iter().zip(found) {
        let mean = wanted.f_mean_dim([0i64, 2, 3].as_slice(), true, Kind::Float)?;
        let squares = |of: Tensor| -> Result<f64> { Ok(of.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?) };
        error += squares(found.f_sub(wanted)?)?;
        variance += squares(wanted.f_sub(&mean)?)?;
    }
    Ok(error / variance.max(f64::MIN_POSITIVE))
}

/// A constant in a branch's place becomes the mean of what it stands for.
fn center_bias(whole: &Side, pruned: &Side, features: &Features) -> Result<()> {
    let mut bias = pruned.tensor("bias")?;
    let mut missing = bias.f_zeros_like()?;
    for (whole_input, input) in features.whole.iter().zip(&features.pruned) {
        let (wanted, found) = (whole.run(whole_input)?, pruned.run(input)?);
        let error = whole.around(&wanted)?.f_add(&whole.branch(&wanted)?)?.f_sub(&pruned.around(&found)?)?;
        missing = missing.f_add(&error.f_mean_dim([0i64, 2, 3].as_slice(), false, Kind::Float)?)?;
    }
    let _ = bias.f_add_(&missing.f_div_scalar(features.whole.len() as f64)?)?;
    Ok(())
}

/// Solves one convolution of a block's branch.
fn solve(whole: &Side, pruned: &Side, number: usize, kept: &[usize], features: &Features) -> Result<()> {
    let conv = &pruned.block.branch[number];
    let is_last = number + 1 == pruned.block.branch.len() && conv.activation == Activation::Identity;
    let weight = pruned.tensor(&format!("{}.weight", conv.name))?;
    let (groups, filters) = (conv.groups as i64, conv.outputs as i64);
    let values = (conv.inputs / conv.groups * conv.kernel * conv.kernel) as i64;
    let empty = || LeastSquares::new([groups, values, filters / groups], weight.device());
    let (mut solved_for, mut held_out) = (empty()?, empty()?);
    for (batch, (whole_input, input)) in features.whole.iter().zip(&features.pruned).enumerate() {
        let (wanted, found) = (whole.run(whole_input)?, pruned.run(input)?);
        let target = match is_last {
            true => last_target(whole, &wanted, pruned, &found)?,
            false => whole
                .seen(&whole.block.branch[number], &wanted)?
                .1
                .f_index_select(1, &positions(kept, weight.device())?)?,
        };
        let (read, made) = pruned.seen(conv, &found)?;
        let target = match is_last {
            true => pruned.norm(conv)?.undo(&target, made)?,
            false => target,
        };
        let is_last_of_few = features.whole.len() < HELD_OUT && batch > 0 && batch + 1 == features.whole.len();
        let holds = batch % HELD_OUT == HELD_OUT - 1 || is_last_of_few;
        let sums = if holds { &mut held_out } else { &mut solved_for };
        add_rows(sums, conv, read, &target, derive_seed(number as u64, batch as u64))?;
    }
    let start = weight.f_view([groups, filters / groups, values])?.f_transpose(1, 2)?.f_to_kind(Kind::Double)?;
    let all = solved_for.with(&held_out)?;
    // Of a single batch there is nothing to hold out.
    let judge = if features.whole.len() < 2 { &solved_for } else { &held_out };
    // Errors count as they are behind the batch norm.
    let norm = pruned.norm(conv)?;
    let counts = norm.scale.f_div(&norm.deviation)?.f_square()?.f_view([groups, -1])?.f_to_kind(Kind::Double)?;
    let error = |ridge: f64| -> Result<f64> {
        let solved = solved_for.solve(&start, ridge)?;
        solved.map_or(Ok(f64::INFINITY), |solved| judge.error(&solved, &counts))
    };
    let mut found = Vec::new();
    for ridge in RIDGES {
        found.push((error(ridge)?, ridge));
        // Stronger ones are ever nearer to what it was.
        if found.len() > 1 && found[found.len() - 1].0 > found[found.len() - 2].0 {
            break;
        }
    }
    if found.iter().all(|other| found[0].0 <= other.0) {
        found.push((error(WEAKER)?, WEAKER));
    }
    let least = found.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
    let solved = match least {
        Some((least, ridge)) if least < judge.error(&start, &counts)? => all.solve(&start, ridge)?,
        _ => None,
    };
    write(pruned, conv, &weight, &solved.unwrap_or(start), &all)
}

/// Puts the solved weights in place, and makes the batch norm behind them add the intercept and
/// know what it now sees.
fn write(pruned: &Side, conv: &ConvSpec, weight: &Tensor, solved: &Tensor, sums: &LeastSquares) -> Result<()> {
    let norm = pruned.norm(conv)?;
    let [mean, variance, intercept] = sums.outputs(solved)?;
    let [mean, variance, intercept] = [mean, variance, intercept].map(|values| values.to_kind(Kind::Float));
    // scale / deviation · (W·x + c − mean) + shift, in terms of the new mean and deviation.
    let slope = norm.scale.f_div(&norm.deviation)?;
    let shift = slope.f_mul(&intercept.f_add(&mean)?.f_sub(&norm.mean)?)?.f_add(&norm.shift)?;
    let scale = slope.f_mul(&variance.f_add_scalar(BatchNorm::EPSILON)?.f_sqrt()?)?;
    let put = |mut to: Tensor, values: &Tensor| -> Result<()> {
        let values = values.f_view(to.size().as_slice())?;
        to.f_copy_(&values)?;
        Ok(())
    };
    put(weight.shallow_clone(), &solved.f_transpose(1, 2)?.f_contiguous()?)?;
    for (part, values) in [("weight", &scale), ("bias", &shift), ("running_mean", &mean), ("running_var", &variance)] {
        put(pruned.tensor(&format!("{}.{part}", conv.norm))?, values)?;
    }
    Ok(())
}

/// What the last convolution of a branch should give behind its batch norm, so that the block gives
/// what the whole network's gives: [N, filters, H, W].
fn last_target(whole: &Side, wanted: &Ran, pruned: &Side, found: &Ran) -> Result<Tensor> {
    let sum = whole.around(wanted)?.f_add(&whole.branch(wanted)?)?;
    let missing = sum.f_sub(&pruned.around(found)?)?;
    match &pruned.block.writes {
        None => Ok(missing),
        Some(writes) => {
            let at = positions(&writes.numbers().collect::<Vec<_>>(), missing.device())?;
            Ok(missing.f_index_select(1, &at)?)
        }
    }
}

/// Adds what a convolution reads at some pixels of `read` [N, C, H, W], and what it should give
/// there, of `target` [N, filters, H', W'].
fn add_rows(sums: &mut LeastSquares, conv: &ConvSpec, read: &Tensor, target: &Tensor, seed: u64) -> Result<()> {
    let (batch, channels, ..) = read.size4()?;
    let (_, filters, height, width) = target.size4()?;
    let (groups, pixels) = (conv.groups as i64, height * width);
    let taken = pixels.min(PIXELS as i64);
    let order = uniform(&[pixels], seed)?.f_argsort(0, false)?;
    let picked = order.f_narrow(0, 0, taken)?.f_to_device(read.device())?;
    let [kernel, stride, padding] = [conv.kernel, conv.stride, conv.padding].map(|size| [size as i64; 2]);
    let values = channels * kernel[0] * kernel[0];
    let step = (MOST_UNFOLDED / (values * pixels)).clamp(1, batch);
    for first in (0..batch).step_by(step as usize) {
        let count = step.min(batch - first);
        let rows = |values: Tensor, each: i64| -> Result<Tensor> {
            let picked = values.f_index_select(2, &picked)?.f_view([count, groups, each, taken])?;
            Ok(picked.f_permute([1, 0, 3, 2])?.f_reshape([groups, count * taken, each])?)
        };
        let unfolded = read.f_narrow(0, first, count)?.f_im2col(kernel, [1, 1], padding, stride)?;
        let wanted = target.f_narrow(0, first, count)?.f_reshape([count, filters, pixels])?;
        sums.add(&rows(unfolded, values / groups)?, &rows(wanted, filters / groups)?)?;
    }
    Ok(())
}
