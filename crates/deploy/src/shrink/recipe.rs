//! How a network is trained to a budget: a configuration that follows from the two.

use crate::error::{Error, Result};
use crate::shrink::asked::{Budget, Training};
use std::path::Path;
use trainer::config::{ConfigError, parse};
use trainer::{Config, Input};

/// The recipes with filter gates in configs/, by what the presets of a family begin with.
const FAMILIES: [(&str, &str); 3] = [
    ("cifar-", include_str!("../../../../configs/cifar-resnet20-filter.toml")),
    ("resnet", include_str!("../../../../configs/resnet50-filter.toml")),
    ("mobilenet", include_str!("../../../../configs/mobilenetv2-filter.toml")),
];

/// The configuration by which the preset `network` learns what to keep within `budget`: that of
/// `file`, or the recipe of its family with images prepared as `input` says, with `changes` to its
/// keys. A table of times is filled in when it was measured.
///
/// # Errors
/// If no recipe is known for the network, a file cannot be read, or a key makes no sense.
pub fn config(
    network: &str,
    input: Input,
    budget: Budget,
    training: Training,
    file: Option<&Path>,
    changes: &[(String, String)],
) -> Result<Config> {
    let (name, text) = match file {
        Some(path) => {
            let read = |source| ConfigError::Read { path: path.to_owned(), source };
            (path.display().to_string(), std::fs::read_to_string(path).map_err(read)?)
        }
        None => {
            let family = FAMILIES.iter().find(|(family, _)| network.starts_with(family));
            let Some((_, text)) = family else {
                let why = "there is no recipe for it; give one with --config FILE".to_owned();
                return Err(Error::Unfit { network: network.to_owned(), why });
            };
            (format!("the recipe of {network}"), (*text).to_owned())
        }
    };
    let arch = ("network.arch".to_owned(), network.to_owned());
    let recipe = parse(&name, &text, &[arch]).map_err(ConfigError::from)?;
    let list = |values: [f32; 3]| format!("[{}, {}, {}]", values[0], values[1], values[2]);
    let mut keys = vec![
        ("network.arch", network.to_owned()),
        ("network.checkpoint", String::new()),
        // Of a budget of time too, until its table was measured.
        ("gates.weighting", "network".to_owned()),
        ("gates.target", budget.share().to_string()),
        ("train.name", format!("{network}-shrunk")),
    ];
    if file.is_none() {
        keys.extend([
            ("data.image_size", input.image_size.to_string()),
            ("data.resize", input.resize.to_string()),
            ("data.mean", list(input.mean)),
            ("data.std", list(input.std)),
        ]);
    }
    match training {
        Training::Recipe => {}
        Training::Epochs(epochs) => {
            keys.push(("train.epochs", epochs.to_string()));
            // Half of a short run is left to train what was kept.
            if let Some(freeze) = recipe.gates.freeze_after.filter(|freeze| *freeze > epochs as f64 / 2.0) {
                keys.push(("gates.freeze_after", freeze.min(epochs as f64 / 2.0).to_string()));
            }
        }
        Training::None => keys.extend([
            ("train.epochs", "0".to_owned()),
            ("gates.freeze_after", "0".to_owned()),
            ("gates.repair", "true".to_owned()),
            // What leaves a branch cannot be made good for by the branch.
            ("gates.sites", "[\"between\"]".to_owned()),
        ]),
    }
    let keys: Vec<(String, String)> =
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(changes.iter().cloned()).collect();
    Ok(parse(&name, &text, &keys).map_err(ConfigError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::Preset;

    fn of(network: &str, training: Training) -> Config {
        let preset = Preset::named(network).unwrap();
        let mut input = Input::of(&Config::default());
        (input.image_size, input.resize) = (preset.image_size, preset.resize);
        config(network, input, Budget::Macs(0.4), training, None, &[]).unwrap()
    }

    #[test]
    fn every_preset_has_a_recipe_that_makes_sense() {
        for Preset { name, .. } in arch::PRESETS {
            let config = of(name, Training::Recipe);
            config.check().unwrap();
            assert_eq!((config.network.arch.as_str(), config.gates.target.last()), (name, 0.4));
            assert!(config.gates.freeze_after.is_some_and(|freeze| freeze < config.train.epochs as f64), "{name}");
        }
    }

    #[test]
    fn short_runs_leave_half_of_their_epochs_to_what_was_kept() {
        assert_eq!(of("resnet50", Training::Epochs(3)).gates.freeze_after, Some(1.5));
        assert_eq!(of("cifar-resnet20", Training::Epochs(1)).gates.freeze_after, Some(0.5));
        assert_eq!(of("cifar-resnet20", Training::Epochs(8)).gates.freeze_after, Some(1.0));
        let none = of("resnet50", Training::None);
        assert!(none.gates.repair && none.train.epochs == 0 && none.gates.freeze_after == Some(0.0));
    }
}
