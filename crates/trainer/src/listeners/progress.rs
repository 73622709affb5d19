//! Progress for people: bars on a terminal, plain lines elsewhere.

use crate::config::{Config, Weighting};
use crate::error::Result;
use crate::events::{Event, Listener, PassKind};
use crate::results::evaluation::Evaluation;
use crate::results::step_time::StepTime;
use crate::results::summary::Summary;
use arch::{Cost, Spending};
use data::BadImage;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Stderr, Write};
use std::time::{Duration, Instant};

/// Progress for people, on stderr: bars on a terminal, plain lines elsewhere.
#[derive(Debug)]
pub struct Progress<W = Stderr> {
    /// Where lines go.
    out: W,
    bar: ProgressBar,
    terminal: bool,
    cost: Cost,
    spending: Spending,
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
    pass: Pass,
    bad: usize,
    batch_size: usize,
    /// Loss, top-1 and activation of the last log entry.
    recent: String,
    /// Where the time of steps went in this epoch: a sum over its log entries.
    time: StepTime,
    /// Steps between two log entries, until the first steps of this process showed how long those
    /// take.
    log_every: Option<u64>,
    has_begun: bool,
    last_line: Instant,
}

/// A pass that does not train.
#[derive(Debug)]
struct Pass {
    start: Instant,
    batches: usize,
}

const TEMPLATE: &str = "{prefix} {bar:16} {pos}/{len}  {wide_msg}";

/// Steps after which a log without a bar says that training has begun and how long it will take.
const FIRST_STEPS: usize = 3;

/// Without a bar, a line follows after this time even where no log entry is due.
const MOST_SILENCE: Duration = Duration::from_secs(30);

/// Bad images that get a line of their own.
const BAD_SHOWN: usize = 10;

impl Progress {
    /// On stderr. `cost` is that of the network; `epochs` how many the run has.
    pub fn new(cost: &Cost, epochs: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self::to(std::io::stderr(), ProgressDrawTarget::stderr_with_hz(5), terminal, cost, epochs)
    }
}

impl<W: Write> Progress<W> {
    fn to(out: W, target: ProgressDrawTarget, terminal: bool, cost: &Cost, epochs: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
            bar.set_style(style.progress_chars("━╸ "));
        }
        Self {
            out,
            bar,
            terminal,
            cost: cost.clone(),
            spending: cost.spending(),
            weighting: Weighting::Gates,
            epochs,
            batches: 0,
            first: 0,
            batch: 0,
            epoch: 0,
            epoch_start: Instant::now(),
            pass: Pass { start: Instant::now(), batches: 0 },
            bad: 0,
            batch_size: 0,
            recent: String::new(),
            time: StepTime::default(),
            log_every: None,
            has_begun: false,
            last_line: Instant::now(),
        }
    }

    /// Says of the gates what they spend of what their budget counts.
    pub fn counting(mut self, spending: &Spending) -> Self {
        self.spending = spending.clone();
        self
    }

    /// Writes a line; a bar steps aside for it. A closed stderr is no reason to stop training.
    fn line(&mut self, text: &str) {
        self.last_line = Instant::now();
        // Before the first epoch there is no bar to step aside.
        let _ = match self.terminal && self.bar.length() != Some(0) {
            true => self.bar.suspend(|| writeln!(self.out, "{text}")),
            false => writeln!(self.out, "{text}"),
        };
    }

    /// How the lines of this epoch begin.
    fn prefix(&self) -> String {
        format!("epoch {}/{}", self.epoch, self.epochs)
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

    /// How far the gates are from their target.
    fn activation(&self, summary: &Summary, target: Option<f64>) -> String {
        let Some(target) = target else { return String::new() };
        let found = percent(self.weighting.activation(summary, &self.spending));
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

    fn epoch_started(&mut self, epoch: u64, first: usize, batches: usize, config: &Config) {
        self.log_every = (!self.has_begun).then_some(config.train.log_every);
        self.epoch = epoch;
        self.batches = batches;
        self.batch_size = config.train.batch_size;
        self.weighting = config.gates.weighting;
        self.recent.clear();
        self.time = StepTime::default();
        self.first = first;
        self.batch = first;
        self.epoch_start = Instant::now();
        self.restart(self.prefix(), first, batches);
    }

    fn step(&mut self, batch: usize) {
        self.batch = batch;
        self.has_begun = true;
        // A pass in the middle of an epoch had the bar.
        if self.bar.length() != Some(self.batches as u64) {
            self.restart(self.prefix(), batch, self.batches);
        }
        self.bar.set_position(batch as u64);
        let done = self.batch.saturating_sub(self.first);
        if self.terminal {
            let images = done * self.batch_size;
            let rate = images as f64 / self.epoch_start.elapsed().as_secs_f64().max(1e-9);
            self.bar.set_message(format!("{rate:.1} img/s  {} left{}", self.time_left(), self.recent));
        } else if done == FIRST_STEPS
            && let Some(every) = self.log_every.filter(|&every| every > FIRST_STEPS as u64)
        {
            let prefix = self.prefix();
            let batches = self.batches;
            let left = self.time_left();
            self.line(&format!(
                "{prefix}  step {batch}/{batches}  about {left} left; a line follows every {every} steps"
            ));
        } else if self.last_line.elapsed() >= MOST_SILENCE {
            let (prefix, batches, left) = (self.prefix(), self.batches, self.time_left());
            self.line(&format!("{prefix}  step {batch}/{batches}  about {left} left"));
        }
    }

    fn logged(&mut self, recent: &Summary, target: Option<f64>, images_per_second: f64, time: &StepTime) {
        self.time.add(time);
        let activation = self.activation(recent, target);
        self.recent = format!("  loss {:.3}  top-1 {}{activation}", recent.loss, percent(recent.top1));
        if !self.terminal {
            self.line(&format!(
                "{}  step {}/{}  {images_per_second:.1} img/s{}  about {} left",
                self.prefix(),
                self.batch,
                self.batches,
                self.recent,
                self.time_left()
            ));
        }
    }

    fn pass_started(&mut self, pass: PassKind, batches: usize) {
        self.pass = Pass { start: Instant::now(), batches };
        let name = match pass {
            PassKind::Evaluation => "evaluation",
            PassKind::Calibration => "calibration",
            PassKind::Importance => "importance",
            PassKind::Budget => "budget",
            PassKind::Repair => "repair",
        };
        let about = match pass {
            PassKind::Evaluation => None,
            PassKind::Calibration => Some("re-estimating batch norm statistics"),
            PassKind::Importance => Some("measuring how important every gate is"),
            PassKind::Budget => Some("measuring which gates are open, to freeze them within the budget,"),
            PassKind::Repair => Some("repairing what was cut"),
        };
        if let Some(about) = about.filter(|_| !self.terminal) {
            self.line(&format!("{about} over {batches} batches"));
        }
        self.restart(name.into(), 0, batches);
    }

    fn pass_step(&mut self, batch: usize) {
        self.bar.set_position(batch as u64);
        let left = self.pass.batches.saturating_sub(batch) as f64 / batch.max(1) as f64;
        let left = duration(self.pass.start.elapsed().mul_f64(left));
        if !self.terminal && self.last_line.elapsed() >= MOST_SILENCE {
            self.line(&format!("{}  batch {batch}/{}  about {left} left", self.bar.prefix(), self.pass.batches));
        }
        self.bar.set_message(format!("{left} left"));
    }

    fn epoch_ended(&mut self, train: &Summary, val: &Summary, target: Option<f64>, is_best: bool) {
        self.line(&format!(
            "{}  train loss {:.3} top-1 {}  val top-1 {} top-5 {}{}  {}{}",
            self.prefix(),
            train.loss,
            percent(train.top1),
            percent(val.top1),
            percent(val.top5),
            self.activation_and_macs(val, target),
            duration(self.epoch_start.elapsed()),
            if is_best { "  best so far" } else { "" },
        ));
    }

    /// What another evaluation of the same epoch found.
    fn other_evaluation(&mut self, how: &str, found: Option<&Evaluation>, target: Option<f64>) {
        let Some(Evaluation { summary, .. }) = found else { return };
        self.line(&format!(
            "{}  {how}: val top-1 {}{}",
            self.prefix(),
            percent(summary.top1),
            self.activation_and_macs(summary, target),
        ));
    }

    fn bad_image(&mut self, image: &BadImage) {
        self.bad += 1;
        if self.bad <= BAD_SHOWN {
            self.line(&format!("left out: {image}"));
        } else if self.bad == BAD_SHOWN + 1 {
            self.line("more images are left out; `train data check` lists them all");
        }
    }
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

impl<W: Write> Listener for Progress<W> {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Note(text) => self.line(text),
            Event::EpochStarted { epoch, first, batches, config } => {
                self.epoch_started(*epoch, *first, *batches, config);
            }
            Event::Step { batch, .. } => self.step(*batch),
            Event::Logged { recent, scheduled, images_per_second, time, .. } => {
                self.logged(recent, scheduled.target, *images_per_second, time);
            }
            Event::PassStarted { pass, batches } => self.pass_started(*pass, *batches),
            Event::PassStep { batch } => self.pass_step(*batch),
            Event::EpochEnded { train, evaluation, sampled, unaveraged, scheduled, is_best, bad_images, .. } => {
                self.epoch_ended(train, &evaluation.summary, scheduled.target, *is_best);
                self.other_evaluation("with sampled gates", *sampled, scheduled.target);
                self.other_evaluation("without averaging", *unaveraged, scheduled.target);
                if self.time.total > 0.0 {
                    self.line(&format!("{}  time of a step: {}", self.prefix(), self.time.shares()));
                }
                if *bad_images > 0 {
                    self.line(&format!("{bad_images} images could not be used in this epoch"));
                }
            }
            Event::BadImage(image) => self.bad_image(image),
            Event::Saved(_) | Event::Images { .. } => {}
            Event::Finished(_) => self.bar.finish_and_clear(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::scheduled::Scheduled;
    use arch::NetSpec;
    use gumbel_gates::GateKind;

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

    fn cost() -> Cost {
        let spec = NetSpec::preset("resnet18", 2).unwrap();
        Cost::of(&spec.with_layer_gates(GateKind::Independent, |block| block < 2), 32, 32).unwrap()
    }

    /// Everything of a line before what a clock decides.
    fn before_time(line: &str) -> &str {
        line.split("  about ").next().unwrap()
    }

    #[test]
    fn a_log_without_a_bar_says_how_training_goes_line_by_line() {
        let cost = cost();
        let mut progress = Progress::to(Vec::new(), ProgressDrawTarget::hidden(), false, &cost, 2);
        let mut config = Config::default();
        config.train.log_every = 4;
        let half = cost.dense as f64 / 2.0;
        let recent = Summary { loss: 1.25, top1: 0.5, macs: half, rates: vec![1.0, 0.25], ..Summary::default() };
        let scheduled = Scheduled { target: Some(0.6), ..Scheduled::default() };
        let time = StepTime { images: 0.1, forward: 0.3, backward: 0.5, update: 0.05, total: 1.0 };
        let evaluation = Evaluation { summary: Summary { top5: 1.0, ..recent.clone() }, ..Evaluation::default() };
        let steps = |from: usize, to: usize| (from..=to).map(|batch| Event::Step { step: batch as u64, batch });
        let mut events = vec![
            Event::Note("resnet18 with 2 gates"),
            Event::EpochStarted { epoch: 1, first: 0, batches: 8, config: &config },
        ];
        events.extend(steps(1, 4));
        events.push(Event::Logged {
            step: 4,
            epoch: 1,
            recent: &recent,
            scheduled: &scheduled,
            images_per_second: 9.04,
            time,
        });
        events.extend(steps(5, 8));
        events.extend([
            Event::PassStarted { pass: PassKind::Calibration, batches: 3 },
            Event::PassStep { batch: 1 },
            Event::PassStarted { pass: PassKind::Evaluation, batches: 5 },
            Event::EpochEnded {
                step: 8,
                epoch: 1,
                train: &recent,
                evaluation: &evaluation,
                sampled: Some(&evaluation),
                unaveraged: None,
                scheduled: &scheduled,
                is_best: true,
                bad_images: 2,
                training_macs: 0.0,
            },
        ]);
        for event in &events {
            progress.on(event).unwrap();
        }
        let text = String::from_utf8(progress.out).unwrap();
        check_lines(&text.lines().collect::<Vec<_>>());
    }

    fn check_lines(lines: &[&str]) {
        assert_eq!(lines.len(), 8, "{lines:?}");
        assert_eq!(lines[0], "resnet18 with 2 gates");
        assert!(lines[1].starts_with("epoch 1/2  step 3/8  about "), "{}", lines[1]);
        assert!(lines[1].ends_with(" left; a line follows every 4 steps"), "{}", lines[1]);
        let logged = "epoch 1/2  step 4/8  9.0 img/s  loss 1.250  top-1 50.0%  open 62.5% (target 60.0%)";
        assert_eq!(before_time(lines[2]), logged);
        assert_eq!(lines[3], "re-estimating batch norm statistics over 3 batches");
        let ended = "epoch 1/2  train loss 1.250 top-1 50.0%  val top-1 50.0% top-5 100.0%  open 62.5% (target 60.0%)  \
                     MACs 50.0% of dense  ";
        assert!(lines[4].starts_with(ended) && lines[4].ends_with("  best so far"), "{}", lines[4]);
        let sampled = "epoch 1/2  with sampled gates: val top-1 50.0%  open 62.5% (target 60.0%)  MACs 50.0% of dense";
        assert_eq!(lines[5], sampled);
        let shares = "waiting for images 10%, forward 30%, backward 50%, update 5%, rest 5%";
        assert_eq!(lines[6], format!("epoch 1/2  time of a step: {shares}"));
        assert_eq!(lines[7], "2 images could not be used in this epoch");
    }

    #[test]
    fn a_budget_in_macs_is_told_once() {
        let cost = cost();
        let mut progress = Progress::to(Vec::new(), ProgressDrawTarget::hidden(), false, &cost, 1);
        progress.weighting = Weighting::Network;
        let summary = Summary { macs: cost.dense as f64 / 4.0, rates: vec![0.0; 2], ..Summary::default() };
        assert_eq!(progress.activation_and_macs(&summary, Some(0.3)), "  MACs 25.0% (target 30.0%)");
        assert_eq!(progress.activation_and_macs(&summary, None), "  MACs 25.0% of dense");
    }

    #[test]
    fn bad_images_are_named_until_they_are_many() {
        let mut progress = Progress::to(Vec::new(), ProgressDrawTarget::hidden(), false, &cost(), 1);
        for number in 0..BAD_SHOWN + 3 {
            let image = BadImage { path: format!("{number}.jpg").into(), reason: "cut off".into() };
            progress.on(&Event::BadImage(&image)).unwrap();
        }
        let text = String::from_utf8(progress.out).unwrap();
        assert_eq!(text.lines().count(), BAD_SHOWN + 1);
        assert!(text.starts_with("left out: 0.jpg: cut off\n"), "{text}");
        assert!(text.ends_with("more images are left out; `train data check` lists them all\n"), "{text}");
    }
}
