//! Runs that are killed without warning go on as if nothing had happened.
//!
//! No clock decides when. A process is killed at one of the things that it does to files: it reads
//! an image or a state, logs a line, writes a state, gives it its name. Which one is spread over
//! all that a run does; of three processes one lives on until a file is about to be written, and
//! one until a file moves: half-written states are met, and moments without a last state.
#![cfg(target_os = "linux")] // what tells of files
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

#[path = "../support/mod.rs"]
mod support;
mod watch;

use data::synth::{SampleSet, draw};
use reference::metrics;
use rustix::fs::inotify::ReadFlags;
use serde_json::Value;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use support::{path, program};
use watch::{Event, Watch};

/// How many times a process is killed; `KILLS=200 cargo test --release --test kills` kills more.
const KILLS: u32 = 8;

/// A small run that saves its state after every step. Averages, momentum, sampled gates and
/// augmentation all have to go on.
const CONFIG: &str = "[network]\narch = \"cifar-resnet20\"\n[data]\nimage_size = 32\nresize = 36\nthreads = 1\nmixup = 0.2\n\
     [optimizer]\nlearning_rate = 0.02\n[checkpoints]\nevery_steps = 1\n\
     [train]\nepochs = 2\nbatch_size = 8\nlog_every = 2\naverage_decay = 0.9\n";

/// The program at work: as an iterator, what happens to the files of the test until it ends.
struct Process {
    child: Child,
    /// What it says goes to the end of this file.
    log: PathBuf,
    watch: Watch,
    has_ended: bool,
}

impl Process {
    /// Starts the program in the folder of the test.
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let (log, watch) = (folder.join("log"), Watch::below(folder));
        let stderr = fs::File::options().create(true).append(true).open(&log);
        let mut command = program();
        // One thread each, so that a loaded machine does not stretch the run.
        command.env("OMP_NUM_THREADS", "1").args(arguments).args(["--device", "cpu"]);
        command.stdout(Stdio::null()).stderr(stderr.expect("the log can be written"));
        let child = command.spawn().expect("the program starts");
        Self { child, log, watch, has_ended: false }
    }

    /// What it said, after those before it.
    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log can be read")
    }
}

impl Iterator for Process {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        if self.has_ended {
            return None;
        }
        let event = self.watch.next();
        // A process that is killed closes it as well.
        self.has_ended = event.path == self.log && event.what.contains(ReadFlags::CLOSE_WRITE);
        (!self.has_ended).then_some(event)
    }
}

/// What a process sees of the `events` of a whole run before its moment comes, as a function of its
/// number. It goes on where the one before was killed, so half of a run is long enough to meet all.
fn lifetime(process: u32, events: usize) -> usize {
    // Multiples of the golden ratio fill an interval evenly.
    (0.5 * events as f64 * (f64::from(process) * 0.618_033_988_749_895).fract()) as usize
}

/// Whether a process is killed at an event once its moment came.
fn is_deadly(process: u32, event: &Event) -> bool {
    let name = event.path.file_name().expect("a file").to_string_lossy();
    match process % 3 {
        0 => true,
        // A file is about to be written, such as a state.
        1 => name.starts_with(".writing-") && event.what.contains(ReadFlags::CREATE),
        // A state moves out of the way of a new one, or a new file to its place.
        _ => event.what.contains(ReadFlags::MOVED_FROM),
    }
}

#[test]
fn a_run_that_is_killed_at_any_moment_resumes_to_the_same_bits() {
    let kills = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (data, config) = (folder.join("data"), folder.join("config.toml"));
    draw(&data, &SampleSet { train_per_class: 4, val_per_class: 1, seed: 3 }).unwrap();
    fs::write(&config, CONFIG).unwrap();
    let fresh = |out: &Path| {
        let fit = ["fit", "--config", path(&config), "--data", path(&data), "--out", path(out)];
        Process::start(folder, &fit)
    };
    let last = |out: &Path| fs::read(out.join("checkpoints/last.safetensors")).unwrap();
    let metrics = |out: &Path| metrics(&out.join("metrics.jsonl"));

    let whole = folder.join("whole");
    let mut process = fresh(&whole);
    let events = process.by_ref().count();
    let status = process.child.wait().unwrap();
    assert!(status.success(), "{status}: {}", process.log());
    let (expected, logged) = (last(&whole), metrics(&whole));
    assert_eq!(logged.iter().filter(|line| line["event"] == "epoch").count(), 2);

    // A process may end before it is killed; the next one has another moment.
    let (mut processes, mut killed, mut finished) = (0, 0, 0);
    while killed < kills || finished == 0 {
        let out = folder.join(format!("run-{finished}"));
        let mut process = fresh(&out);
        loop {
            let (number, lifetime) = (processes, lifetime(processes, events));
            processes += 1;
            let mut later = process.by_ref().skip(lifetime);
            let is_killed = killed < kills && later.any(|event| is_deadly(number, &event));
            if is_killed {
                let _ = process.child.kill();
            }
            let status = process.child.wait().unwrap();
            if status.success() {
                break;
            }
            let is_killed = is_killed && status.signal() == Some(9);
            assert!(is_killed, "it failed by itself, {status}: {}", process.log());
            killed += 1;
            process = if out.join("config.toml").exists() {
                Process::start(folder, &["fit", "--resume", "--out", path(&out)])
            } else {
                // Killed before it had made its folder whole.
                let _ = fs::remove_dir_all(&out);
                fresh(&out)
            };
        }
        assert!(last(&out) == expected, "run {finished}, after {killed} kills in all, ends with other bits");
        assert_eq!(metrics(&out), logged, "run {finished}, after {killed} kills in all");
        finished += 1;
        fs::remove_dir_all(&out).unwrap();
    }
}

/// How many times a shrink is killed, of the kills of a run.
const OF_SHRINKS: u32 = 2;

/// What a shrink found that no clock has a part in, and its files.
fn without_times(out: &Path) -> (Value, Value) {
    let plan: Value = serde_json::from_str(&fs::read_to_string(out.join("plan.json")).unwrap()).unwrap();
    let side = |side: &str| {
        let side = &plan["shrunk"]["found"][side];
        ["top1", "macs", "parameters", "bytes"].map(|key| side[key].clone())
    };
    (serde_json::json!([side("dense"), side("small")]), plan["exported"].clone())
}

#[test]
fn a_shrink_that_is_killed_in_any_stage_ends_with_the_same_table() {
    let kills = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS) / OF_SHRINKS;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (data, config) = (folder.join("data"), folder.join("config.toml"));
    draw(&data, &SampleSet { train_per_class: 2, val_per_class: 1, seed: 3 }).unwrap();
    let dense = folder.join("dense");
    let keys = "[network]\narch = \"cifar-resnet20\"\n[data]\nimage_size = 32\nresize = 32\nthreads = 1\n\
         [gates]\ngranularity = \"none\"\n[train]\nepochs = 1\nbatch_size = 8\n";
    fs::write(&config, keys).unwrap();
    let fit = ["fit", "--config", path(&config), "--data", path(&data), "--out", path(&dense)];
    assert!(Process::start(folder, &fit).child.wait().unwrap().success());
    let checkpoint = dense.join("checkpoints/last.safetensors");
    let shrink = |out: &Path| {
        let source = ["shrink", "--checkpoint", path(&checkpoint), "--data", path(&data), "--runtime", "libtorch"];
        let trained = ["--macs", "0.7", "--epochs", "1", "--set", "train.batch_size=8", "--set", "data.threads=1"];
        let saves = ["--set", "checkpoints.every_steps=1", "--out", path(out)];
        Process::start(folder, &[&source[..], &trained[..], &saves[..]].concat())
    };

    let whole = folder.join("whole");
    let mut process = shrink(&whole);
    let events = process.by_ref().count();
    let status = process.child.wait().unwrap();
    assert!(status.success(), "{status}: {}", process.log());
    let expected = without_times(&whole);

    let (mut processes, mut killed, mut finished) = (0, 0, 0);
    while killed < kills || finished == 0 {
        let out = folder.join(format!("shrunk-{finished}"));
        loop {
            let mut process = shrink(&out);
            let (number, lifetime) = (processes, lifetime(processes, events));
            processes += 1;
            let mut later = process.by_ref().skip(lifetime);
            if killed < kills && later.any(|event| is_deadly(number, &event)) {
                let _ = process.child.kill();
            }
            let status = process.child.wait().unwrap();
            if status.success() {
                break;
            }
            assert_eq!(status.signal(), Some(9), "it failed by itself: {}", process.log());
            killed += 1;
        }
        assert_eq!(without_times(&out), expected, "shrink {finished}, after {killed} kills in all");
        finished += 1;
        fs::remove_dir_all(&out).unwrap();
    }
}
