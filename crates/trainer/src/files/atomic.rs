//! Files that are written whole or not at all.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// How the names of scratch files begin.
pub(crate) const SCRATCH: &str = ".writing-";

/// Removes what interrupted writes left in a folder that no other process writes to.
pub fn remove_scratch(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            // Wasted space is no reason to stop.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Writes a file whole or not at all: to a scratch file beside it that is synced and then renamed,
/// so that neither a crash nor a full disk harms what was there before.
///
/// # Errors
/// If anything fails; then `path` is as it was.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically_after(path, bytes, || Ok(()))
}

/// The same, and between the two `make_way` moves what is at `path`, once the new content is safe
/// on the disk.
///
/// # Errors
/// If anything fails; before `make_way` runs, `path` is as it was.
pub(crate) fn write_atomically_after(
    path: &Path,
    bytes: &[u8],
    make_way: impl FnOnce() -> std::io::Result<()>,
) -> Result<()> {
    let failed = |source| Error::Write { path: path.to_owned(), bytes: Some(bytes.len()), source };
    write(path, bytes, make_way).map_err(failed)
}

fn write(path: &Path, bytes: &[u8], make_way: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(SCRATCH);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any file: the umask decides.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut scratch = builder.tempfile_in(folder)?;
    scratch.write_all(bytes)?;
    scratch.as_file().sync_all()?;
    make_way()?;
    scratch.persist(path)?;
    // The rename itself must survive a crash too.
    #[cfg(unix)]
    File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_write_replaces_the_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_names_the_file_and_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("target");
        fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, b"four").unwrap_err().to_string();
        assert!(error.contains("target (4 bytes)"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the scratch file is gone");
    }
}
