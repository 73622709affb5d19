//! Where the time of training steps goes.

use std::time::Instant;
use tch::Device;

/// Seconds per step, on average.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct StepTime {
    /// Waiting for the images of the batch.
    pub images: f64,
    /// Preparing them, the forward pass and the loss.
    pub forward: f64,
    /// The backward pass.
    pub backward: f64,
    /// Moving the parameters and keeping count.
    pub update: f64,
    /// All of it, and whatever else happened.
    pub total: f64,
}

impl StepTime {
    /// Adds another time, part by part.
    pub(crate) fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.forward += other.forward;
        self.backward += other.backward;
        self.update += other.update;
        self.total += other.total;
    }

    /// The parts as shares of the whole, in words.
    pub fn shares(&self) -> String {
        let share = |part: f64| format!("{:.0}%", 100.0 * part / self.total.max(1e-12));
        format!(
            "waiting for images {}, forward {}, backward {}, update {}, rest {}",
            share(self.images),
            share(self.forward),
            share(self.backward),
            share(self.update),
            share(self.rest())
        )
    }

    /// What none of the parts explains: logs, checkpoints and, on a GPU, the time it had nothing to do.
    pub fn rest(&self) -> f64 {
        (self.total - self.images - self.forward - self.backward - self.update).max(0.0)
    }
}

/// A part of a step that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Forward,
    Backward,
    Update,
}

/// Times the parts of steps. A CUDA device works behind the host's back, so there only the steps that are read anyway are timed, with
/// the host waiting for the device between their parts; the others only count in the total.
#[derive(Debug)]
pub(crate) struct Clock {
    device: Device,
    start: Instant,
    steps: u32,
    images: f64,
    parts: [f64; 3],
    /// Steps whose parts were timed.
    timed: u32,
    /// Whether this step's are.
    exact: bool,
    last: Instant,
}

impl Clock {
    pub fn start(device: Device) -> Self {
        let now = Instant::now();
        Self { device, start: now, steps: 0, images: 0.0, parts: [0.0; 3], timed: 0, exact: true, last: now }
    }

    /// The images of a step are asked for.
    pub fn ask(&mut self) {
        self.last = Instant::now();
    }

    /// They are there, and the step begins; `read` says whether it is one after which the device is waited for.
    pub fn begin(&mut self, read: bool) {
        self.images += self.last.elapsed().as_secs_f64();
        self.steps += 1;
        self.exact = read || !matches!(self.device, Device::Cuda(_));
        self.timed += u32::from(self.exact);
        self.wait();
        self.last = Instant::now();
    }

    /// A part of the step is done.
    pub fn done(&mut self, part: Part) {
        if self.exact {
            self.wait();
            self.parts[part as usize] += self.last.elapsed().as_secs_f64();
            self.last = Instant::now();
        }
    }

    fn wait(&self) {
        if let (true, Device::Cuda(number)) = (self.exact, self.device) {
            tch::Cuda::synchronize(number as i64);
        }
    }

    /// The times since the last call.
    pub fn read(&mut self) -> StepTime {
        let [forward, backward, update] = self.parts.map(|sum| sum / f64::from(self.timed.max(1)));
        let per_step = |sum: f64| sum / f64::from(self.steps.max(1));
        let (images, total) = (per_step(self.images), per_step(self.start.elapsed().as_secs_f64()));
        *self = Self::start(self.device);
        StepTime { images, forward, backward, update, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn parts_are_means_over_steps_and_what_is_left_is_the_rest() {
        let mut clock = Clock::start(Device::Cpu);
        for _ in 0..2 {
            clock.ask();
            sleep(Duration::from_millis(20));
            clock.begin(false);
            clock.done(Part::Forward);
            sleep(Duration::from_millis(40));
            clock.done(Part::Backward);
            clock.done(Part::Update);
            sleep(Duration::from_millis(10));
        }
        let time = clock.read();
        assert!(time.images >= 0.02 && time.backward >= 0.04 && time.rest() >= 0.01, "{time:?}");
        assert!(time.total >= 0.07 && time.forward < time.total - 0.07 + 0.001, "{time:?}");
        assert_eq!(clock.read().images, 0.0);
        let time = StepTime { images: 0.1, forward: 0.3, backward: 0.5, update: 0.05, total: 1.0 };
        let shares = "waiting for images 10%, forward 30%, backward 50%, update 5%, rest 5%";
        assert_eq!(time.shares(), shares);
    }
}
