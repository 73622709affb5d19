//! A process that runs networks in one runtime, from the side that asks.

use crate::array::Array;
use crate::error::{Error, Result};
use crate::installed::{missing, python};
use crate::kind::Runtime;
use crate::protocol::{Answer, Request};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use tempfile::TempDir;

/// A process of its own for one runtime. It ends when this is dropped.
pub struct Worker {
    runtime: Runtime,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Where images and logits are exchanged.
    folder: TempDir,
    /// Links to files whose names are not Unicode.
    links: usize,
}

/// OpenVINO's side of the protocol, in Python: it has no stable C interface to load at run time.
const OPENVINO: &str = include_str!("openvino_worker.py");

impl Worker {
    /// Starts a process for a runtime with so many threads. `own` is the command by which this
    /// program serves a runtime ([`crate::serve()`]), but for OpenVINO, which Python serves.
    ///
    /// # Errors
    /// If the process cannot be started, or the runtime is not there.
    pub fn start(runtime: Runtime, threads: usize, own: impl FnOnce() -> Command) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut command = if runtime == Runtime::OpenVino {
            let Some(python) = python() else {
                return Err(missing(runtime, "there is no environment of Python (.venv)".into()));
            };
            let mut command = Command::new(python);
            command.args(["-c", OPENVINO, &threads.to_string()]);
            command
        } else {
            own()
        };
        // libtorch takes the number of its threads from here.
        command.env("OMP_NUM_THREADS", threads.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (requests, answers) = (child.stdin.take(), child.stdout.take());
        let answers = answers.ok_or_else(|| Error::Answer("it has no output".into()))?;
        let mut worker = Self { runtime, child, requests, answers: BufReader::new(answers), folder, links: 0 };
        worker.ask(&Request::Ready)?;
        Ok(worker)
    }

    /// Loads a network; its number. `skip` says of a checkpoint whether what gates close is not
    /// computed; of other files their form says it.
    ///
    /// # Errors
    /// If the runtime is not there, or does not take the file.
    pub fn load(&mut self, file: &Path, skip: bool) -> Result<usize> {
        let mut file = std::path::absolute(file)?;
        if file.to_str().is_none() {
            // JSON holds Unicode alone.
            let mut link = self.folder.path().join(format!("network-{}", self.links));
            link.set_extension(file.extension().unwrap_or_default());
            std::os::unix::fs::symlink(&file, &link)?;
            self.links += 1;
            file = link;
        }
        match self.ask(&Request::Load { file, skip })? {
            Answer::Done(model) => Ok(model),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives a model the images of its next runs.
    ///
    /// # Errors
    /// If it does not take them.
    pub fn give(&mut self, model: usize, images: &Array) -> Result<()> {
        let file = self.folder.path().join(format!("images-{model}"));
        images.write(&file)?;
        let answer = self.ask(&Request::Give { model, file: file.clone(), layout: images.layout() })?;
        fs::remove_file(&file).map_err(|source| Error::File { path: file, source })?;
        if matches!(answer, Answer::Done(_)) { Ok(()) } else { Err(unexpected(&answer)) }
    }

    /// The logits of a model for its images.
    ///
    /// # Errors
    /// If the runtime fails.
    pub fn run(&mut self, model: usize) -> Result<Array> {
        let file = self.folder.path().join("logits");
        match self.ask(&Request::Run { model, file: file.clone() })? {
            Answer::Written(layout) => Array::read(&file, &layout),
            other => Err(unexpected(&other)),
        }
    }

    /// Seconds of each of `timed` runs, behind `warm` others.
    ///
    /// # Errors
    /// If the runtime fails.
    pub fn time(&mut self, model: usize, warm: u32, timed: u32) -> Result<Vec<f64>> {
        match self.ask(&Request::Time { model, warm, timed })? {
            Answer::Seconds(seconds) => Ok(seconds),
            other => Err(unexpected(&other)),
        }
    }

    /// Seconds of each round of models, which run one after the other, every second round in
    /// reverse, for about so many seconds. So what a model computes with is no warmer in the
    /// processor's memory than it is in a network of many parts.
    ///
    /// # Errors
    /// If the runtime fails.
    pub fn rounds(&mut self, models: &[usize], seconds: f64) -> Result<Vec<Vec<f64>>> {
        match self.ask(&Request::Rounds { models: models.to_vec(), seconds })? {
            Answer::Rounds(rounds) => Ok(rounds),
            other => Err(unexpected(&other)),
        }
    }

    /// Seconds of each operation of a model, by its name in the file; none where the runtime does
    /// not tell.
    ///
    /// # Errors
    /// If the runtime fails.
    pub fn operations(&mut self, model: usize, runs: u32) -> Result<Vec<(String, f64)>> {
        match self.ask(&Request::Operations { model, runs })? {
            Answer::Operations(operations) => Ok(operations),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Answer> {
        let line = serde_json::to_string(request).map_err(|error| Error::Answer(error.to_string()))?;
        let sent = self.requests.as_mut().map(|requests| writeln!(requests, "{line}").and_then(|()| requests.flush()));
        let mut answer = String::new();
        if !matches!(sent, Some(Ok(()))) || self.answers.read_line(&mut answer)? == 0 {
            let how = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            return Err(Error::Ended { runtime: self.runtime, how });
        }
        match serde_json::from_str(&answer).map_err(|error| Error::Answer(format!("{error} in {answer:?}")))? {
            Answer::Missing { why } => Err(missing(self.runtime, why)),
            Answer::Refused { message } => Err(Error::Refused { runtime: self.runtime, message }),
            answer => Ok(answer),
        }
    }
}

fn unexpected(answer: &Answer) -> Error {
    Error::Answer(format!("{answer:?}"))
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Without requests it ends by itself; one that computes is not waited for.
        drop(self.requests.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
