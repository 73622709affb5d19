//! TOML text and `--set` overrides to a [`Config`], with every fault found at once.

use super::faults::{ConfigError, Fault, Faults};
use super::keys::{Key, keys};
use super::renamed::{modernize_table, renamed_to};
use super::whole::Config;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Reads a configuration from TOML `text`, then `overrides` (`key`, `value`; a value that is no
/// TOML is taken as a string, an empty one takes the key out). `origin` is the name of the file for
/// messages.
///
/// # Errors
/// Unknown keys, wrong types and values out of range: all of them, with key and line.
pub fn parse(origin: &str, text: &str, overrides: &[(String, String)]) -> Result<Config, Faults> {
    let faults = |faults| Faults { origin: origin.to_owned(), faults };
    let lines = Lines::of(text);
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| lines.at(span.start));
        faults(vec![Fault { key: String::new(), line, from_command_line: false, message: error.message().to_owned() }])
    })?;
    let mut positions = HashMap::new();
    if let Ok(document) = DeTable::parse(text) {
        lines.keys(document.get_ref(), "", &mut positions);
    }
    overrides.iter().for_each(|(key, _)| {
        positions.remove(key);
    });
    let mut found = apply(&mut table, overrides);
    let mut fault = |key: String, message: String| {
        // A fault inside a list is told at the key that holds it.
        let line = positions.get(&key).copied();
        let from_command_line = overrides.iter().any(|(set, _)| *set == key);
        found.push(Fault { key, line, from_command_line, message });
    };

    // serde stops at the first fault; take the key that has it out and go on.
    let config = loop {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(Value::Table(table.clone()), &mut track);
        let outcome: Result<Config, toml::de::Error> =
            serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
        match outcome {
            Ok(config) => {
                for key in unknown {
                    fault(key.clone(), unknown_key(&key));
                }
                break config;
            }
            Err(error) => {
                let key = key_in(&table, &track.path().to_string());
                fault(key.clone(), in_words(error.message()));
                if !remove(&mut table, &key) {
                    break Config::default();
                }
            }
        }
    };
    for (key, message) in config.found() {
        fault(key, message);
    }
    if found.is_empty() {
        return Ok(config);
    }
    found.sort_by_key(|fault| fault.line.unwrap_or(usize::MAX));
    Err(faults(found))
}

/// Changes a table as the command line says, and tells what cannot be.
fn apply(table: &mut Table, overrides: &[(String, String)]) -> Vec<Fault> {
    let mut found = Vec::new();
    for (key, value) in overrides {
        let fault = |message| Fault { key: key.clone(), line: None, from_command_line: true, message };
        if value.is_empty() {
            if !remove(table, key) && !keys().iter().any(|known| known.name == *key) {
                found.push(fault(unknown_key(key)));
            }
        } else if let Err(message) = set(table, key, &as_list(key, value)) {
            found.push(fault(message));
        }
    }
    found
}

impl Config {
    /// Reads and checks the configuration in a file.
    ///
    /// # Errors
    /// If the file cannot be read, or as [`parse`].
    pub fn read(path: &Path, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let text = std::fs::read_to_string(path).map_err(read)?;
        Ok(parse(&path.display().to_string(), &text, overrides)?)
    }

    /// Reads the configuration that a run kept in its folder, by an older program perhaps: keys
    /// that were called otherwise are taken by their new names.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_saved(path: &Path, overrides: &[(String, String)]) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut text = std::fs::read_to_string(path).map_err(read)?;
        if let Ok(mut table) = text.parse::<Table>()
            && modernize_table(&mut table)
        {
            text = toml::to_string(&table)?;
        }
        Ok(parse(&path.display().to_string(), &text, overrides)?)
    }

    /// The configuration as TOML.
    ///
    /// # Errors
    /// If a value has no form in TOML: a path that is not UTF-8, or a whole number of 2^63 or more.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        // Whole numbers that the writer takes and no reader does are found here.
        Table::try_from(self)?;
        Ok(toml::to_string(self)?)
    }

    /// Every key with its value, flattened to dotted keys.
    ///
    /// # Errors
    /// As [`Self::to_toml`].
    pub fn flatten(&self) -> Result<Vec<(String, Value)>, ConfigError> {
        let mut flat = Vec::new();
        flatten(&Table::try_from(self)?, "", &mut flat);
        Ok(flat)
    }
}

fn flatten(table: &Table, prefix: &str, flat: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let key = join(prefix, key);
        match value {
            Value::Table(table) => flatten(table, &key, flat),
            value => flat.push((key, value.clone())),
        }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// The longest beginning of a dotted path that names a key of the table: what serde blames may lie
/// inside a list.
fn key_in(table: &Table, path: &str) -> String {
    let mut key = String::new();
    let mut inside = Some(table);
    for part in path.split('.') {
        let name = part.split('[').next().unwrap_or_default();
        let Some(value) = inside.and_then(|table| table.get(name)) else { break };
        key = join(&key, name);
        inside = value.as_table();
    }
    key
}

fn remove(table: &mut Table, key: &str) -> bool {
    match key.split_once('.') {
        None => table.remove(key).is_some(),
        Some((first, rest)) => match table.get_mut(first) {
            Some(Value::Table(table)) => remove(table, rest),
            _ => false,
        },
    }
}

/// The value as a list where the key wants one of names: shells and makefiles take brackets or quotes
/// off. `between`, `[between]` and `input,between` are lists.
fn as_list<'a>(key: &str, value: &'a str) -> Cow<'a, str> {
    let is_list = |known: &Key| known.name == key && known.values.starts_with("a list of") && !known.choices.is_empty();
    let parsed = toml::from_str::<Table>(&format!("value = {value}"));
    if parsed.is_ok_and(|table| table["value"].is_array()) || !keys().iter().any(is_list) {
        return Cow::Borrowed(value);
    }
    let names = value.split(',').map(|name| name.trim_matches(['[', ']', '"', '\'', ' ']));
    let names: Vec<String> = names.map(|name| format!("{name:?}")).collect();
    Cow::Owned(format!("[{}]", names.join(", ")))
}

fn set(table: &mut Table, key: &str, value: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Wrapped {
        value: Value,
    }
    if let Some((first, rest)) = key.split_once('.') {
        let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
        return match inner {
            Value::Table(table) => set(table, rest, value),
            _ => Err(format!("'{first}' holds a value, not keys")),
        };
    }
    let parsed = toml::from_str::<Wrapped>(&format!("value = {value}"));
    table.insert(key.to_owned(), parsed.map_or_else(|_| Value::String(value.to_owned()), |wrapped| wrapped.value));
    Ok(())
}

/// serde names Rust's types; a user thinks of numbers.
fn in_words(message: &str) -> String {
    match message.rsplit_once("expected ") {
        Some((before, "usize" | "u64" | "u32")) => format!("{before}expected a whole number of at least 0"),
        Some((before, "f64" | "f32")) => format!("{before}expected a number"),
        _ => message.to_owned(),
    }
}

/// What to say of a key that there is not.
fn unknown_key(key: &str) -> String {
    if let Some(now) = renamed_to(key) {
        return format!("was renamed to {now}");
    }
    let known = keys();
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let likeness = |candidate: &String| {
        // The right key in the wrong section is as good a guess as a slip of the pen.
        strsim::jaro_winkler(key, candidate).max(strsim::jaro_winkler(&last(key), &last(candidate)))
    };
    let names = known.iter().map(|key| (likeness(&key.name), &key.name));
    match names.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, candidate)) if likeness > 0.85 => format!("there is no such key; did you mean {candidate}?"),
        _ => "there is no such key; `train config` lists them all".to_owned(),
    }
}

/// Byte positions to line numbers.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        Self { starts: std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect() }
    }

    fn at(&self, position: usize) -> usize {
        self.starts.partition_point(|&start| start <= position)
    }

    /// The line of every key.
    fn keys(&self, table: &DeTable, prefix: &str, positions: &mut HashMap<String, usize>) {
        for (key, value) in table.iter() {
            let name = join(prefix, key.get_ref());
            positions.insert(name.clone(), self.at(key.span().start));
            if let DeValue::Table(table) = value.get_ref() {
                self.keys(table, &name, positions);
            }
        }
    }
}
