//! One step of gradient descent.

use crate::config::{Config, Precision};
use crate::error::Result;
use crate::learn::average::Average;
use crate::learn::batch::{BatchPart, PreparedBatch};
use crate::learn::clock::{Clock, Part};
use crate::learn::guard::NonFiniteGuard;
use crate::learn::optimizer::{Optimizer, Update};
use crate::learn::teacher::Teacher;
use crate::measure::cut::{decided, with_cut_gates};
use crate::measure::totals::Totals;
use crate::method::objective::Objective;
use crate::results::scheduled::Scheduled;
use crate::states::training::Training;
use arch::{Cost, Meter, Network, Output, Pass, Spending};
use gumbel_gates::{GateValues, Policy};
use std::rc::Rc;
use tch::{Kind, Tensor};
use torch_ext::derive_seed;

/// A part of a step's seed that no gate site has, nor dropout, mixing or erasing: the second part
/// of a batch has this one, the third the one before it, and so on.
const LATER_PARTS: u64 = u64::MAX - 3;

/// What a step of training works with, and all that it may change.
///
/// Cost, spending, meters and objective follow from the spec of the network with its gates, which
/// stays what it was where they are cut out of it.
#[derive(Debug)]
pub(crate) struct Learner {
    /// The network that learns.
    pub network: Network,
    /// What the gates decided that were cut out of it, for one image; empty if none were.
    pub cut: GateValues,
    /// What is evaluated and deployed, if weights are averaged.
    pub average: Option<Average>,
    /// Updates that the average followed since it began.
    pub updates: u64,
    pub optimizer: Optimizer,
    pub guard: NonFiniteGuard,
    pub teacher: Option<Teacher>,
    pub objective: Objective,
    /// What the network costs.
    pub cost: Cost,
    pub meter: Rc<Meter>,
    /// What the budget counts: MACs, or by a table of costs.
    pub spending: Spending,
    /// The same for the gate values of a pass.
    pub budget_meter: Meter,
    /// What a step computes for an image ([`training_macs`]).
    pub macs_per_image: f64,
    seed: u64,
    /// Parts that a batch goes through the network in.
    parts: usize,
}

/// A part of a batch that went through the network, and back.
struct Done {
    output: Output,
    /// Its labels, in mixed images the larger ones.
    labels: Tensor,
    /// Objective, cross entropy and activation loss, detached.
    losses: [Tensor; 3],
}

/// MACs that a step computes for an image: three times the network's, closed filters and gates
/// included, since the backward pass is one with respect to features and one to weights; and a
/// teacher's answer.
pub(super) fn training_macs(config: &Config, network: &Network, teacher: Option<&Teacher>) -> Result<f64> {
    let size = config.data.image_size as usize;
    let cost = Cost::of(network.spec(), size, size)?;
    let taught = teacher.map(|teacher| teacher.macs(size)).transpose()?.unwrap_or_default();
    Ok((3 * (cost.dense + cost.gates) + taught) as f64)
}

impl Learner {
    /// A learner for `network`, of that cost, that spends so much of what its budget counts. Its
    /// guard, and what the average has followed, go on from `progress`; the tensors are in place
    /// already.
    ///
    /// # Errors
    /// If the device refuses a tensor.
    pub fn new(
        config: &Config,
        network: Network,
        (cost, spending): (Cost, Spending),
        optimizer: Optimizer,
        average: Option<Average>,
        teacher: Option<Teacher>,
        progress: &Training,
    ) -> Result<Self> {
        let train = &config.train;
        let scaled = train.precision == Precision::Float16;
        let guard = NonFiniteGuard::new(train.max_bad_steps, scaled, network.tensors(), &progress.guard)?;
        Ok(Self {
            objective: Objective::new(config, &spending.steady()),
            budget_meter: Meter::new(&spending.steady(), network.device())?,
            meter: Rc::new(Meter::new(&cost.spending(), network.device())?),
            cut: decided(progress.cut.as_ref(), network.device())?,
            macs_per_image: training_macs(config, &network, teacher.as_ref())?,
            network,
            average,
            updates: progress.updates,
            optimizer,
            guard,
            teacher,
            cost,
            spending,
            seed: train.seed,
            parts: train.accumulate,
        })
    }

    /// What is evaluated and deployed.
    pub fn deployed(&self) -> &Network {
        self.average.as_ref().map_or(&self.network, Average::network)
    }

    /// The network that learns, and the averaged one, if there is one.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        std::iter::once(&self.network).chain(self.average.as_ref().map(Average::network))
    }

    /// Lets the average of the weights, if there is one, begin with what they are now.
    ///
    /// # Errors
    /// If libtorch cannot copy them.
    pub fn restart_average(&mut self) -> Result<()> {
        self.updates = 0;
        self.average.as_mut().map_or(Ok(()), Average::restart)
    }

    /// One step on one batch, with what the schedules say for it. Its sums stay on the device, and
    /// so does the decision whether it is left out.
    ///
    /// # Errors
    /// If libtorch refuses an operation.
    pub fn step(
        &mut self,
        step: u64,
        batch: &PreparedBatch,
        scheduled: &Scheduled,
        totals: &mut Totals,
        clock: &mut Clock,
    ) -> Result<()> {
        self.optimizer.zero_gradients();
        self.guard.remember()?;
        let mut done = Vec::new();
        let mut loss = Tensor::f_zeros([], (Kind::Float, batch.images.device()))?;
        for (number, part) in self.parts(batch).enumerate() {
            let part = part?;
            let output = self.network.forward(&part.images, self.pass(step, number, scheduled))?;
            let output = with_cut_gates(output, &self.cut)?;
            let terms = self.objective.terms(&output, &part.labels, scheduled, &self.budget_meter)?;
            clock.done(Part::Forward);
            // The mean over the batch is that of its parts, by their sizes.
            let weighted = terms.total.f_mul_scalar(part.share)?;
            self.guard.scaled(&weighted)?.f_backward()?;
            clock.done(Part::Backward);
            loss = loss.f_add(&weighted.f_detach()?)?;
            let activation = match terms.activation {
                Some(activation) => activation,
                None => terms.cross_entropy.f_zeros_like()?,
            };
            let losses = [terms.total.f_detach()?, terms.cross_entropy, activation];
            done.push(Done { output, labels: part.labels.dominant().shallow_clone(), losses });
        }
        let skip = self.update(step, scheduled, &loss)?;
        for Done { output, labels, losses: [total, cross_entropy, activation] } in &done {
            totals.add(output, labels, [total, cross_entropy, activation], Some(&skip))?;
        }
        clock.done(Part::Update);
        Ok(())
    }

    /// Moves the weights along their gradients, unless the step is left out, and the average after
    /// them: float32 scalar, 1 if it is left out. The average counts such a step, in which it only
    /// comes closer to weights that stayed.
    fn update(&mut self, step: u64, scheduled: &Scheduled, loss: &Tensor) -> Result<Tensor> {
        let learn_gates = !scheduled.frozen;
        let norm = self.optimizer.norm(learn_gates)?;
        let scale = self.guard.scale()?;
        let skip = self.guard.check(step, loss, &norm)?;
        let update = Update {
            learning_rate: scheduled.learning_rate,
            gates: learn_gates,
            scale: scale.as_ref(),
            skip: Some(&skip),
        };
        self.optimizer.step(&update, &norm)?;
        if let Some(average) = &self.average {
            self.updates += 1;
            average.follow(self.updates)?;
        }
        Ok(skip)
    }

    /// How part `part` of the batch of step `step` goes through the network.
    pub fn pass(&self, step: u64, part: usize, scheduled: &Scheduled) -> Pass {
        let seed = derive_seed(self.seed, step);
        let seed = match part {
            0 => seed,
            later => derive_seed(seed, LATER_PARTS - (later as u64 - 1)),
        };
        let pass = Pass::training(scheduled.temperature, seed);
        if scheduled.frozen { Pass { policy: Policy::Argmax, frozen_gates: true, ..pass } } else { pass }
    }

    /// The parts of a batch, as a step takes them.
    pub fn parts<'a>(&'a self, batch: &'a PreparedBatch) -> impl Iterator<Item = Result<BatchPart>> + 'a {
        batch.parts(self.parts, self.teacher.as_ref())
    }
}
