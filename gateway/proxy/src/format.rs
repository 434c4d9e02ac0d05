//! Envoy's `%OPERATOR(..):length%` substitutions, for access logs and for headers that routes add.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, StatusCode, Version};

use crate::{
    exchange::{Exchange, Head, Reply},
    headers::head_field,
};

/// What operators see.
pub(crate) struct Scope<'a> {
    pub(crate) exchange: &'a Exchange,
    pub(crate) head: Option<&'a Head>,
    pub(crate) reply: &'a Reply,
}

/// A parsed format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Operator {
        name: String,
        argument: String,
        limit: Option<usize>,
    },
}

/// The value of an operator.
pub(crate) enum Value<'a> {
    None,
    Text(Cow<'a, str>),
    Number(u64),
}

impl Format {
    /// Parses a format; what is no operator stays text.
    pub(crate) fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            plain.push_str(before);
            if let Some(after) = after.strip_prefix('%') {
                plain.push('%');
                rest = after;
            } else if let Some((operator, after)) = operator(after) {
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(operator);
                rest = after;
            } else {
                plain.push('%');
                rest = after;
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Self(pieces)
    }

    /// Appends the text; an operator without a value gives `missing`.
    pub(crate) fn render(&self, scope: &Scope<'_>, missing: &str, out: &mut String) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Operator {
                    name,
                    argument,
                    limit,
                } => match evaluate(scope, name, argument) {
                    Value::None => out.push_str(missing),
                    Value::Number(number) => out.push_str(&number.to_string()),
                    Value::Text(text) => out.push_str(cut(&text, *limit)),
                },
            }
        }
    }

    /// The value as JSON: numbers stay numbers, a lone operator without a value is null.
    pub(crate) fn json(&self, scope: &Scope<'_>) -> serde_json::Value {
        if let [
            Piece::Operator {
                name,
                argument,
                limit,
            },
        ] = self.0.as_slice()
        {
            return match evaluate(scope, name, argument) {
                Value::None => serde_json::Value::Null,
                Value::Number(number) => number.into(),
                Value::Text(text) => cut(&text, *limit).into(),
            };
        }
        let mut text = String::new();
        self.render(scope, "-", &mut text);
        text.into()
    }
}

fn cut(text: &str, limit: Option<usize>) -> &str {
    match limit {
        Some(limit) if limit < text.len() => {
            let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at));
            text.get(..end.unwrap_or(0)).unwrap_or_default()
        }
        _ => text,
    }
}

/// `NAME%`, `NAME(argument)%`, `NAME(argument):limit%`, and what follows.
fn operator(text: &str) -> Option<(Piece, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit()))?;
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    let (argument, rest) = match rest.strip_prefix('(') {
        Some(rest) => rest.split_once(')')?,
        None => ("", rest),
    };
    let (limit, rest) = match rest.strip_prefix(':') {
        Some(rest) => {
            let (limit, rest) = rest.split_once('%')?;
            (Some(limit.parse().ok()?), rest)
        }
        None => (None, rest.strip_prefix('%')?),
    };
    let piece = Piece::Operator {
        name: name.to_owned(),
        argument: argument.to_owned(),
        limit,
    };
    Some((piece, rest))
}

fn evaluate<'a>(scope: &Scope<'a>, name: &str, argument: &str) -> Value<'a> {
    let exchange = scope.exchange;
    let upstream = scope.reply.upstream.as_ref();
    let peer = &exchange.peer;
    match name {
        "REQ" | "REQUEST_HEADER" => two_names(argument, |name| {
            let head = scope.head?;
            match name.starts_with(':') || name == "host" {
                true => head_field(&head.method, &head.uri, &head.headers, name),
                false => first(&head.headers, name),
            }
        }),
        "RESP" | "RESPONSE_HEADER" => two_names(argument, |name| response_field(scope.reply, name)),
        "TRAILER" | "RESPONSE_TRAILER" => {
            two_names(argument, |name| first(scope.reply.trailers.as_ref()?, name))
        }
        "START_TIME" => text(start_time(exchange.time, argument)),
        "DURATION" => millis(exchange.start.elapsed()),
        "BYTES_RECEIVED" => Value::Number(exchange.request_bytes.load(Ordering::Relaxed)),
        "BYTES_SENT" => Value::Number(exchange.response_bytes.load(Ordering::Relaxed)),
        "PROTOCOL" => Value::Text(protocol(exchange.version).into()),
        "RESPONSE_CODE" => Value::Number(
            scope
                .reply
                .status
                .map_or(0, |status| u64::from(status.as_u16())),
        ),
        // Empty if a processor gave none, which is not the same as having no details.
        "RESPONSE_CODE_DETAILS" => match &scope.reply.details {
            Some(details) => text(details.0.clone().into_owned()),
            None => Value::None,
        },
        // Not Envoy's: what the processor nearest to the client did.
        "EXT_PROC" => optional(scope.reply.processor.map(|summary| summary.to_string())),
        "RESPONSE_FLAGS" => optional(Some(flags(scope.reply.flags))),
        "ROUTE_NAME" => optional(
            exchange
                .route()
                .map(|route| route.facts().route_name.clone()),
        ),
        "VIRTUAL_HOST_NAME" => optional(
            exchange
                .route()
                .map(|route| route.facts().virtual_host_name.clone()),
        ),
        "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => optional(
            exchange
                .route()
                .map(|route| route.facts().cluster_name.clone()),
        ),
        "UPSTREAM_HOST" => optional(upstream.and_then(|info| info.address).map(show)),
        "UPSTREAM_LOCAL_ADDRESS" => {
            optional(upstream.and_then(|info| info.local_address).map(show))
        }
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => {
            optional(upstream.map(|info| info.transport_failure_reason.replace(' ', "_")))
        }
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Value::Number(upstream.map_or(0, |info| info.attempts)),
        "DOWNSTREAM_REMOTE_ADDRESS" => text(show(exchange.client)),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => text(exchange.client.ip().to_string()),
        "DOWNSTREAM_REMOTE_PORT" => Value::Number(exchange.client.port().into()),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => text(show(peer.remote)),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => text(peer.remote.ip().to_string()),
        "DOWNSTREAM_LOCAL_ADDRESS" => text(show(peer.local)),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => text(peer.local.ip().to_string()),
        "DOWNSTREAM_LOCAL_PORT" => Value::Number(peer.local.port().into()),
        "CONNECTION_ID" => Value::Number(peer.id),
        "REQUESTED_SERVER_NAME" => optional(peer.tls.as_ref().map(|tls| tls.server_name.clone())),
        "DOWNSTREAM_TLS_VERSION" => optional(peer.tls.as_ref().map(|tls| tls.version.to_owned())),
        "DYNAMIC_METADATA" => optional(metadata(exchange, argument)),
        _ => Value::None,
    }
}

fn show(address: SocketAddr) -> String {
    address.to_string()
}

fn text<'a>(text: String) -> Value<'a> {
    Value::Text(text.into())
}

fn optional<'a>(value: Option<String>) -> Value<'a> {
    match value {
        Some(value) if !value.is_empty() => text(value),
        _ => Value::None,
    }
}

fn millis<'a>(duration: Duration) -> Value<'a> {
    Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// `first?second`: the first that there is.
fn two_names<'a>(argument: &str, lookup: impl Fn(&str) -> Option<Cow<'a, str>>) -> Value<'a> {
    argument
        .split('?')
        .find_map(|name| lookup(&name.to_ascii_lowercase()))
        .map_or(Value::None, Value::Text)
}

fn response_field<'a>(reply: &'a Reply, name: &str) -> Option<Cow<'a, str>> {
    if name == ":status" {
        return reply
            .status
            .map(|status: StatusCode| status.as_str().to_owned().into());
    }
    first(&reply.headers, name)
}

/// As in Envoy, the first of several values alone.
fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    Some(String::from_utf8_lossy(headers.get(name)?.as_bytes()))
}

/// `namespace:key:key`.
fn metadata(exchange: &Exchange, argument: &str) -> Option<String> {
    let mut path = argument.split(':');
    let namespace = path.next()?;
    let path: Vec<&str> = path.collect();
    crate::metadata::show(&exchange.metadata, namespace, &path)
}

/// The name of a protocol as Envoy writes it.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// Short names of response flags, by bit.
const FLAGS: &[&str] = &[
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC",
    "URX", "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR",
    "UDO",
];

fn flags(bits: u64) -> String {
    let named = FLAGS.iter().enumerate();
    let mut names: Vec<&str> = named
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect();
    // As in Envoy, in the order in which they were noted: what ended the retries before that of the last attempt, and
    // what the client did last.
    names.sort_by_key(|name| match *name {
        "URX" | "UO" => 0,
        "DC" | "DR" => 2,
        _ => 1,
    });
    names.join(",")
}

/// A time in UTC; `pattern` knows `%Y %m %d %H %M %S %s %3f %6f %f %.3f %.6f`.
fn start_time(time: SystemTime, pattern: &str) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    if pattern.is_empty() {
        return format!(
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
            since.subsec_millis()
        );
    }
    pattern
        .replace("%Y", &format!("{year:04}"))
        .replace("%m", &format!("{month:02}"))
        .replace("%d", &format!("{day:02}"))
        .replace("%H", &format!("{hour:02}"))
        .replace("%M", &format!("{minute:02}"))
        .replace("%S", &format!("{second:02}"))
        .replace("%s", &seconds.to_string())
        .replace("%.3f", &format!(".{:03}", since.subsec_millis()))
        .replace("%.6f", &format!(".{:06}", since.subsec_micros()))
        .replace("%3f", &format!("{:03}", since.subsec_millis()))
        .replace("%6f", &format!("{:06}", since.subsec_micros()))
        .replace("%f", &format!("{:09}", since.subsec_nanos()))
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    let mut left = days;
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing() {
        let parsed = Format::parse("a %REQ(x-a?Y):3% 100%% %START_TIME(%Y-%m)% %x%");
        assert_eq!(
            parsed.0,
            [
                Piece::Text("a ".into()),
                Piece::Operator {
                    name: "REQ".into(),
                    argument: "x-a?Y".into(),
                    limit: Some(3)
                },
                Piece::Text(" 100% ".into()),
                Piece::Operator {
                    name: "START_TIME".into(),
                    argument: "%Y-%m".into(),
                    limit: None
                },
                Piece::Text(" %x%".into()),
            ]
        );
    }

    #[test]
    fn times() {
        let time = UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        assert_eq!(start_time(time, ""), "2024-02-29T12:34:56.789Z");
        assert_eq!(start_time(time, "%Y/%m/%d %s"), "2024/02/29 1709210096");
        assert_eq!(start_time(UNIX_EPOCH, ""), "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn flag_names() {
        assert_eq!(flags(0), "");
        assert_eq!(flags(0x100), "NR");
        assert_eq!(flags(0x20 | 0x8000), "URX,UF");
    }

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("aé", Some(2)), "a");
        assert_eq!(cut("abc", Some(3)), "abc");
        assert_eq!(cut("abc", None), "abc");
    }
}
