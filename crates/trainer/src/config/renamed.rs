//! Keys that were called otherwise, so that files which were written before still work.

use serde_json::Value;
use toml::Table;

/// What a key was called, and what it is called now. Both names are in the same section.
const RENAMED: [(&str, &str); 3] = [
    ("gates.decide_after", "gates.freeze_after"),
    ("gates.polarisation", "gates.polarization"),
    ("data.colour_jitter", "data.color_jitter"),
];

/// What an old key is called now.
pub fn renamed_to(key: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(old, _)| *old == key).map(|(_, new)| *new)
}

/// The section of both names, the old name and the new one.
fn parts() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    RENAMED.iter().filter_map(|(old, new)| {
        let (section, old) = old.split_once('.')?;
        Some((section, old, new.split_once('.')?.1))
    })
}

/// Renames the keys of a configuration that a run kept as TOML. Says whether there were any.
pub(super) fn modernize_table(config: &mut Table) -> bool {
    let mut found = false;
    for (section, old, new) in parts() {
        if let Some(section) = config.get_mut(section).and_then(toml::Value::as_table_mut)
            && let Some(value) = section.remove(old)
        {
            section.entry(new).or_insert(value);
            found = true;
        }
    }
    found
}

/// Renames the keys of a configuration that a checkpoint kept as JSON.
pub(crate) fn modernize_json(config: &mut Value) {
    for (section, old, new) in parts() {
        if let Some(section) = config.get_mut(section).and_then(Value::as_object_mut)
            && let Some(value) = section.remove(old)
        {
            section.entry(new).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;
    use serde_json::json;

    #[test]
    fn every_renamed_key_is_known_by_its_new_name_alone() {
        let known: Vec<String> = keys().into_iter().map(|key| key.name).collect();
        for (old, new) in RENAMED {
            assert!(known.contains(&new.to_owned()) && !known.contains(&old.to_owned()), "{old}");
            assert_eq!(old.split('.').next(), new.split('.').next());
            assert_eq!(renamed_to(old), Some(new));
        }
        assert_eq!(renamed_to("train.epochs"), None);
    }

    #[test]
    fn saved_configurations_are_renamed_in_both_forms() {
        let mut saved = json!({ "gates": { "decide_after": 3.0, "target": 0.5 }, "data": { "colour_jitter": [0.4] } });
        modernize_json(&mut saved);
        let expected = json!({ "gates": { "freeze_after": 3.0, "target": 0.5 }, "data": { "color_jitter": [0.4] } });
        assert_eq!(saved, expected);
        let mut saved: Table = "[gates]\npolarisation = 0.1\n[train]\nepochs = 3".parse().unwrap();
        assert!(modernize_table(&mut saved) && !modernize_table(&mut saved));
        assert_eq!(saved, "[gates]\npolarization = 0.1\n[train]\nepochs = 3".parse().unwrap());
    }
}
