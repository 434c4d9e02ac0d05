//! `HeaderMutationRules`: whether one change is allowed.

pub(crate) use crate::types::header_change::Operation;
use crate::{
    config::{MutationRules, RegexMatcher},
    text::pattern::Effort,
    types::header_change::Refused,
};

/// Decision on one change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is made.
    Allow,
    /// It is skipped and counted.
    Ignore,
    /// It fails the exchange.
    Fail,
}

impl MutationRules {
    /// Judges one change. `name` is lower case; `value` is that of a set or append. `effort` is for all changes of a reply.
    pub(crate) fn check(
        &self,
        operation: Operation,
        name: &str,
        value: &[u8],
        effort: &mut Effort,
    ) -> Verdict {
        match self.judge(operation, name, value, effort) {
            Ok(()) => Verdict::Allow,
            Err(_) if self.disallow_is_error => Verdict::Fail,
            Err(_) => Verdict::Ignore,
        }
    }

    /// The reason why a change is not allowed.
    pub(crate) fn judge(
        &self,
        operation: Operation,
        name: &str,
        value: &[u8],
        effort: &mut Effort,
    ) -> Result<(), Refused> {
        self.judge_name(operation, name, effort)?;
        match operation == Operation::Remove || is_valid(name, value) {
            true => Ok(()),
            false => Err(Refused::Value),
        }
    }

    fn judge_name(
        &self,
        operation: Operation,
        name: &str,
        effort: &mut Effort,
    ) -> Result<(), Refused> {
        let pseudo = name.starts_with(':');
        if operation == Operation::Remove && (pseudo || name == "host") {
            return Err(Refused::Removal);
        }
        let mut matches = |regex: &Option<RegexMatcher>| match regex {
            Some(regex) => regex.try_matches(name, effort),
            None => Some(false),
        };
        // What cannot be told is not allowed.
        if matches(&self.disallow_expression) != Some(false) {
            return Err(Refused::DisallowExpression);
        }
        if matches(&self.allow_expression) == Some(true) {
            return Ok(());
        }
        if self.disallow_all {
            return Err(Refused::DisallowAll);
        }
        let routing = matches!(name, "host" | ":authority" | ":scheme" | ":method");
        if routing && !self.allow_all_routing {
            return Err(Refused::Routing);
        }
        if pseudo && (self.disallow_system || operation == Operation::Append) {
            return Err(Refused::System);
        }
        match self.allow_envoy || !name.starts_with("x-envoy") {
            true => Ok(()),
            false => Err(Refused::Envoy),
        }
    }
}

/// Values that some names have rules for.
fn is_valid(name: &str, value: &[u8]) -> bool {
    match name {
        // Nobody can send a request to no host.
        "host" | ":authority" => !value.is_empty() && value.iter().all(|&b| is_authority_byte(b)),
        ":scheme" => {
            value.first().is_some_and(u8::is_ascii_alphabetic)
                && value
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
        }
        ":status" => status_number(value).is_some_and(|status| status >= 200),
        _ => true,
    }
}

/// RFC 3986 §3.2: unreserved, percent-encoded, sub-delims and the brackets, colon and at sign.
fn is_authority_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(&byte)
}

/// The number that a status is, as Envoy reads it: blanks around it and zeros before it do not count.
pub(super) fn status_number(value: &[u8]) -> Option<u32> {
    std::str::from_utf8(value).ok()?.trim_ascii().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Operation::*, Verdict::*, *};

    #[test]
    fn defaults() {
        let rules = MutationRules::default();
        for (operation, name, value, verdict) in [
            (Set, "x-a", "1", Allow),
            (Set, ":path", "/", Allow),
            (Set, ":status", "204", Allow),
            (Set, ":status", "199", Ignore),
            (Set, ":status", "abc", Ignore),
            (Set, ":status", "1000", Allow),
            (Set, ":status", " 0204 ", Allow),
            (Set, ":method", "POST", Ignore),
            (Set, "host", "a", Ignore),
            (Set, ":authority", "", Ignore),
            (Set, "x-envoy-a", "1", Ignore),
            (Append, ":path", "/", Ignore),
            (Append, "x-a", "1", Allow),
            (Remove, ":path", "", Ignore),
            (Remove, "host", "", Ignore),
            (Remove, "x-a", "", Allow),
            (Remove, "x-envoy-a", "", Ignore),
        ] {
            assert_eq!(
                rules.check(operation, name, value.as_bytes(), &mut Effort::default()),
                verdict,
                "{operation:?} {name}: {value}"
            );
        }
    }

    #[test]
    fn expressions_come_first_and_match_whole_names() {
        let rules = MutationRules {
            disallow_all: true,
            allow_expression: Some(RegexMatcher::new("x-.*|host").unwrap()),
            disallow_expression: Some(RegexMatcher::new("x-secret").unwrap()),
            disallow_is_error: true,
            ..MutationRules::default()
        };
        let check = |operation, name: &str, value: &[u8]| {
            rules.check(operation, name, value, &mut Effort::default())
        };
        assert_eq!(check(Set, "x-a", b""), Allow);
        assert_eq!(check(Set, "ax-a", b""), Fail);
        assert_eq!(check(Set, "x-secret", b""), Fail);
        assert_eq!(check(Set, "x-secret-not", b""), Allow);
        assert_eq!(check(Set, "host", b"a.example:80"), Allow);
        assert_eq!(check(Set, "host", b"a b"), Fail);
        assert_eq!(check(Remove, "host", b""), Fail);
    }
    /// Names for which an expression needs a new state for each byte.
    #[test]
    fn many_changes_have_one_effort() {
        let rules = MutationRules {
            disallow_all: true,
            allow_expression: Some(RegexMatcher::new("[ab]*a[ab]{400}c|x").unwrap()),
            ..MutationRules::default()
        };
        let mut effort = Effort::default();
        assert_eq!(rules.check(Set, "x", b"", &mut effort), Allow);
        let mut bits = 1_u32;
        let name: String = std::iter::repeat_with(|| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if bits >> 31 == 0 { 'a' } else { 'b' }
        })
        .take(12_000)
        .collect();
        assert_eq!(rules.check(Set, &name, b"", &mut effort), Ignore);
        assert!(effort.is_spent());
        assert_eq!(rules.check(Set, "x", b"", &mut effort), Ignore);
    }
}
