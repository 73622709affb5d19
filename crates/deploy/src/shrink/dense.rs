//! The first stage: the dense network is evaluated, and written for the runtime.

use crate::error::Result;
use crate::network_file::write_for;
use crate::shrink::plan::Done;
use crate::shrink::results::Side;
use crate::shrink::shrinking::{DENSE, DENSE_FILE, Dense, Shrinking, size};
use arch::Execution;
use gumbel_gates::Policy;
use runtime::Runtime;
use std::path::PathBuf;
use trainer::{Checkpoint, Evaluator, ImagePass, Listener, Progress, Strategy};

impl Shrinking<'_> {
    /// Evaluates the dense network, and writes it as a checkpoint and for the runtime.
    pub(super) fn dense(&mut self) -> Result<Side> {
        if let Some(done) = &self.plan.dense {
            done.check(&self.folder.path)?;
            return Ok(done.found.clone());
        }
        self.tell("measuring the dense network");
        let (network, input) = (&self.shrink.dense.network, self.input());
        Checkpoint::write(&self.path(DENSE), network, &self.shrink.dense.classes, input, None)?;
        let bytes = size(&self.write_dense(Runtime::OnnxRuntime)?)?;
        let deployed = self.write_dense(self.shrink.runtime)?;
        let cost = self.cost(network.spec())?;
        let network = Checkpoint::read(&self.path(DENSE))?.network(self.shrink.device)?;
        let evaluator = Evaluator {
            network: &network,
            cut: None,
            cost: &cost,
            pass: ImagePass::once(
                self.shrink.validation,
                input.image_size,
                self.shrink.device,
                self.shrink.max_bad_share,
            ),
            seed: 0,
            record: false,
        };
        let mut progress: Vec<Box<dyn Listener>> = vec![Box::new(Progress::new(&cost, 0))];
        let found = evaluator.run(&[Strategy::Policy(Policy::Argmax)], &mut progress, self.interrupt)?;
        drop(progress);
        let top1 = found.first().map_or(0.0, |evaluation| evaluation.summary.top1);
        let side = Side { top1, macs: cost.dense as f64, parameters: cost.parameters, bytes, time: None };
        let deployed = deployed.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.plan.dense = Some(Done::with(&self.folder.path, &[DENSE, &deployed], side.clone())?);
        self.plan.write(&self.folder.path)?;
        Ok(side)
    }

    /// Writes the dense network as a file of a runtime.
    pub(super) fn write_dense(&self, runtime: Runtime) -> Result<PathBuf> {
        let Dense { network, classes } = &self.shrink.dense;
        let stem = self.path(DENSE_FILE);
        write_for(runtime, network, Execution::Skipping, classes, self.input(), &stem)
    }
}
