//! The last stages: files for other programs, and what running them finds.

use crate::error::{Error, Result};
use crate::shrink::asked::Asked;
use crate::shrink::plan::Done;
use crate::shrink::results::{BlockTime, Learned, Shrunk, Side, Spread};
use crate::shrink::shrinking::{ONNX, SCRIPT, Shrinking, TIMES, size};
use crate::stopwatch::{processor, scratch};
use crate::verify::{BOUND, difference, top1};
use crate::workers::threads;
use arch::{CostTable, Execution, NetSpec, ScriptOptions};
use gumbel_gates::Policy;
use runtime::{Array, Runtime, Subject, in_turn};
use tch::{Device, Tensor};
use torch_ext::normal;
use trainer::{About, Checkpoint, OnnxExport, export_onnx, export_script, to_tensors};

/// Rounds in which the two networks are timed in turn.
const ROUNDS: u32 = 31;
/// Runs over which the times of operations are told.
const OPERATIONS: u32 = 15;

impl Shrinking<'_> {
    /// Writes the files for other programs and runs them, where their runtime is there: by how much
    /// their logits differ.
    pub(super) fn export(&mut self, learned: &Learned) -> Result<Vec<(String, f64)>> {
        if let Some(done) = &self.plan.exported {
            done.check(&self.folder.path)?;
            return Ok(done.found.clone());
        }
        self.tell("writing it for other programs");
        let read = Checkpoint::read(&self.path(&learned.checkpoint))?;
        let network = read.network(Device::Cpu)?;
        let version = env!("CARGO_PKG_VERSION");
        let Asked { budget, network: name, .. } = &self.shrink.asked;
        let provenance = format!("gumbel-gates {version}: {name} held to {budget}");
        let about = About { classes: &read.classes, input: read.input, provenance: &provenance };
        let (policy, execution) = (Policy::Argmax, Execution::Skipping);
        let export = OnnxExport { policy, execution, keep_gates: false, bytes: false };
        let onnx = export_onnx(&network, &about, export, &self.path(ONNX))?;
        let options = ScriptOptions { policy, execution, keep_gates: false, fold_batch_norms: true };
        let script = export_script(&network, &about, &options, &self.path(SCRIPT))?;
        let mut found = Vec::new();
        let open_vino = (self.shrink.runtime == Runtime::OpenVino).then_some((Runtime::OpenVino, ONNX, &onnx));
        let both = [(Runtime::OnnxRuntime, ONNX, &onnx), (Runtime::TorchScript, SCRIPT, &script)];
        for (runtime, name, expected) in both.into_iter().chain(open_vino) {
            let path = self.path(name);
            match difference(self.shrink.workers, runtime, &path, expected) {
                Ok(difference) if difference <= BOUND => found.push((runtime.to_string(), difference)),
                Ok(difference) => return Err(Error::OtherLogits { path, difference }),
                // The one that it is for was there when the shrink began.
                Err(Error::Runtime(error @ runtime::Error::Missing { .. })) if runtime != self.shrink.runtime => {
                    self.tell(&format!("{name} was not run: {error}"));
                }
                Err(error) => return Err(error),
            }
            self.refuse_interruption()?;
        }
        self.plan.exported = Some(Done::with(&self.folder.path, &[ONNX, SCRIPT], found.clone())?);
        self.plan.write(&self.folder.path)?;
        Ok(found)
    }

    /// Classifies the validation images with the exported file and times it in turn with the dense
    /// one.
    pub(super) fn verify(
        &mut self,
        dense: &Side,
        learned: &Learned,
        differences: Vec<(String, f64)>,
    ) -> Result<Shrunk> {
        let runtime = self.shrink.runtime;
        self.tell(&format!("classifying the validation images in {runtime}, and timing it beside the dense network"));
        let (small, scratch) = match runtime {
            Runtime::OnnxRuntime | Runtime::OpenVino => (self.path(ONNX), None),
            Runtime::TorchScript => (self.path(SCRIPT), None),
            Runtime::Libtorch => {
                let scratch = scratch()?;
                let read = Checkpoint::read(&self.path(&learned.checkpoint))?;
                let path = scratch.path().join("network.safetensors");
                Checkpoint::write(&path, &read.network(Device::Cpu)?, &read.classes, read.input, None)?;
                (path, Some(scratch))
            }
        };
        let mut worker = self.shrink.workers.start(runtime, "cpu")?;
        let models = [worker.load(&self.write_dense(runtime)?, true)?, worker.load(&small, true)?];
        drop(scratch);
        let size_of_images = self.input().image_size;
        let (top1, images) = top1(&mut worker, models[1], self.shrink.validation, size_of_images, self.interrupt)?;
        let spec = self.deployed(learned)?;
        let looks = spec.has_dependent_gates();
        let images_to_time = Array::of(&self.images_to_time(looks)?)?;
        let subjects = models.map(|model| Subject { worker: 0, model });
        let seconds = in_turn(std::slice::from_mut(&mut worker), &subjects, &[images_to_time], ROUNDS)?;
        self.refuse_interruption()?;
        let mut spreads = seconds.into_iter().map(Spread::of);
        let parameters = self.cost(&spec)?.parameters;
        let operations = [worker.operations(models[0], OPERATIONS)?, worker.operations(models[1], OPERATIONS)?];
        let times = match &self.plan.times {
            // What gates that look at the image leave is no width of a table.
            Some(done) if !looks => {
                done.check(&self.folder.path)?;
                Some(CostTable::read(&self.path(TIMES))?)
            }
            _ => None,
        };
        let specs = [self.shrink.dense.network.spec(), &spec];
        let predict = |table: &CostTable| -> Result<f64> {
            Ok(table.spending(specs[1])?.dense() / table.spending(specs[0])?.dense())
        };
        let predicted = times.as_ref().map(predict).transpose()?;
        // A condition's time is that of what it holds once more.
        let blocks =
            if looks { Vec::new() } else { BlockTime::all(specs, times.as_ref(), [&operations[0], &operations[1]])? };
        let dense = Side { time: spreads.next(), ..dense.clone() };
        let bytes = size(&self.path(ONNX))?;
        let small = Side { top1, macs: learned.macs, parameters, bytes, time: spreads.next() };
        let (machine, threads) = (processor(), threads());
        let shrunk = Shrunk { dense, small, differences, images, machine, threads, predicted, blocks };
        self.plan.shrunk = Some(Done::with(&self.folder.path, &[ONNX, SCRIPT], shrunk.clone())?);
        self.plan.write(&self.folder.path)?;
        Ok(shrunk)
    }

    /// The network that files compute: without the gates that ignore the image.
    fn deployed(&self, learned: &Learned) -> Result<NetSpec> {
        let network = Checkpoint::read(&self.path(&learned.checkpoint))?.network(Device::Cpu)?;
        let decided = network.decided(Policy::Argmax)?;
        Ok(decided.as_ref().unwrap_or(&network).spec().clone())
    }

    /// A batch to time networks with: noise, but for gates that look at it.
    fn images_to_time(&self, looks: bool) -> Result<Tensor> {
        let (batch, size) = (self.shrink.asked.batch, self.input().image_size);
        let mut images = Vec::new();
        let mut count = 0;
        if looks {
            for found in self.shrink.validation.epoch(0, 0)? {
                let (own, _) = to_tensors(&found, size, Device::Cpu)?;
                count += own.size()[0];
                images.push(own);
                if count >= i64::from(batch) {
                    return Ok(Tensor::f_cat(&images, 0)?.f_narrow(0, 0, batch.into())?);
                }
            }
        }
        let side = i64::from(size);
        Ok(normal(&[batch.into(), 3, side, side], 2)?)
    }
}
