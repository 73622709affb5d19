//! Moving a state dict into a network.

use super::net::{CLASSIFIER_GROUP, Network};
use crate::error::{Error, Result};
use crate::spec::{NetSpec, fits, renamed, weights_of};
use crate::state_dict::StateDict;
use crate::state_dict::wrapped::{is_counter, places};
use gumbel_gates::GATE_GROUP;
use std::collections::HashMap;
use tch::Tensor;

/// Whether the classifier must come from the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Classifier {
    /// It must have the network's number of classes.
    Required,
    /// Where the number of classes differs, or the file has none, it keeps its fresh values:
    /// fine-tuning on other classes.
    MayBeFresh,
}

/// Why a classifier kept its fresh values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FreshClassifier {
    /// The file has this number of classes, and the network another.
    OtherClasses(i64),
    /// The file has no classifier.
    Absent,
}

/// What a load left at its fresh values, and how the file names its tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The file had no gates.
    pub fresh_gates: bool,
    /// Why the classifier stayed fresh, if it did.
    pub fresh_classifier: Option<FreshClassifier>,
    /// What to know about the file, for a log.
    pub notes: Vec<String>,
}

impl Network {
    /// Copies `weights` into the network's tensors, converting to float32.
    ///
    /// Every tensor must be there with its shape, and no other, with these exceptions: a file
    /// without any gate leaves the gates fresh, `classifier` may allow another number of classes or
    /// none, and counters such as PyTorch's `num_batches_tracked` are skipped. Where all names
    /// begin with a prefix such as `backbone.`, it is taken off, and tensors beside it are left
    /// out; timm's names are understood. The network changes only if everything fits.
    ///
    /// # Errors
    /// If the file belongs to another network: every missing, unknown and wrongly shaped tensor is
    /// named, and the preset that it fits, if there is one.
    pub fn load(&self, weights: &StateDict, classifier: Classifier) -> Result<Loaded> {
        let Own { tensors: mut found, notes } = Own::of(self.spec(), weights);
        let mut loaded = Loaded { notes, ..Loaded::default() };
        let sizes: HashMap<String, Vec<i64>> = found.iter().map(|(name, t)| (name.clone(), t.size())).collect();
        let gates = || self.tensors().iter().filter(|entry| entry.group == GATE_GROUP);
        loaded.fresh_gates = gates().next().is_some() && !gates().any(|entry| found.contains_key(entry.name.as_str()));

        let classes = || self.tensors().iter().filter(|entry| entry.group == CLASSIFIER_GROUP);
        let absent = !classes().any(|entry| found.contains_key(entry.name.as_str()));
        if classifier == Classifier::MayBeFresh && absent {
            loaded.fresh_classifier = Some(FreshClassifier::Absent);
        }

        let mut fits = Vec::new();
        let (mut missing, mut misshapen, mut broken, mut unfit) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for entry in self.tensors() {
            let Some(tensor) = found.remove(entry.name.as_str()) else {
                let fresh = loaded.fresh_gates && entry.group == GATE_GROUP
                    || loaded.fresh_classifier.is_some() && entry.group == CLASSIFIER_GROUP;
                if !fresh {
                    missing.push(entry.name.clone());
                }
                continue;
            };
            let expected = entry.tensor.size();
            let size = tensor.size();
            if size == expected {
                if !tensor.f_is_floating_point()? {
                    unfit.push(format!("{} ({:?})", entry.name, tensor.f_kind()?));
                } else if tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
                    broken.push(entry.name.clone());
                }
                fits.push((&entry.tensor, tensor));
            } else if classifier == Classifier::MayBeFresh
                && entry.group == CLASSIFIER_GROUP
                && size.len() == expected.len()
                && size[1..] == expected[1..]
            {
                loaded.fresh_classifier = Some(FreshClassifier::OtherClasses(size[0]));
            } else {
                misshapen.push(format!("{} (expected {expected:?}, found {size:?})", entry.name));
            }
        }
        let mut unknown: Vec<String> = found.into_keys().collect();
        unknown.sort();
        let faults = in_words([
            ("missing", missing),
            ("of another shape", misshapen),
            ("with values that are not finite numbers", broken),
            ("of whole numbers where float32, float16, bfloat16 or float64 are expected", unfit),
            ("unknown", unknown),
        ]);
        if !faults.is_empty() {
            let origin = weights.origin.clone();
            let network = self.spec().name.clone();
            let fitting = weights_of(&sizes).filter(|preset| *preset != network);
            return Err(Error::Mismatch { origin, network, faults, fitting });
        }
        tch::no_grad(|| {
            for (own, tensor) in fits {
                own.shallow_clone().f_copy_(tensor)?;
            }
            Ok(loaded)
        })
    }
}

impl StateDict {
    /// How many classes the classifier of the network `spec` has in this file, if it is there.
    pub fn classes_of(&self, spec: &NetSpec) -> Option<usize> {
        let bias = format!("{}.bias", spec.head.name);
        let classes = Own::of(spec, self).tensors.get(&bias)?.size1().ok()?;
        usize::try_from(classes).ok()
    }
}

/// What a file holds of a network.
struct Own<'a> {
    /// By the network's names, without counters.
    tensors: HashMap<String, &'a Tensor>,
    /// What to know about where they lay.
    notes: Vec<String>,
}

impl<'a> Own<'a> {
    /// Finds the network `spec` in a file: without a prefix, else behind the one of the most likely
    /// place whose convolutions fit.
    fn of(spec: &NetSpec, weights: &'a StateDict) -> Self {
        let timm: HashMap<_, _> = spec.timm_names().into_iter().map(|(own, theirs)| (theirs, own)).collect();
        let all = || weights.tensors.iter().filter(|(name, _)| !is_counter(name));
        let names = || all().map(|(name, _)| name.as_str());
        let mut found = places(names(), &format!("{}.weight", spec.stem.conv.name));
        if found.is_empty() && !timm.is_empty() {
            found = places(names(), "conv_stem.weight");
        }
        let behind = |place: &str| -> HashMap<String, &'a Tensor> {
            all().filter_map(|(name, tensor)| Some((renamed(name.strip_prefix(place)?, &timm), tensor))).collect()
        };
        let sizes = |place: &str| behind(place).iter().map(|(name, tensor)| (name.clone(), tensor.size())).collect();
        let fitting: Vec<&str> = found.iter().copied().filter(|place| fits(spec, &sizes(place))).collect();
        let place = fitting.first().or(found.first()).copied().unwrap_or_default();
        let mut tensors = behind(place);
        let mut notes = Vec::new();
        if !place.is_empty() {
            // A classifier of its own may stand beside a wrapped backbone.
            for (name, tensor) in all().filter(|(name, _)| name.starts_with(&format!("{}.", spec.head.name))) {
                tensors.entry(name.clone()).or_insert(tensor);
            }
            let left_out = all().count() - tensors.len();
            let beside = if left_out == 0 { String::new() } else { format!("; {left_out} other tensors are left out") };
            notes.push(format!("'{place}' is taken off the names of {}{beside}", weights.origin.display()));
        }
        // Without a prefix the others' names are among them.
        tensors.retain(|name, _| fitting.iter().skip(1).all(|other| !name.starts_with(other)));
        let others: Vec<String> = fitting.iter().skip(1).map(|other| format!("'{other}'")).collect();
        if !others.is_empty() {
            let taken = if place.is_empty() { "without a prefix".to_owned() } else { format!("at '{place}'") };
            let others = others.join(", ");
            notes.push(format!(
                "of several such networks in the file, the one {taken} is taken; the others are at {others}"
            ));
        }
        Self { tensors, notes }
    }
}

/// Each kind of fault that has names, with how many they are and some of them.
fn in_words(faults: [(&str, Vec<String>); 5]) -> Vec<String> {
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
