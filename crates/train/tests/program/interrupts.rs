//! Runs that are interrupted, and how they go on.

use crate::calls::{failure, stderr, train};
use crate::fixture::{Fixture, fixture};
use crate::support::{path, program};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

/// A run of 40 epochs that was interrupted by `signal` after its first checkpoint.
fn interrupted_run(out: &Path, signal: &str) {
    let Fixture { config, data, .. } = fixture();
    let fit = ["fit", "--config", path(config), "--data", path(data), "--out", path(out)];
    let log = interrupted(&[&fit[..], &["--set", "train.epochs=40"]].concat(), signal);
    let (program, out) = (env!("CARGO_BIN_EXE_train"), path(out));
    let advice = format!("go on with: {program} fit --resume --out {out} --device cpu");
    assert!(log.contains(&advice), "{log}");
}

/// Runs the program until it saved the state after an epoch, sends it `signal`, and gives back what
/// it said.
fn interrupted(arguments: &[&str], signal: &str) -> String {
    let mut command = program();
    command.args(arguments).args(["--device", "cpu"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut log = String::new();
    while !has_saved(&log) {
        assert!(stderr.read_line(&mut log).unwrap() > 0, "the run ended early: {log}");
    }
    let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
    assert!(killed.unwrap().success());
    stderr.read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{log}");
    log
}

/// Whether a log goes on with the steps of another epoch: the state before those is saved by then.
fn has_saved(log: &str) -> bool {
    let mut lines = log.lines();
    lines.any(|line| line.contains("  train loss ")) && lines.any(|line| line.contains("  step "))
}

/// The steps that the last state has behind it.
fn steps(out: &Path) -> u64 {
    let output = train(&["inspect", path(&out.join("checkpoints/last.safetensors")), "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    value["training"]["steps"].as_u64().unwrap()
}

#[test]
fn a_full_disk_keeps_the_old_checkpoint_and_names_the_size() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    interrupted_run(&out, "-INT");
    let last = out.join("checkpoints/last.safetensors");
    let before = fs::read(&last).unwrap();
    // A limit on file sizes stands in for a full disk: writing past it fails in the same way.
    let script = format!(
        "trap '' XFSZ; ulimit -f 20000; exec {} fit --resume --out {} --device cpu",
        env!("CARGO_BIN_EXE_train"),
        path(&out)
    );
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(
        message.contains("cannot write") && message.contains(".safetensors (") && message.contains("bytes)"),
        "{message}"
    );
    assert!(message.contains("free some space, or choose another place; then go on with"), "{message}");
    assert!(fs::read(&last).unwrap() == before, "the old checkpoint is still there");
    let names: Vec<_> = fs::read_dir(out.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().starts_with('.')), "no scratch file stays: {names:?}");
}

#[test]
fn an_interrupt_saves_and_resume_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    interrupted_run(&out, "-TERM");
    let before = steps(&out);
    assert!(before > 0);
    let message = failure(&["fit", "--resume", "--out", path(&out), "--set", "train.epochs=3"], 1);
    assert!(message.contains("train.epochs is 3 and was 40"), "{message}");
    interrupted(&["fit", "--resume", "--out", path(&out)], "-INT");
    assert!(steps(&out) > before);
}
