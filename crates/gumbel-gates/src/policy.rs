use crate::error::{Error, Result};
use crate::sampling;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tch::Tensor;
use torch_ext::derive_seed;

/// How gates decide in one forward pass. An argument of forward, never hidden state. Written as text, a policy is its name.
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
    /// Every gate is open: the ungated network.
    AlwaysOpen,
}

impl Policy {
    /// Openings [N, n] of `logits` [N, n, 2] (closed, open): exactly 0 or 1. `site` is the number of the gate site within the
    /// network; each site draws noise of its own.
    ///
    /// # Errors
    /// If the shape is another.
    pub fn decide(self, logits: &Tensor, site: usize) -> Result<Tensor> {
        match self {
            Self::Sample { temperature, seed } => sampling::sample(logits, temperature, derive_seed(seed, site as u64)),
            Self::Argmax => Ok(sampling::margin(logits)?.f_gt(0.0)?.f_to_kind(logits.kind())?),
            Self::AlwaysOpen => Ok(sampling::margin(logits)?.f_ones_like()?),
        }
    }
}

impl Policy {
    /// The same policy for batch number `batch` of a pass over many: sampling draws other noise for each.
    pub fn for_batch(self, batch: usize) -> Self {
        match self {
            Self::Sample { temperature, seed } => Self::Sample { temperature, seed: derive_seed(seed, batch as u64) },
            Self::Argmax | Self::AlwaysOpen => self,
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Sample { .. } => f.write_str("sample"),
            Self::Argmax => f.write_str("argmax"),
            Self::AlwaysOpen => f.write_str("always-open"),
        }
    }
}

impl FromStr for Policy {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "sample" => Ok(Self::Sample { temperature: 1.0, seed: 0 }),
            "argmax" => Ok(Self::Argmax),
            "always-open" => Ok(Self::AlwaysOpen),
            _ => Err(Error::UnknownPolicy(name.to_owned())),
        }
    }
}
