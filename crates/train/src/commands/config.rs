//! `train config`

use crate::done::Done;
use crate::usage::Usage;
use anyhow::{Result, bail};
use serde_json::json;
use std::fmt::Write;
use trainer::config::{Key, json_schema, keys, markdown, renamed_to};

/// Tell what a configuration may hold
///
/// Every key with its default, its values and its meaning; with KEY that key alone, or a section.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  train config\n  train config train.epochs\n  train config gates\n  train config --schema > configuration.schema.json"
)]
pub(crate) struct Args {
    /// A key such as train.epochs, or a section such as gates
    #[arg(value_name = "KEY")]
    key: Option<String>,
    /// Print the JSON Schema that editors complete and check configurations by
    #[arg(long, conflicts_with = "key")]
    schema: bool,
    /// Print docs/configuration.md
    #[arg(long, conflicts_with_all = ["key", "schema"])]
    markdown: bool,
    /// Print the keys as JSON
    #[arg(long, conflicts_with_all = ["schema", "markdown"])]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<Done> {
    if args.schema {
        return Ok(Done::ok(json_schema()));
    }
    if args.markdown {
        return Ok(Done::ok(markdown()));
    }
    let mut keys = keys();
    if let Some(wanted) = &args.key {
        keys.retain(|key| key.name == *wanted || key.name.starts_with(&format!("{wanted}.")));
        if keys.is_empty() {
            let now = renamed_to(wanted).map(|now| format!("{wanted} was renamed to {now}"));
            let unknown = || format!("there is no key '{wanted}'; `train config` lists them all");
            bail!(Usage(now.unwrap_or_else(unknown)));
        }
    }
    Ok(Done::ok(if args.json { as_json(&keys) } else { as_text(&keys) }))
}

fn as_text(keys: &[Key]) -> String {
    let mut text = String::new();
    for key in keys {
        let default = key.default.as_deref().unwrap_or("(none)");
        let _ = writeln!(text, "{} = {default}\n    {}\n    {}", key.name, key.meaning, key.values.replace('`', ""));
        for (name, meaning) in &key.choices {
            let _ = writeln!(text, "      {name}: {meaning}");
        }
        text.push('\n');
    }
    text
}

fn as_json(keys: &[Key]) -> String {
    let key = |key: &Key| {
        let choices: Vec<_> =
            key.choices.iter().map(|(name, meaning)| json!({ "name": name, "meaning": meaning })).collect();
        json!({
            "key": key.name,
            "default": key.default,
            "values": key.values,
            "choices": choices,
            "meaning": key.meaning,
        })
    };
    format!("{:#}\n", json!(keys.iter().map(key).collect::<Vec<_>>()))
}
