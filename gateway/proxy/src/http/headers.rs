//! Rules for header maps that hold whatever the configuration says: fields of one hop, fields that
//! are joined to one line, pseudo-headers.

use std::{borrow::Cow, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use extproc_client::{
    headers::{is_joined_request_header, is_joined_response_header},
    host::HeaderLimits,
};
use h2::ext::Protocol;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, Uri, Version, header, request,
    uri::{Authority, PathAndQuery},
};
use http_body::Frame;

use super::body::{Body, BoxError, Watch, Watched};

/// The name of a request in the logs of all programs that it passes.
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Returns true for fields that never leave the hop they were sent on (RFC 9110 §7.6.1, RFC 9113 §3.1).
fn is_of_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Removes what belongs to the hop a message came on, the fields that any `Connection` line names
/// included. See [`strip_hop_fields`].
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: bool) {
    if headers.contains_key(header::CONNECTION) {
        Nominated::by(headers).strip(headers);
    }
    strip_hop_fields(headers, upgrade);
}

/// Removes the fields of a hop by their own names, whatever `Connection` says: behind the filters that is the word of a
/// processor, which could remove by it what it may not change. `te: trailers` stays, because it speaks to the far end
/// (RFC 9110 §10.1.4).
///
/// With `upgrade`, `connection: upgrade` and the `upgrade` field stay too.
pub(crate) fn strip_hop_fields(headers: &mut HeaderMap, upgrade: bool) {
    if !headers.keys().any(is_of_hop) {
        return;
    }
    let trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    // As the peer spelt it.
    let spelling = tokens(headers, &header::CONNECTION)
        .find(|token| token.eq_ignore_ascii_case("upgrade"))
        .and_then(|token| HeaderValue::from_str(token).ok());
    let stays = |name: &HeaderName| upgrade && *name == header::UPGRADE;
    let goes = |name: &&HeaderName| is_of_hop(name) && !stays(name);
    while let Some(name) = headers.keys().find(goes).cloned() {
        headers.remove(name);
    }
    if upgrade {
        let token = spelling.unwrap_or(HeaderValue::from_static("upgrade"));
        headers.insert(header::CONNECTION, token);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// The cookies of a request in order, their values without quotes. One without `=` is none. As in Envoy, blanks beside the `=` and
/// behind the value belong to name and value.
pub(crate) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let lines = headers.get_all(header::COOKIE).iter();
    let crumbs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    crumbs.filter_map(|crumb| {
        let at = crumb.iter().position(|byte| *byte == b'=')?;
        let (key, value) = crumb.split_at_checked(at)?;
        let value = value.get(1..)?;
        let bare = value
            .strip_prefix(b"\"")
            .and_then(|value| value.strip_suffix(b"\""));
        Some((key.trim_ascii_start(), bare.unwrap_or(value)))
    })
}

/// The comma-separated tokens of all lines of a field.
pub(crate) fn tokens<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    headers.get_all(name).into_iter().flat_map(elements)
}

/// The `Upgrade` field, all lines of it. As in Envoy it is one name: a list of several is another name than each of them, so that
/// nobody gets a protocol beside one that is allowed.
pub(crate) fn upgrade_field(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    field(headers, header::UPGRADE.as_str())
}

/// The elements of a comma-separated list. One that is no text stands for nothing, and hides none of the others.
fn elements(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let elements = value.as_bytes().split(|byte| *byte == b',');
    elements
        .filter_map(|element| std::str::from_utf8(element.trim_ascii()).ok())
        .filter(|element| !element.is_empty())
}

/// Fields that mean something before the content or for its framing, routing or authentication: in a
/// trailer section they come too late or mislead (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// Removes what must not be in a trailer section.
pub(crate) fn strip_trailers(trailers: &mut HeaderMap) {
    for name in NOT_IN_TRAILERS {
        trailers.remove(*name);
    }
}

/// Options that the `Connection` lines of a message may hold. Messages have one or two.
const MOST_OPTIONS: usize = 64;

/// Returns true if the `Connection` lines hold more options than any message needs. Each is looked for among the fields, and there is
/// room for 30,000 in the largest head.
pub(crate) fn has_too_many_options(headers: &HeaderMap) -> bool {
    tokens(headers, &header::CONNECTION)
        .nth(MOST_OPTIONS)
        .is_some()
}

/// The fields that the `Connection` lines of a received message name. They are taken out before filters see the message: behind
/// them, its sender could remove by a name what filters and routes have added.
#[derive(Clone, Debug, Default)]
pub(crate) struct Nominated(Vec<HeaderValue>);

impl Nominated {
    /// Those that these fields name. Lines that name fields of the hop alone, which have rules of their own, are not kept.
    pub(crate) fn by(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::CONNECTION).into_iter();
        Self(
            lines
                .filter(|line| named(line).next().is_some())
                .cloned()
                .collect(),
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes them out.
    pub(crate) fn strip(&self, fields: &mut HeaderMap) {
        for name in self.0.iter().flat_map(named) {
            fields.remove(name);
        }
    }
}

impl Watch for Nominated {
    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.strip(trailers);
    }

    fn end(&mut self, _result: Result<(), &BoxError>) {}
}

/// Takes out of a response what its `Connection` lines name, now and from its trailers.
pub(crate) fn strip_nominated(response: &mut Response<Body>) {
    if !response.headers().contains_key(header::CONNECTION) {
        return;
    }
    let named = Nominated::by(response.headers());
    if named.is_empty() {
        return;
    }
    named.strip(response.headers_mut());
    let body = std::mem::take(response.body_mut());
    *response.body_mut() = match http_body::Body::is_end_stream(&body) {
        true => body,
        false => Body::new(Watched::new(body, named)),
    };
}

/// Tells whether the `Connection` lines of a request name a field that is of no hop, and whose removal could hide where the request
/// comes from or goes to. As in Envoy, it is refused.
pub(crate) fn nominates_what_stays(headers: &HeaderMap) -> bool {
    const STAYING: [&str; 4] = [
        "host",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
    ];
    tokens(headers, &header::CONNECTION).any(|name| {
        name.starts_with(':') || STAYING.iter().any(|stays| name.eq_ignore_ascii_case(stays))
    })
}

/// The fields that a `Connection` line names beside those of the hop.
fn named(line: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    elements(line)
        .filter_map(|element| HeaderName::try_from(element).ok())
        .filter(|name| !is_of_hop(name))
}

/// Bytes of the names and values of all fields.
pub(crate) fn size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// Adds an element to a list of one line.
pub(crate) fn append_to_list(
    headers: &mut HeaderMap,
    name: &'static str,
    separator: &str,
    element: &str,
) {
    let mut line = headers
        .get(name)
        .map_or_else(Vec::new, |value| value.as_bytes().to_vec());
    if !line.is_empty() {
        line.extend_from_slice(separator.as_bytes());
    }
    line.extend_from_slice(element.as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&line) {
        headers.insert(name, value);
    }
}

/// Bytes of a frame of a body: its data, or the fields of its trailers.
pub(crate) fn frame_size(frame: &Frame<Bytes>) -> usize {
    let trailers = frame.trailers_ref().map_or(0, size);
    frame.data_ref().map_or(trailers, Bytes::len)
}

/// Returns true if the head of an HTTP/2 request is no longer than `max_request_headers_kb` allows. As in Envoy, names and values count, those
/// of pseudo-headers too. Over HTTP/1 the parser compares the bytes of the head, as Envoy's does.
pub(crate) fn request_fits(parts: &request::Parts, limits: HeaderLimits) -> bool {
    let field = |name: &str, value: &str| name.len() + value.len();
    let uri = &parts.uri;
    let pseudo = [
        (":method", Some(parts.method.as_str())),
        (":scheme", uri.scheme_str()),
        (":authority", uri.authority().map(Authority::as_str)),
        (":path", uri.path_and_query().map(PathAndQuery::as_str)),
        (":protocol", parts.extensions.get().map(Protocol::as_str)),
    ];
    let pseudo = pseudo
        .iter()
        .map(|(name, value)| value.map_or(0, |value| field(name, value)));
    pseudo.sum::<usize>() + size(&parts.headers) <= limits.bytes
}

/// Returns true if a response's head is within these limits. Over HTTP/1 the parser compares its bytes.
pub(crate) fn response_fits<B>(head: &Response<B>, limits: HeaderLimits) -> bool {
    const STATUS: usize = ":status".len() + 3;
    let headers = head.headers();
    headers.len() <= limits.count
        && (head.version() != Version::HTTP_2 || STATUS + size(headers) <= limits.bytes)
        && !has_too_many_options(headers)
}

/// Returns true if trailers of HTTP/2 are within these limits.
pub(crate) fn trailers_fit(trailers: &HeaderMap, limits: HeaderLimits) -> bool {
    trailers.len() <= limits.count && size(trailers) <= limits.bytes
}

/// Size of the largest list of trailers that may fit, as SETTINGS_MAX_HEADER_LIST_SIZE counts it.
pub(crate) fn trailers_size(limits: HeaderLimits) -> u64 {
    const FIELD: usize = 32;
    let fields = limits.count.saturating_mul(FIELD);
    limits.bytes.saturating_add(fields) as u64
}

/// SETTINGS_MAX_HEADER_LIST_SIZE (RFC 9113 §6.5.2) for heads of these limits. It counts 32 bytes more for each field, and has to
/// let pass what the limits do.
///
/// `h2` ends the connection where a list takes four times as much, with the streams of others if the peer is a proxy. So the least
/// is far above most limits, which are compared when a list is decoded.
pub(crate) fn header_list_size(limits: HeaderLimits) -> u32 {
    const FIELD: usize = 32;
    const PSEUDO: usize = 5;
    const LEAST: u32 = 256 * 1024;
    let fields = limits.count.saturating_add(PSEUDO).saturating_mul(FIELD);
    let size = u32::try_from(limits.bytes.saturating_add(fields)).unwrap_or(u32::MAX);
    size.max(LEAST)
}

/// Tells whether no value begins or ends with white space, as HTTP/2 demands (RFC 9113 §8.2.1).
pub(crate) fn values_are_trimmed(headers: &HeaderMap) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers.values().all(|value| {
        let bytes = value.as_bytes();
        !blank(bytes.first()) && !blank(bytes.last())
    })
}

/// Takes white space off both ends of values, as HTTP/2 demands and no HTTP/1 reader sees.
pub(crate) fn trim_values(headers: &mut HeaderMap) {
    if values_are_trimmed(headers) {
        return;
    }
    for value in headers.values_mut() {
        let trimmed = value.as_bytes().trim_ascii();
        if trimmed.len() < value.len()
            && let Ok(trimmed) = HeaderValue::from_bytes(trimmed)
        {
            *value = trimmed;
        }
    }
}

/// Joins the lines of a request's known list fields with `,`, and crumbs of `cookie` with `; `
/// (RFC 9113 §8.2.3).
pub(crate) fn join_request_lines(headers: &mut HeaderMap, cookies: bool) {
    if headers.len() == headers.keys_len() {
        return;
    }
    join(headers, is_joined_request_header);
    if cookies {
        join_with(headers, &header::COOKIE, b"; ");
    }
}

/// The same for a response.
pub(crate) fn join_response_lines(headers: &mut HeaderMap) {
    if headers.len() != headers.keys_len() {
        join(headers, is_joined_response_header);
    }
}

fn join(headers: &mut HeaderMap, is_joined: fn(&str) -> bool) {
    let several: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_joined(name.as_str()))
        .filter(|name| headers.get_all(*name).iter().nth(1).is_some())
        .cloned()
        .collect();
    for name in several {
        join_with(headers, &name, b",");
    }
}

fn join_with(headers: &mut HeaderMap, name: &HeaderName, separator: &[u8]) {
    let mut values = headers.get_all(name).iter();
    let (Some(first), Some(second)) = (values.next(), values.next()) else {
        return;
    };
    let mut joined = BytesMut::from(first.as_bytes());
    for value in std::iter::once(second).chain(values) {
        joined.put_slice(separator);
        joined.put_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(joined.freeze()) {
        headers.insert(name, value);
    }
}

/// A field of a request by name, pseudo-headers by their `:` names; several lines joined by `,`.
pub(crate) fn request_field<'a>(parts: &'a request::Parts, name: &str) -> Option<Cow<'a, str>> {
    head_field(&parts.method, &parts.uri, &parts.headers, name)
}

/// As [`request_field`], of the pieces of a head.
pub(crate) fn head_field<'a>(
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    name: &str,
) -> Option<Cow<'a, str>> {
    pseudo_header(method, uri, name).unwrap_or_else(|| field(headers, name))
}

/// The lines of a field of a request, pseudo-headers included, each by itself.
pub(crate) fn head_lines<'a>(
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    name: &str,
) -> impl Iterator<Item = Cow<'a, str>> {
    let (pseudo, name) = match pseudo_header(method, uri, name) {
        // No field has an empty name.
        Some(value) => (value, ""),
        None => (None, name),
    };
    pseudo.into_iter().chain(field_lines(headers, name))
}

/// The value of a pseudo-header, `host` among them; `None` where the name is not one's.
fn pseudo_header<'a>(method: &'a Method, uri: &'a Uri, name: &str) -> Option<Option<Cow<'a, str>>> {
    Some(match name {
        ":method" => Some(method.as_str().into()),
        ":authority" | "host" => uri.authority().map(|authority| authority.as_str().into()),
        ":path" => uri.path_and_query().map(|path| path.as_str().into()),
        ":scheme" => uri.scheme_str().map(Into::into),
        _ => return None,
    })
}

/// The lines of a field, each by itself.
pub(crate) fn field_lines<'a>(
    headers: &'a HeaderMap,
    name: &str,
) -> impl Iterator<Item = Cow<'a, str>> {
    let lines = headers.get_all(name).into_iter();
    lines.map(|line| String::from_utf8_lossy(line.as_bytes()))
}

/// A field by name; several lines joined by `,`.
pub(crate) fn field<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let mut lines = field_lines(headers, name);
    let mut joined = lines.next()?;
    for line in lines {
        let all = joined.to_mut();
        all.push(',');
        all.push_str(&line);
    }
    Some(joined)
}

/// Duration that a `grpc-timeout` asks for.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    let number = number.parse::<u64>().ok().filter(|_| number.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Tells whether a request is gRPC, so that local replies have to be.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn every_connection_line_counts() {
        let mut headers = map(&[
            ("connection", "X-a , x-B,,"),
            ("x-a", "1"),
            ("x-b", "1"),
            ("connection", "x-c"),
            ("x-c", "1"),
            ("x-d", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, Trailers"),
        ]);
        strip_hop_by_hop(&mut headers, false);
        assert_eq!(names(&headers), ["x-d", "te"]);
        assert_eq!(headers["te"], "trailers");
    }

    #[test]
    fn behind_the_filters_connection_names_nothing() {
        let mut headers = map(&[
            ("connection", "authorization, te, close"),
            ("authorization", "secret"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
        ]);
        strip_hop_fields(&mut headers, false);
        assert_eq!(names(&headers), ["authorization", "te"]);
    }

    #[test]
    fn an_upgrade_keeps_its_two_fields() {
        let mut headers = map(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("keep-alive", "timeout=5"),
        ]);
        strip_hop_by_hop(&mut headers, true);
        assert_eq!(headers["connection"], "Upgrade");
        assert_eq!(headers["upgrade"], "websocket");
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn lines_are_joined() {
        let mut headers = map(&[
            ("accept", "a"),
            ("x-a", "1"),
            ("accept", "b"),
            ("x-a", "2"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
        ]);
        join_request_lines(&mut headers, true);
        assert_eq!(headers["accept"], "a,b");
        assert_eq!(headers["cookie"], "a=1; b=2");
        assert_eq!(headers.get_all("x-a").iter().count(), 2);
        assert_eq!(field(&headers, "x-a").as_deref(), Some("1,2"));
    }

    #[test]
    fn grpc_by_content_type() {
        assert!(is_grpc(&map(&[("content-type", "application/grpc")])));
        assert!(is_grpc(&map(&[("content-type", "application/grpc+proto")])));
        assert!(!is_grpc(&map(&[("content-type", "application/grpc-web")])));
    }
}
