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

/// Timed runs of a visit at most.
const MOST_RUNS: f64 = 200.0;

/// How long subjects are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Visits of each subject.
    pub rounds: u32,
    /// A visit takes one run, and as many more as fit in this time; it counts with their median.
    pub visit: Duration,
}

/// Seconds of each round, by subject. `batches` are for each subject those that rounds take one after
/// the other. Every round visits all subjects, every second one in reverse, for it makes a difference
/// whom one follows; a visit runs a network for some time before it is timed.
///
/// # Errors
/// If a runtime fails or does not take the images.
pub fn in_turn(
    workers: &mut [Worker],
    subjects: &[Subject],
    batches: &[&[Array]],
    turns: Turns,
) -> Result<Vec<Vec<f64>>> {
    let mut seconds = vec![Vec::new(); subjects.len()];
    let mut runs = vec![1; subjects.len()];
    for round in 0..turns.rounds {
        for (number, (&Subject { worker, model }, batches)) in subjects.iter().zip(batches).enumerate() {
            if round > 0 && batches.len() == 1 {
                continue;
            }
            let Some(images) = batches.get(round as usize % batches.len().max(1)) else { continue };
            workers[worker].give(model, images)?;
            if round == 0 {
                // Runtimes prepare for a size of batch when they first see it.
                let once = quantile(workers[worker].time(model, WARM_UP, 3)?, 0.0);
                runs[number] = (turns.visit.as_secs_f64() / once).clamp(1.0, MOST_RUNS) as u32;
            }
        }
        let forwards = 0..subjects.len();
        let order: Vec<usize> = if round % 2 == 0 { forwards.collect() } else { forwards.rev().collect() };
        for number in order {
            let Subject { worker, model } = subjects[number];
            thread::sleep(PAUSE);
            seconds[number].push(quantile(workers[worker].time(model, 1, runs[number])?, 0.25));
        }
    }
    Ok(seconds)
}

/// The middle one; of none it is not a number.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The value that so large a share of them is below.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((share * values.len() as f64) as usize).copied().unwrap_or(f64::NAN)
}
