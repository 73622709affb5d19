//! Timing several networks in turn.

use crate::array::Array;
use crate::error::Result;
use crate::worker::Worker;
use std::thread;
use std::time::Duration;

/// A model of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// Which worker.
    pub worker: usize,
    /// Which of its models.
    pub model: usize,
}

/// Longer than the threads of any runtime wait awake for more work.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs before the first round.
const WARM_UP: u32 = 3;

/// Seconds of each round, by subject, for batches of images that rounds take one after the other.
/// Every round visits all subjects, every second one in reverse, for it makes a difference whom one
/// follows; a visit runs a network
/// for some time before it is timed.
///
/// # Errors
/// If a runtime fails or does not take the images.
pub fn in_turn(workers: &mut [Worker], subjects: &[Subject], batches: &[Array], rounds: u32) -> Result<Vec<Vec<f64>>> {
    let mut seconds = vec![Vec::new(); subjects.len()];
    for (round, images) in (0..rounds).zip(batches.iter().cycle()) {
        if round == 0 || batches.len() > 1 {
            for &Subject { worker, model } in subjects {
                workers[worker].give(model, images)?;
                if round == 0 {
                    // Runtimes prepare for a size of batch when they first see it.
                    workers[worker].time(model, WARM_UP, 0)?;
                }
            }
        }
        let forwards = 0..subjects.len();
        let order: Vec<usize> = if round % 2 == 0 { forwards.collect() } else { forwards.rev().collect() };
        for number in order {
            let Subject { worker, model } = subjects[number];
            thread::sleep(PAUSE);
            seconds[number].extend(workers[worker].time(model, 1, 1)?);
        }
    }
    Ok(seconds)
}
