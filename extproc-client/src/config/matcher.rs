//! `envoy.type.matcher.v3.StringMatcher` and `RegexMatcher`.

use std::sync::Arc;

use serde::Deserialize;

use crate::text::pattern::{BoundedRegex, BoundedReplace, Effort, Sizes, Unusable};

/// A pattern that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is none, or may not be used here.
    #[error("{0}")]
    Invalid(String),
    /// Compiled it is larger than it may be.
    #[error("the regular expression is too large")]
    TooLarge,
}

impl From<Unusable> for PatternError {
    fn from(reason: Unusable) -> Self {
        match reason {
            Unusable::Syntax(reason) => Self::Invalid(reason),
            Unusable::Size => Self::TooLarge,
        }
    }
}

/// A regular expression that has to match a whole value.
#[derive(Clone, Debug)]
pub struct RegexMatcher {
    regex: Arc<BoundedRegex>,
    pattern: Arc<str>,
}

impl RegexMatcher {
    /// Compiles `pattern`, in the syntax of the crate [`regex`].
    ///
    /// # Errors
    /// It is empty, which the proto does not allow, or no regular expression.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        Self::compile(pattern, Sizes::USUAL)
    }

    /// Compiles `pattern`, which may take so many bytes, and the memory of a thread that uses it not much more.
    ///
    /// # Errors
    /// As of [`new`](Self::new), or it is larger.
    pub fn within(pattern: &str, bytes: usize) -> Result<Self, PatternError> {
        Self::compile(pattern, Sizes::within(bytes))
    }

    fn compile(pattern: &str, sizes: Sizes) -> Result<Self, PatternError> {
        if pattern.is_empty() {
            let reason = "a regular expression may not be empty";
            return Err(PatternError::Invalid(reason.into()));
        }
        let regex = BoundedRegex::new(pattern, true, sizes)?;
        Ok(Self {
            regex: Arc::new(regex),
            pattern: pattern.into(),
        })
    }

    /// The text that it was compiled of.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Tells if the whole of `value` matches; `None` if that cannot be told within the effort.
    pub fn try_matches(&self, value: &str, effort: &mut Effort) -> Option<bool> {
        self.regex.is_match(value, effort)
    }
}

/// `envoy.type.matcher.v3.RegexMatchAndSubstitute`: a regular expression and what takes the place of its matches.
#[derive(Clone, Debug)]
pub struct RegexSubstitution(BoundedReplace);

impl RegexSubstitution {
    /// Compiles `pattern`; in `with` groups are written as in the crate [`regex`].
    ///
    /// # Errors
    /// It is no regular expression.
    pub fn new(pattern: &str, with: impl Into<String>) -> Result<Self, PatternError> {
        Ok(BoundedReplace::new(pattern, with.into(), Sizes::USUAL).map(Self)?)
    }

    /// The same with a `pattern` that may take so many bytes.
    ///
    /// # Errors
    /// As of [`new`](Self::new), or it is larger.
    pub fn within(
        pattern: &str,
        with: impl Into<String>,
        bytes: usize,
    ) -> Result<Self, PatternError> {
        Ok(BoundedReplace::new(pattern, with.into(), Sizes::within(bytes)).map(Self)?)
    }

    /// Replaces what matches in a text; `None` if that takes more than an [`Effort`] allows.
    pub fn apply(&self, text: &str) -> Option<String> {
        self.0.apply(text)
    }
}

/// A compiled string matcher.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(RegexMatcher),
}

impl StringMatcher {
    /// Matches this text.
    pub fn exact(text: impl Into<String>) -> Self {
        Self::of(Pattern::Exact(text.into()))
    }

    /// Matches what begins so.
    ///
    /// # Errors
    /// `prefix` is empty, which the proto does not allow.
    pub fn prefix(prefix: impl Into<String>) -> Result<Self, PatternError> {
        filled("prefix", prefix.into()).map(|prefix| Self::of(Pattern::Prefix(prefix)))
    }

    /// Matches what ends so.
    ///
    /// # Errors
    /// `suffix` is empty, which the proto does not allow.
    pub fn suffix(suffix: impl Into<String>) -> Result<Self, PatternError> {
        filled("suffix", suffix.into()).map(|suffix| Self::of(Pattern::Suffix(suffix)))
    }

    /// Matches what holds this.
    ///
    /// # Errors
    /// `part` is empty, which the proto does not allow.
    pub fn contains(part: impl Into<String>) -> Result<Self, PatternError> {
        filled("contains", part.into()).map(|part| Self::of(Pattern::Contains(part)))
    }

    /// Matches what this regular expression does.
    pub fn regex(regex: RegexMatcher) -> Self {
        Self::of(Pattern::Regex(regex))
    }

    /// Makes upper and lower case alike; a regular expression does not change.
    #[must_use]
    pub fn ignore_case(mut self) -> Self {
        self.ignore_case = true;
        match &mut self.pattern {
            Pattern::Exact(text)
            | Pattern::Prefix(text)
            | Pattern::Suffix(text)
            | Pattern::Contains(text) => text.make_ascii_lowercase(),
            Pattern::Regex(_) => {}
        }
        self
    }

    fn of(pattern: Pattern) -> Self {
        Self {
            pattern,
            ignore_case: false,
        }
    }

    /// ProtoJSON.
    pub(super) fn json(&self) -> serde_json::Value {
        let mut out = match &self.pattern {
            Pattern::Exact(text) => serde_json::json!({ "exact": text }),
            Pattern::Prefix(text) => serde_json::json!({ "prefix": text }),
            Pattern::Suffix(text) => serde_json::json!({ "suffix": text }),
            Pattern::Contains(text) => serde_json::json!({ "contains": text }),
            Pattern::Regex(regex) => {
                serde_json::json!({ "safe_regex": { "regex": regex.pattern() } })
            }
        };
        if self.ignore_case {
            out["ignore_case"] = true.into();
        }
        out
    }

    /// Tells if `value` matches; a value for which that takes more than an [`Effort`] allows does not.
    pub fn matches(&self, value: &str) -> bool {
        self.try_matches(value, &mut Effort::default()) == Some(true)
    }

    /// Tells if `value` matches; `None` if that cannot be told within the effort. Regular expressions match the whole value.
    pub fn try_matches(&self, value: &str, effort: &mut Effort) -> Option<bool> {
        let folded;
        let value = if self.ignore_case && !matches!(self.pattern, Pattern::Regex(_)) {
            folded = value.to_ascii_lowercase();
            folded.as_str()
        } else {
            value
        };
        Some(match &self.pattern {
            Pattern::Exact(pattern) => value == pattern,
            Pattern::Prefix(pattern) => value.starts_with(pattern.as_str()),
            Pattern::Suffix(pattern) => value.ends_with(pattern.as_str()),
            Pattern::Contains(pattern) => value.contains(pattern.as_str()),
            Pattern::Regex(regex) => return regex.try_matches(value, effort),
        })
    }
}

fn filled(name: &str, text: String) -> Result<String, PatternError> {
    match text.is_empty() {
        true => Err(PatternError::Invalid(format!("{name} may not be empty"))),
        false => Ok(text),
    }
}

/// The ProtoJSON form.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawMatcher {
    exact: Option<String>,
    prefix: Option<String>,
    suffix: Option<String>,
    contains: Option<String>,
    #[serde(alias = "safeRegex")]
    safe_regex: Option<RawRegex>,
    #[serde(alias = "ignoreCase")]
    ignore_case: bool,
}

/// The ProtoJSON form of `RegexMatcher`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RawRegex {
    pub(crate) regex: String,
    #[serde(alias = "googleRe2")]
    google_re2: Option<serde_json::Value>,
}

impl RawRegex {
    #[cfg(feature = "envoy-types")]
    pub(crate) fn new(regex: String) -> Self {
        Self {
            regex,
            google_re2: None,
        }
    }

    pub(crate) fn compile(&self) -> Result<RegexMatcher, PatternError> {
        RegexMatcher::new(&self.regex)
    }
}

impl TryFrom<RawMatcher> for StringMatcher {
    type Error = PatternError;

    fn try_from(raw: RawMatcher) -> Result<Self, PatternError> {
        let regex = |regex: RawRegex| regex.compile().map(Self::regex);
        let mut matchers = [
            raw.exact.map(|text| Ok(Self::exact(text))),
            raw.prefix.map(Self::prefix),
            raw.suffix.map(Self::suffix),
            raw.contains.map(Self::contains),
            raw.safe_regex.map(regex),
        ]
        .into_iter()
        .flatten();
        match (matchers.next(), matchers.next()) {
            (Some(matcher), None) if raw.ignore_case => matcher.map(Self::ignore_case),
            (Some(matcher), None) => matcher,
            _ => Err(PatternError::Invalid(
                "exactly one of exact, prefix, suffix, contains, safe_regex has to be set".into(),
            )),
        }
    }
}

impl<'de> Deserialize<'de> for StringMatcher {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RawMatcher::deserialize(deserializer)?
            .try_into()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "envoy-types")]
impl TryFrom<envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher> for StringMatcher {
    type Error = PatternError;

    fn try_from(
        message: envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher,
    ) -> Result<Self, PatternError> {
        use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
        let mut raw = RawMatcher {
            ignore_case: message.ignore_case,
            ..RawMatcher::default()
        };
        match message.match_pattern {
            Some(MatchPattern::Exact(p)) => raw.exact = Some(p),
            Some(MatchPattern::Prefix(p)) => raw.prefix = Some(p),
            Some(MatchPattern::Suffix(p)) => raw.suffix = Some(p),
            Some(MatchPattern::Contains(p)) => raw.contains = Some(p),
            Some(MatchPattern::SafeRegex(p)) => raw.safe_regex = Some(RawRegex::new(p.regex)),
            Some(_) => {
                let reason = "custom string matchers are not supported";
                return Err(PatternError::Invalid(reason.into()));
            }
            None => {}
        }
        raw.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_expressions_match_whole_values() {
        let matcher = RegexMatcher::new("x-.*|host").unwrap();
        let matches = |value| matcher.try_matches(value, &mut Effort::default()) == Some(true);
        assert!(matches("x-a") && matches("host"));
        assert!(!matches("ax-a") && !matches("hosts"));
        // Expressions only within the brackets that are put around them.
        for bad in ["", "(", "a)|(b"] {
            assert!(RegexMatcher::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn matchers_made_in_code() {
        let exact = StringMatcher::exact("X-a").ignore_case();
        assert!(exact.matches("x-A") && !exact.matches("x-ab"));
        assert!(StringMatcher::prefix("x-").unwrap().matches("x-a"));
        assert!(!StringMatcher::prefix("x-").unwrap().matches("X-a"));
        assert!(StringMatcher::suffix("-id").unwrap().matches("x-id"));
        assert!(StringMatcher::contains("-").unwrap().matches("x-id"));
        let regex = StringMatcher::regex(RegexMatcher::new("x-[0-9]+").unwrap());
        assert!(regex.matches("x-12") && !regex.matches("x-12a"));
        assert!(StringMatcher::prefix("").is_err());
    }
}
