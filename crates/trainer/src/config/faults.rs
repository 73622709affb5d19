//! What is wrong with a configuration, all of it at once.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted key; empty where the text is not TOML at all.
    pub key: String,
    /// Line in the file, from 1; `None` for keys that are not in it.
    pub line: Option<usize>,
    /// Whether the key was given on the command line.
    pub from_command_line: bool,
    /// What is wrong and what was expected.
    pub message: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults {
    /// The file, as the user named it.
    pub origin: String,
    /// In the order of the file.
    pub faults: Vec<Fault>,
}

impl Faults {
    /// One fault that only the data, a table or a checkpoint brings out.
    pub(crate) fn of(key: &str, message: String) -> Self {
        let faults = vec![Fault { key: key.to_owned(), line: None, from_command_line: false, message }];
        Self { origin: "the configuration".to_owned(), faults }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let count = self.faults.len();
        let plural = if count == 1 { "" } else { "s" };
        // The file is not to blame for what the command line says.
        match self.faults.iter().all(|fault| fault.from_command_line) {
            true => write!(f, "{count} fault{plural} in what the command line sets:")?,
            false => write!(f, "{} has {count} fault{plural}:", self.origin)?,
        }
        for Fault { key, line, from_command_line, message } in &self.faults {
            f.write_str("\n  ")?;
            if *from_command_line {
                f.write_str("--set ")?;
            }
            if let Some(line) = line {
                write!(f, "line {line}: ")?;
            }
            if !key.is_empty() {
                write!(f, "{key}: ")?;
            }
            f.write_str(message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Collects what makes no sense, section by section.
#[derive(Debug, Default)]
pub(super) struct Check {
    /// Key and message.
    found: Vec<(String, String)>,
}

impl Check {
    /// A fault of `key` with this message unless it `holds`.
    pub(super) fn require(&mut self, key: &str, holds: bool, message: &str) {
        if !holds {
            self.fault(key, Some(message.to_owned()));
        }
    }

    /// A fault of `key`, if there is a message. Of a key the first fault is enough.
    pub(super) fn fault(&mut self, key: &str, message: Option<String>) {
        if let Some(message) = message
            && !self.found.iter().any(|(other, _)| other == key)
        {
            self.found.push((key.to_owned(), message));
        }
    }

    /// Every fault as (key, message).
    pub(super) fn found(self) -> Vec<(String, String)> {
        self.found
    }
}

pub(super) fn is_share(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

/// Why a configuration could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds what makes no sense.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// A value has no form in TOML, such as a path that is not UTF-8.
    #[error("the configuration cannot be written as TOML: {0}")]
    Unwritable(#[from] toml::ser::Error),
}
