//! `RouteMatch`: which requests a route takes.

use extproc_client::config::StringMatcher;
use serde::Deserialize;
use serde_json::json;

use super::{
    fraction::RuntimeFraction,
    match_tree::{Segment, ValueMatcher},
    value::{RegexText, Whatever, WholeRegex},
};
use crate::{
    document::{Fault, Located},
    snapshot::{
        CookieMatch, HeaderMatch, MetadataMatch, PathMatch, QueryMatch, RouteMatch as Model,
        ValueMatch,
    },
};

/// `envoy.config.route.v3.RouteMatch`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RouteMatch {
    runtime_fraction: Option<RuntimeFraction>,
    prefix: Option<String>,
    path: Option<String>,
    safe_regex: Option<WholeRegex>,
    connect_matcher: Option<Whatever>,
    path_separated_prefix: Option<Located<String>>,
    case_sensitive: Option<bool>,
    headers: Vec<Located<HeaderMatcher>>,
    query_parameters: Vec<Located<QueryParameterMatcher>>,
    grpc: Option<GrpcRouteMatchOptions>,
    cookies: Vec<Located<CookieMatcher>>,
    dynamic_metadata: Vec<Located<MetadataMatcher>>,
}

/// `envoy.config.route.v3.RouteMatch.GrpcRouteMatchOptions`, which has no fields.
#[derive(Debug, Deserialize)]
struct GrpcRouteMatchOptions {}

/// `envoy.config.route.v3.HeaderMatcher`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HeaderMatcher {
    name: String,
    exact_match: Option<String>,
    safe_regex_match: Option<RegexText>,
    range_match: Option<Int64Range>,
    present_match: Option<bool>,
    prefix_match: Option<String>,
    suffix_match: Option<String>,
    contains_match: Option<String>,
    string_match: Option<StringMatcher>,
    invert_match: bool,
    treat_missing_header_as_empty: bool,
}

/// `envoy.type.v3.Int64Range`: `start..end`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Int64Range {
    start: i64,
    end: i64,
}

/// `envoy.config.route.v3.QueryParameterMatcher`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct QueryParameterMatcher {
    name: String,
    string_match: Option<StringMatcher>,
    present_match: Option<bool>,
}

/// `envoy.config.route.v3.CookieMatcher`.
#[derive(Debug, Deserialize)]
struct CookieMatcher {
    name: String,
    string_match: StringMatcher,
    #[serde(default)]
    invert_match: bool,
}

/// `envoy.type.matcher.v3.MetadataMatcher`.
#[derive(Debug, Deserialize)]
struct MetadataMatcher {
    filter: String,
    path: Vec<Segment>,
    value: Located<ValueMatcher>,
    #[serde(default)]
    invert: bool,
}

impl Located<RouteMatch> {
    pub(super) fn build(&self) -> Result<Model, Fault> {
        let mut headers = self
            .value
            .headers
            .iter()
            .map(Located::<HeaderMatcher>::build)
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(GrpcRouteMatchOptions {}) = self.value.grpc {
            headers.push(HeaderMatch {
                name: "content-type".into(),
                value: ValueMatch::String(string_matcher(json!({
                    "safe_regex": { "regex": r"application/grpc(\+.*)?" },
                }))?),
                invert: false,
                missing_as_empty: false,
            });
        }
        Ok(Model {
            path: self.path()?,
            headers,
            query: self
                .value
                .query_parameters
                .iter()
                .map(Located::<QueryParameterMatcher>::build)
                .collect::<Result<_, _>>()?,
            cookies: self
                .value
                .cookies
                .iter()
                .map(Located::<CookieMatcher>::build)
                .collect::<Result<_, _>>()?,
            metadata: self
                .value
                .dynamic_metadata
                .iter()
                .map(Located::<MetadataMatcher>::build)
                .collect::<Result<_, _>>()?,
            case_sensitive: self.value.case_sensitive.unwrap_or(true),
            fraction: self
                .value
                .runtime_fraction
                .as_ref()
                .map(RuntimeFraction::build),
        })
    }

    fn path(&self) -> Result<PathMatch, Fault> {
        let value = &self.value;
        match (
            &value.prefix,
            &value.path,
            &value.safe_regex,
            &value.connect_matcher,
            &value.path_separated_prefix,
        ) {
            (Some(prefix), None, None, None, None) => Ok(PathMatch::Prefix(prefix.clone())),
            (None, Some(path), None, None, None) => Ok(PathMatch::Exact(path.clone())),
            (None, None, Some(WholeRegex(regex)), None, None) => {
                Ok(PathMatch::Regex(regex.clone()))
            }
            (None, None, None, Some(Whatever), None) => Ok(PathMatch::Connect),
            (None, None, None, None, Some(prefix)) => {
                let text = &prefix.value;
                if text.len() < 2 || text.ends_with('/') || text.contains(['?', '#']) {
                    return Err(Fault::at(
                        prefix.node,
                        "needs two characters or more, may not end in / or contain ? or #",
                    ));
                }
                Ok(PathMatch::PathSeparatedPrefix(text.clone()))
            }
            _ => Err(Fault::at(
                self.node,
                "one and only one of prefix, path, safe_regex, connect_matcher and \
                 path_separated_prefix has to be set",
            )),
        }
    }
}

impl Located<HeaderMatcher> {
    pub(super) fn build(&self) -> Result<HeaderMatch, Fault> {
        let matcher = &self.value;
        if matcher.name.is_empty() {
            return Err(Fault::at(self.node, "missing field \"name\""));
        }
        let exact = |text: &String| string_matcher(json!({ "exact": text }));
        let prefix = |text: &String| string_matcher(json!({ "prefix": text }));
        let suffix = |text: &String| string_matcher(json!({ "suffix": text }));
        let contains = |text: &String| string_matcher(json!({ "contains": text }));
        let mut conditions = Vec::new();
        conditions.extend(matcher.exact_match.as_ref().map(exact));
        conditions.extend(matcher.prefix_match.as_ref().map(prefix));
        conditions.extend(matcher.suffix_match.as_ref().map(suffix));
        conditions.extend(matcher.contains_match.as_ref().map(contains));
        conditions.extend(
            matcher
                .safe_regex_match
                .as_ref()
                .map(|regex| string_matcher(json!({ "safe_regex": { "regex": regex.0 } }))),
        );
        conditions.extend(matcher.string_match.clone().map(Ok));
        let mut conditions = conditions
            .into_iter()
            .map(|condition| condition.map(ValueMatch::String))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|fault| fault.or_at(self.node))?;
        conditions.extend(
            matcher
                .range_match
                .as_ref()
                .map(|range| ValueMatch::Range(range.start, range.end)),
        );
        conditions.extend(matcher.present_match.map(ValueMatch::Present));
        let mut conditions = conditions.into_iter();
        match (conditions.next(), conditions.next()) {
            (condition, None) => Ok(HeaderMatch {
                name: matcher.name.to_ascii_lowercase(),
                value: condition.unwrap_or(ValueMatch::Present(true)),
                invert: matcher.invert_match,
                missing_as_empty: matcher.treat_missing_header_as_empty,
            }),
            _ => Err(Fault::at(self.node, "only one condition may be set")),
        }
    }
}

impl Located<QueryParameterMatcher> {
    fn build(&self) -> Result<QueryMatch, Fault> {
        let matcher = &self.value;
        if matcher.name.is_empty() {
            return Err(Fault::at(self.node, "missing field \"name\""));
        }
        let value = match (matcher.string_match.clone(), matcher.present_match) {
            (Some(string), None) => ValueMatch::String(string),
            (None, present) => ValueMatch::Present(present.unwrap_or(true)),
            (Some(_), Some(_)) => {
                return Err(Fault::at(
                    self.node,
                    "only one of string_match and present_match may be set",
                ));
            }
        };
        Ok(QueryMatch {
            name: matcher.name.clone(),
            value,
        })
    }
}

impl Located<CookieMatcher> {
    fn build(&self) -> Result<CookieMatch, Fault> {
        let matcher = &self.value;
        if matcher.name.is_empty() {
            return Err(Fault::at(self.node, "missing field \"name\""));
        }
        Ok(CookieMatch {
            name: matcher.name.clone(),
            value: matcher.string_match.clone(),
            invert: matcher.invert_match,
        })
    }
}

impl Located<MetadataMatcher> {
    fn build(&self) -> Result<MetadataMatch, Fault> {
        let matcher = &self.value;
        let path: Vec<String> = matcher.path.iter().map(|one| one.key.clone()).collect();
        let unnamed = path.is_empty() || path.iter().any(String::is_empty);
        if unnamed || matcher.filter.is_empty() {
            return Err(Fault::at(self.node, "filter and path have to be set"));
        }
        Ok(MetadataMatch {
            namespace: matcher.filter.clone(),
            path,
            value: matcher.value.value.build(matcher.value.node)?,
            invert: matcher.invert,
        })
    }
}

fn string_matcher(json: serde_json::Value) -> Result<StringMatcher, Fault> {
    StringMatcher::deserialize(json).map_err(|error| Fault::new(error.to_string()))
}
