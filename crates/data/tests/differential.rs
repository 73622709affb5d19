//! Thousands of drawn and damaged JPEG files, against Pillow: its pixels, or a skip.
//!
//! `DIFFERENTIAL=10000` says how many, `DIFFERENTIAL_SEED=2` which. `scripts/differential.sh` prints
//! what came of them. Skips where Pillow is not set up.

#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers outside #[test] functions

use reference::{PyTorch, skip};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files of each test, if nobody says how many.
const FILES: &str = "300";

/// What came of one file, here and in Pillow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Equal,
    SkippedByBoth,
    SkippedHere,
    RefusedByPillow,
    Wrong,
}

use Outcome::{Equal, RefusedByPillow, SkippedByBoth, SkippedHere, Wrong};

/// All that happened.
#[derive(Debug, Default)]
struct Tally {
    outcomes: BTreeMap<(String, Outcome), usize>,
    /// Why files that Pillow reads were skipped.
    reasons: BTreeMap<String, usize>,
    /// Files that must not be.
    faults: Vec<String>,
}

impl Tally {
    fn count(&self, outcome: Outcome) -> usize {
        self.outcomes.iter().filter(|((_, this), _)| *this == outcome).map(|(_, count)| count).sum()
    }

    /// A table: a row for each damage.
    #[allow(clippy::print_stdout)] // the script shows it
    fn print(&self) {
        let all = [Equal, SkippedByBoth, SkippedHere, RefusedByPillow, Wrong];
        println!("| damage | equal | skipped by both | skipped here only | read here only | wrong |");
        println!("|---|---|---|---|---|---|");
        let mut damages: Vec<&String> = self.outcomes.keys().map(|(damage, _)| damage).collect();
        damages.dedup();
        for damage in damages {
            let counts = all.map(|outcome| self.outcomes.get(&(damage.clone(), outcome)).copied().unwrap_or(0));
            println!("| {damage} | {} |", counts.map(|count| count.to_string()).join(" | "));
        }
        println!("| all | {} |", all.map(|outcome| self.count(outcome).to_string()).join(" | "));
        println!();
        let mut reasons: Vec<(&String, &usize)> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        println!("| files | skipped here only, because |");
        println!("|---|---|");
        reasons.iter().for_each(|(reason, count)| println!("| {count} | {reason} |"));
    }
}

/// A reason without the numbers of the file.
fn kind_of(reason: &str) -> String {
    let words = reason.split(' ').map(|word| if word.contains('×') { "…" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn compare(folder: &Path, number: usize, entry: &Value, tally: &mut Tally) {
    let file = |ending: &str| folder.join(format!("{number}.{ending}"));
    let expected: Option<(u64, u64, Vec<u8>)> = entry["width"]
        .as_u64()
        .map(|width| (width, entry["height"].as_u64().unwrap(), std::fs::read(file("rgb")).unwrap()));
    let outcome = match (data::decode(&file("jpg")), &expected) {
        (Ok(image), Some((width, height, pixels))) => {
            let size = (u64::from(image.width()), u64::from(image.height()));
            if size == (*width, *height) && image.as_raw() == pixels { Equal } else { Wrong }
        }
        (Ok(_), None) => RefusedByPillow,
        (Err(_), None) => SkippedByBoth,
        (Err(bad), Some(_)) => {
            *tally.reasons.entry(kind_of(&bad.reason)).or_default() += 1;
            SkippedHere
        }
    };
    if matches!(outcome, Wrong | RefusedByPillow) {
        tally.faults.push(format!("{outcome:?}: {number}, {}, {}, {}", entry["kind"], entry["damage"], entry["error"]));
    }
    *tally.outcomes.entry((entry["damage"].as_str().unwrap().to_owned(), outcome)).or_default() += 1;
}

/// Draws files and decodes each: what came of them.
fn tally(pytorch: &PyTorch, plain: bool) -> (Tally, usize) {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let (count, seed) = (setting("DIFFERENTIAL", FILES), setting("DIFFERENTIAL_SEED", "1"));
    let temporary = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("DIFFERENTIAL_FOLDER").map(PathBuf::from);
    let folder = kept.unwrap_or_else(|| temporary.path().to_owned()).join(if plain { "plain" } else { "damaged" });
    std::fs::create_dir_all(&folder).unwrap();
    let mut command = pytorch.script("jpeg_differential.py");
    command.arg(&folder).args([&count, &seed]).args(plain.then_some("plain"));
    assert!(command.status().unwrap().success());
    let entries: Vec<Value> = serde_json::from_slice(&std::fs::read(folder.join("list.json")).unwrap()).unwrap();
    let mut tally = Tally::default();
    entries.iter().enumerate().for_each(|(number, entry)| compare(&folder, number, entry, &mut tally));
    tally.print();
    assert_eq!(tally.faults, Vec::<String>::new(), "neither Pillow's pixels nor a skip");
    (tally, entries.len())
}

/// Whether Pillow is set up.
fn pillow() -> Option<PyTorch> {
    let pytorch = PyTorch::find()?;
    if !pytorch.command().args(["-c", "import PIL"]).status().is_ok_and(|status| status.success()) {
        skip("no Pillow");
        return None;
    }
    Some(pytorch)
}

#[test]
fn whole_files_of_every_kind_give_the_pixels_of_pillow() {
    let Some(pytorch) = pillow() else { return };
    let (tally, files) = tally(&pytorch, true);
    let equal = tally.count(Equal);
    assert!(2 * equal > files, "only {equal} of {files}");
    // The drawn coefficients of a few files without their last scans are none of an image.
    let others = tally.reasons.keys().find(|reason| !reason.contains("far outside of 8 bits"));
    assert_eq!(others, None, "Pillow reads them");
    assert!(50 * tally.count(SkippedHere) < files, "{} of {files}", tally.count(SkippedHere));
}

#[test]
fn damaged_files_give_the_pixels_of_pillow_or_a_skip() {
    let Some(pytorch) = pillow() else { return };
    let (tally, files) = tally(&pytorch, false);
    let equal = tally.count(Equal);
    assert!(4 * equal > files, "only {equal} of {files}");
}
