//! What was not a finite number first.

use crate::error::Result;
use arch::Network;
use gumbel_gates::sampling;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;
use tch::{Kind, Tensor};

/// Names of images that are told; the others are in a file.
const IMAGES_TOLD: usize = 3;

/// What went wrong in a step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Diagnosis {
    /// Steps done before it.
    pub step: u64,
    /// The first values that were not finite numbers, if some were found.
    pub first: Option<String>,
    /// Smallest and largest margin between the logits "open" and "closed" of all gates; absent without gates.
    pub margins: Option<(f64, f64)>,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The images of its batch.
    pub images: Vec<PathBuf>,
    /// The file in which they are all listed.
    pub list: Option<PathBuf>,
}

impl Display for Diagnosis {
    fn fmt(&self, f: &mut Formatter) -> std::fmt::Result {
        match &self.first {
            Some(first) => write!(f, "the first values that are not finite numbers are {first}")?,
            None => write!(f, "a second look finds only finite numbers")?,
        }
        if let Some((least, most)) = self.margins {
            write!(f, "; the gates' margins between open and closed reach from {} to {}", short(least), short(most))?;
        }
        write!(f, "; the learning rate is {}", self.learning_rate)?;
        if !self.images.is_empty() {
            let told = self.images.iter().take(IMAGES_TOLD).map(|path| path.display().to_string()).collect::<Vec<_>>();
            write!(f, "; the batch holds {}", told.join(", "))?;
            if self.images.len() > IMAGES_TOLD {
                write!(f, " and {} more", self.images.len() - IMAGES_TOLD)?;
            }
            if let Some(list) = &self.list {
                write!(f, " (all in {})", list.display())?;
            }
        }
        Ok(())
    }
}

/// A number that may be of any size.
fn short(value: f64) -> String {
    if value.abs() < 1e4 { format!("{value:.3}") } else { format!("{value:.2e}") }
}

/// Keeps the first thing that is broken.
#[derive(Debug, Default)]
pub(crate) struct FirstBroken(Option<String>);

impl FirstBroken {
    /// Looks at values, unless something was found already.
    pub fn look(&mut self, values: &Tensor, name: impl FnOnce() -> String) -> Result<()> {
        if self.0.is_none() && !is_finite(values)? {
            self.0 = Some(name());
        }
        Ok(())
    }

    /// What it was.
    pub fn found(self) -> Option<String> {
        self.0
    }
}

fn is_finite(values: &Tensor) -> Result<bool> {
    Ok(values.f_detach()?.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}

/// The first tensor of a network that is not all finite numbers.
pub(crate) fn broken_tensor(network: &Network) -> Result<Option<String>> {
    for entry in network.tensors() {
        if !is_finite(&entry.tensor)? {
            return Ok(Some(format!("those of {}", entry.name)));
        }
    }
    Ok(None)
}

/// Smallest and largest margin of gates with these logits (closed, open), per site [N, n, 2]; of those that are finite.
pub(crate) fn margins(gate_logits: &[Tensor]) -> Result<Option<(f64, f64)>> {
    if gate_logits.is_empty() {
        return Ok(None);
    }
    let margins = sampling::margin(&Tensor::f_cat(gate_logits, 1)?)?.f_detach()?.f_to_kind(Kind::Double)?;
    let finite = margins.f_masked_select(&margins.f_isfinite()?)?;
    if finite.numel() == 0 {
        return Ok(None);
    }
    Ok(Some((finite.f_min()?.f_double_value(&[])?, finite.f_max()?.f_double_value(&[])?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnosis_reads_as_a_sentence() {
        let images = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"].map(PathBuf::from).to_vec();
        let diagnosis = Diagnosis {
            step: 7,
            first: Some("the features behind layer1.0".into()),
            margins: Some((-1.0, 2.5e9)),
            learning_rate: 0.1,
            images,
            list: Some("runs/x/images-of-step-7.txt".into()),
        };
        assert_eq!(
            diagnosis.to_string(),
            "the first values that are not finite numbers are the features behind layer1.0; the gates' margins between open and \
             closed reach from -1.000 to 2.50e9; the learning rate is 0.1; the batch holds a.jpg, b.jpg, c.jpg and 1 more (all in \
             runs/x/images-of-step-7.txt)"
        );
    }

    #[test]
    fn only_the_first_broken_values_are_kept() {
        let mut first = FirstBroken::default();
        first.look(&Tensor::from_slice(&[1.0f32, 2.0]), || "a".into()).unwrap();
        first.look(&Tensor::from_slice(&[1.0f32, f32::NAN]), || "b".into()).unwrap();
        first.look(&Tensor::from_slice(&[f32::INFINITY]), || "c".into()).unwrap();
        assert_eq!(first.found().as_deref(), Some("b"));
        let logits = Tensor::from_slice(&[0.0f32, 2.0, 1.0, 0.5, f32::NAN, 0.0]).view([1, 3, 2]);
        assert_eq!(margins(&[logits]).unwrap(), Some((-0.5, 2.0)));
        assert_eq!(margins(&[]).unwrap(), None);
    }
}
