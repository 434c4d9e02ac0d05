//! Envoy's `%OPERATOR(..):length%` substitutions, for access logs and for headers that routes add.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use chrono::{DateTime, Utc, format::StrftimeItems};
use extproc_client::{
    host::{Metadata, RouteFacts},
    metadata::json_at,
    text::grpc::grpc_code,
};
use http::{HeaderMap, StatusCode, Version};

use crate::{
    config::snapshot::{Piece, RESPONSE_FLAGS, Substitution, Template},
    exchange::{Exchange, record::Head, record::Reply},
    http::{headers::head_field, random_id},
};

/// What operators see.
pub(crate) struct Scope<'a> {
    pub(crate) exchange: &'a Exchange,
    pub(crate) head: Option<&'a Head>,
    pub(crate) reply: &'a Reply,
}

/// The value of an operator.
pub(crate) enum Value<'a> {
    None,
    Text(Cow<'a, str>),
    Number(u64),
    /// Keeps its type in JSON.
    Json(serde_json::Value),
}

impl Scope<'_> {
    /// Appends the text of a template; a substitution without a value gives `missing`.
    pub(crate) fn render(&self, template: &Template, missing: &str, out: &mut String) {
        for piece in template.pieces() {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Substitution(Substitution {
                    name,
                    argument,
                    limit,
                }) => match evaluate(self, name, argument) {
                    Value::None => out.push_str(missing),
                    Value::Number(number) => out.push_str(&number.to_string()),
                    Value::Text(text) => out.push_str(cut(&text, *limit)),
                    Value::Json(value) => out.push_str(cut(&shown(value), *limit)),
                },
            }
        }
    }

    /// Returns the value of a template as JSON: numbers stay numbers, a lone substitution without a value is null.
    pub(crate) fn json(&self, template: &Template) -> serde_json::Value {
        if let [
            Piece::Substitution(Substitution {
                name,
                argument,
                limit,
            }),
        ] = template.pieces()
        {
            return match evaluate(self, name, argument) {
                Value::None => serde_json::Value::Null,
                Value::Number(number) => number.into(),
                Value::Text(text) => cut(&text, *limit).into(),
                Value::Json(value) if limit.is_none() => value,
                Value::Json(value) => cut(&shown(value), *limit).into(),
            };
        }
        let mut text = String::new();
        self.render(template, "-", &mut text);
        text.into()
    }
}

/// The text of a value: strings as they are, everything else as JSON.
fn shown(value: serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text,
        value => value.to_string(),
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
        "EMIT_TIME" => text(start_time(SystemTime::now(), argument)),
        "START_TIME_LOCAL" => text(start_time(exchange.time, argument)),
        "DURATION" => millis(exchange.start.elapsed()),
        "REQUEST_DURATION" => between(scope, "DS_RX_BEG", "DS_RX_END").map_or(Value::None, millis),
        "REQUEST_TX_DURATION" => {
            between(scope, "DS_RX_BEG", "US_TX_END").map_or(Value::None, millis)
        }
        "RESPONSE_DURATION" => between(scope, "DS_RX_BEG", "US_RX_BEG").map_or(Value::None, millis),
        "RESPONSE_TX_DURATION" => {
            between(scope, "US_RX_BEG", "DS_TX_END").map_or(Value::None, millis)
        }
        "COMMON_DURATION" => common_duration(scope, argument),
        "ACCESS_LOG_TYPE" => Value::Text("DownstreamEnd".into()),
        "UNIQUE_ID" => text(random_id()),
        "HOSTNAME" => optional(Some(
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        )),
        "ENVIRONMENT" => optional(std::env::var(argument).ok()),
        "PATH" => optional(scope.head.and_then(|head| path(head, argument))),
        "QUERY_PARAM" => optional(scope.head.and_then(|head| query(head, argument))),
        "QUERY_PARAMS" => optional(
            scope
                .head
                .and_then(|head| head.uri.query().map(str::to_owned)),
        ),
        "REQ_WITHOUT_QUERY" => match two_names(argument, |name| {
            let head = scope.head?;
            head_field(&head.method, &head.uri, &head.headers, name)
        }) {
            Value::Text(value) => text(without_query(&value).to_owned()),
            other => other,
        },
        "REQUEST_HEADERS_BYTES" => Value::Number(scope.head.map_or(0, request_bytes)),
        "RESPONSE_HEADERS_BYTES" => Value::Number(match scope.reply.status {
            Some(_) => fields_bytes(&scope.reply.headers) + ":status200".len() as u64,
            None => 0,
        }),
        "RESPONSE_TRAILERS_BYTES" => {
            Value::Number(scope.reply.trailers.as_ref().map_or(0, fields_bytes))
        }
        "GRPC_STATUS" => grpc_status(scope).map_or(Value::None, |code| match argument {
            "NUMBER" => Value::Number(code),
            form => grpc_name(code, form == "SNAKE_STRING"),
        }),
        "GRPC_STATUS_NUMBER" => grpc_status(scope).map_or(Value::None, Value::Number),
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
            Some(details) => text(details.clone().into_owned()),
            None => Value::None,
        },
        // Not Envoy's: what the processor nearest to the client did.
        "EXT_PROC" => optional(scope.reply.processor.map(|summary| summary.to_string())),
        "RESPONSE_FLAGS" => optional(Some(short_flags(scope.reply.flags))),
        "RESPONSE_FLAGS_LONG" => optional(Some(flags(scope.reply.flags, |(_, long)| long))),
        "FILTER_CHAIN_NAME" => optional(
            exchange
                .route()
                .map(|route| route.facts().filter_chain_name.clone()),
        ),
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
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => {
            optional(upstream.and_then(|info| info.address).map(show))
        }
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => {
            optional(upstream.and_then(|info| info.address).map(ip))
        }
        "UPSTREAM_REMOTE_PORT" => port(upstream.and_then(|info| info.address)),
        "UPSTREAM_LOCAL_ADDRESS" => {
            optional(upstream.and_then(|info| info.local_address).map(show))
        }
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => {
            optional(upstream.and_then(|info| info.local_address).map(ip))
        }
        "UPSTREAM_LOCAL_PORT" => port(upstream.and_then(|info| info.local_address)),
        "UPSTREAM_PROTOCOL" => match scope.reply.upstream_version {
            Some(version) => Value::Text(protocol(version).into()),
            None => Value::None,
        },
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => upstream
            .and_then(|info| info.pool_ready)
            .map_or(Value::None, millis),
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
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => text(show(peer.local)),
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => Value::Number(peer.remote.port().into()),
        "DYNAMIC_METADATA" => metadata(scope, "DYNAMIC", argument),
        "CLUSTER_METADATA" => metadata(scope, "CLUSTER", argument),
        "UPSTREAM_METADATA" => metadata(scope, "UPSTREAM_HOST", argument),
        "METADATA" => match argument.split_once(':') {
            Some((of, rest)) => metadata(scope, of, rest),
            None => metadata(scope, argument, ""),
        },
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

/// `namespace:key:key` of the metadata of what is named.
fn metadata<'a>(scope: &Scope<'a>, of: &str, argument: &str) -> Value<'a> {
    let exchange = scope.exchange;
    let mut path = argument.split(':');
    let namespace = path.next().unwrap_or_default();
    let path: Vec<&str> = path.collect();
    let of_route = |metadata: &dyn Fn(&RouteFacts) -> &Metadata| {
        let facts = exchange.route()?.facts();
        json_at(metadata(&facts).filter_metadata.get(namespace)?, &path)
    };
    let json = match of {
        "DYNAMIC" => exchange.metadata.json(namespace, &path),
        "UPSTREAM_HOST" => {
            let upstream = scope.reply.upstream.as_ref();
            let metadata = upstream.and_then(|info| info.host_metadata.as_ref());
            let content = metadata.and_then(|metadata| metadata.filter_metadata.get(namespace));
            content.and_then(|content| json_at(content, &path))
        }
        "ROUTE" => of_route(&|facts| &facts.route_metadata),
        "VIRTUAL_HOST" => of_route(&|facts| &facts.virtual_host_metadata),
        "CLUSTER" => of_route(&|facts| &facts.cluster_metadata),
        "LISTENER" => of_route(&|facts| &facts.listener_metadata),
        _ => None,
    };
    json.map_or(Value::None, Value::Json)
}

fn ip(address: SocketAddr) -> String {
    address.ip().to_string()
}

fn port<'a>(address: Option<SocketAddr>) -> Value<'a> {
    address.map_or(Value::None, |address| Value::Number(address.port().into()))
}

/// A point in time of the exchange, from its start, under the name that `COMMON_DURATION` has for it.
fn moment(scope: &Scope<'_>, name: &str) -> Option<Duration> {
    let exchange = scope.exchange;
    let upstream = scope.reply.upstream.as_ref();
    match name {
        "DS_RX_BEG" => Some(Duration::ZERO),
        "DS_RX_END" => exchange.moments.request_end(),
        "US_TX_BEG" => upstream?.begun?.checked_duration_since(exchange.start),
        // What was received is on its way at once.
        "US_TX_END" => moment(scope, "US_TX_BEG").max(moment(scope, "DS_RX_END")),
        "US_RX_BEG" => exchange.moments.response_begin(),
        "US_RX_END" | "DS_TX_END" => Some(exchange.start.elapsed()),
        "DS_TX_BEG" => exchange.moments.response_begin(),
        _ => None,
    }
}

fn between(scope: &Scope<'_>, from: &str, to: &str) -> Option<Duration> {
    moment(scope, to)?.checked_sub(moment(scope, from)?)
}

/// `FROM:TO:precision`.
fn common_duration<'a>(scope: &Scope<'a>, argument: &str) -> Value<'a> {
    let mut parts = argument.split(':');
    let (Some(from), Some(to)) = (parts.next(), parts.next()) else {
        return Value::None;
    };
    let Some(duration) = between(scope, from, to) else {
        return Value::None;
    };
    let number = match parts.next() {
        Some("us") => duration.as_micros(),
        Some("ns") => duration.as_nanos(),
        _ => duration.as_millis(),
    };
    Value::Number(u64::try_from(number).unwrap_or(u64::MAX))
}

/// `WQ` or `NQ`, with query or not, and which path: the one that came (`ORIG`), the one that goes on (`PATH`), or the first that
/// there is.
fn path(head: &Head, argument: &str) -> Option<String> {
    let (query, which) = argument.split_once(':').unwrap_or((argument, ""));
    let original = first(&head.headers, "x-envoy-original-path");
    let own = || head_field(&head.method, &head.uri, &head.headers, ":path");
    let path = match which {
        "ORIG" => original,
        "PATH" => own(),
        _ => original.or_else(own),
    }?;
    Some(match query {
        "NQ" => without_query(&path).to_owned(),
        _ => path.into_owned(),
    })
}

fn without_query(path: &str) -> &str {
    path.split_once('?').map_or(path, |(path, _)| path)
}

fn query(head: &Head, name: &str) -> Option<String> {
    head.uri.query()?.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then(|| value.to_owned())
    })
}

/// Bytes of names and values.
fn fields_bytes(headers: &HeaderMap) -> u64 {
    let fields = headers.iter();
    fields
        .map(|(name, value)| (name.as_str().len() + value.len()) as u64)
        .sum()
}

fn request_bytes(head: &Head) -> u64 {
    let pseudo = [":authority", ":method", ":path", ":scheme"]
        .iter()
        .filter_map(|name| {
            let value = head_field(&head.method, &head.uri, &head.headers, name)?;
            Some((name.len() + value.len()) as u64)
        });
    pseudo.sum::<u64>() + fields_bytes(&head.headers)
}

/// The gRPC status of the response to a request of gRPC: its own, or else what its HTTP status means.
pub(crate) fn grpc_status(scope: &Scope<'_>) -> Option<u64> {
    if !scope.exchange.grpc {
        return None;
    }
    let reply = scope.reply;
    let of = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    let own = reply.trailers.as_ref().and_then(of);
    own.or_else(|| of(&reply.headers))
        .or_else(|| Some(u16::from(grpc_code(reply.status?)).into()))
}

/// The names of gRPC's status codes.
const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc_name<'a>(code: u64, snake: bool) -> Value<'a> {
    let names = usize::try_from(code).ok().and_then(|code| GRPC.get(code));
    match names {
        Some((camel, snake_name)) => Value::Text(if snake { *snake_name } else { *camel }.into()),
        None => text(code.to_string()),
    }
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

/// Response flags by their short names.
pub(crate) fn short_flags(bits: u64) -> String {
    flags(bits, |(short, _)| short)
}

fn flags(bits: u64, name: impl Fn(&(&'static str, &'static str)) -> &'static str) -> String {
    let named = RESPONSE_FLAGS.iter().enumerate();
    let mut names: Vec<_> = named
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, names)| names)
        .collect();
    // As in Envoy, in the order in which they were noted: what ended the retries before that of the last attempt, and
    // what the client did last.
    names.sort_by_key(|(short, _)| match *short {
        "URX" | "UO" => 0,
        "DC" | "DR" => 2,
        _ => 1,
    });
    let names: Vec<&str> = names.into_iter().map(name).collect();
    names.join(",")
}

/// Returns a time in UTC. What of the pattern is no conversion of `strftime` stays as it is.
fn start_time(time: SystemTime, pattern: &str) -> String {
    let pattern = match pattern {
        "" => "%Y-%m-%dT%H:%M:%S%.3fZ",
        pattern => pattern,
    };
    DateTime::<Utc>::from(time)
        .format_with_items(StrftimeItems::new_lenient(pattern))
        .to_string()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn times() {
        let time = UNIX_EPOCH + Duration::from_millis(1_709_210_096_789);
        assert_eq!(start_time(time, ""), "2024-02-29T12:34:56.789Z");
        assert_eq!(start_time(time, "%Y/%m/%d %s"), "2024/02/29 1709210096");
        assert_eq!(start_time(UNIX_EPOCH, ""), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            start_time(time, "%3f %6f %f%.3f"),
            "789 789000 789000000.789"
        );
        assert_eq!(start_time(time, "%e %b %Q 5%"), "29 Feb %Q 5%");
    }

    #[test]
    fn flag_names() {
        let short = short_flags;
        assert_eq!(short(0), "");
        assert_eq!(short(0x100), "NR");
        assert_eq!(short(0x20 | 0x8000), "URX,UF");
    }

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("aé", Some(2)), "a");
        assert_eq!(cut("abc", Some(3)), "abc");
        assert_eq!(cut("abc", None), "abc");
    }
}
