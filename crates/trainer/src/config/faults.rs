use std::fmt;

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
