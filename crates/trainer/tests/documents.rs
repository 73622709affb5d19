//! The documents and configurations speak of the keys that there are, and of all of them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use reference::repository;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use trainer::config::{json_schema, keys, markdown};

fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(repository().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

fn documents() -> Vec<PathBuf> {
    ["", "docs", "weights", "bench"].iter().flat_map(|folder| files(folder, "md")).collect()
}

/// Everything in a text that looks like a key: a section's name, a dot and a word.
fn mentioned(text: &str) -> BTreeSet<String> {
    let sections: BTreeSet<String> =
        keys().iter().filter_map(|key| key.name.split('.').next().map(str::to_owned)).collect();
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "_./-".contains(letter);
    let words = text.split(|letter| !is_part(letter)).map(|word| word.trim_matches('.'));
    let is_key = |word: &&str| {
        let parts: Vec<&str> = word.split('.').collect();
        // Names of files, of tensors and of an exported module's attributes look alike.
        let is_other = [
            "rs",
            "md",
            "py",
            "toml",
            "tar",
            "safetensors",
            "jsonl",
            "sh",
            "svg",
            "json",
            "pt",
            "onnx",
            "csv",
            "classes",
            "steps",
        ];
        parts.len() == 2
            && sections.contains(parts[0])
            && !is_other.contains(&parts[1])
            && !parts[1].ends_with('_')
            && parts[1].chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
    };
    words.filter(is_key).map(str::to_owned).collect()
}

#[test]
fn the_page_and_the_schema_of_the_keys_are_the_programs() {
    for (name, text, option) in [
        ("docs/configuration.md", markdown(), "--markdown"),
        ("docs/configuration.schema.json", json_schema(), "--schema"),
    ] {
        let found = fs::read_to_string(repository().join(name)).unwrap_or_default();
        assert!(found == text, "{name} is stale; run: target/release/train config {option} > {name}");
    }
}

#[test]
fn every_key_says_what_it_means_and_may_hold() {
    let keys = keys();
    assert!(keys.len() > 70, "{}", keys.len());
    for key in &keys {
        assert!(key.meaning.ends_with('.'), "{}: '{}'", key.name, key.meaning);
        assert!(!key.values.is_empty() && !key.meaning.contains("[`"), "{}: '{}'", key.name, key.values);
        assert!(key.choices.iter().all(|(_, meaning)| !meaning.contains("[`")), "{}", key.name);
    }
    let find = |name: &str| keys.iter().find(|key| key.name == name).unwrap();
    assert_eq!(find("train.epochs").default.as_deref(), Some("100"));
    assert_eq!(find("train.epochs").values, "at most 1,000,000 epochs");
    assert_eq!(find("data.flip").values, "a probability from 0 to 1");
    assert_eq!(find("data.mean").default.as_deref(), Some("[0.485, 0.456, 0.406]"));
    assert_eq!(find("optimizer.epsilon").default.as_deref(), Some("1e-8"));
    assert_eq!(find("gates.freeze_after").default, None);
    assert_eq!(find("gates.kind").choices.len(), 2);
}

#[test]
fn no_document_or_configuration_names_a_key_that_there_is_not() {
    let known: BTreeSet<String> = keys().into_iter().map(|key| key.name).collect();
    let renamed = ["gates.decide_after", "gates.polarisation", "data.colour_jitter"];
    for path in documents().into_iter().chain(files("configs", "toml")).chain(files("bench", "toml")) {
        for key in mentioned(&fs::read_to_string(&path).unwrap()) {
            // Where old names are listed beside the new ones.
            let is_told =
                renamed.contains(&key.as_str()) && (path.ends_with("method.md") || path.ends_with("CHANGELOG.md"));
            assert!(known.contains(&key) || is_told, "{} names {key}, which there is not", path.display());
        }
    }
    assert_eq!(mentioned("see `train.epochs=3`, crates/data.rs and train.rs").len(), 1);
}

#[test]
fn every_configuration_names_the_schema_that_editors_check_it_by() {
    for path in files("configs", "toml") {
        let text = fs::read_to_string(&path).unwrap();
        let schema = text.lines().next().and_then(|line| line.strip_prefix("#:schema ")).unwrap_or_default();
        assert!(repository().join("configs").join(schema).is_file(), "{}: '{schema}'", path.display());
    }
}

/// The lines of a Markdown file outside tables and blocks of code, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        if !in_code && !is_fence && !line.starts_with(['|', ' ']) {
            lines.push((number, line));
        }
    }
    lines
}

#[test]
fn documents_are_wrapped_and_the_readme_is_short() {
    let wide = |path: &Path| -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        let wide = prose(&text).into_iter().filter(|(_, line)| line.chars().count() > 100);
        wide.map(|(number, _)| format!("{}:{number}", path.display())).collect()
    };
    let found: Vec<String> = documents().iter().flat_map(|path| wide(path)).collect();
    assert!(found.is_empty(), "lines past 100 columns: {found:#?}");
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    assert!(readme.lines().count() <= 100, "{} lines", readme.lines().count());
}
