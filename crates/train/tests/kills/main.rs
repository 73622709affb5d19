//! Runs that are killed without warning go on as if nothing had happened.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use data::synth::{SampleSet, draw};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How many times a process is killed; `KILLS=200 cargo test --release --test kills` kills more.
const KILLS: u32 = 8;

/// A small run that saves its state after every step. Averages, momentum, sampled gates and augmentation all have to go on.
const CONFIG: &str = "[network]\narch = \"cifar-resnet20\"\n[data]\nimage_size = 32\nresize = 36\nthreads = 1\nmixup = 0.2\n\
     [optimizer]\nlearning_rate = 0.02\n[checkpoints]\nevery_steps = 1\n\
     [train]\nepochs = 2\nbatch_size = 8\nlog_every = 2\naverage_decay = 0.9\n";

/// Starts the program; what it says goes to the end of `log`.
fn spawn(arguments: &[&str], log: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(log).expect("the log can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    // One thread each, so that a loaded machine does not stretch the run.
    command.env("OMP_NUM_THREADS", "1").args(arguments).args(["--device", "cpu"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("the program starts")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// When a process is killed: as a function of its number, spread over the time of a run.
fn moment(process: u32, whole: Duration) -> Duration {
    // Multiples of the golden ratio fill an interval evenly.
    whole.mul_f64((f64::from(process) * 0.618_033_988_749_895).fract())
}

/// A line of metrics.jsonl without what a clock measured.
fn timeless(mut line: Value) -> Value {
    for key in ["images_per_second", "step_seconds", "evaluation_seconds"] {
        line.as_object_mut().expect("an object").remove(key);
    }
    line
}

#[test]
fn a_run_that_is_killed_at_any_moment_resumes_to_the_same_bits() {
    let kills = std::env::var("KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let folder = tempfile::tempdir().unwrap();
    let (data, config) = (folder.path().join("data"), folder.path().join("config.toml"));
    draw(&data, &SampleSet { train_per_class: 4, val_per_class: 1, seed: 3 }).unwrap();
    fs::write(&config, CONFIG).unwrap();
    let log = folder.path().join("log");
    let fresh =
        |out: &Path| spawn(&["fit", "--config", path(&config), "--data", path(&data), "--out", path(out)], &log);
    let last = |out: &Path| fs::read(out.join("checkpoints/last.safetensors")).unwrap();
    let metrics = |out: &Path| -> Vec<Value> {
        let text = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        text.lines().map(|line| timeless(serde_json::from_str(line).unwrap())).collect()
    };

    let whole = folder.path().join("whole");
    let start = Instant::now();
    assert!(fresh(&whole).wait().unwrap().success());
    let (duration, expected, logged) = (start.elapsed(), last(&whole), metrics(&whole));
    assert_eq!(logged.iter().filter(|line| line["event"] == "epoch").count(), 2);

    // A process may end before its moment comes; the next one has another.
    let (mut processes, mut killed, mut finished) = (0, 0, 0);
    while killed < kills || finished == 0 {
        let out = folder.path().join(format!("run-{finished}"));
        let mut child = fresh(&out);
        loop {
            let mut is_killed = false;
            if killed < kills {
                std::thread::sleep(moment(processes, duration));
                processes += 1;
                is_killed = child.try_wait().unwrap().is_none();
                killed += u32::from(is_killed);
                // SIGKILL.
                let _ = child.kill();
            }
            if child.wait().unwrap().success() {
                break;
            }
            assert!(is_killed, "it failed by itself: {}", fs::read_to_string(&log).unwrap());
            child = if out.join("config.toml").exists() {
                spawn(&["fit", "--resume", "--out", path(&out)], &log)
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
