//! How libtorch's threads wait for each other where other work shares the cores.
//!
//! Between two parts of a computation the threads of OpenMP spin for up to 3 ms, which is the
//! fastest way as long as every thread has a core. Where one has not, the others spin away the time
//! that it waits for, and a step can take thirty times as long. libgomp, the OpenMP library of
//! libtorch's builds, spins a thousand times shorter while it has more threads than there are cores
//! (`gomp_managed_threads` in its config/linux/wait.h). So while this process is made to wait for
//! cores, it keeps some more threads, which sleep.

use std::fs;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// Settings by which a user decides how threads wait; they are left alone.
const DECIDED: [&str; 3] = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"];

/// How often the kernel is asked.
const INTERVAL: Duration = Duration::from_millis(250);

/// In an interval the process waits for cores if its threads have waited for this part of the time,
/// as a mean over those that compute. Alone on two cores it is one or two hundredths, beside one busy
/// process a quarter.
const CROWDED: f64 = 0.1;

/// So many such intervals in a row begin it: a burst is no reason.
const CROWDED_INTERVALS: u32 = 3;

/// So many others in a row end it.
const CALM_INTERVALS: u32 = 20;

/// Elements that libtorch gives each thread of an operation at least (`at::internal::GRAIN_SIZE`).
const GRAIN: i64 = 32_768;

/// Watches, for the rest of the process, how long its threads wait for cores, and makes them sleep
/// rather than spin while they do. Only Linux tells.
pub(crate) fn adapt() {
    let decided = DECIDED.iter().any(|name| std::env::var_os(name).is_some());
    if decided || tch::get_num_threads() < 2 || waited().is_none() {
        return;
    }
    // Without it, waiting is as it always was.
    let _ = thread::Builder::new().name("waiting".into()).spawn(watch);
}

fn watch() {
    let threads = f64::from(tch::get_num_threads());
    let mut sleepers = None;
    let (mut crowded, mut calm) = (0, 0);
    let (mut before, mut asked) = (waited().unwrap_or_default(), Instant::now());
    loop {
        thread::sleep(INTERVAL);
        let Some(now) = waited() else { return };
        // Threads that ended took what they had waited along.
        let share = now.saturating_sub(before).as_secs_f64() / asked.elapsed().as_secs_f64() / threads;
        (before, asked) = (now, Instant::now());
        (crowded, calm) = if share > CROWDED { (crowded + 1, 0) } else { (0, calm + 1) };
        if crowded >= CROWDED_INTERVALS && sleepers.is_none() {
            sleepers = Sleepers::start();
        } else if calm >= CALM_INTERVALS {
            sleepers = None;
        }
    }
}

/// How long the threads of this process have been ready to run and had no core.
fn waited() -> Option<Duration> {
    let tasks = fs::read_dir("/proc/self/task").ok()?;
    let of_task = |task: std::io::Result<fs::DirEntry>| -> Option<u64> {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    };
    let found: Vec<u64> = tasks.filter_map(of_task).collect();
    (!found.is_empty()).then(|| Duration::from_nanos(found.iter().sum()))
}

/// The cores that libgomp counts: those of the process's affinity, whatever a container's quota is.
fn cores() -> Option<i32> {
    // SAFETY: a set of bits, all of them zero.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the call fills a set of the size that it is told.
    let found = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    // SAFETY: it only reads the set.
    (found == 0).then(|| unsafe { libc::CPU_COUNT(&set) })
}

/// Threads of OpenMP that have nothing to do, as many as there are cores.
struct Sleepers {
    /// They end when it is dropped.
    _awake: Sender<()>,
}

impl Sleepers {
    fn start() -> Option<Self> {
        let threads = tch::get_num_threads();
        let cores = cores()?.max(threads);
        let (awake, end) = channel::<()>();
        let sleep = move || {
            // The number is one of the thread that sets it, and of those that have none yet.
            tch::set_num_threads(cores);
            let work = Tensor::f_zeros([i64::from(cores) * GRAIN], (Kind::Float, Device::Cpu));
            let done = work.and_then(|work| work.f_exp());
            tch::set_num_threads(threads);
            drop(done);
            let _ = end.recv();
        };
        thread::Builder::new().name("sleepers".into()).spawn(sleep).ok()?;
        Some(Self { _awake: awake })
    }
}
