use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::totals::Summary;
use protobuf::Message;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tensorboard_proto::event::Event as Record;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::scalar;

/// TensorBoard event files: losses, accuracy, openings and MACs under `train/` and `val/`, the mean opening of each gate site
/// under `gates/`.
///
/// The writer of tensorboard-rs itself panics when a disk is full, so only its record format is used.
pub struct TensorBoard {
    path: PathBuf,
    writer: RecordWriter<BufWriter<File>>,
    sites: Vec<SiteName>,
    dense_macs: f64,
}

/// A gate site and what to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteName {
    /// Its state dict path, such as `layer1.0.gate`.
    pub name: String,
    /// How many gates it has.
    pub gates: usize,
}

impl TensorBoard {
    /// Starts a new event file in `folder`. `sites` names the gates in the order of [`Summary::rates`]; MACs are shown as a
    /// share of `dense_macs`.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(folder: &Path, sites: Vec<SiteName>, dense_macs: u64) -> Result<Self> {
        let failed = |source| Error::Write { path: folder.to_owned(), bytes: None, source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let now = seconds_since_1970();
        let path = folder.join(format!("events.out.tfevents.{:010}.{}", now as u64, std::process::id()));
        let file = File::create(&path).map_err(failed)?;
        let mut board =
            Self { path, writer: RecordWriter::new(BufWriter::new(file)), sites, dense_macs: dense_macs as f64 };
        let mut version = Record::new();
        version.set_file_version("brain.Event:2".to_owned());
        board.write(version, 0)?;
        Ok(board)
    }

    fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<()> {
        let mut record = Record::new();
        record.set_summary(scalar(tag, value as f32));
        self.write(record, step)
    }

    fn write(&mut self, mut record: Record, step: u64) -> Result<()> {
        record.set_wall_time(seconds_since_1970());
        record.set_step(i64::try_from(step).unwrap_or(i64::MAX));
        let failed = |source| Error::Write { path: self.path.clone(), bytes: None, source };
        let bytes = record.write_to_bytes().map_err(|error| failed(std::io::Error::other(error)))?;
        self.writer.write(&bytes).map_err(failed)
    }

    fn flush(&mut self) -> Result<()> {
        let failed = |source| Error::Write { path: self.path.clone(), bytes: None, source };
        self.writer.flush().map_err(failed)
    }

    fn summary(&mut self, prefix: &str, summary: &Summary, step: u64) -> Result<()> {
        let values = [
            ("loss", summary.loss),
            ("cross_entropy", summary.cross_entropy),
            ("top1", summary.top1),
            ("top5", summary.top5),
            ("opening", summary.opening()),
            ("macs_share", summary.macs / self.dense_macs),
        ];
        values.iter().try_for_each(|(name, value)| self.scalar(&format!("{prefix}/{name}"), *value, step))
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

impl Listener for TensorBoard {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Logged { step, recent, scheduled, images_per_second, .. } => {
                self.summary("train", recent, *step)?;
                self.scalar("train/activation_loss", recent.activation_loss, *step)?;
                self.scalar("train/learning_rate", scheduled.learning_rate, *step)?;
                self.scalar("train/images_per_second", *images_per_second, *step)?;
                if let Some(target) = scheduled.target {
                    self.scalar("train/target", target, *step)?;
                    self.scalar("train/loss_factor", scheduled.loss_factor, *step)?;
                    self.scalar("train/temperature", scheduled.temperature, *step)?;
                }
                self.flush()
            }
            Event::EpochEnded { step, evaluation, sampled, .. } => {
                self.summary("val", &evaluation.summary, *step)?;
                if let Some(sampled) = sampled {
                    self.summary("val_sampled", &sampled.summary, *step)?;
                }
                let mut rates = evaluation.summary.rates.as_slice();
                for SiteName { name, gates } in self.sites.clone() {
                    let Some((own, rest)) = rates.split_at_checked(gates) else { break };
                    self.scalar(&format!("gates/{name}"), own.iter().sum::<f64>() / gates as f64, *step)?;
                    rates = rest;
                }
                self.flush()
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for TensorBoard {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("TensorBoard").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::Evaluation;
    use crate::event::Scheduled;

    #[test]
    fn records_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let site = |name: &str, gates| SiteName { name: name.into(), gates };
        let sites = vec![site("layer1.0.gate.input", 2), site("layer1.0.gate.output", 1)];
        let mut board = TensorBoard::create(folder.path(), sites, 1000).unwrap();
        let recent = Summary { loss: 2.5, macs: 400.0, rates: vec![1.0, 0.5, 0.25], ..Summary::default() };
        let scheduled = Scheduled { learning_rate: 0.1, target: Some(0.6), loss_factor: 2.0, temperature: 0.5 };
        board.on(&Event::Logged { step: 7, epoch: 1, recent: &recent, scheduled, images_per_second: 9.0 }).unwrap();
        let evaluation = Evaluation { summary: recent.clone(), ..Evaluation::default() };
        board
            .on(&Event::EpochEnded {
                step: 7,
                epoch: 1,
                train: &recent,
                evaluation: &evaluation,
                sampled: None,
                scheduled,
                is_best: true,
                bad_images: 0,
            })
            .unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(path).unwrap();
        // A record: length, its checksum, the message, its checksum.
        let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let record: Record = Message::parse_from_bytes(&rest[12..12 + length]).unwrap();
            for value in record.get_summary().get_value() {
                found.push((record.get_step(), value.get_tag().to_owned(), value.get_simple_value()));
            }
            rest = &rest[16 + length..];
        }
        for expected in [
            ("train/loss", 2.5),
            ("train/macs_share", 0.4),
            ("train/target", 0.6),
            ("train/loss_factor", 2.0),
            ("train/temperature", 0.5),
            ("gates/layer1.0.gate.input", 0.75),
            ("gates/layer1.0.gate.output", 0.25),
        ] {
            assert!(found.contains(&(7, expected.0.to_owned(), expected.1)), "{expected:?} is not in {found:?}");
        }
    }
}
