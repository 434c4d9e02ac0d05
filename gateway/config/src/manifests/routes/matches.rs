//! Requests of a rule, and the order of rules.

use std::cmp::{Ordering, Reverse};

use extproc_client::config::{RegexMatcher, StringMatcher};

use crate::{
    manifests::{
        compiled::Allowance,
        types::{MatchType, PathType, RouteMatch as Spec, ValueMatch as ValueSpec},
    },
    snapshot::{
        EscapeCase, HeaderMatch, PathMatch, QueryMatch, RouteMatch, ValueMatch, canonical_path,
    },
};

/// A compiled `HTTPRouteMatch`.
#[derive(Debug)]
pub(in crate::manifests) struct Match {
    path: Path,
    method: Option<String>,
    headers: Vec<(String, StringMatcher)>,
    query: Vec<(String, StringMatcher)>,
}

#[derive(Clone, Debug)]
enum Path {
    Exact(String),
    /// With the length of its text.
    Regex(RegexMatcher, usize),
    /// Without the slash at its end; empty for everything.
    Prefix(String),
}

/// Rank between matches of one host name: the greater one is asked first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::manifests) struct Precedence {
    /// Exact, then regular expressions (which the API leaves to us), then prefixes.
    kind: u8,
    length: usize,
    method: bool,
    headers: usize,
    query: usize,
}

impl Match {
    /// Errors name the field inside the match.
    pub(super) fn compile(spec: &Spec, allowance: &mut Allowance<'_>) -> Result<Self, String> {
        let value = spec.path.value.as_str();
        // As the paths of requests are spelled when routes are looked at.
        let spelled = |path: &str| {
            let spelled = canonical_path(path, EscapeCase::Upper);
            spelled.ok_or("path.value: no request may have %00")
        };
        let path = match spec.path.kind {
            PathType::Exact => Path::Exact(spelled(value)?),
            PathType::PathPrefix => Path::Prefix(spelled(value.trim_end_matches('/'))?),
            PathType::RegularExpression => {
                let regex = allowance.whole(value);
                let regex = regex.map_err(|error| format!("path.value: {error}"))?;
                Path::Regex(regex, value.len())
            }
        };
        let mut headers: Vec<(String, StringMatcher)> = Vec::new();
        for (index, header) in spec.headers.iter().enumerate() {
            let name = header.name.to_ascii_lowercase();
            // Of several entries for one name only the first counts.
            if !headers.iter().any(|(known, _)| *known == name) {
                let matcher = matcher(header, allowance)
                    .map_err(|error| format!("headers[{index}].value: {error}"))?;
                headers.push((name, matcher));
            }
        }
        let mut query: Vec<(String, StringMatcher)> = Vec::new();
        for (index, parameter) in spec.query_params.iter().enumerate() {
            if !query.iter().any(|(known, _)| *known == parameter.name) {
                let matcher = matcher(parameter, allowance)
                    .map_err(|error| format!("queryParams[{index}].value: {error}"))?;
                query.push((parameter.name.clone(), matcher));
            }
        }
        Ok(Self {
            path,
            method: spec.method.clone(),
            headers,
            query,
        })
    }

    /// Matches every request.
    pub(super) fn everything() -> Self {
        Self {
            path: Path::Prefix(String::new()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }

    pub(in crate::manifests) fn precedence(&self) -> Precedence {
        let (kind, length) = match &self.path {
            Path::Exact(path) => (2, path.len()),
            Path::Regex(_, length) => (1, *length),
            Path::Prefix(path) => (0, path.len()),
        };
        Precedence {
            kind,
            length,
            method: self.method.is_some(),
            headers: self.headers.len(),
            query: self.query.len(),
        }
    }

    /// The prefix that is matched, without a slash at its end; `None` for other kinds of paths.
    pub(super) fn prefix(&self) -> Option<&str> {
        match &self.path {
            Path::Prefix(prefix) => Some(prefix),
            _ => None,
        }
    }

    pub(super) fn to_snapshot(&self) -> RouteMatch {
        let path = match &self.path {
            Path::Exact(path) => PathMatch::Exact(path.clone()),
            Path::Regex(regex, _) => PathMatch::Regex(regex.clone()),
            Path::Prefix(path) if path.is_empty() => PathMatch::Prefix("/".into()),
            Path::Prefix(path) => PathMatch::PathSeparatedPrefix(path.clone()),
        };
        let header = |name: &str, matcher: &StringMatcher| HeaderMatch {
            name: name.to_owned(),
            value: ValueMatch::String(matcher.clone()),
            invert: false,
            missing_as_empty: false,
        };
        let method = self.method.as_ref();
        let method = method.map(|method| header(":method", &StringMatcher::exact(method)));
        RouteMatch {
            fraction: None,
            path,
            headers: method
                .into_iter()
                .chain(self.headers.iter().map(|(name, m)| header(name, m)))
                .collect(),
            query: self
                .query
                .iter()
                .map(|(name, matcher)| QueryMatch {
                    name: name.clone(),
                    value: ValueMatch::String(matcher.clone()),
                })
                .collect(),
            cookies: Vec::new(),
            metadata: Vec::new(),
            case_sensitive: true,
        }
    }
}

impl Precedence {
    /// Orders what is asked first before the rest.
    pub(in crate::manifests) fn first(self, other: Self) -> Ordering {
        Reverse(self).cmp(&Reverse(other))
    }
}

fn matcher(spec: &ValueSpec, allowance: &mut Allowance<'_>) -> Result<StringMatcher, String> {
    match spec.kind {
        MatchType::Exact => Ok(StringMatcher::exact(spec.value.as_str())),
        MatchType::RegularExpression => whole(&spec.value, allowance),
    }
}

/// A matcher for values that match as a whole.
pub(super) fn whole(pattern: &str, allowance: &mut Allowance<'_>) -> Result<StringMatcher, String> {
    allowance.whole(pattern).map(StringMatcher::regex)
}
