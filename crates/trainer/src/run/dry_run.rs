//! Trying a run before it starts.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::learn::batch::PreparedBatch;
use crate::learn::clock::Clock;
use crate::measure::pass::to_tensors;
use crate::measure::totals::Totals;
use crate::results::reach::Reach;
use crate::results::step_time::StepTime;
use crate::run::changes::Resume;
use crate::run::fit::Fit;
use arch::Pass;
use std::path::Path;
use std::time::Instant;
use tch::Device;
use tempfile::TempDir;
use torch_ext::peak_memory;

/// Steps of a dry run. The first is slower: memory is got, and libraries choose their kernels.
const STEPS: usize = 2;

/// What a dry run measured.
#[derive(Debug, Clone, PartialEq)]
pub struct DryRun {
    /// What the run would say first.
    pub notes: Vec<String>,
    /// What its gates can reach, if it has any.
    pub reach: Option<Reach>,
    /// Learned numbers of the network and of its gates.
    pub parameters: (u64, u64),
    /// Peak memory in bytes, of the process on the CPU and of the tensors on a GPU; absent where it
    /// cannot be told.
    pub memory: Option<u64>,
    /// The last step.
    pub step: StepTime,
    /// Seconds for a batch of the evaluations after an epoch: decoded, and classified in every way
    /// that an epoch with learning gates asks for.
    pub evaluation: f64,
    /// Size of a checkpoint in bytes.
    pub checkpoint: usize,
    /// Epochs, steps in each, and evaluation batches after each.
    pub length: (u64, usize, usize),
    /// Batches that batch norm statistics are re-estimated over before each evaluation.
    pub calibration: usize,
}

impl DryRun {
    /// Seconds the whole run would take at this pace, as if gates learned to its end. It leaves out
    /// how they start and freeze, and checkpoints. Images that were decoded ahead may hide a slow
    /// loader.
    pub fn projected(&self) -> f64 {
        let (epochs, steps, evaluations) = self.length;
        let calibration = self.calibration as f64 * (self.step.images + self.step.forward);
        epochs as f64 * (steps as f64 * self.step.total + calibration + evaluations as f64 * self.evaluation)
    }
}

/// Prepares a run as [`Fit::prepare`] does, in a folder that is removed again, trains two steps and
/// evaluates a batch.
///
/// # Errors
/// As a run would fail: `out` exists, something is missing or does not fit, memory does not
/// suffice.
pub fn dry_run(config: Config, out: Option<&Path>, device: Device) -> Result<DryRun> {
    if let Some(path) = out.filter(|out| out.exists()) {
        return Err(Error::OutputExists { path: path.to_owned() });
    }
    let folder = scratch()?;
    let mut fit = Fit::prepare(config, Some(folder.path().join("run")), Resume::No, device)?;
    let mut totals = Totals::new(&fit.learner.meter)?;
    let mut step = StepTime::default();
    let mut clock = Clock::start(device);
    let mut images = fit.images.train.epoch(0, 0)?;
    for _ in 0..STEPS {
        clock.ask();
        let Some(batch) = images.next() else { break };
        clock.begin(true);
        if batch.labels.len() >= 2 {
            let number = fit.progress.step;
            let prepared = PreparedBatch::new(&batch, &fit.config, number, device)?;
            let scheduled = fit.scheduled(number);
            fit.learner.step(number, &prepared, &scheduled, &mut totals, &mut clock)?;
        }
        fit.check_guard(&mut []).map_err(without_list)?;
        fit.progress.step += 1;
        step = clock.read();
    }
    drop(images);
    let evaluation = evaluation_batch(&fit)?;
    let checkpoint = fit.state()?.len();
    let length = (fit.config.train.epochs, fit.steps_per_epoch(), fit.images.val.batches());
    let parameters = (fit.cost().parameters, fit.cost().gate_parameters);
    // It names a folder that will not be there.
    let notes = fit.notes.iter().map(|note| note.split("; writing ").next().unwrap_or(note).to_owned()).collect();
    let calibration = fit.config.train.calibrate_batches;
    let reach = fit.gates.has_gates().then(|| fit.reach.clone());
    Ok(DryRun {
        calibration,
        reach,
        notes,
        parameters,
        memory: peak_memory(device),
        step,
        evaluation,
        checkpoint,
        length,
    })
}

/// The list of images is in a folder that goes.
fn without_list(mut error: Error) -> Error {
    if let Error::NotFinite { diagnosis, .. } = &mut error {
        diagnosis.list = None;
    }
    error
}

/// Seconds for one batch of all evaluations after an epoch.
fn evaluation_batch(fit: &Fit) -> Result<f64> {
    let start = Instant::now();
    let policies = fit.policies(0);
    let mut ways = vec![(fit.learner.deployed(), policies.as_slice())];
    if fit.learner.average.is_some() {
        ways.push((&fit.learner.network, &policies[..1]));
    }
    for (network, policies) in ways {
        let Some(batch) = fit.images.val.epoch(0, 0)?.next().filter(|batch| !batch.labels.is_empty()) else { continue };
        let (images, _) = to_tensors(&batch, fit.config.data.image_size, network.device())?;
        for &policy in policies {
            let output = tch::no_grad(|| network.forward(&images, Pass::inference(policy)))?;
            // Waits for the device.
            output.logits.f_sum(tch::Kind::Double)?.f_double_value(&[])?;
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

pub(super) fn scratch() -> Result<TempDir> {
    let failed = |source| Error::Write { path: std::env::temp_dir(), bytes: None, source };
    tempfile::tempdir().map_err(failed)
}
