//! Texts as markup shows them.

/// A text within HTML or SVG, where some letters have a meaning and others may not be.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(allowed(letter)),
        }
    }
    safe
}

/// A letter that XML allows: itself, or the sign for one that cannot be shown.
pub(super) fn allowed(letter: char) -> char {
    let is_odd = letter.is_control() && !matches!(letter, '\n' | '\t') || matches!(letter, '\u{fffe}' | '\u{ffff}');
    if is_odd { char::REPLACEMENT_CHARACTER } else { letter }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_no_markup_whatever_it_holds() {
        assert_eq!(
            escaped("<a href=\"x\">R&D's\u{1}</a>"),
            "&lt;a href=&quot;x&quot;&gt;R&amp;D&#39;s\u{fffd}&lt;/a&gt;"
        );
    }
}
