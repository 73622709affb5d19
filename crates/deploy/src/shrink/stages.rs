//! The stages of a shrink, one after the other; what is done already is not done again.

use crate::error::{Error, Result};
use crate::network_file::write_for;
use crate::shrink::asked::{Asked, Budget};
use crate::shrink::plan::{Done, Folder, Plan};
use crate::shrink::results::{BlockTime, Learned, Prospect, Shrunk, Side, Spread, is_wrong};
use crate::stopwatch::{Note, SECONDS, Stopwatch, processor, scratch, without_gates};
use crate::verify::{BOUND, difference, top1};
use crate::workers::Workers;
use arch::{Cost, CostTable, Execution, NetSpec, Network, ScriptOptions, Site};
use data::Loader;
use gumbel_gates::Policy;
use runtime::measure::Sampling;
use runtime::{Array, Runtime, Subject, in_turn};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Device;
use torch_ext::normal;
use trainer::config::Weighting;
use trainer::{
    About, Checkpoint, Config, Evaluator, Fit, ImagePass, Input, Listener, OnnxExport, Outcome, Progress, Resume,
    RunDir, Strategy, Verdict, export_onnx, export_script,
};

/// The dense network's checkpoint, below the folder.
const DENSE: &str = "dense.safetensors";
/// The dense network as the target runtime reads it, without its ending.
const DENSE_FILE: &str = "dense";
/// The table of times.
const TIMES: &str = "times.json";
/// The training run.
const RUN: &str = "run";
/// The exported files.
const ONNX: &str = "network.onnx";
const SCRIPT: &str = "network.pt";

/// Rounds in which the two networks are timed in turn.
const ROUNDS: u32 = 31;
/// Runs over which the times of operations are told.
const OPERATIONS: u32 = 15;

/// A network to be made smaller, on the CPU.
#[derive(Debug)]
pub struct Dense {
    /// The network, without gates.
    pub network: Network,
    /// Class names, by label.
    pub classes: Vec<String>,
}

/// What a shrink works with.
#[derive(Debug)]
pub struct Shrink<'a> {
    /// The network.
    pub dense: Dense,
    /// How it is trained ([`crate::shrink::config`]).
    pub config: Config,
    /// The images that it is validated on, prepared as the configuration says.
    pub validation: &'a Loader,
    /// Share of them that may be unusable.
    pub max_bad_share: f64,
    /// Where the smaller network will run.
    pub runtime: Runtime,
    /// Where networks are trained and evaluated.
    pub device: Device,
    /// Processes that run networks.
    pub workers: Workers,
    /// What was asked for.
    pub asked: Asked,
    /// Where everything goes.
    pub out: &'a Path,
    /// The folder of another shrink; what it measured of the same dense network is taken over.
    pub like: Option<&'a Path>,
}

/// Stages that are under way.
pub struct Shrinking<'a> {
    shrink: Shrink<'a>,
    folder: Folder,
    plan: Plan,
    interrupt: &'a AtomicBool,
    note: Note<'a>,
}

impl<'a> Shrink<'a> {
    /// Begins in a folder of its own, or goes on where the same command stopped.
    ///
    /// # Errors
    /// If the network is no preset without gates, the runtime is not there, or the folder holds
    /// something else.
    pub fn begin(self, interrupt: &'a AtomicBool, note: Note<'a>) -> Result<Shrinking<'a>> {
        let spec = self.dense.network.spec();
        let unfit = |why: &str| Error::Unfit { network: spec.name.clone(), why: why.to_owned() };
        if spec.gate_count() > 0 {
            return Err(unfit("it has gates already; train fit and train prune go on with those"));
        }
        if NetSpec::preset(&spec.name, spec.head.classes).is_ok_and(|preset| preset != *spec) {
            return Err(unfit("it was made smaller already; begin with the network that it was made from"));
        }
        // Before anything is computed that would be of no use without it.
        drop(self.workers.start(self.runtime, "cpu")?);
        let (folder, mut plan) = Folder::claim(self.out, self.asked.clone())?;
        if let Some(like) = self.like {
            folder.adopt(&mut plan, like)?;
        }
        Ok(Shrinking { shrink: self, folder, plan, interrupt, note })
    }
}

impl Shrinking<'_> {
    /// Measures the dense network and tells what is ahead; nothing is trained.
    ///
    /// # Errors
    /// If a stage fails, or the budget cannot be met.
    pub fn look_ahead(&mut self) -> Result<Prospect> {
        let dense = self.dense()?;
        let config = self.config()?;
        let found = trainer::dry_run(config, None, self.shrink.device)?;
        let reach = found.reach.as_ref().map(ToString::to_string);
        Ok(Prospect { dense, reach, seconds: found.projected() })
    }

    /// Does what is left to do. `listeners` are given a run that is about to be trained.
    ///
    /// # Errors
    /// If a stage fails, the budget cannot be met, or somebody asked to stop; the same command
    /// goes on with the stages that are left.
    pub fn finish(&mut self, listeners: &dyn Fn(&Fit) -> trainer::Result<Vec<Box<dyn Listener>>>) -> Result<Shrunk> {
        let dense = self.dense()?;
        let learned = self.learn(listeners)?;
        let differences = self.export(&learned)?;
        self.verify(&dense, &learned, differences)
    }

    /// The folder of the training run.
    pub fn run_dir(&self) -> RunDir {
        RunDir::at(&self.folder.path.join(RUN))
    }

    /// The files for other programs.
    pub fn files(&self) -> [PathBuf; 2] {
        [self.path(ONNX), self.path(SCRIPT)]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path.join(name)
    }

    fn tell(&mut self, text: &str) {
        (self.note)(text);
    }

    fn refuse_interruption(&self) -> Result<()> {
        if self.interrupt.load(Ordering::Relaxed) { Err(trainer::Error::Interrupted.into()) } else { Ok(()) }
    }

    fn input(&self) -> Input {
        Input::of(&self.shrink.config)
    }

    fn cost(&self, spec: &NetSpec) -> Result<Cost> {
        let size = self.input().image_size as usize;
        Ok(Cost::of(spec, size, size)?)
    }

    /// Evaluates the dense network, and writes it as a checkpoint and for the runtime.
    fn dense(&mut self) -> Result<Side> {
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
    fn write_dense(&self, runtime: Runtime) -> Result<PathBuf> {
        let Dense { network, classes } = &self.shrink.dense;
        let stem = self.path(DENSE_FILE);
        write_for(runtime, network, Execution::Skipping, classes, self.input(), &stem)
    }

    /// The configuration to train with, its table of times measured if the budget is one of time.
    fn config(&mut self) -> Result<Config> {
        let mut config = self.shrink.config.clone();
        config.network.weights = Some(absolute(&self.path(DENSE)));
        if matches!(self.shrink.asked.budget, Budget::Time(_)) {
            config.gates.weighting = Weighting::CostTable;
            config.gates.times = Some(absolute(&self.path(TIMES)));
            config.gates.align = None;
            self.times()?;
        }
        Ok(config)
    }

    /// Measures what the network takes by its widths.
    fn times(&mut self) -> Result<()> {
        if let Some(done) = &self.plan.times {
            return done.check(&self.folder.path);
        }
        let Asked { batch, runtime: name, .. } = &self.shrink.asked;
        let told = format!("measuring what it takes in {name} by its widths, with batches of {batch}");
        let (batch, runtime, workers) = (*batch, self.shrink.runtime, self.shrink.workers);
        self.tell(&told);
        let stopwatch = Stopwatch { workers, runtime, batch, seconds: SECONDS };
        let spec = without_gates(self.shrink.dense.network.spec().clone());
        let size = self.input().image_size;
        let align = stopwatch.alignment(&spec, size)?;
        self.refuse_interruption()?;
        let sampling = Sampling { sites: self.shrink.config.gates.sites.clone(), levels: 6, gates: true };
        let mut table = stopwatch.table(&spec, size, align, &sampling, &mut *self.note)?;
        self.refuse_interruption()?;
        if let Some(wrong) = self.misprediction(&stopwatch, &table)? {
            self.tell(&format!("{wrong}; measuring once more"));
            table = stopwatch.table(&spec, size, align, &sampling, &mut *self.note)?;
            self.refuse_interruption()?;
            if let Some(wrong) = self.misprediction(&stopwatch, &table)? {
                self.tell(&format!("WARNING: {wrong}; the budget will be missed by as much"));
            }
        }
        let path = self.path(TIMES);
        let text = serde_json::to_string_pretty(&table);
        let text = text.map_err(|error| Error::Content { path: path.clone(), fault: error.to_string() })?;
        trainer::write_atomically(&path, text.as_bytes())?;
        self.plan.times = Some(Done::with(&self.folder.path, &[TIMES], ())?);
        self.plan.write(&self.folder.path)
    }

    /// What is wrong with a table, if it predicts another time than a network of the budget takes,
    /// filters chosen at random.
    fn misprediction(&mut self, stopwatch: &Stopwatch, table: &CostTable) -> Result<Option<String>> {
        let gated = self.shrink.config.spec(self.shrink.dense.classes.len())?;
        let share = self.shrink.asked.budget.share();
        let filters = gated.gate_sites().any(|(_, gates)| gates.site != Site::Layer);
        let spending = table.spending(&gated)?;
        if gated.has_dependent_gates() || !filters || spending.narrowest(table.align) > share * spending.dense() {
            // What cannot be reached is told by the run.
            return Ok(None);
        }
        let [predicted, measured] = stopwatch.check(table, &gated, share, self.input().image_size)?;
        self.refuse_interruption()?;
        let told = format!(
            "the table predicts {:.1}% of the dense time for a network that takes {:.1}%",
            100.0 * predicted,
            100.0 * measured
        );
        if is_wrong(predicted, measured) {
            return Ok(Some(format!("{told}; other programs that run here would explain it")));
        }
        self.tell(&told);
        Ok(None)
    }

    /// Trains: gates learn, freeze within the budget and are cut, and what is left trains on.
    fn learn(&mut self, listeners: &dyn Fn(&Fit) -> trainer::Result<Vec<Box<dyn Listener>>>) -> Result<Learned> {
        if let Some(done) = &self.plan.learned {
            done.check(&self.folder.path)?;
            return Ok(done.found.clone());
        }
        let run = self.run_dir();
        let config = self.config()?;
        let budget = self.shrink.asked.budget;
        self.tell(&format!("learning what to keep within {budget}"));
        let (config, resume) = match run.config().exists() {
            true => (Config::read_saved(&run.config(), &[])?, Resume::Exactly),
            false => {
                if run.path().exists() {
                    // Of a process that ended while it made the folder.
                    fs::remove_dir_all(run.path()).map_err(|source| file(run.path(), source))?;
                }
                (config, Resume::No)
            }
        };
        let fit = Fit::prepare(config, Some(run.path().to_owned()), resume, self.shrink.device)?;
        let mut listeners = listeners(&fit)?;
        let verdict = match fit.run(&mut listeners, self.interrupt)? {
            Outcome::Finished(verdict) => verdict,
            Outcome::Interrupted(_) => return Err(trainer::Error::Interrupted.into()),
        };
        drop(listeners);
        let state = chosen(&verdict);
        let checkpoint = state.strip_prefix(&self.folder.path).unwrap_or(&state).to_string_lossy().into_owned();
        let read = Checkpoint::read(&state)?;
        let evaluation = read.training.as_ref().and_then(|training| training.evaluation.clone());
        let summary = evaluation.unwrap_or_else(|| verdict.evaluation.summary.clone());
        let learned = Learned {
            checkpoint: checkpoint.clone(),
            top1: summary.top1,
            macs: summary.macs,
            dense_epochs: verdict.training_macs / verdict.dense_epoch.max(1.0),
            seconds: verdict.seconds,
        };
        self.plan.learned = Some(Done::with(&self.folder.path, &[&checkpoint], learned.clone())?);
        self.plan.write(&self.folder.path)?;
        Ok(learned)
    }

    /// Writes the files for other programs and runs them, where their runtime is there: by how much
    /// their logits differ.
    fn export(&mut self, learned: &Learned) -> Result<Vec<(String, f64)>> {
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
        for (runtime, name, expected) in [(Runtime::OnnxRuntime, ONNX, &onnx), (Runtime::TorchScript, SCRIPT, &script)]
        {
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
    fn verify(&mut self, dense: &Side, learned: &Learned, differences: Vec<(String, f64)>) -> Result<Shrunk> {
        if let Some(done) = &self.plan.shrunk {
            done.check(&self.folder.path)?;
            return Ok(done.found.clone());
        }
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
        let side = i64::from(size_of_images);
        let images_to_time = Array::of(&normal(&[self.shrink.asked.batch.into(), 3, side, side], 2)?)?;
        let subjects = models.map(|model| Subject { worker: 0, model });
        let seconds = in_turn(std::slice::from_mut(&mut worker), &subjects, &[images_to_time], ROUNDS)?;
        self.refuse_interruption()?;
        let mut spreads = seconds.into_iter().map(Spread::of);
        let spec = Checkpoint::read(&self.path(&learned.checkpoint))?.spec;
        let parameters = self.cost(&spec)?.parameters;
        let operations = [worker.operations(models[0], OPERATIONS)?, worker.operations(models[1], OPERATIONS)?];
        let times = self.plan.times.is_some().then(|| CostTable::read(&self.path(TIMES))).transpose()?;
        let specs = [self.shrink.dense.network.spec(), &spec];
        let predict = |table: &CostTable| -> Result<f64> {
            Ok(table.spending(specs[1])?.dense() / table.spending(specs[0])?.dense())
        };
        let predicted = times.as_ref().map(predict).transpose()?;
        let blocks = BlockTime::all(specs, times.as_ref(), [&operations[0], &operations[1]])?;
        let dense = Side { time: spreads.next(), ..dense.clone() };
        let bytes = size(&self.path(ONNX))?;
        let small = Side { top1, macs: learned.macs, parameters, bytes, time: spreads.next() };
        let threads = usize::try_from(tch::get_num_threads()).unwrap_or(1);
        let shrunk = Shrunk { dense, small, differences, images, machine: processor(), threads, predicted, blocks };
        self.plan.shrunk = Some(Done::with(&self.folder.path, &[ONNX, SCRIPT], shrunk.clone())?);
        self.plan.write(&self.folder.path)?;
        Ok(shrunk)
    }
}

/// The state of a run that is deployed: its best, unless it spends more than it should.
fn chosen(verdict: &Verdict) -> PathBuf {
    match verdict.run.best() {
        best if best.exists() && !verdict.best_is_over_budget => best,
        _ => verdict.run.last(),
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn file(path: &Path, source: std::io::Error) -> Error {
    Error::File { path: path.to_owned(), source }
}

fn size(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(|source| file(path, source))?.len())
}
