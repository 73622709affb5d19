//! One step of gradient descent.

use crate::config::schedule::Schedule;
use crate::error::{Error, Result};
use crate::events::{Event, Listener, Scheduled, tell};
use crate::files::atomic::write_atomically;
use crate::learn::clock::{Clock, Part};
use crate::learn::diagnose::{Diagnosis, FirstBroken, broken_tensor, margins};
use crate::learn::erase::erase;
use crate::learn::guard::Found;
use crate::learn::mix::Mix;
use crate::learn::optimizer::Update;
use crate::learn::teacher::Teacher;
use crate::measure::batch::to_tensors;
use crate::measure::totals::Totals;
use crate::method::objective::{Answers, Pull};
use crate::run::fit::Fit;
use arch::{Output, Pass};
use data::Batch;
use gumbel_gates::Policy;
use tch::{Device, Kind, Tensor};
use torch_ext::derive_seed;

/// Parts of a step's seed that no gate site has, nor dropout.
const MIXING: u64 = u64::MAX - 1;
const ERASING: u64 = u64::MAX - 2;
/// The second part of a batch has this one, the third the one before it, and so on.
const LATER_PARTS: u64 = u64::MAX - 3;

/// A part of a batch that went through the network, and back.
struct Done {
    output: Output,
    /// Its labels, in mixed images the larger ones.
    labels: Tensor,
    /// Objective, cross entropy and activation loss, detached.
    losses: [Tensor; 3],
}

impl Fit {
    /// What pulls on the gates at a step: once they are decided, nothing.
    pub(crate) fn pull(&self, step: u64) -> Pull {
        let (gates, epoch) = (&self.config.gates, step as f64 / self.steps_per_epoch() as f64);
        let weight = |weight: Schedule| if self.is_decided(step) { 0.0 } else { weight.at(epoch) };
        Pull {
            targets: gates.target.per_gate(&self.blocks_of_gates, epoch),
            factor: weight(gates.loss_factor),
            polarisation: weight(gates.polarisation),
            temperature: gates.temperature.at(epoch),
        }
    }

    fn learning_rate(&self, step: u64) -> f64 {
        let factor = self.config.schedule.factor(step, self.steps_per_epoch() as u64, self.config.train.epochs);
        self.config.optimizer.learning_rate * factor
    }

    pub(crate) fn scheduled(&self, step: u64) -> Scheduled {
        let Pull { targets, factor, temperature, .. } = self.pull(step);
        Scheduled {
            learning_rate: self.learning_rate(step),
            target: self.objective.mean_target(&targets),
            loss_factor: factor,
            temperature,
        }
    }

    /// One step on one batch. Its sums stay on the device, and so does the judgement whether it is left out.
    pub(crate) fn step(&mut self, lesson: &Lesson, totals: &mut Totals, clock: &mut Clock) -> Result<()> {
        let step = self.progress.step;
        let images = &lesson.images;
        let (pull, learn_gates) = (self.pull(step), !self.is_decided(step));
        self.optimizer.zero_gradients();
        self.health.before()?;
        let mut done = Vec::new();
        let mut loss = Tensor::f_zeros([], (Kind::Float, images.device()))?;
        for (number, part) in parts(images.size()[0], self.config.train.accumulate).into_iter().enumerate() {
            let part = lesson.part(part, self.teacher.as_ref())?;
            let output = self.network.forward(&part.images, self.pass(step, number, &pull))?;
            let terms = self.objective.terms(&output, &part.answers, &pull, &self.meter)?;
            clock.done(Part::Forward);
            // The mean over the batch is that of its parts, by their sizes.
            let weighted = terms.total.f_mul_scalar(part.share)?;
            self.health.scaled(&weighted)?.f_backward()?;
            clock.done(Part::Backward);
            loss = loss.f_add(&weighted.f_detach()?)?;
            let activation = match terms.activation {
                Some(activation) => activation,
                None => terms.cross_entropy.f_zeros_like()?,
            };
            let losses = [terms.total.f_detach()?, terms.cross_entropy, activation];
            done.push(Done { output, labels: part.answers.most().shallow_clone(), losses });
        }
        let norm = self.optimizer.norm(learn_gates)?;
        let scale = self.health.scale()?;
        let skip = self.health.judge(step, &loss, &norm)?;
        let update = Update {
            learning_rate: self.learning_rate(step),
            gates: learn_gates,
            scale: scale.as_ref(),
            skip: Some(&skip),
        };
        self.optimizer.step(&update, &norm)?;
        if let Some(average) = &self.average {
            self.progress.updates += 1;
            average.follow(self.progress.updates)?;
        }
        for Done { output, labels, losses: [total, cross_entropy, activation] } in &done {
            totals.add(output, labels, [total, cross_entropy, activation], Some(&skip))?;
        }
        clock.done(Part::Update);
        Ok(())
    }

    /// The images of a batch as step `step` sees them, and what they should be taken for.
    pub(crate) fn lesson(&self, step: u64, batch: &Batch) -> Result<Lesson> {
        let data = &self.config.data;
        let (mut images, labels) = to_tensors(batch, data.image_size, self.network.device())?;
        let seed = derive_seed(self.config.train.seed, step);
        if data.erase > 0.0 {
            erase(&images, data.erase, derive_seed(seed, ERASING))?;
        }
        let mut mixed = None;
        if let Some(mix) = Mix::draw(data.mixup, data.cutmix, data.image_size, derive_seed(seed, MIXING)) {
            images = mix.images(&images)?;
            mixed = Some((Mix::others(&labels)?, mix.share()));
        }
        Ok(Lesson { images, answers: Answers { labels, mixed, teacher: None } })
    }

    /// How part `part` of the batch of step `step` goes through the network.
    fn pass(&self, step: u64, part: usize, pull: &Pull) -> Pass {
        let seed = derive_seed(self.config.train.seed, step);
        let seed = match part {
            0 => seed,
            later => derive_seed(seed, LATER_PARTS - (later as u64 - 1)),
        };
        let pass = Pass::training(pull.temperature, seed);
        if self.is_decided(step) { Pass { policy: Policy::Argmax, frozen_gates: true, ..pass } } else { pass }
    }

    /// Tells of steps that were left out since the last call, and ends the run if they were too many. On a GPU it waits for the device.
    pub(crate) fn judge_health(&mut self, listeners: &mut [Box<dyn Listener>]) -> Result<()> {
        let step = match self.health.found()? {
            Found::Nothing => return Ok(()),
            Found::LeftOut(step) => step,
            Found::TooMany(step) => {
                let what = format!("training step {}", step + 1);
                return Err(Error::NotFinite { what, diagnosis: Box::new(self.diagnose(step)?) });
            }
        };
        self.progress.health = self.health.state()?;
        let note = format!(
            "the loss or the gradients of step {} are not finite numbers; it is left out ({} in all, train.max_bad_steps allows {})",
            step + 1,
            self.progress.health.left_out,
            self.config.train.max_bad_steps
        );
        tell(listeners, &Event::Note(&note))
    }

    /// A second look at a step that was too much: the weights are still those it began with, and all else is a function of the step.
    fn diagnose(&mut self, step: u64) -> Result<Diagnosis> {
        let mut diagnosis = Diagnosis { step, learning_rate: self.learning_rate(step), ..Diagnosis::default() };
        let mut broken = FirstBroken::default();
        for entry in self.network.tensors().parameters() {
            broken.look(&entry.tensor, || format!("those of the weights {}", entry.name))?;
        }
        let steps = self.steps_per_epoch() as u64;
        let batch = self.train.epoch(step / steps, (step % steps) as usize)?.next();
        if let Some(batch) = batch {
            diagnosis.images = batch.items.iter().map(|&item| self.train.source().path(item)).collect();
            self.look_again(step, &batch, &mut broken, &mut diagnosis)?;
        }
        diagnosis.first = broken.found();
        let list = self.run.images_of_step(step + 1);
        let names: String =
            diagnosis.images.iter().flat_map(|path| [path.to_string_lossy().into_owned(), "\n".into()]).collect();
        // The list is a help; that it cannot be written is not what the run ended of.
        diagnosis.list = write_atomically(&list, names.as_bytes()).ok().map(|()| list);
        Ok(diagnosis)
    }

    fn look_again(
        &mut self,
        step: u64,
        batch: &Batch,
        broken: &mut FirstBroken,
        diagnosis: &mut Diagnosis,
    ) -> Result<()> {
        let lesson = self.lesson(step, batch)?;
        let images = &lesson.images;
        broken.look(images, || "those of the images".into())?;
        self.optimizer.zero_gradients();
        let pull = self.pull(step);
        for (number, part) in parts(images.size()[0], self.config.train.accumulate).into_iter().enumerate() {
            let part = lesson.part(part, self.teacher.as_ref())?;
            let mut fault = None;
            let output = self.network.forward_observed(
                &part.images,
                self.pass(step, number, &pull),
                &mut |place, features| {
                    if let Err(error) = broken.look(features, || format!("the features behind {place}")) {
                        fault = Some(error);
                    }
                },
            )?;
            fault.map_or(Ok(()), Err)?;
            for logits in &output.gate_logits {
                broken.look(logits, || "the logits of gates".into())?;
            }
            diagnosis.margins = margins(&output.gate_logits)?;
            broken.look(&output.logits, || "the class logits".into())?;
            let terms = self.objective.terms(&output, &part.answers, &pull, &self.meter)?;
            broken.look(&terms.total, || "the loss".into())?;
            terms.total.f_mul_scalar(part.share)?.f_backward()?;
        }
        // In the order in which they are computed.
        let parameters: Vec<_> = self.network.tensors().parameters().collect();
        for entry in parameters.into_iter().rev() {
            let gradient = entry.tensor.f_grad()?;
            if gradient.defined() {
                broken.look(&gradient, || format!("the gradients of {}", entry.name))?;
            }
        }
        Ok(())
    }

    /// The last step may have broken what no loss has shown yet; such a state is never saved.
    pub(crate) fn refuse_broken_weights(&self) -> Result<()> {
        for network in [&self.network, self.deployed()] {
            let first = broken_tensor(network)?;
            if first.is_some() {
                return Err(self.not_finite("what the network learned", first));
            }
        }
        Ok(())
    }

    /// An evaluation that says nothing is the end of a run.
    pub(crate) fn refuse_broken_evaluation(&self, cross_entropy: f64) -> Result<()> {
        if cross_entropy.is_finite() {
            return Ok(());
        }
        let first = broken_tensor(self.deployed())?.or_else(|| Some("the cross entropy of the evaluation".into()));
        Err(self.not_finite("the evaluation", first))
    }

    pub(crate) fn not_finite(&self, what: &str, first: Option<String>) -> Error {
        let step = self.progress.step;
        let learning_rate = self.learning_rate(step.saturating_sub(1));
        let diagnosis = Diagnosis { step, first, learning_rate, ..Diagnosis::default() };
        Error::NotFinite { what: format!("{what}, after step {step},"), diagnosis: Box::new(diagnosis) }
    }
}

/// The images [N, 3, H, W] of a batch as the network sees them, and what it should make of them.
#[derive(Debug)]
pub(crate) struct Lesson {
    pub images: Tensor,
    answers: Answers,
}

impl Lesson {
    /// Some of its images, and what their teacher says, if they have one.
    fn part(&self, (first, count): (i64, i64), teacher: Option<&Teacher>) -> Result<BatchPart> {
        let share = count as f64 / self.images.size()[0] as f64;
        let images = self.images.f_narrow(0, first, count)?;
        let teacher = teacher.map(|teacher| teacher.logits(&images)).transpose()?;
        let answers = Answers { teacher, ..self.answers.narrow(first, count)? };
        Ok(BatchPart { images, answers, share })
    }
}

/// Some images of a batch.
struct BatchPart {
    images: Tensor,
    answers: Answers,
    /// How much of the batch they are.
    share: f64,
}

/// The first image and the number of images of each of `wanted` parts of a batch of `images`. Batch norm needs two in each.
fn parts(images: i64, wanted: usize) -> Vec<(i64, i64)> {
    let count = (wanted as i64).clamp(1, (images / 2).max(1));
    let first = |part: i64| part * images / count;
    (0..count).map(|part| (first(part), first(part + 1) - first(part))).collect()
}

/// Whether waiting for a device costs nothing.
pub(crate) fn is_at_hand(device: Device) -> bool {
    device == Device::Cpu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_a_batch_and_leave_batch_norm_enough() {
        assert_eq!(parts(8, 1), [(0, 8)]);
        assert_eq!(parts(8, 3), [(0, 2), (2, 3), (5, 3)]);
        assert_eq!(parts(5, 4), [(0, 2), (2, 3)]);
        assert_eq!(parts(2, 4), [(0, 2)]);
    }
}
