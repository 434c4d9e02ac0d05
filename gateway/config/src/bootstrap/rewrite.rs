//! `RegexMatchAndSubstitute`.

use extproc_client::config::RegexSubstitution;
use serde::Deserialize;

use super::value::{RegexText, regex_reason};
use crate::document::Fault;

/// `envoy.type.matcher.v3.RegexMatchAndSubstitute`.
#[derive(Debug, Deserialize)]
pub(super) struct RegexMatchAndSubstitute {
    pattern: RegexText,
    #[serde(default)]
    substitution: String,
}

impl RegexMatchAndSubstitute {
    pub(super) fn build(&self) -> Result<RegexSubstitution, Fault> {
        RegexSubstitution::new(&self.pattern.0, substitution(&self.substitution))
            .map_err(|error| Fault::new(regex_reason(&error)))
    }
}

/// From `\1` to `${1}`; a dollar sign stands for itself.
fn substitution(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek().copied()) {
            ('\\', Some(digit)) if digit.is_ascii_digit() => {
                out.push_str("${");
                out.push(digit);
                out.push('}');
                chars.next();
            }
            ('\\', Some('\\')) => {
                out.push('\\');
                chars.next();
            }
            ('$', _) => out.push_str("$$"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions() {
        assert_eq!(substitution(r"\1/$\2\\n"), r"${1}/$$${2}\n");
        assert_eq!(substitution("plain"), "plain");
    }
}
