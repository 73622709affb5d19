//! Calls of the program, and what they answer.

use crate::support::program;
use serde_json::Value;
use std::process::Output;

/// Runs the program to its end, on the CPU wherever a command has a choice.
pub fn train(arguments: &[&str]) -> Output {
    program().args(arguments).args(device(arguments)).output().expect("the program starts")
}

fn device(arguments: &[&str]) -> &'static [&'static str] {
    let chooses = ["fit", "eval", "calibrate", "predict", "prune"].contains(&arguments[0]);
    if chooses && !arguments.contains(&"--device") && !arguments.contains(&"--help") {
        &["--device", "cpu"]
    } else {
        &[]
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs, expects success, and gives back what was printed.
pub fn done(arguments: &[&str]) -> String {
    let output = train(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    stdout(&output)
}

/// The same with `--json`.
pub fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&done(&[arguments, &["--json"]].concat())).expect("the result is JSON")
}

/// Runs, expects an exit code and one clear message, and gives it back.
pub fn failure(arguments: &[&str], code: i32) -> String {
    let output = train(arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    assert!(output.stdout.is_empty(), "results only on success");
    message
}
