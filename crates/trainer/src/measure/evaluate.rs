//! Measuring a network on a split.

use crate::error::{Error, Result};
use crate::events::{Listener, PassKind};
use crate::measure::cut::{decided, with_cut_gates};
use crate::measure::ensemble::{Votes, deviation, mean};
use crate::measure::gate_use::GateUseSums;
use crate::measure::pass::{ImagePass, PassBatch};
use crate::measure::totals::Totals;
use crate::results::evaluation::Evaluation;
use crate::results::strategy::{MOST_RUNS, Strategy};
use arch::{Cost, CutGates, Meter, Network, Pass};
use gumbel_gates::{GateValues, Policy};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tch::{Reduction, Tensor};
use torch_ext::derive_seed;

/// Measures a network on images.
#[derive(Debug, Clone, Copy)]
pub struct Evaluator<'a> {
    /// The network.
    pub network: &'a Network,
    /// The gates that were cut out of it, if any were.
    pub cut: Option<&'a CutGates>,
    /// What it costs, with these gates.
    pub cost: &'a Cost,
    /// The images.
    pub pass: ImagePass<'a>,
    /// Seed of the runs of stochastic strategies and ensembles.
    pub seed: u64,
    /// Whether to record what each gate did.
    pub record: bool,
}

/// One way through the network for every batch.
struct Run {
    policy: Policy,
    totals: Totals,
    gate_use: Option<GateUseSums>,
}

/// What is measured in one pass for several strategies.
struct Measured {
    meter: Rc<Meter>,
    /// What cut gates decided, for one image.
    cut: GateValues,
    /// The sampled runs, shared by all strategies that need them.
    sampled: Vec<Run>,
    /// A run for each single policy.
    single: Vec<Run>,
    /// One for each ensemble.
    votes: Vec<Votes>,
}

impl Evaluator<'_> {
    /// Runs the network in evaluation mode over the images, each batch with every strategy: one
    /// evaluation per strategy.
    ///
    /// # Errors
    /// If a strategy samples no runs, too many images are unusable, the network cannot run, or
    /// `interrupt` was set meanwhile ([`Error::Interrupted`]).
    pub fn run(
        &self,
        strategies: &[Strategy],
        listeners: &mut [Box<dyn Listener>],
        interrupt: &AtomicBool,
    ) -> Result<Vec<Evaluation>> {
        let start = Instant::now();
        let mut measured = self.prepare(strategies)?;
        let counts = self.pass.run(PassKind::Evaluation, listeners, interrupt, |batch| {
            tch::no_grad(|| self.batch(&batch, &mut measured))
        })?;
        measured.evaluations(strategies, counts.bad, start)
    }

    /// The runs that the strategies are made of.
    fn prepare(&self, strategies: &[Strategy]) -> Result<Measured> {
        let meter = Rc::new(Meter::new(&self.cost.spending(), self.network.device())?);
        let run = |policy, record| -> Result<Run> {
            let spec = self.cut.map_or(self.network.spec(), |cut| &cut.spec);
            let gate_use = match record && spec.gate_count() > 0 {
                true => Some(GateUseSums::new(spec, self.network.device())?),
                false => None,
            };
            Ok(Run { policy, totals: Totals::new(&meter)?, gate_use })
        };
        let mut single = Vec::new();
        let mut votes = Vec::new();
        let mut most = 0;
        for strategy in strategies {
            if let Some(runs) = strategy.runs() {
                if !(1..=MOST_RUNS).contains(&runs) {
                    return Err(Error::Runs { strategy: strategy.to_string(), most: MOST_RUNS });
                }
                most = most.max(runs);
            }
            match *strategy {
                Strategy::Policy(policy) => single.push(run(policy, self.record)?),
                Strategy::Stochastic { .. } => {}
                Strategy::Ensemble { runs } => votes.push(Votes::new(runs, self.network.device())?),
            }
        }
        let sample = |number: usize| {
            let seed = derive_seed(self.seed, number as u64);
            run(Policy::Sample { temperature: 1.0, seed }, false)
        };
        let sampled = (0..most).map(sample).collect::<Result<_>>()?;
        Ok(Measured { sampled, single, votes, meter, cut: decided(self.cut, self.network.device())? })
    }

    fn batch(&self, batch: &PassBatch, measured: &mut Measured) -> Result<()> {
        let Measured { meter, cut, sampled, single, votes } = measured;
        let mut logits = Vec::with_capacity(sampled.len());
        for run in sampled {
            logits.push(self.one_way(batch, run, meter, cut)?);
        }
        for run in single {
            let _ = self.one_way(batch, run, meter, cut)?;
        }
        votes.iter_mut().try_for_each(|votes| votes.add(&logits, &batch.labels))
    }

    /// Adds the batch to a run, and gives its class logits [N, classes].
    fn one_way(&self, batch: &PassBatch, run: &mut Run, meter: &Meter, cut: &GateValues) -> Result<Tensor> {
        let labels = &batch.labels;
        let pass = Pass::inference(run.policy.for_batch(batch.number));
        let output = with_cut_gates(self.network.forward(&batch.images, pass)?, cut)?;
        let reduction = Reduction::Mean;
        let loss = output.logits.f_cross_entropy_loss(labels, None::<&Tensor>, reduction, -100, 0.0)?;
        run.totals.add(&output, labels, [&loss, &loss, &loss.f_zeros_like()?], None)?;
        if let Some(gate_use) = &mut run.gate_use {
            gate_use.add(&output, labels, batch.items, meter)?;
        }
        Ok(output.logits)
    }
}

impl Measured {
    /// The results, for each strategy.
    fn evaluations(self, strategies: &[Strategy], bad: usize, start: Instant) -> Result<Vec<Evaluation>> {
        let (mut single, mut votes) = (self.single.into_iter(), self.votes.into_iter());
        let summary = |run: &Run| Ok(run.totals.read()?.summary());
        let samples = self.sampled.iter().map(summary).collect::<Result<Vec<_>>>()?;
        let seconds = start.elapsed().as_secs_f64();
        let mut evaluations = Vec::with_capacity(strategies.len());
        for &strategy in strategies {
            let mut evaluation = Evaluation { strategy, bad, seconds, ..Evaluation::default() };
            match strategy {
                Strategy::Policy(_) => {
                    if let Some(run) = single.next() {
                        evaluation.summary = summary(&run)?;
                        evaluation.gate_use = run.gate_use.map(GateUseSums::read).transpose()?;
                    }
                }
                Strategy::Stochastic { runs } => {
                    evaluation.summary = mean(&samples[..runs]);
                    evaluation.deviation = Some(deviation(&samples[..runs]));
                }
                Strategy::Ensemble { runs } => {
                    evaluation.summary = mean(&samples[..runs]);
                    if let Some(votes) = votes.next() {
                        votes.replace_hits(&mut evaluation.summary)?;
                    }
                }
            }
            evaluations.push(evaluation);
        }
        Ok(evaluations)
    }
}
