//! `envoy.type.matcher.v3.StringMatcher` and `RegexMatcher`.

use regex::Regex;
use serde::Deserialize;

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
    Regex(Regex),
}

impl StringMatcher {
    /// Whether `value` matches. Regular expressions match the whole value.
    pub fn matches(&self, value: &str) -> bool {
        let folded;
        let value = if self.ignore_case && !matches!(self.pattern, Pattern::Regex(_)) {
            folded = value.to_ascii_lowercase();
            folded.as_str()
        } else {
            value
        };
        match &self.pattern {
            Pattern::Exact(pattern) => value == pattern,
            Pattern::Prefix(pattern) => value.starts_with(pattern.as_str()),
            Pattern::Suffix(pattern) => value.ends_with(pattern.as_str()),
            Pattern::Contains(pattern) => value.contains(pattern.as_str()),
            Pattern::Regex(regex) => regex.is_match(value),
        }
    }
}

/// Compiles a regular expression that has to match a whole value. As in the proto, it may not be empty.
pub(crate) fn whole(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() {
        return Err("a regular expression may not be empty".into());
    }
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| error.to_string())
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
    pub(crate) fn new(regex: String) -> Self {
        Self {
            regex,
            google_re2: None,
        }
    }

    pub(crate) fn compile(&self) -> Result<Regex, String> {
        whole(&self.regex)
    }
}

impl TryFrom<RawMatcher> for StringMatcher {
    type Error = String;

    fn try_from(raw: RawMatcher) -> Result<Self, String> {
        let fold = |pattern: String| match raw.ignore_case {
            true => pattern.to_ascii_lowercase(),
            false => pattern,
        };
        let parts = [
            ("prefix", &raw.prefix),
            ("suffix", &raw.suffix),
            ("contains", &raw.contains),
        ];
        if let Some((name, _)) = parts.iter().find(|(_, p)| p.as_deref() == Some("")) {
            return Err(format!("{name} may not be empty"));
        }
        let mut patterns = [
            raw.exact.map(|p| Pattern::Exact(fold(p))),
            raw.prefix.map(|p| Pattern::Prefix(fold(p))),
            raw.suffix.map(|p| Pattern::Suffix(fold(p))),
            raw.contains.map(|p| Pattern::Contains(fold(p))),
            match raw.safe_regex {
                Some(regex) => Some(Pattern::Regex(regex.compile()?)),
                None => None,
            },
        ]
        .into_iter()
        .flatten();
        match (patterns.next(), patterns.next()) {
            (Some(pattern), None) => Ok(Self {
                pattern,
                ignore_case: raw.ignore_case,
            }),
            _ => Err(
                "exactly one of exact, prefix, suffix, contains, safe_regex has to be set".into(),
            ),
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

impl TryFrom<envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher> for StringMatcher {
    type Error = String;

    fn try_from(
        message: envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher,
    ) -> Result<Self, String> {
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
            Some(_) => return Err("custom string matchers are not supported".into()),
            None => {}
        }
        raw.try_into()
    }
}
