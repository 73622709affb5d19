//! Which states of a run are kept, and the one it goes on from.

use crate::config::CheckpointsConfig;
use crate::error::{Error, Result};
use crate::files::atomic::write_atomically_after;
use crate::files::run_dir::RunDir;
use crate::states::checkpoint::Checkpoint;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Evaluations whose states are kept: epoch (from 1) and value, the best first.
pub(crate) type Ranking = Vec<(u64, f64)>;

/// `ranking` with the evaluation of an epoch, cut off where the configuration says; a value equal
/// to an earlier one comes behind it.
pub(crate) fn ranked(mut ranking: Ranking, epoch: u64, value: f64, config: &CheckpointsConfig) -> Ranking {
    let better = |a: f64, b: f64| if config.best_by.is_better_high() { a > b } else { a < b };
    let rank = ranking.iter().position(|&(_, other)| better(value, other)).unwrap_or(ranking.len());
    ranking.insert(rank, (epoch, value));
    ranking.truncate(config.keep_best);
    ranking
}

/// Writes the last state. The one before moves a place back once the new one is safe on the disk,
/// and the oldest beyond `keep` goes. A moment without a last one is no harm: [`read_last`] finds
/// the one before.
///
/// # Errors
/// If it cannot be written; the states before are still there.
pub(crate) fn write_last(run: &RunDir, keep: usize, bytes: &[u8]) -> Result<()> {
    write_atomically_after(&run.last(), bytes, || {
        for ago in (1..keep).rev() {
            match fs::rename(run.last_but(ago - 1), run.last_but(ago)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                moved => moved?,
            }
        }
        // More were kept once.
        for older in (keep.max(1)..).map(|ago| run.last_but(ago)).take_while(|path| path.exists()) {
            fs::remove_file(older)?;
        }
        Ok(())
    })
}

/// Removes the states of epochs that are no longer among the best.
pub(crate) fn forget(run: &RunDir, ranking: &Ranking) {
    for entry in fs::read_dir(run.checkpoints()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let epoch = name.strip_prefix("best-epoch-").and_then(|rest| rest.strip_suffix(".safetensors"));
        let Some(epoch) = epoch.and_then(|epoch| epoch.parse::<u64>().ok()) else { continue };
        if !ranking.iter().any(|&(kept, _)| kept == epoch) {
            // Wasted space is no reason to stop.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The newest state of a run that is whole.
#[derive(Debug)]
pub(crate) struct LastState {
    /// Its file.
    pub path: PathBuf,
    pub checkpoint: Checkpoint,
    /// How many saves ago it was written.
    pub ago: usize,
    /// What is wrong with those after it.
    pub faults: Vec<Error>,
}

/// The newest state that is whole.
///
/// # Errors
/// If there is none (the error is the newest one's), or one cannot be read for another reason than
/// damage.
pub(crate) fn read_last(run: &RunDir) -> Result<LastState> {
    let mut faults = Vec::new();
    for ago in 0.. {
        let path = run.last_but(ago);
        match path.exists() {
            true => match Checkpoint::read(&path) {
                Ok(checkpoint) => return Ok(LastState { path, checkpoint, ago, faults }),
                Err(error @ (Error::Read { .. } | Error::Network(arch::Error::Read { .. }))) => return Err(error),
                Err(error) => faults.push(error),
            },
            // The last one is missing if the run was stopped while another was being written.
            false if ago == 0 => {}
            false => break,
        }
    }
    Err(faults.into_iter().next().unwrap_or(Error::NothingToResume { path: run.last() }))
}

/// Makes the state of `ago` saves ago the last one again. Damaged ones after it are set aside under
/// names that nothing here reads or overwrites; returns those.
///
/// # Errors
/// If a file cannot be renamed.
pub(crate) fn step_back(run: &RunDir, ago: usize) -> Result<Vec<PathBuf>> {
    let rename = |from: &Path, to: &Path| {
        fs::rename(from, to).map_err(|source| Error::Write { path: to.to_owned(), bytes: None, source })
    };
    let mut set_aside = Vec::new();
    for path in (0..ago).map(|ago| run.last_but(ago)).filter(|path| path.exists()) {
        let mut names = (1..).map(|number| path.with_extension(format!("damaged-{number}")));
        let aside = names.find(|name| !name.exists()).unwrap_or_else(|| path.with_extension("damaged"));
        rename(&path, &aside)?;
        set_aside.push(aside);
    }
    if ago > 0 {
        for older in (ago..).take_while(|&older| run.last_but(older).exists()) {
            rename(&run.last_but(older), &run.last_but(older - ago))?;
        }
    }
    Ok(set_aside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Metric;

    #[test]
    fn the_best_are_ranked_by_a_metric_and_the_rest_forgotten() {
        let config = |best_by, keep_best| CheckpointsConfig { best_by, keep_best, ..Default::default() };
        let rank = |config: &CheckpointsConfig| {
            let values = [0.5, 0.7, 0.6, 0.7];
            (1..).zip(values).fold(Vec::new(), |ranking, (epoch, value)| ranked(ranking, epoch, value, config))
        };
        assert_eq!(rank(&config(Metric::Top1, 3)), [(2, 0.7), (4, 0.7), (3, 0.6)]);
        assert_eq!(rank(&config(Metric::CrossEntropy, 2)), [(1, 0.5), (3, 0.6)]);
        assert_eq!(rank(&config(Metric::Top1, 1)), [(2, 0.7)]);
    }

    #[test]
    fn states_move_back_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(&folder.path().join("run")).unwrap();
        for state in ["1", "2", "3", "4"] {
            write_last(&run, 3, state.as_bytes()).unwrap();
        }
        let kept: Vec<_> = (0..3).map(|place| fs::read_to_string(run.last_but(place)).unwrap()).collect();
        assert_eq!(kept, ["4", "3", "2"]);
        assert_eq!(fs::read_dir(run.checkpoints()).unwrap().count(), 3);
        write_last(&run, 2, b"5").unwrap();
        assert_eq!(fs::read_dir(run.checkpoints()).unwrap().count(), 2, "fewer are kept now");
    }

    #[test]
    fn stepping_back_sets_damaged_states_aside_and_leaves_no_gap() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::create(&folder.path().join("run")).unwrap();
        for state in ["1", "2", "3", "4"] {
            write_last(&run, 4, state.as_bytes()).unwrap();
        }
        assert_eq!(step_back(&run, 0).unwrap(), [] as [PathBuf; 0]);
        let aside = step_back(&run, 2).unwrap();
        assert_eq!(aside.iter().map(|path| fs::read_to_string(path).unwrap()).collect::<Vec<_>>(), ["4", "3"]);
        let kept: Vec<_> = (0..2).map(|ago| fs::read_to_string(run.last_but(ago)).unwrap()).collect();
        assert_eq!(kept, ["2", "1"]);
        assert!(!run.last_but(2).exists());
    }
}
