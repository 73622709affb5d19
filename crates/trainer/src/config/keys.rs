//! Every key of a configuration with its default, its values and its meaning, from the fields that
//! hold them: what `train config`, docs/configuration.md and the schema for editors are made of.

use super::ranges::{Range, properties, resolved};
use super::whole::{Config, schema};
use serde_json::{Value as Schema, json};
use std::fmt::Write;
use toml::Value;

/// A key of a configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    /// Its dotted name, such as `train.epochs`.
    pub name: String,
    /// Its default as TOML; `None` if it has none.
    pub default: Option<String>,
    /// What it may hold, in words.
    pub values: String,
    /// The names it may hold, each with its meaning; empty if it holds something else.
    pub choices: Vec<(String, String)>,
    /// What it means.
    pub meaning: String,
}

/// The sections in the order in which they are told.
const SECTIONS: [&str; 8] =
    ["network", "gates", "data", "optimizer", "schedule", "distillation", "checkpoints", "train"];

/// Every key, section by section.
pub fn keys() -> Vec<Key> {
    let root = schema();
    // The default configuration has a form in TOML: its paths are absent and its numbers small.
    let defaults = Config::default().flatten().unwrap_or_default();
    let mut keys = Vec::new();
    for section in SECTIONS {
        for (key, schema) in properties(root, section).as_object().into_iter().flatten() {
            let name = format!("{section}.{key}");
            let default = defaults.iter().find(|(other, _)| *other == name);
            let choices = choices(root, schema);
            keys.push(Key {
                default: default.map(|(_, value)| short(value)),
                values: in_words(root, schema, &choices),
                meaning: sentence(schema),
                choices,
                name,
            });
        }
    }
    keys
}

/// A value as TOML, float32 numbers without what their conversion added.
fn short(value: &Value) -> String {
    match value {
        Value::Float(number) if f64::from(*number as f32) == *number => format!("{:?}", *number as f32),
        Value::Float(number) => format!("{number:?}"),
        Value::Array(values) => format!("[{}]", values.iter().map(short).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// The description of a key in one line.
fn sentence(schema: &Schema) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ")
}

/// The names a key may hold.
fn choices(root: &Schema, schema: &Schema) -> Vec<(String, String)> {
    let schema = match &schema["items"] {
        Schema::Null => resolved(root, schema),
        items => resolved(root, items),
    };
    let named = |choice: &Schema| Some((choice["const"].as_str()?.to_owned(), sentence(choice)));
    let of = |schema: &Schema| -> Vec<(String, String)> {
        schema["oneOf"].as_array().into_iter().flatten().filter_map(named).collect()
    };
    let own = of(schema);
    if !own.is_empty() {
        return own;
    }
    variants(root, schema).into_iter().flat_map(of).collect()
}

/// The variants of a schema, those of variants in their place. That an optional value may be null
/// goes without saying.
fn variants<'a>(root: &'a Schema, schema: &'a Schema) -> Vec<&'a Schema> {
    let own = schema["anyOf"].as_array().into_iter().flatten().map(|variant| resolved(root, variant));
    let flat = own.flat_map(|variant| match variant["anyOf"].is_null() {
        true => vec![variant],
        false => variants(root, variant),
    });
    flat.filter(|variant| variant["type"] != "null").collect()
}

/// What a key may hold.
fn in_words(root: &Schema, schema: &Schema, choices: &[(String, String)]) -> String {
    let names = || choices.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let target = resolved(root, schema);
    let range = Range::of(schema);
    let is = |schema: &Schema, kind: &str| schema["type"] == kind || schema["type"][0] == kind;
    let numbers = |noun: &str| range.in_words(noun).unwrap_or_else(|| noun.to_owned());
    if is(target, "boolean") {
        "`true` or `false`".to_owned()
    } else if is(target, "integer") {
        numbers("a whole number")
    } else if is(target, "number") {
        numbers("a number")
    } else if is(target, "string") {
        schema["x-unit"].as_str().unwrap_or("a text").to_owned()
    } else if is(target, "array") && !choices.is_empty() {
        format!("a list of {}", names())
    } else if is(target, "array") {
        let items = Range::of(&target["items"]).in_words("numbers").unwrap_or_else(|| "numbers".to_owned());
        let count = target["minItems"].as_u64().map(|count| format!("{count} ")).unwrap_or_default();
        format!("a list of {count}{items}")
    } else if !target["anyOf"].is_null() {
        let variant = |target: &Schema| {
            if !target["properties"]["from"].is_null() {
                "a ramp".to_owned()
            } else if is(target, "object") {
                let keys = target["properties"].as_object().into_iter().flatten();
                let keys: Vec<String> = keys.map(|(key, _)| format!("{key} = …")).collect();
                format!("`{{ {} }}`", keys.join(", "))
            } else if is(target, "number") {
                numbers("a number")
            } else if is(target, "integer") {
                "a whole number".to_owned()
            } else if is(target, "array") {
                "a list of numbers".to_owned()
            } else {
                names()
            }
        };
        variants(root, target).into_iter().map(variant).collect::<Vec<_>>().join("; ")
    } else {
        names()
    }
}

/// The schema that editors complete and check configurations by (JSON Schema, draft 2020-12).
pub fn json_schema() -> String {
    let mut schema = schema().clone();
    schema["title"] = json!("A training run of gumbel-gates");
    schema["additionalProperties"] = json!(false);
    let sections: Vec<String> = SECTIONS.iter().map(|section| format!("/properties/{section}/$ref")).collect();
    for pointer in sections {
        let reference =
            schema.pointer(&pointer).and_then(Schema::as_str).map(|text| text.trim_start_matches('#').to_owned());
        if let Some(section) = reference.and_then(|reference| schema.pointer_mut(&reference)) {
            section["additionalProperties"] = json!(false);
        }
    }
    format!("{schema:#}\n")
}

/// docs/configuration.md.
pub fn markdown() -> String {
    let mut text = String::from(
        "# The configuration, key by key\n\n\
         This page is made from the program: `train config --markdown` prints it, `train config` tells the\n\
         same on a terminal. Keys that are left out have the defaults below, most of them the papers' for\n\
         ImageNet; the files in `configs/` say what recommended recipes change. `--set KEY=VALUE` changes\n\
         single keys, `--set KEY=` takes one out. A configuration with faults is refused with all of them\n\
         listed, each with its line.\n\n\
         A ramp moves a number over the run: `{ from = 1.0, to = 0.6, epochs = 10 }`, with `start = EPOCH` to\n\
         begin later and `shape = \"cosine\"` to move slowly at both ends. Editors complete and check keys by\n\
         [configuration.schema.json](configuration.schema.json), which each file in `configs/` names in its\n\
         first line.\n",
    );
    let mut section = "";
    let keys = keys();
    for key in &keys {
        let own = key.name.split('.').next().unwrap_or_default();
        if own != section {
            section = own;
            let about = sentence(&schema()["properties"][section]);
            let _ = write!(
                text,
                "\n## `[{section}]`\n\n{about}\n\n| key | default | values | meaning |\n|---|---|---|---|\n"
            );
        }
        let default = key.default.as_ref().map_or("none".to_owned(), |default| format!("`{default}`"));
        let choices: String = key.choices.iter().map(|(name, meaning)| format!(" `{name}`: {meaning}")).collect();
        let cell = |text: &str| text.replace('|', "\\|");
        let meaning = cell(&format!("{}{choices}", key.meaning));
        let _ = writeln!(text, "| `{}` | {default} | {} | {meaning} |", key.name, cell(&key.values));
    }
    text
}
