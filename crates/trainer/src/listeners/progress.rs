use crate::config::Weighting;
use crate::error::Result;
use crate::events::{Event, ImagePass, Listener};
use crate::learn::clock::StepTime;
use crate::measure::totals::Summary;
use arch::Cost;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Progress for people, on stderr: bars on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    cost: Cost,
    /// What a gate counts in the run's activation.
    weighting: Weighting,
    /// Epochs of the run; 0 where there is only an evaluation.
    epochs: u64,
    /// Steps per epoch.
    batches: usize,
    /// Steps of this epoch that were done before it was resumed.
    first: usize,
    /// Steps done in this epoch.
    batch: usize,
    epoch: u64,
    epoch_start: Instant,
    /// When the pass that does not train began, and its batches.
    pass: (Instant, usize),
    bad: usize,
    batch_size: usize,
    /// Loss, top-1 and opening of the last log entry.
    recent: String,
    /// Where the time of steps went in this epoch: a sum over its log entries.
    time: StepTime,
    /// Steps between two log entries, until the first steps of this process showed how long those take.
    log_every: Option<u64>,
    has_begun: bool,
}

const TEMPLATE: &str = "{prefix} {bar:16} {pos}/{len}  {wide_msg}";

/// Steps after which a log without a bar says that training has begun and how long it will take.
const FIRST_STEPS: usize = 3;

/// Bad images that get a line of their own.
const BAD_SHOWN: usize = 10;

impl Progress {
    /// `cost` is that of the network; `epochs` how many the run has.
    pub fn new(cost: &Cost, epochs: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(5));
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        Self {
            bar,
            terminal: std::io::stderr().is_terminal(),
            cost: cost.clone(),
            weighting: Weighting::Gates,
            epochs,
            batches: 0,
            first: 0,
            batch: 0,
            epoch: 0,
            epoch_start: Instant::now(),
            pass: (Instant::now(), 0),
            bad: 0,
            batch_size: 0,
            recent: String::new(),
            time: StepTime::default(),
            log_every: None,
            has_begun: false,
        }
    }

    fn line(&self, text: &str) {
        // Before the first epoch there is no bar to step aside.
        if self.terminal && self.bar.length() != Some(0) {
            self.bar.suspend(|| write_line(text));
        } else {
            write_line(text);
        }
    }

    fn restart(&self, prefix: String, done: usize, length: usize) {
        // The length first: a bar without one is drawn full.
        self.bar.set_length(length as u64);
        self.bar.reset();
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
        self.bar.set_prefix(prefix);
        self.bar.set_message("");
    }

    /// Time to the end of the run at the pace of this epoch so far, evaluations left out.
    fn time_left(&self) -> String {
        let done = self.batch.saturating_sub(self.first).max(1) as f64;
        let left = (self.batches.saturating_sub(self.batch)) as f64
            + (self.epochs.saturating_sub(self.epoch) * self.batches as u64) as f64;
        duration(self.epoch_start.elapsed().mul_f64(left / done))
    }
}

impl Progress {
    /// How far the gates are from their target.
    fn activation(&self, summary: &Summary, target: Option<f64>) -> String {
        let Some(target) = target else { return String::new() };
        let found = percent(self.weighting.activation(summary, &self.cost));
        format!("  {} {found} (target {})", self.weighting.name(), percent(target))
    }

    /// The same and the MACs, once where they are the same.
    fn activation_and_macs(&self, summary: &Summary, target: Option<f64>) -> String {
        let activation = self.activation(summary, target);
        if self.weighting == Weighting::Network && target.is_some() {
            return activation;
        }
        format!("{activation}  MACs {} of dense", percent(summary.macs / self.cost.dense as f64))
    }
}

/// A closed stderr is no reason to stop training.
fn write_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A time in words, in its two largest units.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes:02} min"),
        (days, hours, ..) => format!("{days} d {hours:02} h"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

impl Listener for Progress {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Note(text) => self.line(text),
            Event::EpochStarted { epoch, first, batches, config } => {
                self.log_every = (!self.has_begun).then_some(config.train.log_every);
                (self.epoch, self.batches) = (*epoch, *batches);
                self.batch_size = config.train.batch_size;
                self.weighting = config.gates.weighting;
                self.recent.clear();
                self.time = StepTime::default();
                (self.first, self.batch) = (*first, *first);
                self.epoch_start = Instant::now();
                self.restart(format!("epoch {epoch}/{}", self.epochs), *first, *batches);
            }
            Event::Step { batch, .. } => {
                (self.batch, self.has_begun) = (*batch, true);
                // A pass in the middle of an epoch had the bar.
                if self.bar.length() != Some(self.batches as u64) {
                    self.restart(format!("epoch {}/{}", self.epoch, self.epochs), *batch, self.batches);
                }
                self.bar.set_position(*batch as u64);
                let begun = self.batch.saturating_sub(self.first) == FIRST_STEPS && !self.terminal;
                if let Some(every) = self.log_every.filter(|&every| begun && every > FIRST_STEPS as u64) {
                    let (epoch, epochs, left) = (self.epoch, self.epochs, self.time_left());
                    write_line(&format!(
                        "epoch {epoch}/{epochs}  step {batch}/{}  about {left} left; a line follows every {every} steps",
                        self.batches
                    ));
                }
                if self.terminal {
                    let images = self.batch.saturating_sub(self.first) * self.batch_size;
                    let rate = images as f64 / self.epoch_start.elapsed().as_secs_f64().max(1e-9);
                    self.bar.set_message(format!("{rate:.1} img/s  {} left{}", self.time_left(), self.recent));
                }
            }
            Event::Logged { recent, scheduled, images_per_second, time, .. } => {
                self.time.add(time);
                self.recent = format!(
                    "  loss {:.3}  top-1 {}{}",
                    recent.loss,
                    percent(recent.top1),
                    self.activation(recent, scheduled.target),
                );
                if !self.terminal {
                    write_line(&format!(
                        "epoch {}/{}  step {}/{}  {images_per_second:.1} img/s{}  about {} left",
                        self.epoch,
                        self.epochs,
                        self.batch,
                        self.batches,
                        self.recent,
                        self.time_left()
                    ));
                }
            }
            Event::PassStarted { pass, batches } => {
                self.pass = (Instant::now(), *batches);
                let name = match pass {
                    ImagePass::Evaluation => "evaluation",
                    ImagePass::Calibration => "calibration",
                    ImagePass::Importance => "importance",
                    ImagePass::Budget => "budget",
                };
                if !self.terminal && *pass == ImagePass::Calibration {
                    write_line(&format!("re-estimating batch norm statistics over {batches} batches"));
                }
                self.restart(name.into(), 0, *batches);
            }
            Event::PassStep { batch } => {
                self.bar.set_position(*batch as u64);
                let (start, batches) = self.pass;
                let left = batches.saturating_sub(*batch) as f64 / (*batch).max(1) as f64;
                self.bar.set_message(format!("{} left", duration(start.elapsed().mul_f64(left))));
            }
            Event::EpochEnded {
                epoch, train, evaluation, sampled, unaveraged, scheduled, is_best, bad_images, ..
            } => {
                let val = &evaluation.summary;
                self.line(&format!(
                    "epoch {epoch}/{}  train loss {:.3} top-1 {}  val top-1 {} top-5 {}{}  {}{}",
                    self.epochs,
                    train.loss,
                    percent(train.top1),
                    percent(val.top1),
                    percent(val.top5),
                    self.activation_and_macs(val, scheduled.target),
                    duration(self.epoch_start.elapsed()),
                    if *is_best { "  best so far" } else { "" },
                ));
                for (how, other) in [("with sampled gates", sampled), ("without averaging", unaveraged)] {
                    let Some(other) = other else { continue };
                    self.line(&format!(
                        "epoch {epoch}/{}  {how}: val top-1 {}{}",
                        self.epochs,
                        percent(other.summary.top1),
                        self.activation_and_macs(&other.summary, scheduled.target),
                    ));
                }
                if self.time.total > 0.0 {
                    self.line(&format!("epoch {epoch}/{}  time of a step: {}", self.epochs, self.time.shares()));
                }
                if *bad_images > 0 {
                    self.line(&format!("{bad_images} images could not be used in this epoch"));
                }
            }
            Event::BadImage(image) => {
                self.bad += 1;
                match self.bad {
                    n if n <= BAD_SHOWN => self.line(&format!("left out: {image}")),
                    n if n == BAD_SHOWN + 1 => self.line("more images are left out; `train data check` lists them all"),
                    _ => {}
                }
            }
            Event::Saved(_) | Event::Images { .. } => {}
            Event::Finished(_) => self.bar.finish_and_clear(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bars_template_is_valid() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }

    #[test]
    fn times_read_well() {
        for (seconds, text) in [(7, "7 s"), (187, "3 min 07 s"), (7500, "2 h 05 min"), (1_000_000, "11 d 13 h")] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }
}
