//! What happens in a run, told to whoever listens.

use crate::config::Config;
use crate::error::Result;
use crate::results::evaluation::Evaluation;
use crate::results::run::Verdict;
use crate::results::scheduled::Scheduled;
use crate::results::step_time::StepTime;
use crate::results::summary::Summary;
use data::BadImage;
use std::path::Path;
use tch::Tensor;

/// Something that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// Something worth a line.
    Note(&'a str),
    /// An epoch begins, `first` steps into it if the run was resumed there.
    EpochStarted {
        /// From 1.
        epoch: u64,
        /// Steps already done.
        first: usize,
        /// Steps in the epoch.
        batches: usize,
        /// The run's configuration.
        config: &'a Config,
    },
    /// The first images of an epoch, or of what is left of it, are about to be trained on.
    Images {
        /// The step, from 1.
        step: u64,
        /// As the network sees them, normalized and augmented: [N, 3, H, W].
        images: &'a Tensor,
    },
    /// A step is done.
    Step {
        /// Steps done in all.
        step: u64,
        /// Steps done in this epoch.
        batch: usize,
    },
    /// A step after which the log is due.
    Logged {
        /// Steps done in all.
        step: u64,
        /// From 1.
        epoch: u64,
        /// Means since the last log entry.
        recent: &'a Summary,
        /// What the schedules said for the last step.
        scheduled: &'a Scheduled,
        /// Training throughput since the last log entry.
        images_per_second: f64,
        /// Where its time went.
        time: StepTime,
    },
    /// A pass over images that does not train begins.
    PassStarted {
        /// What it is for.
        pass: PassKind,
        /// How many batches it has.
        batches: usize,
    },
    /// A batch of such a pass is done.
    PassStep {
        /// Batches done.
        batch: usize,
    },
    /// An epoch and its evaluation are done.
    EpochEnded {
        /// Steps done in all.
        step: u64,
        /// From 1.
        epoch: u64,
        /// Means over the epoch's training steps.
        train: &'a Summary,
        /// The evaluation of what is deployed, averaged weights if there are any, with the policy
        /// of the configuration.
        evaluation: &'a Evaluation,
        /// The same images with sampled gates, as in training; `None` without gates and once they
        /// are frozen.
        sampled: Option<&'a Evaluation>,
        /// The weights themselves, where averaged ones are deployed.
        unaveraged: Option<&'a Evaluation>,
        /// What the schedules said for the last step.
        scheduled: &'a Scheduled,
        /// Whether this is the best so far, by `checkpoints.best_by`.
        is_best: bool,
        /// Images that could not be used, in training and evaluation together.
        bad_images: usize,
        /// MACs that training has computed so far, evaluations left out.
        training_macs: f64,
    },
    /// An image was left out.
    BadImage(&'a BadImage),
    /// A checkpoint was written.
    Saved(&'a Path),
    /// The run is over.
    Finished(&'a Verdict),
}

/// What a pass over images that does not train is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassKind {
    /// Measuring the network.
    Evaluation,
    /// Re-estimating its batch norm statistics.
    Calibration,
    /// Measuring what relies on each gate, before the first step.
    Importance,
    /// Deciding gates by the threshold that meets the budget.
    Budget,
    /// Collecting images to solve convolutions over that lost inputs.
    Repair,
}

/// Somebody who is told what happens.
pub trait Listener {
    /// Is told.
    ///
    /// # Errors
    /// If what it keeps cannot be written; the run then stops.
    fn on(&mut self, event: &Event) -> Result<()>;
}

/// Notifies all listeners in turn.
pub(crate) fn notify(listeners: &mut [Box<dyn Listener>], event: &Event) -> Result<()> {
    listeners.iter_mut().try_for_each(|listener| listener.on(event))
}
