//! What a shrink is asked for.

use crate::error::Result;
use serde::{Deserialize, Serialize};
use std::fmt;
use trainer::config::{ConfigError, parse};
use trainer::{Config, differences};

/// What the smaller network may spend, as a share of what the dense one does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Multiply-accumulates.
    Macs(f64),
    /// Time in a runtime, by a table that is measured for it.
    Time(f64),
}

impl Budget {
    /// The share.
    pub fn share(self) -> f64 {
        let (Self::Macs(share) | Self::Time(share)) = self;
        share
    }

    /// What it is a share of.
    pub fn of(self) -> &'static str {
        match self {
            Self::Macs(_) => "MACs",
            Self::Time(_) => "time",
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let percent = format!("{:.1}", 100.0 * self.share());
        write!(f, "{}% of the {}", percent.trim_end_matches(".0"), self.of())
    }
}

/// How long the network is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Training {
    /// As the recipe says.
    Recipe,
    /// For so many epochs.
    Epochs(u64),
    /// Not at all: filters are chosen by their importance, and what lost inputs is solved again.
    None,
}

impl fmt::Display for Training {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Recipe => f.write_str("as long as the recipe says"),
            Self::Epochs(1) => f.write_str("for 1 epoch"),
            Self::Epochs(epochs) => write!(f, "for {epochs} epochs"),
            Self::None => f.write_str("for no epoch"),
        }
    }
}

/// What a shrink is asked for; what it finds depends on nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The preset.
    pub network: String,
    /// The file of its weights, and a fingerprint of its content.
    pub weights: (String, u64),
    /// Where the images lie, how many validate, and a fingerprint of their names and labels.
    pub images: (String, usize, u64),
    /// What the smaller network may spend.
    pub budget: Budget,
    /// How long it is trained.
    pub training: Training,
    /// Where it will run.
    pub runtime: String,
    /// Images per batch there.
    pub batch: u32,
    /// What the configuration is, as TOML, but for what the stages fill in.
    pub config: String,
}

impl Asked {
    /// Whether `other` asks for the same but for the budget: what is measured of the dense network is
    /// the same then.
    ///
    /// # Errors
    /// If a configuration cannot be read.
    pub(crate) fn is_alike(&self, other: &Self) -> Result<bool> {
        let of_budget = Self { budget: self.budget, config: self.config.clone(), ..other.clone() };
        let differ = differences(&read(&self.config)?, &read(&other.config)?)?;
        Ok(*self == of_budget && differ.iter().all(|how| how.starts_with("gates.target is ")))
    }

    /// How `self`, which a folder was begun with, differs from what is asked for now.
    ///
    /// # Errors
    /// If a configuration cannot be read.
    pub fn differences(&self, now: &Self) -> Result<Vec<String>> {
        let mut told = Vec::new();
        let mut tell = |what: &str, was: &dyn fmt::Display, is: &dyn fmt::Display| {
            let (was, is) = (was.to_string(), is.to_string());
            if was != is {
                told.push(format!("{what} {was}, and not {is}"));
            }
        };
        tell("the network", &self.network, &now.network);
        tell("the weights", &self.weights.0, &now.weights.0);
        tell("the images in", &self.images.0, &now.images.0);
        tell("a budget of", &self.budget, &now.budget);
        tell("training", &self.training, &now.training);
        tell("the runtime", &self.runtime, &now.runtime);
        tell("batches of", &self.batch, &now.batch);
        if told.is_empty() && self.weights != now.weights {
            told.push(format!("other weights in {}", now.weights.0));
        }
        if told.is_empty() && self.images != now.images {
            told.push(format!("other images in {}", now.images.0));
        }
        if told.is_empty() {
            let changes = differences(&read(&self.config)?, &read(&now.config)?)?;
            told.extend(changes.into_iter().map(|how| format!("another configuration ({how})")));
        }
        Ok(told)
    }
}

fn read(config: &str) -> Result<Config> {
    Ok(parse("the configuration in plan.json", config, &[]).map_err(ConfigError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked {
            network: "resnet50".into(),
            weights: ("resnet50.pth".into(), 1),
            images: ("/images".into(), 10, 2),
            budget: Budget::Macs(0.5),
            training: Training::Recipe,
            runtime: "onnxruntime".into(),
            batch: 1,
            config: "[train]\nepochs = 1\nlog_every = 9\n".into(),
        }
    }

    #[test]
    fn each_difference_is_told_once() {
        let other = |change: fn(&mut Asked)| {
            let mut other = asked();
            change(&mut other);
            asked().differences(&other).unwrap()
        };
        assert!(other(|_| {}).is_empty());
        assert_eq!(
            other(|asked| asked.budget = Budget::Time(0.625)),
            ["a budget of 50% of the MACs, and not 62.5% of the time"]
        );
        assert_eq!(
            other(|asked| asked.training = Training::None),
            ["training as long as the recipe says, and not for no epoch"]
        );
        let mut cheaper = asked();
        (cheaper.budget, cheaper.config) = (Budget::Time(0.3), "[gates]\ntarget = 0.3\n[train]\nepochs = 1\n".into());
        assert!(asked().is_alike(&cheaper).unwrap());
        cheaper.batch = 2;
        assert!(!asked().is_alike(&cheaper).unwrap());
        assert_eq!(other(|asked| asked.weights.1 = 3), ["other weights in resnet50.pth"]);
        assert_eq!(other(|asked| asked.images.2 = 3), ["other images in /images"]);
        let seed = other(|asked| asked.config = "[train]\nepochs = 1\nseed = 4\n".into());
        assert_eq!(seed, ["another configuration (train.seed is 4 and was 0)"]);
    }
}
