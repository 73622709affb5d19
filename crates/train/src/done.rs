//! How a command ends that did not fail, and what it says meanwhile.

use std::io::Write;

/// The outcome of a command that did not fail.
#[derive(Default)]
pub(crate) struct Done {
    /// The result.
    pub stdout: String,
    /// What is not a result.
    pub stderr: String,
    /// The exit code.
    pub code: u8,
}

impl Done {
    /// The command did its work.
    pub(crate) fn ok(stdout: String) -> Self {
        Self { stdout, ..Self::default() }
    }

    /// The command did its work, and the answer is bad news.
    pub(crate) fn with_code(stdout: String, code: u8) -> Self {
        Self { stdout, code, ..Self::default() }
    }

    /// The command did a part of its work; `stderr` says what it could not do.
    pub(crate) fn in_part(stdout: String, stderr: String) -> Self {
        Self { stdout, stderr, code: 1 }
    }

    /// Stopped by the user, the state saved.
    pub(crate) fn interrupted(stderr: String) -> Self {
        Self { stderr, code: 130, ..Self::default() }
    }
}

/// Says something that is no result.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
