//! What changes over time, as pure functions of the step: nothing about a schedule needs saving.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The learning rate over time, relative to `optimizer.learning_rate`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LearningRate {
    /// The shape of the learning rate over time.
    pub shape: Shape,
    /// Linear rise from nearly 0 over this many epochs at the start.
    #[schemars(range(min = 0.0))]
    pub warmup_epochs: f64,
    /// `step`: epochs between two drops, counted from the start of the run.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub step_epochs: f64,
    /// `step`: what a drop multiplies by.
    #[schemars(range(max = 1.0), extend("exclusiveMinimum" = 0.0))]
    pub step_factor: f64,
    /// `polynomial`: the exponent; 1 is a straight line.
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub power: f64,
}

/// The shape of a learning rate schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Drops by `step_factor` every `step_epochs`.
    Step,
    /// Half a cosine from 1 at the end of the warm-up to 0 at the end of the run.
    Cosine,
    /// (1 − progress) to the `power`, from 1 at the end of the warm-up to 0 at the end of the run.
    Polynomial,
    /// 1 after the warm-up.
    Constant,
}

impl Default for LearningRate {
    fn default() -> Self {
        Self { shape: Shape::Step, warmup_epochs: 0.0, step_epochs: 30.0, step_factor: 0.1, power: 1.0 }
    }
}

impl LearningRate {
    /// The factor at step `step` (from 0) of a run of `epochs` epochs with `steps_per_epoch` steps
    /// each.
    pub fn factor(&self, step: u64, steps_per_epoch: u64, epochs: u64) -> f64 {
        let epoch = step as f64 / steps_per_epoch as f64;
        let warmup_steps = self.warmup_epochs * steps_per_epoch as f64;
        if (step as f64) < warmup_steps {
            // The first step already learns.
            return ((step + 1) as f64 / warmup_steps).min(1.0);
        }
        let length = epochs as f64 - self.warmup_epochs;
        let progress = if length > 0.0 { ((epoch - self.warmup_epochs) / length).clamp(0.0, 1.0) } else { 1.0 };
        match self.shape {
            Shape::Step => self.step_factor.powf((epoch / self.step_epochs).floor()),
            Shape::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            Shape::Polynomial => (1.0 - progress).powf(self.power),
            Shape::Constant => 1.0,
        }
    }
}

/// A number that may change over the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a number, or { from = 1.0, to = 0.5, epochs = 10 }")]
pub enum Schedule {
    /// Always the same.
    Constant(f64),
    /// Moving from one value to another.
    Ramp(Ramp),
}

/// The activation that gates are held to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a number such as 0.6, one number per block, or { from = 1.0, to = 0.6, epochs = 10 }"
)]
pub enum ActivationTarget {
    /// The same for every gate, always.
    Constant(f64),
    /// One per block, 1 for blocks that stay open without a gate.
    PerBlock(Vec<f64>),
    /// The same for every gate, moving over the run.
    Ramp(Ramp),
}

/// A change from one value to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// Value up to its start.
    pub from: f64,
    /// Value from its end on.
    pub to: f64,
    /// How long the change takes, in epochs.
    pub epochs: f64,
    /// When it begins, in epochs.
    #[serde(default)]
    pub start: f64,
    /// How it moves.
    #[serde(default)]
    pub shape: RampShape,
}

/// How a ramp moves from one value to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RampShape {
    /// Evenly.
    #[default]
    Linear,
    /// Half a cosine: slowly at both ends.
    Cosine,
}

impl Ramp {
    /// The value after `epoch` epochs (with its fraction).
    fn at(&self, epoch: f64) -> f64 {
        let after = epoch - self.start;
        let progress = match self.epochs > 0.0 {
            true => (after / self.epochs).clamp(0.0, 1.0),
            // A jump.
            false => f64::from(u8::from(after >= 0.0)),
        };
        let progress = match self.shape {
            RampShape::Linear => progress,
            RampShape::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
        };
        self.from + (self.to - self.from) * progress
    }

    fn has_sane_times(&self) -> bool {
        [self.epochs, self.start].iter().all(|time| *time >= 0.0 && time.is_finite())
    }
}

impl Schedule {
    /// The value after `epoch` epochs (with its fraction).
    pub fn at(&self, epoch: f64) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Ramp(ramp) => ramp.at(epoch),
        }
    }

    /// Whether the times of a ramp are times.
    pub(super) fn has_sane_times(&self) -> bool {
        match self {
            Self::Constant(_) => true,
            Self::Ramp(ramp) => ramp.has_sane_times(),
        }
    }
}

impl ActivationTarget {
    /// Whether block number `block` stays open for good and therefore needs no gate.
    pub fn is_always_open(&self, block: usize) -> bool {
        matches!(self, Self::PerBlock(targets) if targets.get(block) == Some(&1.0))
    }

    /// The target of each gate after `epoch` epochs (with its fraction), given the block each gate
    /// sits in.
    pub fn per_gate(&self, blocks_of_gates: &[usize], epoch: f64) -> Vec<f64> {
        let everywhere = |target: f64| vec![target; blocks_of_gates.len()];
        match self {
            Self::Constant(target) => everywhere(*target),
            Self::PerBlock(targets) => {
                // Validated: one per block.
                blocks_of_gates.iter().map(|&block| targets.get(block).copied().unwrap_or(1.0)).collect()
            }
            Self::Ramp(ramp) => everywhere(ramp.at(epoch)),
        }
    }

    /// The mean target when all change is over, every block counting the same.
    pub fn last(&self) -> f64 {
        match self {
            Self::Constant(target) => *target,
            Self::PerBlock(targets) => targets.iter().sum::<f64>() / targets.len().max(1) as f64,
            Self::Ramp(ramp) => ramp.to,
        }
    }

    /// Without its change over the run.
    pub(crate) fn arrived(self) -> Self {
        match self {
            Self::Ramp(ramp) => Self::Constant(ramp.to),
            other => other,
        }
    }

    /// Every target that is one for all gates, changed.
    pub(crate) fn map(self, change: impl Fn(f64) -> f64) -> Self {
        match self {
            Self::Constant(target) => Self::Constant(change(target)),
            Self::Ramp(ramp) => Self::Ramp(Ramp { from: change(ramp.from), to: change(ramp.to), ..ramp }),
            per_block @ Self::PerBlock(_) => per_block,
        }
    }

    /// The epoch after which it no longer changes.
    pub(crate) fn arrives(&self) -> f64 {
        match self {
            Self::Ramp(ramp) => ramp.start + ramp.epochs,
            Self::Constant(_) | Self::PerBlock(_) => 0.0,
        }
    }

    /// What is wrong with it for a network of `blocks` blocks, if their number is known.
    pub(crate) fn fault(&self, blocks: Option<usize>) -> Option<String> {
        let out_of_range = |target: &f64| !(0.0..=1.0).contains(target);
        match self {
            Self::Ramp(ramp) if !ramp.has_sane_times() => Some("expected start and epochs of at least 0".into()),
            Self::Constant(target) if out_of_range(target) => Some("expected a target from 0 to 1".into()),
            Self::PerBlock(targets) if targets.iter().any(out_of_range) => Some("expected targets from 0 to 1".into()),
            Self::Ramp(ramp) if [ramp.from, ramp.to].iter().any(out_of_range) => {
                Some("expected from and to between 0 and 1".into())
            }
            Self::PerBlock(targets) => blocks
                .filter(|&blocks| targets.len() != blocks)
                .map(|blocks| format!("expected one target for each of the {blocks} blocks, found {}", targets.len())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} and {expected}");
    }

    #[test]
    fn steps_divide_every_thirty_epochs() {
        let schedule = LearningRate::default();
        let at = |epoch: u64| schedule.factor(epoch * 10, 10, 100);
        close(at(0), 1.0);
        close(schedule.factor(299, 10, 100), 1.0);
        close(at(30), 0.1);
        close(at(60), 0.01);
        close(at(99), 0.001);
        // Counted from the start of the run, whatever the warm-up.
        let warm = LearningRate { warmup_epochs: 5.0, ..schedule };
        close(warm.factor(299, 10, 100), 1.0);
        close(warm.factor(300, 10, 100), 0.1);
    }

    #[test]
    fn the_cosine_falls_from_one_to_zero_after_the_warm_up() {
        let schedule = LearningRate { shape: Shape::Cosine, warmup_epochs: 2.0, ..Default::default() };
        let at = |step| schedule.factor(step, 10, 12);
        close(at(0), 1.0 / 20.0);
        close(at(9), 0.5);
        close(at(19), 1.0);
        close(at(20), 1.0);
        close(at(70), 0.5);
        close(at(45), 0.5 * (1.0 + (PI / 4.0).cos()));
        close(at(120), 0.0);
    }

    #[test]
    fn polynomials_fall_to_zero_and_constants_stay_after_the_warm_up() {
        let at = |shape, power, step| {
            LearningRate { shape, power, warmup_epochs: 2.0, ..Default::default() }.factor(step, 10, 12)
        };
        for (power, expected) in [(1.0, 0.25), (2.0, 0.0625), (0.5, 0.5)] {
            close(at(Shape::Polynomial, power, 20), 1.0);
            close(at(Shape::Polynomial, power, 95), expected);
            close(at(Shape::Polynomial, power, 120), 0.0);
        }
        close(at(Shape::Constant, 1.0, 9), 0.5);
        close(at(Shape::Constant, 1.0, 119), 1.0);
    }

    #[test]
    fn targets_are_constant_per_block_or_ramped() {
        let blocks = [0, 2, 3];
        assert_eq!(ActivationTarget::Constant(0.6).per_gate(&blocks, 3.0), [0.6; 3]);
        let list = ActivationTarget::PerBlock(vec![0.8, 1.0, 0.5, 0.7]);
        assert_eq!(list.per_gate(&blocks, 3.0), [0.8, 0.5, 0.7]);
        assert!(list.is_always_open(1) && !list.is_always_open(0));
        let ramp = ActivationTarget::Ramp(ramp(RampShape::Linear));
        for (epoch, expected) in [(0.0, 1.0), (2.0, 1.0), (7.0, 0.75), (12.0, 0.5), (20.0, 0.5)] {
            close(ramp.per_gate(&blocks, epoch)[1], expected);
        }
    }

    fn ramp(shape: RampShape) -> Ramp {
        Ramp { from: 1.0, to: 0.5, epochs: 10.0, start: 2.0, shape }
    }

    #[test]
    fn ramps_move_evenly_or_as_half_a_cosine() {
        let at = |shape, epoch| Schedule::Ramp(ramp(shape)).at(epoch);
        for (epoch, linear, cosine) in
            [(0.0, 1.0, 1.0), (4.5, 0.875, 1.0 - 0.25 * (1.0 - (PI / 4.0).cos())), (7.0, 0.75, 0.75), (12.0, 0.5, 0.5)]
        {
            close(at(RampShape::Linear, epoch), linear);
            close(at(RampShape::Cosine, epoch), cosine);
        }
        let jump = Schedule::Ramp(Ramp { epochs: 0.0, ..ramp(RampShape::Linear) });
        assert_eq!((jump.at(1.9), jump.at(2.0)), (1.0, 0.5));
        assert_eq!(Schedule::Constant(3.0).at(7.0), 3.0);
    }
}
