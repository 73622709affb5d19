//! The side of a process that runs networks.

use crate::array::Array;
use crate::error::{Error, Result};
use crate::models::Model;
use crate::protocol::{Answer, Request};
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A processor that slept, and threads that did, take so long to be at their pace again.
const AWAKE: Duration = Duration::from_millis(40);

/// Answers requests until there are no more. `load` makes a model of a file, and of
/// whether what gates close is skipped; `ready` is what comes
/// before the first request: an error of it is the answer to all.
///
/// # Errors
/// If the other side cannot be read or written to.
pub fn serve(
    requests: impl BufRead,
    mut answers: impl Write,
    ready: Result<()>,
    load: impl Fn(&Path, bool) -> Result<Box<dyn Model>>,
) -> Result<()> {
    let mut models = Vec::new();
    let missing = ready.err();
    for line in requests.lines() {
        let request = serde_json::from_str(&line?).map_err(|error| Error::Answer(error.to_string()))?;
        let answer = match &missing {
            Some(error) => as_answer(error),
            None => answer(request, &mut models, &load).unwrap_or_else(|error| as_answer(&error)),
        };
        let answer = serde_json::to_string(&answer).map_err(|error| Error::Answer(error.to_string()))?;
        writeln!(answers, "{answer}")?;
        answers.flush()?;
    }
    Ok(())
}

/// Rounds at least, and at most.
const ROUNDS: (f64, f64) = (5.0, 100.0);

/// Seconds of each model's rounds.
fn rounds(models: &mut [Box<dyn Model>], asked: &[usize], seconds: f64) -> Result<Vec<Vec<f64>>> {
    for &model in asked {
        models[model].prepare()?;
        models[model].run()?;
    }
    let mut found = vec![Vec::new(); asked.len()];
    let mut visit = |number: usize| -> Result<f64> {
        let start = Instant::now();
        models[asked[number]].run()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let start = Instant::now();
    (0..asked.len()).try_for_each(|number| visit(number).map(drop))?;
    let rounds = (seconds / start.elapsed().as_secs_f64().max(1e-6)).clamp(ROUNDS.0, ROUNDS.1) as usize;
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..asked.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            found[number].push(visit(number)?);
        }
    }
    Ok(found)
}

fn as_answer(error: &Error) -> Answer {
    match error {
        Error::Missing { why, .. } => Answer::Missing { why: why.clone() },
        Error::Refused { message, .. } => Answer::Refused { message: message.clone() },
        other => Answer::Refused { message: other.to_string() },
    }
}

fn answer(
    request: Request,
    models: &mut Vec<Box<dyn Model>>,
    load: &impl Fn(&Path, bool) -> Result<Box<dyn Model>>,
) -> Result<Answer> {
    let unknown = |model: usize| Error::Answer(format!("there is no model {model}"));
    match request {
        Request::Ready => Ok(Answer::Done(0)),
        Request::Load { file, skip } => {
            models.push(load(&file, skip)?);
            Ok(Answer::Done(models.len() - 1))
        }
        Request::Give { model, file, layout } => {
            let images = Array::read(&file, &layout)?;
            models.get_mut(model).ok_or_else(|| unknown(model))?.give(&images)?;
            Ok(Answer::Done(model))
        }
        Request::Run { model, file } => {
            let logits = models.get_mut(model).ok_or_else(|| unknown(model))?.run()?;
            logits.write(&file)?;
            Ok(Answer::Written(logits.layout()))
        }
        Request::Operations { model, runs } => {
            let model = models.get_mut(model).ok_or_else(|| unknown(model))?;
            Ok(Answer::Operations(model.operations(runs)?))
        }
        Request::Rounds { models: asked, seconds } => {
            if let Some(&model) = asked.iter().find(|&&model| model >= models.len()) {
                return Err(unknown(model));
            }
            Ok(Answer::Rounds(rounds(models, &asked, seconds)?))
        }
        Request::Time { model, warm, timed } => {
            let model = models.get_mut(model).ok_or_else(|| unknown(model))?;
            model.prepare()?;
            let start = Instant::now();
            for run in 0.. {
                if run >= warm && start.elapsed() >= AWAKE {
                    break;
                }
                model.run()?;
            }
            let mut seconds = Vec::new();
            for _ in 0..timed {
                let start = Instant::now();
                model.run()?;
                seconds.push(start.elapsed().as_secs_f64());
            }
            Ok(Answer::Seconds(seconds))
        }
    }
}
