//! Steps timed for benchmarks.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::learn::batch::PreparedBatch;
use crate::learn::clock::Clock;
use crate::measure::totals::Totals;
use crate::results::step_time::StepTime;
use crate::run::changes::Resume;
use crate::run::dry_run::scratch;
use crate::run::fit::Fit;
use data::synth::{SampleSet, draw};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tch::Device;
use tempfile::TempDir;

/// Seconds of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BenchedStep {
    /// Until the host had asked for everything.
    pub host: f64,
    /// Until it was done.
    pub total: f64,
}

/// Training steps on one and the same batch of drawn images, for benchmarks.
#[derive(Debug)]
pub struct StepBench {
    fit: Fit,
    batch: PreparedBatch,
    totals: Totals,
    /// Holds the drawn images and the run's folder.
    _folder: TempDir,
}

impl StepBench {
    /// Prepares steps of a run with this configuration, on images of its own.
    ///
    /// # Errors
    /// If the configuration does not fit, or a file cannot be written.
    pub fn new(mut config: Config, device: Device) -> Result<Self> {
        let folder = scratch()?;
        let images = folder.path().join("images");
        // Ten classes.
        draw(&images, &SampleSet { train_per_class: config.train.batch_size.div_ceil(10), val_per_class: 1, seed: 0 })?;
        config.data.path = Some(images);
        let mut fit = Fit::prepare(config, Some(folder.path().join("run")), Resume::No, device)?;
        // Gates that freeze at once are frozen, and perhaps cut, in the steps that are timed.
        fit.advance_gates(0, &mut [], &AtomicBool::new(false))?;
        let Some(batch) = fit.images.train.epoch(0, 0)?.next() else {
            return Err(Error::TooFewImages { path: folder.path().to_owned(), images: 0 });
        };
        let batch = PreparedBatch::new(&batch, &fit.config, 0, device)?;
        let totals = Totals::new(&fit.learner.meter)?;
        Ok(Self { fit, batch, totals, _folder: folder })
    }

    /// One step, without waiting for images. On a GPU the host waits once, at the end: seconds
    /// until everything was asked for, and until it was done. Where the two are about the same the
    /// host is what limits the pace.
    ///
    /// # Errors
    /// If the network cannot run.
    pub fn step(&mut self) -> Result<BenchedStep> {
        let device = self.fit.learner.network.device();
        let start = Instant::now();
        self.timed(false)?;
        let host = start.elapsed().as_secs_f64();
        if let Device::Cuda(number) = device {
            tch::Cuda::synchronize(number as i64);
        }
        Ok(BenchedStep { host, total: start.elapsed().as_secs_f64() })
    }

    /// One step in its parts. On a GPU the host waits for it between them, so that together they
    /// take longer than [`Self::step`].
    ///
    /// # Errors
    /// If the network cannot run.
    pub fn step_in_parts(&mut self) -> Result<StepTime> {
        self.timed(true)
    }

    fn timed(&mut self, parts: bool) -> Result<StepTime> {
        let mut clock = Clock::start(self.fit.learner.network.device());
        clock.ask();
        clock.begin(parts);
        let number = self.fit.progress.step;
        let scheduled = self.fit.scheduled(number);
        self.fit.learner.step(number, &self.batch, &scheduled, &mut self.totals, &mut clock)?;
        self.fit.progress.step += 1;
        Ok(clock.read())
    }
}
