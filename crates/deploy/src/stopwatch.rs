//! Measuring what a network takes in a runtime of this machine.

use crate::error::{Error, Result};
use crate::network_file::write_for;
use crate::workers::{Workers, threads};
use arch::{Allocation, CostTable, Decision, Execution, Measured, NetSpec, Network};
use gumbel_gates::GateKind;
use runtime::measure::{Group, Plan, Probe, Sampling, Timed};
use runtime::{Array, Runtime, Subject, in_turn};
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Kind;
use tempfile::TempDir;
use torch_ext::{normal, uniform};
use trainer::{Config, Input};

/// Where and how a network is timed.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    /// Processes that run networks.
    pub workers: Workers,
    /// What runs it.
    pub runtime: Runtime,
    /// Images per batch.
    pub batch: u32,
    /// How long the networks of one shape of block are timed.
    pub seconds: f64,
}

/// Rounds by which a table is checked.
const ROUNDS: u32 = 15;

/// Is told what is worth a line.
pub type Note<'a> = &'a mut dyn FnMut(&str);

/// Seconds that one shape of block is timed, if nothing else is asked for.
pub const SECONDS: f64 = 15.0;

/// By which multiples of channels this machine computes a network without gates well, in ONNX
/// Runtime or, without that, TorchScript, one image at a time; says so.
///
/// # Errors
/// If the network cannot be run.
pub fn best_alignment(
    workers: Workers,
    spec: &NetSpec,
    image_size: u32,
    interrupt: &AtomicBool,
    note: Note,
) -> Result<usize> {
    let find = |runtime| {
        let stopwatch = Stopwatch { workers, runtime, batch: 1, seconds: SECONDS };
        stopwatch.alignment(spec, image_size, interrupt)
    };
    let (runtime, align) = match find(Runtime::OnnxRuntime) {
        Ok(align) => (Runtime::OnnxRuntime, align),
        Err(error @ Error::Runtime(runtime::Error::Missing { .. })) => {
            note(&format!("{error}; TorchScript is measured instead"));
            (Runtime::TorchScript, find(Runtime::TorchScript)?)
        }
        Err(error) => return Err(error),
    };
    let well = match align {
        1 => "any number of channels as well as multiples".to_owned(),
        _ => format!("multiples of {align} channels best"),
    };
    note(&format!("{runtime} computes {well} on this machine"));
    Ok(align)
}

/// A network without its gates.
pub fn without_gates(spec: NetSpec) -> NetSpec {
    spec.with_layer_gates(GateKind::Independent, |_| false)
}

impl Stopwatch {
    /// By which multiples widths should be cut.
    ///
    /// # Errors
    /// If the network cannot be run, or `interrupt` was set meanwhile.
    pub fn alignment(&self, spec: &NetSpec, image_size: u32, interrupt: &AtomicBool) -> Result<usize> {
        let plan = Plan::of_alignment(spec, image_size)?;
        let time = |group: &Group| self.time(&plan, &group.probes, interrupt);
        let timed = plan.groups.iter().map(time).collect::<Result<Vec<_>>>()?;
        Ok(plan.best_alignment(&timed))
    }

    /// The table of costs of a network without gates, at widths that are multiples of `align`.
    ///
    /// # Errors
    /// If the network cannot be run, or `interrupt` was set meanwhile.
    pub fn table(
        &self,
        spec: &NetSpec,
        image_size: u32,
        align: usize,
        sampling: &Sampling,
        interrupt: &AtomicBool,
        note: Note,
    ) -> Result<CostTable> {
        let plan = Plan::of(spec, image_size, align, sampling)?;
        let all: usize = plan.groups.iter().map(|group| group.probes.len()).sum();
        let mut done = 0;
        let mut timed = Vec::new();
        for Group { names, probes, .. } in &plan.groups {
            let (first, more) = (names.first().map_or("", String::as_str), names.len().saturating_sub(1));
            let others = if more > 0 { format!(" and {more} like it") } else { String::new() };
            note(&format!("{done} of {all} networks timed; next {} for {first}{others}", probes.len()));
            timed.push(self.time(&plan, probes, interrupt)?);
            done += probes.len();
        }
        let outside = self.time(&plan, std::slice::from_ref(&plan.outside), interrupt)?;
        Ok(plan.table(&outside, &timed, self.measured()))
    }

    /// What a table predicts of a network whose gates leave `share` of its cost, filters chosen at
    /// random, and what is measured: shares of the dense network's time.
    ///
    /// # Errors
    /// If the share cannot be reached, or the network cannot be run.
    pub fn check(&self, table: &CostTable, gated: &NetSpec, share: f64, image_size: u32) -> Result<[f64; 2]> {
        let spending = table.spending(gated)?;
        let gates = gated.gate_count();
        let scores: Vec<f64> = Vec::try_from(uniform(&[gates as i64], 0)?.f_to_kind(Kind::Double)?)?;
        let (decided, budget) = (vec![true; gates], share * spending.dense());
        let allocation =
            Allocation { spending: &spending, decided: &decided, scores: &scores, align: table.align, budget };
        let decide = |open| if open { Decision::Open } else { Decision::Closed };
        let decisions: Vec<Decision> = allocation.open()?.into_iter().map(decide).collect();
        let network = Network::build(gated, tch::Device::Cpu, 0)?;
        let networks = [network.prune(&vec![Decision::Open; gates])?, network.prune(&decisions)?];
        let folder = scratch()?;
        let mut worker = self.workers.start(self.runtime, "cpu")?;
        let input = Input { image_size, ..Input::of(&Config::default()) };
        let classes: Vec<String> = (0..gated.head.classes).map(|class| class.to_string()).collect();
        let mut subjects = Vec::new();
        for (network, name) in networks.iter().zip(["dense", "small"]) {
            let file =
                write_for(self.runtime, network, Execution::Skipping, &classes, input, &folder.path().join(name))?;
            subjects.push(Subject { worker: 0, model: worker.load(&file, true)? });
        }
        let side = i64::from(image_size);
        let images = Array::of(&normal(&[self.batch.into(), 3, side, side], 2)?)?;
        let seconds = in_turn(std::slice::from_mut(&mut worker), &subjects, &[images], ROUNDS)?;
        let median = |mut seconds: Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        };
        let [dense, small] = [0, 1].map(|number| median(seconds[number].clone()));
        let predicted = table.spending(networks[1].spec())?.dense() / spending.dense();
        Ok([predicted, small / dense])
    }

    fn measured(&self) -> Measured {
        Measured {
            machine: processor(),
            runtime: self.runtime.key().to_owned(),
            threads: threads(),
            batch: self.batch as usize,
        }
    }

    /// Times the whole network and probes in turn, in a process of their own.
    fn time(&self, plan: &Plan, probes: &[Probe], interrupt: &AtomicBool) -> Result<Timed> {
        if interrupt.load(Ordering::Relaxed) {
            return Err(trainer::Error::Interrupted.into());
        }
        let folder = scratch()?;
        let mut worker = self.workers.start(self.runtime, "cpu")?;
        let mut models = Vec::new();
        // Its errors would be those of all others, so it is timed several times a round.
        let whole = std::iter::repeat_n(&plan.dense, Timed::DENSE);
        for (number, probe) in whole.chain(probes).enumerate() {
            let network = probe.network()?;
            let input = Input { image_size: probe.image_size, ..Input::of(&Config::default()) };
            let classes: Vec<String> = (0..probe.spec.head.classes).map(|class| class.to_string()).collect();
            let stem = folder.path().join(number.to_string());
            let file: PathBuf = write_for(self.runtime, &network, Execution::Skipping, &classes, input, &stem)?;
            let model = worker.load(&file, true)?;
            fs::remove_file(&file).map_err(|source| Error::File { path: file, source })?;
            let side = i64::from(probe.image_size);
            worker.give(model, &Array::of(&normal(&[self.batch.into(), 3, side, side], 2)?)?)?;
            models.push(model);
        }
        Ok(Timed::of(&worker.rounds(&models, self.seconds)?))
    }
}

/// The name of this machine's processor.
pub fn processor() -> String {
    let known = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = known.lines().find(|line| line.starts_with("model name") || line.starts_with("Model"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned());
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// A folder for files that no one needs afterwards.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn scratch() -> Result<TempDir> {
    tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })
}
