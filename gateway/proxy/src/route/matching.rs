//! `VirtualHost.domains` and `RouteMatch`.

use std::borrow::Cow;

use extproc_client::{config::Effort, metadata::DynamicMetadata};
use http::{Method, request::Parts};
use serde_json::Value;

use crate::{
    config::snapshot::{
        CookieMatch, Fraction, HeaderMatch, MetadataMatch, PathMatch, RouteMatch, RouteTable,
        ValueMatch, ValueMatcher,
    },
    http::headers::{cookies, head_lines},
};

/// The virtual host whose most specific domain matches: a whole name, then the longest `*.suffix`,
/// then the longest `prefix.*`, then `*`. `authority` is lower case; its port is part of it.
pub(super) fn virtual_host(table: &RouteTable, authority: &str) -> Option<usize> {
    let mut best: Option<((u8, usize), usize)> = None;
    for (index, host) in table.virtual_hosts.iter().enumerate() {
        for domain in &host.domains {
            let Some(rank) = rank(domain, authority) else {
                continue;
            };
            if best.is_none_or(|(known, _)| rank > known) {
                best = Some((rank, index));
            }
        }
    }
    best.map(|(_, index)| index)
}

/// Specificity of a match; `None` for no match.
fn rank(domain: &str, authority: &str) -> Option<(u8, usize)> {
    if domain == authority {
        return Some((3, domain.len()));
    }
    if domain == "*" {
        return Some((0, 0));
    }
    if let Some(suffix) = domain.strip_prefix('*') {
        return (authority.len() > suffix.len() && authority.ends_with(suffix))
            .then_some((2, suffix.len()));
    }
    if let Some(prefix) = domain.strip_suffix('*') {
        return (authority.len() > prefix.len() && authority.starts_with(prefix))
            .then_some((1, prefix.len()));
    }
    None
}

/// Tells if a route takes a request with this dynamic metadata, if it has any; what that says does not count once the effort is
/// spent.
pub(super) fn route_matches(
    route: &RouteMatch,
    request: &Parts,
    metadata: Option<&DynamicMetadata>,
    effort: &mut Effort,
) -> bool {
    let path = request.uri.path();
    let path_matches = match &route.path {
        PathMatch::Connect => request.method == Method::CONNECT,
        _ if request.method == Method::CONNECT => false,
        PathMatch::Prefix(prefix) => starts_with(path, prefix, route.case_sensitive),
        PathMatch::Exact(exact) => {
            path.len() == exact.len() && starts_with(path, exact, route.case_sensitive)
        }
        PathMatch::PathSeparatedPrefix(prefix) => {
            starts_with(path, prefix, route.case_sensitive)
                && path
                    .as_bytes()
                    .get(prefix.len())
                    .is_none_or(|next| *next == b'/')
        }
        PathMatch::Regex(regex) => regex.try_matches(path, effort) == Some(true),
    };
    path_matches
        && headers_match(&route.headers, request, effort)
        && route.query.iter().all(|matcher| {
            let value = query_parameter(request.uri.query().unwrap_or_default(), &matcher.name);
            value_matches(&matcher.value, value, effort).unwrap_or(false)
        })
        && route
            .cookies
            .iter()
            .all(|matcher| cookie_matches(matcher, request, effort))
        && route
            .metadata
            .iter()
            .all(|matcher| metadata_matches(matcher, metadata, effort))
        && route.fraction.is_none_or(is_drawn)
}

/// Tells if the headers are as all of these want them; what that says does not count once the effort is spent.
pub(crate) fn headers_match(
    matchers: &[HeaderMatch],
    request: &Parts,
    effort: &mut Effort,
) -> bool {
    matchers
        .iter()
        .all(|matcher| request_matches(matcher, request, effort))
}

/// Tells if a header of the request is as it has to be.
pub(crate) fn request_matches(matcher: &HeaderMatch, request: &Parts, effort: &mut Effort) -> bool {
    let Parts {
        method,
        uri,
        headers,
        ..
    } = request;
    field_matches(
        matcher,
        head_lines(method, uri, headers, &matcher.name),
        effort,
    )
}

/// Tells if a header with these lines is as it has to be: one of them by itself, or with `invert_match` none of them. Joined, a
/// line that a client adds would lead around what another one selects.
pub(crate) fn field_matches<'a>(
    matcher: &HeaderMatch,
    lines: impl Iterator<Item = Cow<'a, str>>,
    effort: &mut Effort,
) -> bool {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        let value = matcher.missing_as_empty.then_some("");
        // A missing header matches nothing, inverted or not.
        return value_matches(&matcher.value, value, effort)
            .is_some_and(|matches| matches != matcher.invert);
    }
    let one = lines.any(|line| value_matches(&matcher.value, Some(&line), effort) == Some(true));
    one != matcher.invert
}

/// Tells if the first cookie of the name is as it has to be.
fn cookie_matches(matcher: &CookieMatch, request: &Parts, effort: &mut Effort) -> bool {
    let mut all = cookies(&request.headers);
    let found = all.find(|(name, _)| *name == matcher.name.as_bytes());
    let one = found.is_some_and(|(_, value)| {
        let value = String::from_utf8_lossy(value);
        matcher.value.try_matches(&value, effort) == Some(true)
    });
    one != matcher.invert
}

fn metadata_matches(
    matcher: &MetadataMatch,
    metadata: Option<&DynamicMetadata>,
    effort: &mut Effort,
) -> bool {
    let path: Vec<&str> = matcher.path.iter().map(String::as_str).collect();
    let value = metadata.and_then(|metadata| metadata.json(&matcher.namespace, &path));
    value_is(&matcher.value, value.as_ref(), effort).is_some_and(|is| is != matcher.invert)
}

/// Tells if metadata is as a matcher wants it; `None` if that cannot be told within the effort.
pub(crate) fn value_is(
    matcher: &ValueMatcher,
    value: Option<&Value>,
    effort: &mut Effort,
) -> Option<bool> {
    Some(match matcher {
        ValueMatcher::Null => value.is_some_and(Value::is_null),
        ValueMatcher::Number(number) => value.and_then(Value::as_f64) == Some(*number),
        ValueMatcher::Range(start, end) => value
            .and_then(Value::as_f64)
            .is_some_and(|number| (*start..*end).contains(&number)),
        ValueMatcher::Text(matcher) => match value.and_then(Value::as_str) {
            Some(text) => matcher.try_matches(text, effort)?,
            None => false,
        },
        ValueMatcher::Bool(wanted) => value.and_then(Value::as_bool) == Some(*wanted),
        // As in Envoy, that there is none cannot be asked for.
        ValueMatcher::Present(wanted) => *wanted && value.is_some(),
        ValueMatcher::OneOf(matcher) => {
            for item in value.and_then(Value::as_array).into_iter().flatten() {
                if value_is(matcher, Some(item), effort)? {
                    return Some(true);
                }
            }
            false
        }
        ValueMatcher::Or(matchers) => {
            for matcher in matchers {
                if value_is(matcher, value, effort)? {
                    return Some(true);
                }
            }
            false
        }
    })
}

fn starts_with(path: &str, prefix: &str, case_sensitive: bool) -> bool {
    match path.as_bytes().get(..prefix.len()) {
        Some(start) if case_sensitive => start == prefix.as_bytes(),
        Some(start) => start.eq_ignore_ascii_case(prefix.as_bytes()),
        None => false,
    }
}

/// `None` if there is no value to compare.
fn value_matches(matcher: &ValueMatch, value: Option<&str>, effort: &mut Effort) -> Option<bool> {
    match matcher {
        ValueMatch::Present(wanted) => Some(value.is_some() == *wanted),
        ValueMatch::String(matcher) => {
            value.map(|value| matcher.try_matches(value, effort) == Some(true))
        }
        ValueMatch::Range(start, end) => value.map(|value| {
            value
                .parse::<i64>()
                .is_ok_and(|value| (*start..*end).contains(&value))
        }),
    }
}

/// The first parameter of that name, as it is written.
fn query_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// Draws lots.
pub(crate) fn is_drawn(fraction: Fraction) -> bool {
    fraction.numerator >= fraction.denominator
        || rand::random_range(0..fraction.denominator.max(1)) < fraction.numerator
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::snapshot::{QueryMatch, VirtualHost};

    fn host(domains: &[&str]) -> VirtualHost {
        VirtualHost {
            name: String::new(),
            domains: domains.iter().map(ToString::to_string).collect(),
            routes: Vec::new(),
            to_tls: None,
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        }
    }

    #[test]
    fn the_most_specific_domain_wins() {
        let table = RouteTable {
            virtual_hosts: vec![
                host(&["*"]),
                host(&["*.b.example"]),
                host(&["*.example", "a.*"]),
                host(&["a.example", "a.example:8080"]),
            ],
            ..RouteTable::default()
        };
        for (authority, wanted) in [
            ("a.example", 3),
            ("a.example:8080", 3),
            ("a.example:81", 2),
            ("x.b.example", 1),
            ("x.example", 2),
            (".example", 0),
            ("", 0),
        ] {
            assert_eq!(virtual_host(&table, authority), Some(wanted), "{authority}");
        }
        let table = RouteTable {
            virtual_hosts: vec![host(&["a.example"])],
            ..RouteTable::default()
        };
        assert_eq!(virtual_host(&table, "b.example"), None);
    }

    fn request(target: &str) -> Parts {
        http::Request::get(target)
            .header("x-n", "7")
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    fn takes(route: &RouteMatch, request: &Parts) -> bool {
        route_matches(route, request, None, &mut Effort::default())
    }

    fn route(path: PathMatch) -> RouteMatch {
        RouteMatch {
            fraction: None,
            path,
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            metadata: Vec::new(),
            case_sensitive: true,
        }
    }

    #[test]
    fn paths() {
        let below = route(PathMatch::PathSeparatedPrefix("/a".into()));
        assert!(takes(&below, &request("/a")));
        assert!(takes(&below, &request("/a/b?x")));
        assert!(!takes(&below, &request("/ab")));
        let exact = route(PathMatch::Exact("/a".into()));
        assert!(takes(&exact, &request("/a?q=1")));
        assert!(!takes(&exact, &request("/a/")));
        let mut folded = route(PathMatch::Prefix("/A".into()));
        assert!(!takes(&folded, &request("/ab")));
        folded.case_sensitive = false;
        assert!(takes(&folded, &request("/ab")));
        assert!(!takes(&route(PathMatch::Connect), &request("/")));
    }

    #[test]
    fn headers_and_query() {
        let mut matcher = route(PathMatch::Prefix("/".into()));
        matcher.headers.push(HeaderMatch {
            name: "x-n".into(),
            value: ValueMatch::Range(1, 8),
            invert: false,
            missing_as_empty: false,
        });
        matcher.query.push(QueryMatch {
            name: "q".into(),
            value: ValueMatch::Present(true),
        });
        assert!(takes(&matcher, &request("/?a=b&q")));
        assert!(!takes(&matcher, &request("/?a=b")));
        matcher.headers[0].invert = true;
        assert!(!takes(&matcher, &request("/?q")));
        matcher.headers[0].name = "x-none".into();
        assert!(!takes(&matcher, &request("/?q")));
    }
}
