//! Event files for TensorBoard.

use crate::error::{Error, Result};
use crate::events::{Event, Listener};
use crate::results::names::SiteName;
use crate::results::run::Position;
use crate::results::summary::Summary;
use protobuf::Message;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tch::{Device, Kind, Tensor};
use tensorboard_proto::event::{Event as Record, SessionLog, SessionLog_SessionStatus};
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::{histogram_raw, image, scalar};

/// TensorBoard event files: losses, accuracy, open rates and MACs under `train/` and `val/`, where
/// the time of a step goes under `time/`, the open rate of each gate site and histograms of its
/// gates' under `gates/`, and some of each epoch's first images.
///
/// The writer of tensorboard-rs itself panics when a disk is full, so only its record format is
/// used.
pub struct TensorBoard {
    path: PathBuf,
    writer: RecordWriter<BufWriter<File>>,
    sites: Vec<SiteName>,
    dense_macs: f64,
    /// Mean and standard deviation of the normalization.
    normalization: ([f32; 3], [f32; 3]),
}

/// Bars of a histogram of open rates.
const TENTHS: usize = 10;

/// Images of an epoch that are shown, in as many rows.
const IMAGES_IN_A_ROW: i64 = 4;

impl TensorBoard {
    /// Starts a new event file in `folder`. `sites` names the gates in the order of
    /// [`Summary::rates`]; MACs are shown as a share of `dense_macs`. Of a run that goes on from
    /// `resumed_after`, TensorBoard forgets what earlier files say of later steps.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn create(
        folder: &Path,
        sites: Vec<SiteName>,
        dense_macs: u64,
        resumed_after: Option<Position>,
    ) -> Result<Self> {
        let failed = |source| Error::Write { path: folder.to_owned(), bytes: None, source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let now = seconds_since_1970();
        let path = folder.join(format!("events.out.tfevents.{:010}.{}", now as u64, std::process::id()));
        let file = File::create(&path).map_err(failed)?;
        let mut board = Self {
            path,
            writer: RecordWriter::new(BufWriter::new(file)),
            sites,
            dense_macs: dense_macs as f64,
            normalization: ([0.0; 3], [1.0; 3]),
        };
        let mut version = Record::new();
        version.set_file_version("brain.Event:2".to_owned());
        board.write(version, 0)?;
        if let Some(Position { steps, .. }) = resumed_after {
            let mut session = SessionLog::new();
            session.set_status(SessionLog_SessionStatus::START);
            let mut start = Record::new();
            start.set_session_log(session);
            board.write(start, steps + 1)?;
        }
        Ok(board)
    }

    fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<()> {
        let mut record = Record::new();
        record.set_summary(scalar(tag, value as f32));
        self.write(record, step)
    }

    /// How many of the values, all from 0 to 1, lie in each tenth.
    fn histogram(&mut self, tag: &str, values: &[f64], step: u64) -> Result<()> {
        let mut counts = [0.0; TENTHS];
        for value in values {
            counts[((value * TENTHS as f64) as usize).min(TENTHS - 1)] += 1.0;
        }
        let limits: Vec<f64> = (1..=TENTHS).map(|tenth| tenth as f64 / TENTHS as f64).collect();
        let (least, most) =
            values.iter().fold((1.0f64, 0.0f64), |(low, high), &value| (low.min(value), high.max(value)));
        let (sum, squares) = (values.iter().sum(), values.iter().map(|value| value * value).sum());
        let mut record = Record::new();
        record.set_summary(histogram_raw(tag, least, most, values.len() as f64, sum, squares, &limits, &counts));
        self.write(record, step)
    }

    /// The first of the square images [N, 3, size, size], in a square.
    fn images(&mut self, images: &Tensor, step: u64) -> Result<()> {
        let (count, _, size, _) = images.size4()?;
        let side = ((count as f64).sqrt() as i64).min(IMAGES_IN_A_ROW);
        let shown = images.f_narrow(0, 0, side * side)?.f_to_device(Device::Cpu)?;
        let (mean, std) = self.normalization;
        let of_channels = |values: [f32; 3]| Tensor::f_from_slice(&values)?.f_view([1, 3, 1, 1]);
        let pixels = shown.f_mul(&of_channels(std)?)?.f_add(&of_channels(mean)?)?.f_mul_scalar(255.0)?.f_round()?;
        let pixels = pixels.f_clamp(0.0, 255.0)?.f_to_kind(Kind::Uint8)?.f_reshape([side, side, 3, size, size])?;
        // To rows of images, rows of pixels, images, pixels, colors, which is what the record's PNG
        // is made of.
        let pixels: Vec<u8> = Vec::try_from(pixels.f_permute([0, 3, 1, 4, 2])?.f_contiguous()?.f_view([-1])?)?;
        let extent = (side * size) as usize;
        let mut record = Record::new();
        record.set_summary(image("train/images", &pixels, &[3, extent, extent]));
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
            ("open_rate", summary.open_rate()),
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
            Event::EpochStarted { config, .. } => {
                self.normalization = (config.data.mean, config.data.std);
                Ok(())
            }
            Event::Images { step, images } => self.images(images, *step),
            Event::Logged { step, recent, scheduled, images_per_second, time, .. } => {
                self.summary("train", recent, *step)?;
                self.scalar("train/activation_loss", recent.activation_loss, *step)?;
                self.scalar("train/learning_rate", scheduled.learning_rate, *step)?;
                self.scalar("train/images_per_second", *images_per_second, *step)?;
                if let Some(target) = scheduled.target {
                    self.scalar("train/target", target, *step)?;
                    self.scalar("train/loss_factor", scheduled.loss_factor, *step)?;
                    self.scalar("train/temperature", scheduled.temperature, *step)?;
                }
                for (name, seconds) in [
                    ("images", time.images),
                    ("forward", time.forward),
                    ("backward", time.backward),
                    ("update", time.update),
                    ("rest", time.rest()),
                ] {
                    self.scalar(&format!("time/{name}"), seconds, *step)?;
                }
                self.flush()
            }
            Event::EpochEnded { step, evaluation, sampled, unaveraged, .. } => {
                self.summary("val", &evaluation.summary, *step)?;
                if let Some(sampled) = sampled {
                    self.summary("val_sampled", &sampled.summary, *step)?;
                }
                if let Some(unaveraged) = unaveraged {
                    self.summary("val_unaveraged", &unaveraged.summary, *step)?;
                }
                let mut rates = evaluation.summary.rates.as_slice();
                if !rates.is_empty() {
                    self.histogram("gates", rates, *step)?;
                }
                for SiteName { name, gates } in self.sites.clone() {
                    let Some((own, rest)) = rates.split_at_checked(gates) else { break };
                    self.scalar(&format!("gates/{name}"), own.iter().sum::<f64>() / gates as f64, *step)?;
                    if gates > 1 {
                        self.histogram(&format!("gates/{name}"), own, *step)?;
                    }
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
    use crate::results::evaluation::Evaluation;
    use crate::results::scheduled::Scheduled;
    use crate::results::step_time::StepTime;

    /// What the only event file of a folder holds.
    #[derive(Default)]
    struct Read {
        /// Step, tag and value.
        found: Vec<(i64, String, f32)>,
        /// Of the histogram of all gates.
        bars: Vec<f64>,
        picture: Option<::image::RgbImage>,
        /// The steps at which TensorBoard is to begin anew.
        starts: Vec<i64>,
    }

    fn read(folder: &Path) -> Read {
        let path = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut read = Read::default();
        // A record: length, its checksum, the message, its checksum.
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let record: Record = Message::parse_from_bytes(&rest[12..12 + length]).unwrap();
            if record.has_session_log() {
                read.starts.push(record.get_step());
            }
            for value in record.get_summary().get_value() {
                if value.get_tag() == "gates" {
                    read.bars = value.get_histo().get_bucket().to_vec();
                }
                if value.get_tag() == "train/images" {
                    let png = value.get_image().get_encoded_image_string();
                    read.picture = Some(::image::load_from_memory(png).unwrap().to_rgb8());
                }
                read.found.push((record.get_step(), value.get_tag().to_owned(), value.get_simple_value()));
            }
            rest = &rest[16 + length..];
        }
        read
    }

    #[test]
    fn records_can_be_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let site = |name: &str, gates| SiteName { name: name.into(), gates };
        let sites = vec![site("layer1.0.gate.input", 2), site("layer1.0.gate.output", 1)];
        let mut board =
            TensorBoard::create(folder.path(), sites, 1000, Some(Position { epochs: 0, steps: 5 })).unwrap();
        let recent = Summary { loss: 2.5, macs: 400.0, rates: vec![1.0, 0.5, 0.25], ..Summary::default() };
        let scheduled = Scheduled {
            learning_rate: 0.1,
            target: Some(0.6),
            loss_factor: 2.0,
            temperature: 0.5,
            ..Scheduled::default()
        };
        let time = StepTime { images: 0.5, total: 2.0, ..StepTime::default() };
        let event =
            Event::Logged { step: 7, epoch: 1, recent: &recent, scheduled: &scheduled, images_per_second: 9.0, time };
        board.on(&event).unwrap();
        // The second image is white, the others black; five make two rows of two.
        let images = Tensor::zeros([5, 3, 4, 4], (Kind::Float, Device::Cpu));
        let _ = images.get(1).fill_(1.0);
        board.on(&Event::Images { step: 7, images: &images }).unwrap();
        let evaluation = Evaluation { summary: recent.clone(), ..Evaluation::default() };
        board
            .on(&Event::EpochEnded {
                step: 7,
                epoch: 1,
                train: &recent,
                evaluation: &evaluation,
                sampled: None,
                unaveraged: Some(&evaluation),
                scheduled: &scheduled,
                is_best: true,
                bad_images: 0,
                training_macs: 0.0,
            })
            .unwrap();
        let Read { found, bars, picture, starts } = read(folder.path());
        for expected in [
            ("train/loss", 2.5),
            ("train/macs_share", 0.4),
            ("train/target", 0.6),
            ("train/loss_factor", 2.0),
            ("train/temperature", 0.5),
            ("time/images", 0.5),
            ("time/rest", 1.5),
            ("val_unaveraged/loss", 2.5),
            ("gates/layer1.0.gate.input", 0.75),
            ("gates/layer1.0.gate.output", 0.25),
        ] {
            assert!(found.contains(&(7, expected.0.to_owned(), expected.1)), "{expected:?} is not in {found:?}");
        }
        assert_eq!(starts, [6], "what is shown of step 6 and later is shown anew");
        // Of the open rates 1, 0.5 and 0.25.
        assert_eq!(bars, [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
        let picture = picture.unwrap();
        assert_eq!(picture.dimensions(), (8, 8));
        assert_eq!([(0, 0), (4, 3), (7, 0), (4, 4)].map(|(x, y)| picture.get_pixel(x, y).0[0]), [0, 255, 255, 0]);
    }
}
