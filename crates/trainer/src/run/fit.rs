//! What a run is made of.

use crate::config::Config;
use crate::config::schedule::Schedule;
use crate::error::{Diagnosis, Error, Result};
use crate::events::Listener;
use crate::files::run_dir::RunDir;
use crate::learn::diagnose::broken_tensor;
use crate::learn::step::Learner;
use crate::listeners::{MetricsFile, Progress, TensorBoard};
use crate::measure::pass::{Extent, ImagePass};
use crate::method::lifecycle::GateLifecycle;
use crate::results::names::SiteName;
use crate::results::reach::Reach;
use crate::results::run::Position;
use crate::results::scheduled::Scheduled;
use crate::run::images::Images;
use crate::states::training::Training;
use arch::{Cost, NetSpec, Spending};
use data::Loader;
use gumbel_gates::Policy;
use std::fs::File;
use torch_ext::derive_seed;

/// A run that is ready to start: everything was checked, and its folder exists.
#[derive(Debug)]
pub struct Fit {
    pub(super) config: Config,
    pub(super) run: RunDir,
    /// What a step works with.
    pub(super) learner: Learner,
    /// When what happens to the gates.
    pub(super) gates: GateLifecycle,
    pub(super) images: Images,
    /// What its gates can reach.
    pub(super) reach: Reach,
    /// How far it is.
    pub(super) progress: Training,
    /// What the last state on the disk holds, if there is one.
    pub(super) saved: Option<Position>,
    /// Whether gates start in this run, and not where another one left them.
    pub(super) fresh_gates: bool,
    pub(super) resumed: bool,
    /// Whether it goes on with another configuration.
    pub(super) changed: bool,
    pub(super) notes: Vec<String>,
    /// Held as long as the run is.
    pub(super) _lock: File,
}

impl Fit {
    /// The run's folder.
    pub fn run_dir(&self) -> &RunDir {
        &self.run
    }

    /// Those who show what happens on the standard error and keep it in the run's folder.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn listeners(&self) -> Result<Vec<Box<dyn Listener>>> {
        let (run, resumed) = (&self.run, self.resumed_after());
        Ok(vec![
            Box::new(Progress::new(self.cost(), self.config.train.epochs).counting(self.spending())),
            Box::new(MetricsFile::open(&run.metrics(), resumed)?),
            Box::new(TensorBoard::create(&run.tensorboard(), self.sites(), self.cost().dense, resumed)?),
        ])
    }

    /// Where the run was resumed.
    pub fn resumed_after(&self) -> Option<Position> {
        self.resumed.then_some(self.progress.position())
    }

    /// The gate sites, in the order of [`crate::Summary::rates`].
    pub fn sites(&self) -> Vec<SiteName> {
        SiteName::all(self.spec())
    }

    /// The spec of the network with its gates, be they cut out of it by now.
    pub(super) fn spec(&self) -> &NetSpec {
        self.progress.cut.as_ref().map_or(self.learner.network.spec(), |cut| &cut.spec)
    }

    /// What the network costs.
    pub fn cost(&self) -> &Cost {
        &self.learner.cost
    }

    /// What its budget counts: MACs, or by a table of costs.
    pub fn spending(&self) -> &Spending {
        &self.learner.spending
    }

    /// The MACs of the published network of its name, where its own was made smaller.
    pub fn published_macs(&self) -> Option<u64> {
        Cost::of_published(self.spec(), self.config.data.image_size as usize)
    }

    pub(super) fn steps_per_epoch(&self) -> usize {
        self.images.train.batches()
    }

    /// Images that an epoch trains on.
    pub(super) fn images_per_epoch(&self) -> f64 {
        let images = self.images.train.source().len();
        (self.steps_per_epoch() * self.config.train.batch_size).min(images) as f64
    }

    /// What the schedules say for a step. On frozen gates nothing pulls.
    pub(super) fn scheduled(&self, step: u64) -> Scheduled {
        let gates = &self.config.gates;
        let steps_per_epoch = self.steps_per_epoch() as u64;
        let epoch = step as f64 / steps_per_epoch as f64;
        let factor = self.config.schedule.factor(step, steps_per_epoch, self.config.train.epochs);
        let frozen = self.gates.is_frozen(step);
        let weight = |weight: Schedule| if frozen { 0.0 } else { weight.at(epoch) };
        let targets = gates.target.per_gate(self.gates.blocks(), epoch);
        Scheduled {
            learning_rate: self.config.optimizer.learning_rate * factor,
            target: self.learner.objective.mean_target(&targets),
            targets,
            loss_factor: weight(gates.loss_factor),
            polarization: weight(gates.polarization),
            temperature: gates.temperature.at(epoch),
            frozen,
        }
    }

    /// How what is deployed is evaluated after an epoch that ends with this step: with the policy
    /// of the configuration, and while gates learn as they are sampled in training too.
    pub(super) fn policies(&self, step: u64) -> Vec<Policy> {
        let policy = self.config.train.policy;
        let samples = matches!(policy, Policy::Sample { .. });
        let learns = self.gates.has_gates() && !self.gates.is_frozen(step) && !samples;
        let sampled = Policy::Sample { temperature: 1.0, seed: derive_seed(self.config.train.seed, step) };
        std::iter::once(policy).chain(learns.then_some(sampled)).collect()
    }

    /// A pass over training images in an order that training itself does not reach.
    pub(super) fn training_pass<'a>(&self, loader: &'a Loader, batches: usize) -> ImagePass<'a> {
        ImagePass {
            loader,
            image_size: self.config.data.image_size,
            device: self.learner.network.device(),
            extent: Extent::Batches { count: batches, epoch: self.config.train.epochs },
            max_bad_share: self.config.data.max_bad_share,
        }
    }

    /// The last step may have broken what no loss has shown yet; such a state is never saved.
    pub(super) fn refuse_broken_weights(&self) -> Result<()> {
        for network in self.learner.networks() {
            let first = broken_tensor(network)?;
            if first.is_some() {
                return Err(self.not_finite("what the network learned", first));
            }
        }
        Ok(())
    }

    /// An evaluation that says nothing is the end of a run.
    pub(super) fn refuse_broken_evaluation(&self, cross_entropy: f64) -> Result<()> {
        if cross_entropy.is_finite() {
            return Ok(());
        }
        let first = broken_tensor(self.learner.deployed())?;
        let first = first.or_else(|| Some("the cross entropy of the evaluation".into()));
        Err(self.not_finite("the evaluation", first))
    }

    pub(super) fn not_finite(&self, what: &str, first: Option<String>) -> Error {
        let step = self.progress.step;
        let learning_rate = self.scheduled(step.saturating_sub(1)).learning_rate;
        let diagnosis = Diagnosis { step, first, learning_rate, ..Diagnosis::default() };
        Error::NotFinite { what: format!("{what}, after step {step},"), diagnosis: Box::new(diagnosis) }
    }
}
