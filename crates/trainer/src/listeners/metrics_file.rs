//! `metrics.jsonl`: what happened, a JSON object a line.

use crate::error::{Error, Result};
use crate::events::{Event, Listener};
use crate::files::atomic::write_atomically;
use crate::results::evaluation::Evaluation;
use crate::results::run::Position;
use crate::results::scheduled::Scheduled;
use crate::results::summary::Summary;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// `metrics.jsonl`: one JSON object per log step (`"event": "step"`) and per epoch (`"event":
/// "epoch"`).
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    file: File,
}

impl MetricsFile {
    /// Opens the file for appending. A run that goes on from `resumed_after` first drops what was
    /// logged later: it will happen again.
    ///
    /// # Errors
    /// If the file cannot be read or written.
    pub fn open(path: &Path, resumed_after: Option<Position>) -> Result<Self> {
        if let Some(position) = resumed_after {
            drop_later(path, position)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|source| Error::Write { path: path.to_owned(), bytes: None, source })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Appends a line of what happened after a step: what the schedules said for it, and more
    /// `values`.
    fn write<const N: usize>(
        &mut self,
        event: &str,
        (epoch, step): (u64, u64),
        scheduled: &Scheduled,
        values: [(&str, Value); N],
    ) -> Result<()> {
        let mut line = json!({
            "event": event,
            "step": step,
            "epoch": epoch,
            "learning_rate": scheduled.learning_rate,
            "target": scheduled.target,
            "loss_factor": scheduled.loss_factor,
            "temperature": scheduled.temperature,
        });
        for (key, value) in values {
            line[key] = value;
        }
        // One write per line, so that a crash leaves whole lines.
        let line = format!("{line}\n");
        let failed = |source| Error::Write { path: self.path.clone(), bytes: Some(line.len()), source };
        self.file.write_all(line.as_bytes()).map_err(failed)
    }
}

fn drop_later(path: &Path, done: Position) -> Result<()> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
    };
    let earlier = |line: &&str| {
        let Ok(entry) = serde_json::from_str::<Value>(line) else { return false };
        let is_done = |key: &str, done: u64| entry[key].as_u64().is_some_and(|at| at <= done);
        // The state after an epoch's last step can be one whose evaluation is still to come.
        is_done("step", done.steps) && (entry["event"] != "epoch" || is_done("epoch", done.epochs))
    };
    let kept: String = text.lines().filter(earlier).flat_map(|line| [line, "\n"]).collect();
    if kept == text { Ok(()) } else { write_atomically(path, kept.as_bytes()) }
}

fn means(summary: &Summary) -> Value {
    json!({
        "images": summary.images,
        "loss": summary.loss,
        "cross_entropy": summary.cross_entropy,
        "activation_loss": summary.activation_loss,
        "top1": summary.top1,
        "top5": summary.top5,
        "open_rate": summary.open_rate(),
        "macs": summary.macs,
    })
}

impl Listener for MetricsFile {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Logged { step, epoch, recent, scheduled, images_per_second, time } => {
                let values = [
                    ("train", means(recent)),
                    ("images_per_second", json!(images_per_second)),
                    ("step_seconds", json!(time)),
                ];
                self.write("step", (*epoch, *step), scheduled, values)
            }
            Event::EpochEnded {
                step,
                epoch,
                train,
                evaluation,
                sampled,
                unaveraged,
                scheduled,
                is_best,
                bad_images,
                training_macs,
            } => {
                let of = |evaluation: &Option<&Evaluation>| json!(evaluation.map(|found| means(&found.summary)));
                let values = [
                    ("train", means(train)),
                    ("policy", json!(evaluation.strategy.to_string())),
                    ("val", means(&evaluation.summary)),
                    ("val_sampled", of(sampled)),
                    ("val_unaveraged", of(unaveraged)),
                    ("rates", json!(evaluation.summary.rates)),
                    ("bad_images", json!(bad_images)),
                    ("training_macs", json!(training_macs)),
                    ("is_best", json!(is_best)),
                    ("evaluation_seconds", json!(evaluation.seconds)),
                ];
                self.write("epoch", (*epoch, *step), scheduled, values)?;
                // The state that is saved next says that this epoch is done, and that is synced.
                let failed = |source| Error::Write { path: self.path.clone(), bytes: None, source };
                self.file.sync_data().map_err(failed)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_happen_again_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let lines = [
            r#"{"event":"step","step":4,"epoch":1}"#,
            r#"{"event":"step","step":5,"epoch":1}"#,
            r#"{"event":"epoch","step":5,"epoch":1}"#,
            r#"{"event":"step","step":6,"epoch":2}"#,
            r#"{"event":"step","st"#,
        ];
        for (epochs, steps, kept) in [(0, 4, 1), (0, 5, 2), (1, 5, 3), (1, 6, 4)] {
            std::fs::write(&path, lines.join("\n")).unwrap();
            MetricsFile::open(&path, Some(Position { epochs, steps })).unwrap();
            let found = std::fs::read_to_string(&path).unwrap();
            assert_eq!(found.lines().collect::<Vec<_>>(), lines[..kept], "after epoch {epochs}, step {steps}");
        }
        std::fs::write(&path, lines[3]).unwrap();
        MetricsFile::open(&path, None).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines[3]);
    }
}
