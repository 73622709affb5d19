//! What tests compare with: what PyTorch and torchvision compute, and what a run logged. Nothing
//! but tests depends on it. Where a machine lacks what a test compares with, the test says so and
//! skips.

#![allow(clippy::expect_used)] // a test that cannot run is to fail

use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of this repository.
pub fn repository() -> PathBuf {
    // Two folders up.
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}

/// Says why a test compares nothing, past the test harness, which would swallow it.
pub fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// The Python that `make setup` brings, with PyTorch and torchvision.
#[derive(Debug)]
pub struct PyTorch {
    python: PathBuf,
}

impl PyTorch {
    /// Finds it, or skips.
    pub fn find() -> Option<Self> {
        let python = repository().join(".venv/bin/python");
        if !python.exists() {
            skip(&format!("no PyTorch at {} (make setup brings it)", python.display()));
            return None;
        }
        Some(Self { python })
    }

    /// Python itself.
    pub fn command(&self) -> Command {
        Command::new(&self.python)
    }

    /// A script of `scripts/`.
    pub fn script(&self, name: &str) -> Command {
        let mut command = self.command();
        command.arg(repository().join("scripts").join(name));
        command
    }

    /// The results of calls of `scripts/pytorch_training.py`: name of the function and its
    /// arguments.
    ///
    /// # Panics
    /// If a call fails.
    pub fn call(&self, calls: &[Value]) -> Vec<Value> {
        let results = piped(&mut self.script("pytorch_training.py"), calls);
        let results: Vec<Value> = serde_json::from_slice(&results).expect("the results are JSON");
        assert_eq!(results.len(), calls.len(), "a result for every call");
        results
    }
}

/// What a command writes, given the `input` as JSON.
///
/// # Panics
/// If it fails.
pub fn piped(command: &mut Command, input: &[Value]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let input = serde_json::to_vec(input).expect("JSON");
    child.stdin.take().expect("it is piped").write_all(&input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?} failed");
    output.stdout
}

/// The nine values that divide the sorted ones into tenths: how they are distributed.
pub fn deciles(mut values: Vec<i64>) -> Vec<i64> {
    values.sort_unstable();
    (1..10).map(|tenth| values[tenth * values.len() / 10]).collect()
}

/// The lines of a run's `metrics.jsonl` without what a clock measured: a run that was stopped and
/// resumed has the same ones as a run that was left alone.
///
/// # Panics
/// If the file cannot be read, or a line of it is no JSON object.
pub fn metrics(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).expect("metrics were written");
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect("a line of JSON");
        for key in ["images_per_second", "step_seconds", "evaluation_seconds"] {
            line.as_object_mut().expect("an object").remove(key);
        }
        line
    };
    text.lines().map(line).collect()
}
