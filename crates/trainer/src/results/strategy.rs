//! The ways to use a gated network for inference.

use gumbel_gates::Policy;
use std::fmt;
use std::str::FromStr;

/// How a gated network is used for inference: with one policy, or with several sampled runs taken
/// together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// One forward pass.
    Policy(Policy),
    /// Sampled gates, this many times: the mean of what single runs measure, with its deviation.
    Stochastic {
        /// How many.
        runs: usize,
    },
    /// Sampled gates, this many times: each run votes for its most probable class, and classes rank
    /// by their votes (ECCV 2020). Equal votes are told apart by the mean probability.
    Ensemble {
        /// How many.
        runs: usize,
    },
}

/// Sampled runs where none are given: the paper's.
const RUNS: usize = 5;
/// No strategy takes more.
pub(crate) const MOST_RUNS: usize = 1000;

impl Strategy {
    /// Every strategy of ECCV 2020, for a network with `gates` gates: argmax, always open,
    /// stochastic, ensemble, two thresholds on either side of argmax, and half of the gates for
    /// every image.
    pub fn all(gates: usize) -> Vec<Self> {
        if gates == 0 {
            return vec![Self::Policy(Policy::AlwaysOpen)];
        }
        vec![
            Self::Policy(Policy::Argmax),
            Self::Policy(Policy::AlwaysOpen),
            Self::Stochastic { runs: RUNS },
            Self::Ensemble { runs: RUNS },
            Self::Policy(Policy::Threshold(0.25)),
            Self::Policy(Policy::Threshold(0.75)),
            Self::Policy(Policy::TopK(gates.div_ceil(2))),
        ]
    }

    /// The sampled runs it is made of, if it is.
    pub(crate) fn runs(self) -> Option<usize> {
        match self {
            Self::Policy(_) => None,
            Self::Stochastic { runs } | Self::Ensemble { runs } => Some(runs),
        }
    }
}

impl Default for Strategy {
    fn default() -> Self {
        Self::Policy(Policy::Argmax)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Policy(policy) => policy.fmt(f),
            Self::Stochastic { runs } => write!(f, "stochastic={runs}"),
            Self::Ensemble { runs } => write!(f, "ensemble={runs}"),
        }
    }
}

impl FromStr for Strategy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, runs) = match text.split_once('=') {
            Some((name, runs)) => (name, runs.parse().ok().filter(|runs| (1..=MOST_RUNS).contains(runs))),
            None => (text, Some(RUNS)),
        };
        match (name, runs) {
            ("stochastic", Some(runs)) => Ok(Self::Stochastic { runs }),
            ("ensemble", Some(runs)) => Ok(Self::Ensemble { runs }),
            ("stochastic" | "ensemble", None) => Err(format!("'{text}': expected 1 to {MOST_RUNS} runs")),
            _ => text.parse().map(Self::Policy).map_err(|_| {
                format!(
                    "unknown strategy '{text}'; expected argmax, always-open, sample, threshold=P with P from 0 to 1, topk=K, \
                     stochastic[=RUNS] or ensemble[=RUNS]"
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_have_names() {
        for name in ["argmax", "always-open", "sample", "threshold=0.25", "topk=12", "stochastic=3", "ensemble=7"] {
            assert_eq!(name.parse::<Strategy>().unwrap().to_string(), name);
        }
        assert_eq!("ensemble".parse::<Strategy>(), Ok(Strategy::Ensemble { runs: 5 }));
        for name in ["stochastic=0", "ensemble=x", "ensemble=1001"] {
            assert!(name.parse::<Strategy>().unwrap_err().contains("expected 1 to 1000 runs"), "{name}");
        }
        assert!("vote".parse::<Strategy>().unwrap_err().contains("ensemble[=RUNS]"));
    }
}
