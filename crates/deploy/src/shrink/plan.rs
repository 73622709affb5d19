//! The file that says which stages of a shrink are done: what each was made from and what it found.

use crate::error::{Error, Result};
use crate::shrink::asked::Asked;
use crate::shrink::results::{Learned, Shrunk, Side};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// The name of the file in the folder of a shrink.
pub const PLAN: &str = "plan.json";

/// Version of the file that is written.
const FORMAT: u32 = 1;

/// The stages that are done. A stage that is absent is yet to be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    format: u32,
    /// What was asked for.
    pub asked: Asked,
    /// The dense network was evaluated and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense: Option<Done<Side>>,
    /// A table of times was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<Done<()>>,
    /// The network was trained and cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Done<Learned>>,
    /// It was exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported: Option<Done<Vec<(String, f64)>>>,
    /// The files were run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunk: Option<Done<Shrunk>>,
}

/// A stage that is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done<T> {
    /// The files that it left, below the folder, and fingerprints of their content.
    pub files: Vec<(String, u64)>,
    /// What it found.
    pub found: T,
}

/// The folder of a shrink, held by this process.
#[derive(Debug)]
pub(crate) struct Folder {
    pub path: PathBuf,
    _lock: File,
}

impl Plan {
    /// Nothing is done.
    pub fn new(asked: Asked) -> Self {
        Self { format: FORMAT, asked, dense: None, times: None, learned: None, exported: None, shrunk: None }
    }

    /// Reads the plan of a folder; `None` if it has none.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged or of another version.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(PLAN);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { path, source }),
        };
        let damaged = |error: serde_json::Error| {
            let fault = format!("it is damaged, or of another version ({error}); choose another --out");
            Error::Content { path: path.clone(), fault }
        };
        let plan: Self = serde_json::from_str(&text).map_err(damaged)?;
        if plan.format != FORMAT {
            let fault = format!("it has format {}, and this program reads {FORMAT}; choose another --out", plan.format);
            return Err(Error::Content { path, fault });
        }
        Ok(Some(plan))
    }

    /// Writes it into a folder.
    ///
    /// # Errors
    /// If it cannot be written; then the one before is still there.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(PLAN);
        let text = serde_json::to_string_pretty(self);
        let text = text.map_err(|error| Error::Content { path: path.clone(), fault: error.to_string() })?;
        Ok(trainer::write_atomically(&path, format!("{text}\n").as_bytes())?)
    }
}

impl<T> Done<T> {
    /// A stage that found something and left `files` below `folder`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn with(folder: &Path, files: &[&str], found: T) -> Result<Self> {
        let print = |file: &&str| Ok(((*file).to_owned(), fingerprint(&folder.join(file))?));
        Ok(Self { files: files.iter().map(print).collect::<Result<_>>()?, found })
    }

    /// Whether a file is not there any more.
    pub(crate) fn is_missing(&self, folder: &Path) -> bool {
        self.files.iter().any(|(file, _)| !folder.join(file).exists())
    }

    /// Refuses files that have changed since.
    ///
    /// # Errors
    /// If one has, or cannot be read.
    pub(crate) fn check(&self, folder: &Path) -> Result<()> {
        for (file, known) in &self.files {
            let path = folder.join(file);
            if !path.exists() || fingerprint(&path)? != *known {
                return Err(Error::Changed { path });
            }
        }
        Ok(())
    }
}

/// A fingerprint of a file's content.
///
/// # Errors
/// If it cannot be read.
pub fn fingerprint(path: &Path) -> Result<u64> {
    let bytes = fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    Ok(data::fingerprint(&bytes))
}

impl Folder {
    /// Takes over what was measured of the dense network in the folder of a shrink that asks for the
    /// same but for the budget; nothing from any other.
    ///
    /// # Errors
    /// If a file cannot be copied.
    pub fn adopt(&self, plan: &mut Plan, like: &Path) -> Result<()> {
        let Some(other) = Plan::read(like)? else { return Ok(()) };
        if !other.asked.is_alike(&plan.asked)? {
            return Ok(());
        }
        let copy = |files: &[(String, u64)]| -> Result<()> {
            for (name, _) in files {
                let bytes =
                    fs::read(like.join(name)).map_err(|source| Error::File { path: like.join(name), source })?;
                trainer::write_atomically(&self.path.join(name), &bytes)?;
            }
            Ok(())
        };
        if let (None, Some(dense)) = (&plan.dense, other.dense) {
            dense.check(like)?;
            copy(&dense.files)?;
            plan.dense = Some(dense);
        }
        if let (None, Some(times)) = (&plan.times, other.times) {
            times.check(like)?;
            copy(&times.files)?;
            plan.times = Some(times);
        }
        plan.write(&self.path)
    }

    /// Makes the folder, or goes on in one that was begun with the same `asked`; its plan.
    ///
    /// # Errors
    /// If there is something else, it was begun with something else, another process works in it,
    /// or it cannot be made.
    pub fn claim(path: &Path, asked: Asked) -> Result<(Self, Plan)> {
        let failed = |source| Error::File { path: path.to_owned(), source };
        if !path.exists() {
            fs::create_dir_all(path).map_err(failed)?;
        }
        if !path.is_dir() {
            return Err(Error::Taken { path: path.to_owned() });
        }
        let lock = File::open(path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // A process that was killed may have left no more than these.
        trainer::remove_scratch(path);
        let is_new = fs::read_dir(path).map_err(failed)?.next().is_none();
        let folder = Self { path: path.to_owned(), _lock: lock };
        let plan = match Plan::read(path)? {
            // Nothing but the dense network was measured, which is the same for every budget.
            Some(mut plan)
                if plan.learned.is_none() && !path.join("run").exists() && plan.asked.is_alike(&asked)? =>
            {
                plan.asked = asked;
                plan.write(path)?;
                plan
            }
            Some(plan) => {
                let differences = plan.asked.differences(&asked)?;
                if !differences.is_empty() {
                    return Err(Error::Differs { path: path.to_owned(), differences });
                }
                plan
            }
            None if is_new => {
                let plan = Plan::new(asked);
                plan.write(path)?;
                plan
            }
            None => return Err(Error::Taken { path: path.to_owned() }),
        };
        Ok((folder, plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shrink::asked::{Budget, Training};

    fn asked(share: f64) -> Asked {
        Asked {
            network: "cifar-resnet20".into(),
            weights: ("w".into(), u64::MAX),
            images: ("d".into(), 1, 2),
            budget: Budget::Macs(share),
            training: Training::None,
            runtime: "onnxruntime".into(),
            batch: 1,
            config: String::new(),
        }
    }

    #[test]
    fn a_folder_goes_on_with_what_it_was_begun_with_alone() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("shrunk");
        let (folder, mut plan) = Folder::claim(&path, asked(0.5)).unwrap();
        let busy = Folder::claim(&path, asked(0.5)).unwrap_err();
        assert!(matches!(busy, Error::Busy { .. }), "{busy}");
        std::fs::write(path.join("times.json"), "{}").unwrap();
        plan.times = Some(Done::with(&path, &["times.json"], ()).unwrap());
        plan.write(&path).unwrap();
        drop(folder);

        let (folder, found) = Folder::claim(&path, asked(0.5)).unwrap();
        assert_eq!(found, plan);
        found.times.as_ref().unwrap().check(&path).unwrap();
        drop(folder);
        // Until something was trained another budget may be asked for.
        let (folder, changed) = Folder::claim(&path, asked(0.4)).unwrap();
        assert_eq!((changed.asked.budget, changed.times), (Budget::Macs(0.4), plan.times));
        drop(folder);
        Folder::claim(&path, asked(0.5)).unwrap();
        std::fs::create_dir(path.join("run")).unwrap();
        let other = Folder::claim(&path, asked(0.4)).unwrap_err().to_string();
        assert!(other.contains("a budget of 50% of the MACs, and not 40% of the MACs"), "{other}");

        let times = found.times.unwrap();
        let refused = || {
            let changed = times.check(&path).unwrap_err().to_string();
            assert!(changed.contains("times.json is not there, or not what the stage before left"), "{changed}");
        };
        std::fs::write(path.join("times.json"), "[]").unwrap();
        refused();
        std::fs::remove_file(path.join("times.json")).unwrap();
        refused();
    }

    #[test]
    fn a_process_that_was_killed_before_its_first_plan_leaves_a_folder_that_can_be_begun() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join(".writing-a1b2"), "{").unwrap();
        Folder::claim(scratch.path(), asked(0.5)).unwrap();
        let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [PLAN]);
    }

    #[test]
    fn other_folders_are_left_alone() {
        let scratch = tempfile::tempdir().unwrap();
        std::fs::write(scratch.path().join("thesis.tex"), "").unwrap();
        let taken = Folder::claim(scratch.path(), asked(0.5)).unwrap_err();
        assert!(matches!(taken, Error::Taken { .. }), "{taken}");
        std::fs::write(scratch.path().join(PLAN), "{\"format\": 1").unwrap();
        let damaged = Folder::claim(scratch.path(), asked(0.5)).unwrap_err().to_string();
        assert!(damaged.contains("plan.json: it is damaged"), "{damaged}");
    }
}
