//! The layout of the code keeps its promises: imports only point down, files stay short, and each
//! says what it holds.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file at most.
const MOST_LINES: usize = 500;

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

fn crates() -> Vec<PathBuf> {
    let entries = fs::read_dir(reference::repository().join("crates")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The module of a file below `src`: `["config", "gates"]` for `config/gates.rs`, `["config"]` for
/// `config/mod.rs`, none for `lib.rs`.
fn module_of(file: &Path, source: &Path) -> Vec<String> {
    let below = file.strip_prefix(source).unwrap().with_extension("");
    let mut module: Vec<String> = below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
        module.pop();
    }
    module
}

/// The paths of a use tree: `a::{b, c::D}` names `a::b` and `a::c::D`.
fn expand(tree: &str, prefix: &str, paths: &mut Vec<String>) {
    let (head, inner) = match tree.split_once('{') {
        Some((head, rest)) => (head, Some(rest.rsplit_once('}').map_or(rest, |(inner, _)| inner))),
        None => (tree, None),
    };
    let head = format!("{prefix}{}", head.trim());
    let Some(inner) = inner else { return paths.push(head) };
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in inner.char_indices().chain([(inner.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&inner[start..at], &head, paths);
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// What a file imports from its own crate, as paths from the crate's root. Tests do not count: they
/// may look up.
fn imports(text: &str, module: &[String], is_mod: bool) -> Vec<Vec<String>> {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let statements = text.split("\n").fold((Vec::new(), None::<String>), |(mut done, open), line| {
        let begins = ["use ", "pub use ", "pub(crate) use ", "pub(super) use "];
        let line = line.trim();
        let open = match open {
            Some(statement) => Some(statement + line),
            None => begins.iter().find_map(|begin| line.strip_prefix(begin)).map(str::to_owned),
        };
        match open {
            Some(statement) if statement.ends_with(';') => {
                done.push(statement.trim_end_matches(';').to_owned());
                (done, None)
            }
            open => (done, open),
        }
    });
    let mut paths = Vec::new();
    statements.0.iter().for_each(|statement| expand(statement, "", &mut paths));
    let parent = &module[..module.len().saturating_sub(usize::from(!is_mod))];
    let from_root = |path: &String| -> Option<Vec<String>> {
        let parts: Vec<String> = path.split("::").map(|part| part.trim().to_owned()).collect();
        match parts[0].as_str() {
            "crate" => Some(parts[1..].to_vec()),
            "super" if is_mod => Some([&parent[..parent.len().saturating_sub(1)], &parts[1..]].concat()),
            "super" => Some([parent, &parts[1..]].concat()),
            // A folder's file re-exports what lies in it.
            _ if is_mod => Some([parent, &parts[..]].concat()),
            _ => None,
        }
    };
    paths.iter().filter_map(from_root).collect()
}

/// The files each file of a crate imports.
fn arrows(source: &Path) -> BTreeMap<PathBuf, BTreeSet<PathBuf>> {
    let mut files = Vec::new();
    rust_files(source, &mut files);
    let by_module: BTreeMap<Vec<String>, PathBuf> =
        files.iter().map(|file| (module_of(file, source), file.clone())).collect();
    let mut arrows = BTreeMap::new();
    for file in &files {
        let module = module_of(file, source);
        let is_mod = !file.ends_with(format!("{}.rs", module.last().map_or("", String::as_str)));
        let mut targets = BTreeSet::new();
        for path in imports(&fs::read_to_string(file).unwrap(), &module, is_mod) {
            // The longest beginning of the path that is a file: the rest names things in it.
            let found = (1..=path.len()).rev().find_map(|length| by_module.get(&path[..length]));
            targets.extend(found.filter(|&found| found != file).cloned());
        }
        arrows.insert(file.clone(), targets);
    }
    arrows
}

/// A circle that can be reached from `file`, if there is one.
fn circle<'a>(
    file: &'a PathBuf,
    arrows: &'a BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    way: &mut Vec<&'a PathBuf>,
    done: &mut BTreeSet<&'a PathBuf>,
) -> Option<Vec<PathBuf>> {
    if let Some(at) = way.iter().position(|&on_way| on_way == file) {
        return Some(way[at..].iter().map(|&file| file.clone()).collect());
    }
    if !done.insert(file) {
        return None;
    }
    way.push(file);
    let found = arrows.get(file).into_iter().flatten().find_map(|next| circle(next, arrows, way, done));
    way.pop();
    found
}

#[test]
fn no_file_imports_one_that_imports_it_back() {
    let mut counted = 0;
    for folder in crates() {
        let arrows = arrows(&folder.join("src"));
        counted += arrows.values().map(BTreeSet::len).sum::<usize>();
        let mut done = BTreeSet::new();
        for file in arrows.keys() {
            let found = circle(file, &arrows, &mut Vec::new(), &mut done);
            assert!(found.is_none(), "these files import each other in a circle: {found:#?}");
        }
    }
    assert!(counted > 200, "only {counted} imports were found");
}

/// The rooms of crates that have several floors, from the top one down (docs/layout.md).
const ROOMS: [(&str, &[&str]); 4] = [
    ("deploy", &["report", "shrink", "stopwatch", "verify", "network_file", "workers", "error"]),
    (
        "trainer",
        &["run", "learn", "method", "measure", "listeners", "states", "events", "results", "files", "error", "config"],
    ),
    ("arch", &["export", "lower", "prune", "cost", "network", "spec", "state_dict", "error"]),
    ("data", &["batches", "sources", "decode", "error"]),
];

#[test]
fn imports_of_a_room_point_down() {
    for (name, rooms) in ROOMS {
        let source = reference::repository().join("crates").join(name).join("src");
        let floor = |file: &Path| {
            let module = module_of(file, &source);
            rooms.iter().position(|room| module.first().is_some_and(|first| first == room))
        };
        let mut counted = 0;
        for (file, targets) in arrows(&source) {
            for target in targets {
                if let (Some(from), Some(to)) = (floor(&file), floor(&target)) {
                    assert!(from <= to, "{} imports {}, which is above it", file.display(), target.display());
                    counted += 1;
                }
            }
        }
        assert!(counted > 10, "{name}: only {counted} imports between rooms were found");
    }
}

#[test]
fn circles_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put("lib.rs", "mod a;\nmod room;\n");
    put("a.rs", "use crate::room::{\n    deep::{self, B},\n    other::C,\n};\n");
    put("room/mod.rs", "mod deep;\nmod other;\npub use other::C;\n");
    put("room/deep.rs", "use super::other::C;\n#[cfg(test)]\nuse crate::a::A;\n");
    put("room/other.rs", "pub struct C;\n");
    let found = || {
        let arrows = arrows(folder.path());
        let mut done = BTreeSet::new();
        arrows.keys().find_map(|file| circle(file, &arrows, &mut Vec::new(), &mut done))
    };
    assert_eq!(found(), None);
    put("room/other.rs", "use crate::a::A;\n");
    assert!(found().is_some_and(|circle| circle.len() >= 2));
}

#[test]
fn files_are_short_and_say_what_they_hold() {
    let mut files = Vec::new();
    crates().iter().for_each(|folder| rust_files(folder, &mut files));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not say what it holds", file.display());
        let lines = text.lines().count();
        assert!(lines <= MOST_LINES, "{} has {lines} lines", file.display());
    }
}
