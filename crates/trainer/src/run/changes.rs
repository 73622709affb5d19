//! Whether a run goes on, and with which changes of its configuration.

use crate::config::{Align, Config};
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use toml::Value;

/// Whether a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// It is a new one.
    No,
    /// As if it had never stopped.
    Exactly,
    /// With what changed in its configuration.
    WithChanges,
}

/// What a resumed run may change without being asked: data may have moved, and machines differ.
const MAY_CHANGE: [&str; 16] = [
    "checkpoints.every_steps",
    "checkpoints.every_minutes",
    "checkpoints.keep_last",
    "checkpoints.keep_best",
    "checkpoints.keep_every_epochs",
    "data.path",
    "data.threads",
    "data.batches_ahead",
    "data.max_bad_share",
    "train.eval_batch_size",
    "train.log_every",
    "train.max_bad_steps",
    "train.patience",
    "network.weights",
    "network.checkpoint",
    // It goes on with its own copy.
    "gates.times",
];

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    key: String,
    /// Both values, in words.
    how: String,
}

/// The keys that differ and may not by themselves: a resumed run keeps its configuration.
///
/// # Errors
/// If a configuration has no form in TOML.
pub(crate) fn changes(before: &Config, now: &Config) -> Result<Vec<Change>> {
    let now = &settled_as(before, now);
    let before = before.flatten()?;
    let now = now.flatten()?;
    let value_in = |config: &[(String, Value)], key: &str| {
        let found = config.iter().find(|(name, _)| name == key);
        found.map_or("not set".to_owned(), |(_, value)| value.to_string())
    };
    let keys: BTreeSet<&String> = before.iter().chain(&now).map(|(key, _)| key).collect();
    let may_not = keys.into_iter().filter(|key| !MAY_CHANGE.contains(&key.as_str()));
    let change = |key: &String| {
        let was = value_in(&before, key);
        let is = value_in(&now, key);
        (is != was).then(|| Change { key: key.clone(), how: format!("{key} is {is} and was {was}") })
    };
    Ok(may_not.filter_map(change).collect())
}

/// A configuration with what a run settled when it began, where that is left open.
fn settled_as(before: &Config, now: &Config) -> Config {
    let mut now = now.clone();
    if matches!(now.gates.align, None | Some(Align::Auto(_))) {
        now.gates.align = before.gates.align;
    }
    if now.gates.target_absolute.is_some() && now.gates.target_absolute == before.gates.target_absolute {
        now.gates.target = before.gates.target.clone();
    }
    now
}

/// Refuses every change of a run that begins once more, unless changes were asked for.
///
/// # Errors
/// If the configurations differ.
pub(crate) fn refuse_unasked(before: &Config, now: &Config, resume: Resume) -> Result<()> {
    let changes = changes(before, now)?;
    if changes.is_empty() || resume == Resume::WithChanges {
        return Ok(());
    }
    Err(Error::ConfigChanged { changes: in_words(changes) })
}

/// How `now` differs from a configuration that something was begun with, in words; what may change by
/// itself (folders, threads, what is logged and kept) is left out.
///
/// # Errors
/// If a configuration has no form in TOML.
pub fn differences(before: &Config, now: &Config) -> Result<Vec<String>> {
    Ok(in_words(changes(before, now)?))
}

fn in_words(changes: Vec<Change>) -> Vec<String> {
    changes.into_iter().map(|change| change.how).collect()
}

/// What a run cannot change: the key, and what would be another.
const FIXED: [(&str, &str); 6] = [
    ("optimizer.algorithm", "optimizer"),
    // Steps are counted, and what was measured is filed by them.
    ("train.batch_size", "batch size"),
    ("checkpoints.best_by", "measure of what is best"),
    // Gates may be frozen already.
    ("gates.freeze_after", "freezing of its gates"),
    ("gates.target", "target"),
    ("gates.weighting", "budget"),
];

/// What changed is allowed if it was asked for and the run still is the same. Says what changes.
///
/// # Errors
/// If it is not allowed.
pub(crate) fn allow_changes(
    changes: Vec<Change>,
    resume: Resume,
    same_network: bool,
    notes: &mut Vec<String>,
) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    if !same_network {
        return Err(Error::CannotChange { what: "network", changes: in_words(changes) });
    }
    let is_fixed = |key: &str, fixed: &str| key == fixed || key.starts_with(&format!("{fixed}."));
    for Change { key, how } in &changes {
        if let Some((_, what)) = FIXED.iter().find(|(fixed, _)| is_fixed(key, fixed)) {
            return Err(Error::CannotChange { what, changes: vec![how.clone()] });
        }
    }
    let changes = in_words(changes);
    if resume != Resume::WithChanges {
        return Err(Error::ConfigChanged { changes });
    }
    notes.push(format!("goes on with changes: {}", changes.join(", ")));
    Ok(())
}
