//! Moving a state dict into a network.

use super::net::{CLASSIFIER_GROUP, Network};
use crate::error::{Error, Result};
use crate::state_dict::StateDict;
use gumbel_gates::GATE_GROUP;
use std::collections::HashMap;
use tch::Tensor;

/// Whether the classifier must come from the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classifier {
    /// It must have the network's number of classes.
    Required,
    /// Where the number of classes differs it keeps its fresh values: fine-tuning on other classes.
    MayBeFresh,
}

/// What a load left at its fresh values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The file had no gates.
    pub fresh_gates: bool,
    /// The file's number of classes, where it is another than the network's and the classifier
    /// stayed fresh.
    pub other_classes: Option<i64>,
}

impl Network {
    /// Copies `weights` into the network's tensors, converting to float32.
    ///
    /// Every tensor must be there with its shape, and no other, with three exceptions: a file
    /// without any gate leaves the gates fresh, `classifier` may allow another number of classes,
    /// and PyTorch's `num_batches_tracked` counters are skipped. The network changes only if
    /// everything fits.
    ///
    /// # Errors
    /// If the file belongs to another network: every missing, unknown and wrongly shaped tensor is
    /// named.
    pub fn load(&self, weights: &StateDict, classifier: Classifier) -> Result<Loaded> {
        let mut found: HashMap<&str, &Tensor> = HashMap::new();
        for (name, tensor) in &weights.tensors {
            if !name.ends_with(".num_batches_tracked") {
                found.insert(name, tensor);
            }
        }
        let mut loaded = Loaded::default();
        let gates = || self.tensors().iter().filter(|entry| entry.group == GATE_GROUP);
        loaded.fresh_gates = gates().next().is_some() && !gates().any(|entry| found.contains_key(entry.name.as_str()));

        let mut fits = Vec::new();
        let (mut missing, mut misshapen, mut broken) = (Vec::new(), Vec::new(), Vec::new());
        for entry in self.tensors() {
            let Some(tensor) = found.remove(entry.name.as_str()) else {
                if !(loaded.fresh_gates && entry.group == GATE_GROUP) {
                    missing.push(entry.name.clone());
                }
                continue;
            };
            let expected = entry.tensor.size();
            let size = tensor.size();
            if size == expected {
                if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                    broken.push(entry.name.clone());
                }
                fits.push((&entry.tensor, tensor));
            } else if classifier == Classifier::MayBeFresh
                && entry.group == CLASSIFIER_GROUP
                && size.len() == expected.len()
                && size[1..] == expected[1..]
            {
                loaded.other_classes = Some(size[0]);
            } else {
                misshapen.push(format!("{} (expected {expected:?}, found {size:?})", entry.name));
            }
        }
        let mut unknown: Vec<String> = found.into_keys().map(str::to_owned).collect();
        unknown.sort();
        let faults = in_words([
            ("missing", missing),
            ("of another shape", misshapen),
            ("with values that are not finite numbers", broken),
            ("unknown", unknown),
        ]);
        if !faults.is_empty() {
            let origin = weights.origin.clone();
            let network = self.spec().name.clone();
            return Err(Error::Mismatch { origin, network, faults });
        }
        tch::no_grad(|| {
            for (own, tensor) in fits {
                own.shallow_clone().f_copy_(tensor)?;
            }
            Ok(loaded)
        })
    }
}

/// Each kind of fault that has names, with how many they are and some of them.
fn in_words(faults: [(&str, Vec<String>); 4]) -> Vec<String> {
    let some = faults.into_iter().filter(|(_, names)| !names.is_empty());
    some.map(|(fault, names)| format!("{} {fault}: {}", count(names.len()), shorten(&names))).collect()
}

fn count(n: usize) -> String {
    if n == 1 { "1 tensor".into() } else { format!("{n} tensors") }
}

/// The first names; a file of another network would otherwise fill the screen.
fn shorten(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
