use std::fmt;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Dotted key; empty where the text is not TOML at all.
    pub key: String,
    /// Line in the file, from 1; `None` for keys that came from the command line or are left out.
    pub line: Option<usize>,
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

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let count = self.faults.len();
        write!(f, "{} has {count} fault{}:", self.origin, if count == 1 { "" } else { "s" })?;
        for Fault { key, line, message } in &self.faults {
            f.write_str("\n  ")?;
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
