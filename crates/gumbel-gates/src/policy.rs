//! How gates decide, and how that is written as text.

use crate::error::{Error, Result};
use crate::sampling;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tch::Tensor;
use torch_ext::derive_seed;

/// How gates decide in one forward pass. An argument of forward, never hidden state.
///
/// As text, in configurations and on the command line: `argmax`, `always-open`, `threshold=P`,
/// `topk=K`; `sample`, `sample=TEMPERATURE` and `sample=TEMPERATURE:SEED`, by default temperature 1
/// and seed 0; `straight-through` and `straight-through=TEMPERATURE`, by default 1. serde writes
/// the shortest of these that says all; [`fmt::Display`] writes the name alone.
///
/// ```
/// use gumbel_gates::Policy;
///
/// let policy: Policy = "sample=0.5:7".parse()?;
/// assert_eq!(policy, Policy::Sample { temperature: 0.5, seed: 7 });
/// assert_eq!(String::from(policy), "sample=0.5:7");
/// assert_eq!(policy.to_string(), "sample");
/// # Ok::<(), gumbel_gates::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// Gumbel-max forward, softmax gradient: training, and stochastic evaluation.
    Sample {
        /// Temperature of the softmax whose gradient is used; the papers keep it at 1.
        temperature: f64,
        /// Seed of the noise: one per step, so that a pass can be repeated.
        seed: u64,
    },
    /// Open if the probability of "open" is above one half. No gradient.
    Argmax,
    /// The same decisions with the gradient of the softmax ([`sampling::decide`]): training without
    /// noise.
    StraightThrough {
        /// Temperature of that softmax.
        temperature: f64,
    },
    /// Open if the probability of "open" is above this. No gradient.
    Threshold(f64),
    /// For each image the most probable gates are open, this many of the whole network. No
    /// gradient.
    TopK(usize),
    /// Every gate is open: the ungated network.
    AlwaysOpen,
}

impl Policy {
    /// Gate values [N, n] of `logits` [N, n, 2] (closed, open): exactly 0 or 1. `site` is the
    /// number of the gate site within the network; each site draws noise of its own.
    ///
    /// [`Policy::TopK`] ranks the gates it is given, so a network hands it all its gates at once;
    /// of equal gates the first come first.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn decide(self, logits: &Tensor, site: usize) -> Result<Tensor> {
        match self {
            Self::Sample { temperature, seed } => sampling::sample(logits, temperature, derive_seed(seed, site as u64)),
            Self::Argmax => Ok(sampling::margin(logits)?.f_gt(0.0)?.f_to_kind(logits.kind())?),
            Self::StraightThrough { temperature } => sampling::decide(logits, temperature),
            Self::Threshold(p) => Ok(sampling::probability(logits)?.f_gt(p)?.f_to_kind(logits.kind())?),
            Self::TopK(k) => {
                let margin = sampling::margin(logits)?;
                let (_, order) = margin.f_sort_stable(true, 1, true)?;
                let first = order.f_narrow(1, 0, i64::try_from(k).unwrap_or(i64::MAX).min(margin.size2()?.1))?;
                Ok(margin.f_zeros_like()?.f_scatter_value(1, &first, 1.0)?)
            }
            Self::AlwaysOpen => Ok(sampling::margin(logits)?.f_ones_like()?),
        }
    }

    /// Whether it compares the gates of the whole network, so that their logits have to be known
    /// before any is decided.
    pub fn ranks(self) -> bool {
        matches!(self, Self::TopK(_))
    }

    /// The same policy with another seed, if it draws any noise.
    pub fn with_seed(self, seed: u64) -> Self {
        match self {
            Self::Sample { temperature, .. } => Self::Sample { temperature, seed },
            _ => self,
        }
    }

    /// The same policy for batch number `batch` of a pass over many: sampling draws other noise for
    /// each.
    pub fn for_batch(self, batch: usize) -> Self {
        match self {
            Self::Sample { seed, .. } => self.with_seed(derive_seed(seed, batch as u64)),
            _ => self,
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// The text that serde writes. It loses nothing: [`FromStr`] reads the same policy back with its
/// temperature and seed, which the name ([`fmt::Display`]) leaves out.
impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        match policy {
            Policy::Sample { temperature, seed: 0 } if temperature != 1.0 => format!("sample={temperature}"),
            Policy::Sample { temperature, seed } if seed != 0 => format!("sample={temperature}:{seed}"),
            Policy::StraightThrough { temperature } if temperature != 1.0 => {
                format!("straight-through={temperature}")
            }
            _ => policy.to_string(),
        }
    }
}

/// The name for people, in logs and results: without temperature and seed.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Sample { .. } => f.write_str("sample"),
            Self::Argmax => f.write_str("argmax"),
            Self::StraightThrough { .. } => f.write_str("straight-through"),
            Self::Threshold(p) => write!(f, "threshold={p}"),
            Self::TopK(k) => write!(f, "topk={k}"),
            Self::AlwaysOpen => f.write_str("always-open"),
        }
    }
}

/// Reads what serde writes, and with it every name. A temperature that is not told is 1, a seed 0.
impl FromStr for Policy {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        read(text).ok_or_else(|| Error::UnknownPolicy(text.to_owned()))
    }
}

/// The policy that is written so, if one is.
fn read(text: &str) -> Option<Policy> {
    let temperature = |text: &str| text.parse().ok().filter(|&t: &f64| t.is_finite() && t > 0.0);
    Some(match text.split_once('=') {
        None => match text {
            "sample" => Policy::Sample { temperature: 1.0, seed: 0 },
            "argmax" => Policy::Argmax,
            "straight-through" => Policy::StraightThrough { temperature: 1.0 },
            "always-open" => Policy::AlwaysOpen,
            _ => return None,
        },
        Some(("sample", numbers)) => {
            let (t, seed) = numbers.split_once(':').unwrap_or((numbers, "0"));
            Policy::Sample { temperature: temperature(t)?, seed: seed.parse().ok()? }
        }
        Some(("straight-through", t)) => Policy::StraightThrough { temperature: temperature(t)? },
        Some(("threshold", p)) => Policy::Threshold(p.parse().ok().filter(|p| (0.0..=1.0).contains(p))?),
        Some(("topk", k)) => Policy::TopK(k.parse().ok()?),
        Some(_) => return None,
    })
}
