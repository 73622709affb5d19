//! How a network is trained to a budget: a configuration that follows from the two.

use crate::error::{Error, Result};
use crate::shrink::asked::{Budget, Training};
use gumbel_gates::GateKind;
use std::path::Path;
use toml::Table;
use trainer::config::{ConfigError, Granularity, Weighting, parse};
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
    let filled: Table = text.parse().unwrap_or_default();
    let says = |key: &str| file.is_some() && filled.get("data").is_some_and(|data| data.get(key).is_some());
    let list = |values: [f32; 3]| format!("[{}, {}, {}]", values[0], values[1], values[2]);
    let mut keys = vec![
        ("network.arch", network.to_owned()),
        ("network.checkpoint", String::new()),
        // Of a budget of time too, until its table was measured.
        ("gates.weighting", "network".to_owned()),
        ("gates.loss", "batch".to_owned()),
        ("gates.times", String::new()),
        ("gates.target_absolute", String::new()),
        ("gates.target", budget.share().to_string()),
        ("train.name", format!("{network}-shrunk")),
    ];
    // How the network that is given sees images, unless a file says otherwise.
    let prepared = [
        ("data.image_size", input.image_size.to_string()),
        ("data.resize", input.resize.to_string()),
        ("data.mean", list(input.mean)),
        ("data.std", list(input.std)),
    ];
    keys.extend(prepared.into_iter().filter(|(key, _)| !says(key.trim_start_matches("data."))));
    if training == Training::None {
        let all = |keys: &[(&str, String)]| -> Vec<(String, String)> {
            let own = keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
            own.chain(changes.iter().cloned()).collect()
        };
        let plain = parse(&name, &text, &all(&keys)).map_err(ConfigError::from)?;
        if plain.gates.kind == GateKind::Dependent {
            let why = format!(
                "gates of {name} look at the image, which only training teaches them: leave out --no-train, or take \
                 gates.kind = \"independent\""
            );
            return Err(Error::Unfit { network: network.to_owned(), why });
        }
    }
    match training {
        Training::Recipe => {}
        Training::Epochs(epochs) => {
            keys.push(("train.epochs", epochs.to_string()));
            // Half of a short run is left to train what was kept.
            let half = epochs as f64 / 2.0;
            let freeze = filled.get("gates").and_then(|gates| gates.get("freeze_after"));
            let freeze =
                freeze.and_then(|freeze| freeze.as_float().or(freeze.as_integer().map(|epochs| epochs as f64)));
            keys.extend(freeze.filter(|freeze| *freeze > half).map(|_| ("gates.freeze_after", half.to_string())));
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
    let config = parse(&name, &text, &keys).map_err(ConfigError::from)?;
    let gates = &config.gates;
    if gates.granularity == Granularity::NONE || gates.freeze_after.is_none() {
        let why = format!(
            "{name} would not hold it to the budget: gates have to learn and to freeze (gates.granularity, \
             gates.freeze_after)"
        );
        return Err(Error::Unfit { network: network.to_owned(), why });
    }
    if matches!(budget, Budget::Time(_)) {
        // What a table asks of the other keys is told before it is measured.
        let mut tabled = config.clone();
        (tabled.gates.weighting, tabled.gates.times, tabled.gates.align) =
            (Weighting::CostTable, Some("times.json".into()), None);
        tabled.check().map_err(ConfigError::from)?;
    }
    Ok(config)
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
    fn a_file_has_the_last_word_on_images_and_none_on_the_budget() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("own.toml");
        let own = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let input = Input { image_size: 32, resize: 32, ..Input::of(&Config::default()) };
            config("cifar-resnet20", input, Budget::Time(0.5), Training::Recipe, Some(&file), &[])
        };
        let gates = "[gates]\ngranularity = 1\nkind = \"independent\"\nloss = \"batch\"\nfreeze_after = 1\n\
             weighting = \"cost-table\"\ntimes = \"mine.json\"\ntarget_absolute = 3.0\n";
        let found = own(&format!("{gates}[data]\nresize = 40\n")).unwrap();
        assert_eq!((found.data.image_size, found.data.resize), (32, 40));
        assert_eq!((found.gates.target.last(), found.gates.times), (0.5, None));
        let loose =
            own("[gates]\ngranularity = 1\nkind = \"independent\"\nloss = \"batch\"\n").unwrap_err().to_string();
        assert!(loose.contains("would not hold it to the budget"), "{loose}");
        let looks = own(&gates.replace("independent", "dependent")).unwrap_err().to_string();
        assert!(looks.contains("filter gates that look at the image leave no widths"), "{looks}");
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
