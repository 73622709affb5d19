//! Names of classes: text whatever the bytes of a folder's name, their order, and which look alike.

use crate::sources::natural_order::natural_order;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::ffi::OsStr;
use unicode_normalization::UnicodeNormalization;

/// A name of the file system as text. Bytes that are no UTF-8 are written `\xE8`, and so is a backslash that
/// would read as the beginning of such a byte, so that different names stay different.
pub fn readable(name: &OsStr) -> String {
    let mut text = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        let valid = chunk.valid();
        for (at, letter) in valid.char_indices() {
            match escaped_byte(&valid.as_bytes()[at..]) {
                Some(_) => text.push_str(r"\x5C"),
                None => text.push(letter),
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!(r"\x{byte:02X}")));
    }
    text
}

/// The byte that the beginning of a text stands for, if it reads as `\xE8`.
fn escaped_byte(text: &[u8]) -> Option<u8> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    match *text {
        [b'\\', b'x', high, low, ..] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    }
}

/// The bytes of the folder's name that [`readable`] made a text of.
fn raw(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !text.contains(r"\x") {
        return Cow::Borrowed(bytes);
    }
    let mut name = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = escaped_byte(&bytes[at..]);
        name.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    Cow::Owned(name)
}

/// The order that classes are numbered in: the natural one of the bytes of their folders' names,
/// wherever a name comes from.
pub(crate) fn class_order(a: &str, b: &str) -> Ordering {
    natural_order(&raw(a), &raw(b)).then_with(|| a.cmp(b))
}

/// What keeps names apart that look alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Spaces,
    Normalization,
    Case,
}

const KINDS: [Kind; 3] = [Kind::Spaces, Kind::Normalization, Kind::Case];

/// The name without what these kinds tell apart.
fn folded(name: &str, kinds: impl Fn(Kind) -> bool) -> String {
    let trimmed = if kinds(Kind::Spaces) { name.trim() } else { name };
    let cased = if kinds(Kind::Case) { trimmed.to_lowercase() } else { trimmed.to_owned() };
    if kinds(Kind::Normalization) { cased.nfc().collect() } else { cased }
}

/// Which classes of `train` and `val`, of which none is in both, look alike, and what differs.
pub(crate) fn look_alikes(train: &[String], val: &[String]) -> Vec<String> {
    let by_folded: HashMap<String, &String> = val.iter().map(|name| (folded(name, |_| true), name)).collect();
    let pair = |a: &String| {
        let b = *by_folded.get(&folded(a, |_| true))?;
        let (a, b, differ) = difference(a, b);
        Some(format!("{a} in train/ and {b} in val/ differ only in {differ}"))
    };
    train.iter().filter_map(pair).collect()
}

/// Which of the classes looks like `name`, and what differs, as the end of a sentence.
pub(crate) fn look_alike(name: &str, classes: &[String]) -> Option<String> {
    let alike = classes.iter().find(|class| folded(class, |_| true) == folded(name, |_| true))?;
    let (_, class, differ) = difference(name, alike);
    Some(format!("; the class {class} differs from it only in {differ}"))
}

/// Two names that look alike, each as it is to be shown, and what differs.
fn difference(a: &str, b: &str) -> (String, String, String) {
    let needed = |kind| folded(a, |other| other != kind) != folded(b, |other| other != kind);
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|&kind| needed(kind)).collect();
    let names = kinds.iter().map(|kind| match kind {
        Kind::Spaces => "surrounding spaces",
        Kind::Normalization => "Unicode normalization",
        Kind::Case => "letter case",
    });
    let differ = match names.collect::<Vec<_>>() {
        none if none.is_empty() => "Unicode normalization or letter case".to_owned(),
        names => names.join(" and "),
    };
    let shown = |name: &str| match name.is_ascii() || kinds == [Kind::Case] || kinds == [Kind::Spaces] {
        true => format!("'{name}'"),
        false => format!("'{name}' ({})", name.chars().map(code_point).collect::<String>()),
    };
    (shown(a), shown(b), differ)
}

/// What is no ASCII by its number: two names that look the same show their difference.
fn code_point(letter: char) -> String {
    if letter.is_ascii() { letter.to_string() } else { letter.escape_unicode().to_string() }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;

    fn text(bytes: &[u8]) -> String {
        readable(OsStr::from_bytes(bytes))
    }

    #[test]
    fn names_that_are_no_text_stay_readable() {
        assert_eq!(text(b"caf\xe8"), r"caf\xE8");
        assert_eq!(text("café".as_bytes()), "café");
        assert_eq!(text(br"caf\xE8"), r"caf\x5CxE8");
        assert_eq!(text(br"a\b\xe8\x"), r"a\b\xe8\x");
    }

    #[test]
    fn names_that_look_alike_say_why_they_differ() {
        let differ = |a: &str, b: &str| look_alikes(&[a.to_owned()], &[b.to_owned()]).concat();
        assert_eq!(differ("Cat", "cat"), "'Cat' in train/ and 'cat' in val/ differ only in letter case");
        assert_eq!(differ("cat ", "cat"), "'cat ' in train/ and 'cat' in val/ differ only in surrounding spaces");
        assert_eq!(
            differ("caf\u{e9}", "cafe\u{301}"),
            "'caf\u{e9}' (caf\\u{e9}) in train/ and 'cafe\u{301}' (cafe\\u{301}) in val/ differ only in Unicode normalization"
        );
        assert!(
            differ(" Caf\u{c9}", "cafe\u{301}")
                .ends_with("surrounding spaces and Unicode normalization and letter case")
        );
        assert!(differ("\u{212a}", "K").ends_with("Unicode normalization or letter case"));
        assert_eq!(differ("cat", "dog"), "");
        let classes = ["Cat".to_owned(), "dog".to_owned()];
        let hint = look_alike("cat", &classes).unwrap();
        assert_eq!(hint, "; the class 'Cat' differs from it only in letter case");
        assert_eq!(look_alike("do", &classes), None);
    }

    /// Bytes of which many read as escapes.
    fn names() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![prop::sample::select(&b"\\x5CE8a\xc3\xa9\xe8"[..]), any::<u8>()];
        prop::collection::vec(byte, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_name_can_be_read_back(name in names()) {
            let text = text(&name);
            prop_assert_eq!(&*raw(&text), &name[..]);
        }

        #[test]
        fn classes_are_in_the_order_of_their_bytes(a in names(), b in names()) {
            prop_assert_eq!(class_order(&text(&a), &text(&b)), natural_order(&a, &b));
        }
    }
}
