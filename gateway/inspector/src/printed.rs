//! Texts of peers in lines. A line break, an escape of a terminal or a mark that turns the direction of writing would let a
//! peer write lines of its own.

use std::{borrow::Cow, fmt::Write as _};

/// Tells whether a character has no shape of its own: controls, marks of direction, separators of lines, joiners.
fn is_hidden(c: char) -> bool {
    !matches!(c, '"' | '\'' | '\\')
        && !c.is_ascii_graphic()
        && c != ' '
        && c.escape_debug().len() > 1
}

/// A text that stays in its line: hidden characters as escapes of Rust's, such as `\n` and `\u{202e}`.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_hidden(c) {
            true => out.extend(c.escape_debug()),
            false => out.push(c),
        }
    }
    out.into()
}

/// JSON that means the same, hidden characters as its escapes. Line breaks between its parts stay.
pub(crate) fn json(json: String) -> String {
    let is_hidden = |c: char| c != '\n' && is_hidden(c);
    if !json.contains(is_hidden) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 64);
    let mut units = [0; 2];
    for c in json.chars() {
        match is_hidden(c) {
            true => c.encode_utf16(&mut units).iter().for_each(|unit| {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{unit:04x}");
            }),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_written_out() {
        for (text, shown) in [
            ("a b", "a b"),
            ("ü → \"\\'", "ü → \"\\'"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\x1b[31m\u{9b}0m\u{7f}", "\\u{1b}[31m\\u{9b}0m\\u{7f}"),
            (
                "\u{202e}\u{2066}\u{200f}\u{61c}",
                "\\u{202e}\\u{2066}\\u{200f}\\u{61c}",
            ),
            (
                "\u{2028}\u{feff}\u{200b}\u{e0041}",
                "\\u{2028}\\u{feff}\\u{200b}\\u{e0041}",
            ),
        ] {
            assert_eq!(line(text), shown);
        }
        let text = "a\u{202e}\u{e0041}\u{9b}\u{7f}\n\u{2028}";
        let written = json(serde_json::to_string(text).unwrap());
        assert_eq!(
            written,
            "\"a\\u202e\\udb40\\udc41\\u009b\\u007f\\n\\u2028\""
        );
        assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }
}
