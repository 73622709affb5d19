//! What a command line sets, and what it cannot ask for.

use anyhow::{Result, bail};
use std::fmt;
use std::path::Path;

/// The command line asks for something that cannot be: exit code 2.
#[derive(Debug)]
pub(crate) struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The keys that --set changes.
pub(crate) fn overrides(set: &[String]) -> Result<Vec<(String, String)>> {
    let split = |set: &String| match set.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => bail!(Usage(format!("--set {set}: expected KEY=VALUE, such as train.epochs=30"))),
    };
    set.iter().map(split).collect()
}

/// A path as one argument on a shell's command line, whatever its bytes are.
pub(crate) fn quoted(path: &Path) -> String {
    let Some(text) = path.to_str() else {
        let byte =
            |byte: &u8| if byte.is_ascii_alphanumeric() { char::from(*byte).into() } else { format!("\\x{byte:02x}") };
        return format!("$'{}'", path.as_os_str().as_encoded_bytes().iter().map(byte).collect::<String>());
    };
    let text = if text.starts_with('-') { &format!("./{text}") } else { text };
    data::shell_quoted(text)
}

/// How the program was called.
pub(crate) fn program() -> String {
    std::env::args_os().next().map_or_else(|| "train".into(), |name| quoted(Path::new(&name)))
}

/// Refuses an --out file that exists or has no folder to be written to, before any work is done.
pub(crate) fn refuse_existing(out: &Path) -> Result<()> {
    if out.exists() {
        bail!("{} exists; choose another --out or remove it first", out.display());
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!("{} is not a folder, so --out cannot be written there", folder.display());
    }
    Ok(())
}
