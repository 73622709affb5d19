//! Times the parts of training steps.

use crate::results::step_time::StepTime;
use std::time::Instant;
use tch::Device;

/// A part of a step that is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Forward,
    Backward,
    Update,
}

/// Times the parts of steps. A CUDA device works behind the host's back, so there only the steps
/// that are read anyway are timed, with the host waiting for the device between their parts; the
/// others only count in the total.
#[derive(Debug)]
pub(crate) struct Clock {
    device: Device,
    /// What the time is.
    now: fn() -> Instant,
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
        Self::start_by(Instant::now, device)
    }

    fn start_by(now: fn() -> Instant, device: Device) -> Self {
        let start = now();
        Self { device, now, start, steps: 0, images: 0.0, parts: [0.0; 3], timed: 0, exact: true, last: start }
    }

    /// Seconds since this was asked last.
    fn lap(&mut self) -> f64 {
        let now = (self.now)();
        let seconds = (now - self.last).as_secs_f64();
        self.last = now;
        seconds
    }

    /// The images of a step are asked for.
    pub fn ask(&mut self) {
        self.lap();
    }

    /// They are there, and the step begins; `read` says whether it is one after which the device is
    /// waited for.
    pub fn begin(&mut self, read: bool) {
        self.images += self.lap();
        self.steps += 1;
        self.exact = read || !matches!(self.device, Device::Cuda(_));
        self.timed += u32::from(self.exact);
        self.wait();
        self.lap();
    }

    /// A part of the step is done.
    pub fn done(&mut self, part: Part) {
        if self.exact {
            self.wait();
            self.parts[part as usize] += self.lap();
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
        let elapsed = ((self.now)() - self.start).as_secs_f64();
        let images = per_step(self.images);
        let total = per_step(elapsed);
        *self = Self::start_by(self.now, self.device);
        StepTime { images, forward, backward, update, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::OnceLock;
    use std::time::Duration;

    thread_local! { static PASSED: Cell<u64> = const { Cell::new(0) } }

    /// A clock that goes on only where it is told to.
    fn now() -> Instant {
        static START: OnceLock<Instant> = OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_millis(PASSED.get())
    }

    fn pass(milliseconds: u64) {
        PASSED.set(PASSED.get() + milliseconds);
    }

    #[test]
    fn parts_are_means_over_steps_and_what_is_left_is_the_rest() {
        let mut clock = Clock::start_by(now, Device::Cpu);
        for _ in 0..2 {
            pass(5);
            clock.ask();
            pass(20);
            clock.begin(false);
            pass(30);
            clock.done(Part::Forward);
            pass(40);
            clock.done(Part::Backward);
            clock.done(Part::Update);
            pass(10);
        }
        let time = clock.read();
        let close = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-9, "{time:?}");
        close(time.images, 0.02);
        close(time.forward, 0.03);
        close(time.backward, 0.04);
        close(time.update, 0.0);
        close(time.total, 0.105);
        close(time.rest(), 0.015);
        assert_eq!(clock.read().images, 0.0);
        let time = StepTime { images: 0.1, forward: 0.3, backward: 0.5, update: 0.05, total: 1.0 };
        let shares = "waiting for images 10%, forward 30%, backward 50%, update 5%, rest 5%";
        assert_eq!(time.shares(), shares);
    }
}
