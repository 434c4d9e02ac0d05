//! Envoy's `%OPERATOR(..):length%` substitutions, for access logs and for headers that routes add.

mod sizes;
mod status;
mod times;

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::Ordering,
    time::{Instant, SystemTime},
};

use extproc_client::{
    attributes::{Expression, Seen},
    host::{CertificateFacts, Metadata, RouteFacts},
    metadata::{json_at, value_to_json},
};
use http::{HeaderMap, StatusCode, Version};
use serde_json::Value as Json;

pub(crate) use self::status::{grpc_code_of, grpc_status, short_flags};
use self::{
    sizes::{fields_bytes, request_bytes, sent_bytes},
    status::{flags, grpc_name},
    times::{between, common_duration, millis, start_time},
};
use crate::{
    config::snapshot::{
        FormatOperator as Operator, JsonTemplate, LogFormat, Piece, Substitution, Template,
    },
    exchange::{Exchange, facts::Peer, record::Head, record::Reply},
    http::{headers::head_field, random_id},
};

/// View of an exchange, or of a connection at its end, for operators.
pub(crate) struct Scope<'a> {
    /// `None` for a connection: what only an exchange has is without a value.
    pub(crate) exchange: Option<&'a Exchange>,
    pub(crate) peer: &'a Peer,
    /// Address of the client: the peer's, or what a trusted proxy says.
    pub(crate) client: SocketAddr,
    pub(crate) version: Option<Version>,
    pub(crate) time: SystemTime,
    pub(crate) start: Instant,
    pub(crate) filter_chain: Option<&'a str>,
    /// Bytes of the request's body, or those that came on the connection.
    pub(crate) received: u64,
    /// Bytes of the response's body, or those that were written to the connection.
    pub(crate) sent: u64,
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

impl<'a> Scope<'a> {
    /// Returns the view of an exchange.
    pub(crate) fn of(exchange: &'a Exchange, head: Option<&'a Head>, reply: &'a Reply) -> Self {
        Self {
            exchange: Some(exchange),
            peer: &exchange.peer,
            client: exchange.client,
            version: Some(exchange.version),
            time: exchange.time,
            start: exchange.start,
            filter_chain: None,
            received: exchange.request_bytes.load(Ordering::Relaxed),
            sent: exchange.response_bytes.load(Ordering::Relaxed),
            head,
            reply,
        }
    }

    /// Appends the text of a template; a substitution without a value gives `missing`.
    pub(crate) fn render(&self, template: &Template, missing: &str, out: &mut String) {
        self.render_as(template, missing, |text| text.into(), out);
    }

    /// The same, with `shape` for each text that a substitution gives.
    fn render_as(
        &self,
        template: &Template,
        missing: &str,
        shape: fn(&str) -> Cow<'_, str>,
        out: &mut String,
    ) {
        for piece in template.pieces() {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Substitution(substitution) => {
                    let limit = substitution.limit;
                    match evaluate(self, substitution, Form::Text) {
                        Value::None => out.push_str(missing),
                        Value::Number(number) => out.push_str(&number.to_string()),
                        Value::Text(text) => out.push_str(&shape(cut(&text, limit))),
                        Value::Json(value) => out.push_str(&shape(cut(&shown(value), limit))),
                    }
                }
            }
        }
    }

    /// Returns the value of a template as JSON: numbers stay numbers, a lone substitution without a value is null.
    pub(crate) fn json(&self, template: &Template) -> serde_json::Value {
        if let [Piece::Substitution(substitution)] = template.pieces() {
            let limit = substitution.limit;
            return match evaluate(self, substitution, Form::Json) {
                Value::None => serde_json::Value::Null,
                Value::Number(number) => number.into(),
                Value::Text(text) => cut(&text, limit).into(),
                Value::Json(value) if limit.is_none() => value,
                Value::Json(value) => cut(&shown(value), limit).into(),
            };
        }
        let mut text = String::new();
        self.render(template, "-", &mut text);
        text.into()
    }

    /// Returns a line of a log. No value ends it before its time: metadata may be any text of a processor or a client.
    pub(crate) fn line(&self, format: &LogFormat, omit_empty: bool) -> String {
        match format {
            LogFormat::Text(template) => {
                let mut line = String::with_capacity(256);
                let missing = if omit_empty { "" } else { "-" };
                self.render_as(template, missing, on_one_line, &mut line);
                line
            }
            LogFormat::Json(_) => self.formatted(format, omit_empty),
        }
    }

    /// Returns the body of a local reply.
    pub(crate) fn formatted(&self, format: &LogFormat, omit_empty: bool) -> String {
        match format {
            LogFormat::Text(template) => {
                let mut line = String::with_capacity(256);
                self.render(template, if omit_empty { "" } else { "-" }, &mut line);
                line
            }
            LogFormat::Json(template) => {
                let mut line = self.json_of(template, omit_empty).to_string();
                line.push('\n');
                line
            }
        }
    }

    /// Returns an object or a list of templates as JSON; `omit_empty` leaves members without a value out.
    pub(crate) fn json_of(&self, template: &JsonTemplate, omit_empty: bool) -> serde_json::Value {
        match template {
            JsonTemplate::Text(template) => self.json(template),
            JsonTemplate::Object(fields) => fields
                .iter()
                .map(|(name, value)| (name.clone(), self.json_of(value, omit_empty)))
                .filter(|(_, value)| !(omit_empty && value.is_null()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            JsonTemplate::List(items) => items
                .iter()
                .map(|item| self.json_of(item, omit_empty))
                .filter(|value| !(omit_empty && value.is_null()))
                .collect::<Vec<_>>()
                .into(),
            JsonTemplate::Value(value) => value.clone(),
        }
    }
}

/// Escapes what ends a line, and other control characters but the tabulator, as in Rust and JSON.
fn on_one_line(text: &str) -> Cow<'_, str> {
    let breaks = |c: char| (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}');
    if !text.contains(breaks) {
        return text.into();
    }
    let mut line = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match breaks(c) {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line.into()
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

/// Context that a value becomes a part of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

fn evaluate<'a>(scope: &Scope<'a>, substitution: &Substitution, form: Form) -> Value<'a> {
    let Substitution {
        operator,
        argument,
        expression,
        kept,
        ..
    } = substitution;
    let argument = argument.as_str();
    let exchange = scope.exchange;
    let upstream = scope.reply.upstream.as_ref();
    let peer = scope.peer;
    let route = || exchange?.route();
    match *operator {
        Operator::RequestHeader => two_names(argument, |name| {
            let head = scope.head?;
            match name.starts_with(':') || name == "host" {
                true => head_field(&head.method, &head.uri, &head.headers, name),
                false => first(&head.headers, name),
            }
        }),
        Operator::ResponseHeader => two_names(argument, |name| response_field(scope.reply, name)),
        Operator::ResponseTrailer => {
            two_names(argument, |name| first(scope.reply.trailers.as_ref()?, name))
        }
        Operator::StartTime => text(start_time(scope.time, argument)),
        Operator::EmitTime => text(start_time(SystemTime::now(), argument)),
        Operator::Duration => millis(scope.start.elapsed()),
        Operator::RequestDuration => {
            between(scope, "DS_RX_BEG", "DS_RX_END").map_or(Value::None, millis)
        }
        Operator::RequestTxDuration => {
            between(scope, "DS_RX_BEG", "US_TX_END").map_or(Value::None, millis)
        }
        Operator::ResponseDuration => {
            between(scope, "DS_RX_BEG", "US_RX_BEG").map_or(Value::None, millis)
        }
        Operator::ResponseTxDuration => {
            between(scope, "US_RX_BEG", "DS_TX_END").map_or(Value::None, millis)
        }
        Operator::CommonDuration => common_duration(scope, argument),
        Operator::AccessLogType => Value::Text(match exchange {
            Some(_) => "DownstreamEnd".into(),
            None => "NotSet".into(),
        }),
        Operator::UniqueId => text(random_id()),
        Operator::Hostname => optional(Some(
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        )),
        Operator::Environment => optional(std::env::var(argument).ok()),
        Operator::Path => optional(scope.head.and_then(|head| path(head, argument))),
        Operator::QueryParam => optional(scope.head.and_then(|head| query(head, argument))),
        Operator::QueryParams => {
            let query = scope.head.and_then(|head| head.uri.query());
            optional(query.map(str::to_owned))
        }
        Operator::RequestHeaderWithoutQuery => match two_names(argument, |name| {
            let head = scope.head?;
            head_field(&head.method, &head.uri, &head.headers, name)
        }) {
            Value::Text(value) => text(without_query(&value).to_owned()),
            other => other,
        },
        Operator::RequestHeadersBytes => Value::Number(scope.head.map_or(0, request_bytes)),
        Operator::ResponseHeadersBytes => Value::Number(match scope.reply.status {
            Some(_) => fields_bytes(&scope.reply.headers) + ":status200".len() as u64,
            None => 0,
        }),
        Operator::DownstreamHeaderBytesSent => Value::Number(sent_bytes(scope).0),
        Operator::DownstreamWireBytesSent => Value::Number(sent_bytes(scope).1),
        Operator::ResponseTrailersBytes => {
            Value::Number(scope.reply.trailers.as_ref().map_or(0, fields_bytes))
        }
        Operator::GrpcStatus => grpc_status(scope).map_or(Value::None, |code| match argument {
            "NUMBER" => Value::Number(code),
            form => grpc_name(code, form == "SNAKE_STRING"),
        }),
        Operator::GrpcStatusNumber => grpc_status(scope).map_or(Value::None, Value::Number),
        Operator::BytesReceived => Value::Number(scope.received),
        Operator::BytesSent => Value::Number(scope.sent),
        Operator::Protocol => match scope.version {
            Some(version) => Value::Text(protocol(version).into()),
            None => Value::None,
        },
        Operator::ResponseCode => Value::Number(
            scope
                .reply
                .status
                .map_or(0, |status| u64::from(status.as_u16())),
        ),
        // Empty if a processor gave none, which is not the same as having no details.
        Operator::ResponseCodeDetails => match &scope.reply.details {
            Some(details) => text(details.clone().into_owned()),
            None => Value::None,
        },
        // Not Envoy's: what the processor nearest to the client did.
        Operator::Processor => optional(scope.reply.processor.map(|summary| summary.to_string())),
        Operator::ResponseFlags => optional(Some(short_flags(scope.reply.flags))),
        Operator::ResponseFlagsLong => optional(Some(flags(scope.reply.flags, |(_, long)| long))),
        Operator::FilterChainName => optional(match scope.filter_chain {
            Some(name) => Some(name.to_owned()),
            None => route().map(|route| route.facts().filter_chain_name.clone()),
        }),
        Operator::RouteName => optional(route().map(|route| route.facts().route_name.clone())),
        Operator::VirtualHostName => {
            optional(route().map(|route| route.facts().virtual_host_name.clone()))
        }
        Operator::UpstreamCluster => {
            optional(route().map(|route| route.facts().cluster_name.clone()))
        }
        Operator::UpstreamHost => optional(upstream.and_then(|info| info.address).map(show)),
        Operator::UpstreamIp => optional(
            upstream
                .and_then(|info| info.address)
                .map(|address| ip(address, argument)),
        ),
        Operator::UpstreamPort => port(upstream.and_then(|info| info.address)),
        Operator::UpstreamLocalAddress => {
            optional(upstream.and_then(|info| info.local_address).map(show))
        }
        Operator::UpstreamLocalIp => optional(
            upstream
                .and_then(|info| info.local_address)
                .map(|address| ip(address, argument)),
        ),
        Operator::UpstreamLocalPort => port(upstream.and_then(|info| info.local_address)),
        Operator::UpstreamProtocol => match scope.reply.upstream_version {
            Some(version) => Value::Text(protocol(version).into()),
            None => Value::None,
        },
        Operator::UpstreamPoolReadyDuration => upstream
            .and_then(|info| info.pool_ready)
            .map_or(Value::None, millis),
        Operator::UpstreamTransportFailureReason => {
            optional(upstream.map(|info| info.transport_failure_reason.replace(' ', "_")))
        }
        Operator::UpstreamRequestAttemptCount => {
            Value::Number(upstream.map_or(0, |info| info.attempts))
        }
        Operator::RemoteAddress => text(show(scope.client)),
        Operator::RemoteIp => text(ip(scope.client, argument)),
        Operator::RemotePort => Value::Number(scope.client.port().into()),
        Operator::DirectRemoteAddress => text(show(peer.remote)),
        Operator::DirectRemoteIp => text(ip(peer.remote, argument)),
        Operator::LocalAddress => text(show(peer.local)),
        Operator::LocalIp => text(ip(peer.local, argument)),
        Operator::LocalPort => Value::Number(peer.local.port().into()),
        Operator::ConnectionId => Value::Number(peer.id),
        Operator::RequestedServerName => {
            optional(peer.tls.as_ref().map(|tls| tls.server_name.clone()))
        }
        Operator::PeerSubject => optional(of_certificate(peer, true, |own| own.subject.clone())),
        Operator::PeerUris => optional(of_certificate(peer, true, |own| own.uris.join(","))),
        Operator::PeerDnsNames => {
            optional(of_certificate(peer, true, |own| own.dns_names.join(",")))
        }
        Operator::PeerDigest => optional(of_certificate(peer, true, |own| own.digest.clone())),
        Operator::LocalSubject => optional(of_certificate(peer, false, |own| own.subject.clone())),
        Operator::LocalUris => optional(of_certificate(peer, false, |own| own.uris.join(","))),
        Operator::LocalDnsNames => {
            optional(of_certificate(peer, false, |own| own.dns_names.join(",")))
        }
        Operator::TlsVersion => optional(peer.tls.as_ref().map(|tls| tls.version.to_owned())),
        Operator::DirectRemotePort => Value::Number(peer.remote.port().into()),
        Operator::DynamicMetadata => metadata(scope, "DYNAMIC", argument),
        Operator::ClusterMetadata => metadata(scope, "CLUSTER", argument),
        Operator::UpstreamMetadata => metadata(scope, "UPSTREAM_HOST", argument),
        Operator::Metadata => match argument.split_once(':') {
            Some((of, rest)) => metadata(scope, of, rest),
            None => metadata(scope, argument, ""),
        },
        Operator::FilterState => {
            let (key, form) = argument.split_once(':').unwrap_or((argument, ""));
            let shown = exchange.and_then(|exchange| exchange.show_calls(key, form));
            shown.map_or(Value::None, Value::Json)
        }
        Operator::Cel => match expression_value(scope, expression.as_deref()) {
            Some(Json::String(value)) => text(value),
            Some(value) => text(value.to_string()),
            None => Value::None,
        },
        Operator::TypedCel => {
            let expression = match form {
                Form::Text => expression,
                Form::Json => kept,
            };
            expression_value(scope, expression.as_deref()).map_or(Value::None, Value::Json)
        }
        Operator::LocalReplyBody => Value::Text(scope.reply.local_body.as_str().into()),
        Operator::Absent(_) => Value::None,
    }
}

/// A fact of the client's certificate, or of our own; empty facts are none.
fn of_certificate(
    peer: &Peer,
    of_client: bool,
    fact: impl Fn(&CertificateFacts) -> String,
) -> Option<String> {
    let tls = peer.tls.as_ref()?;
    let certificate = match of_client {
        true => tls.peer_certificate.as_ref()?,
        false => tls.local_certificate.as_ref()?,
    };
    Some(fact(certificate)).filter(|text| !text.is_empty())
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
        let facts = exchange?.route()?.facts();
        json_at(metadata(&facts).filter_metadata.get(namespace)?, &path)
    };
    let json = match of {
        "DYNAMIC" => exchange.and_then(|exchange| exchange.metadata.json(namespace, &path)),
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

/// The value of `%CEL(..)%`: of the request as it is, and of the response if there is one.
pub(crate) fn expression_value(scope: &Scope<'_>, expression: Option<&Expression>) -> Option<Json> {
    let reply = scope.reply;
    let request = scope.head.map(Head::parts);
    let response = reply.parts();
    let mut seen = Seen::default();
    seen.request = request.as_ref();
    seen.response = response.as_ref();
    seen.response_trailers = reply.trailers.as_ref();
    seen.upstream = reply.upstream.as_ref();
    seen.request_size = scope.received;
    seen.response_size = scope.sent;
    seen.duration = Some(scope.start.elapsed());
    let context = scope.exchange?.told()?;
    let value = expression?.value_of(&seen, &context.surroundings())?;
    Some(value_to_json(&value))
}

/// The address without its port, or its network of so many bits.
fn ip(address: SocketAddr, bits: &str) -> String {
    let ip = address.ip();
    let Ok(bits) = bits.parse::<u32>() else {
        return ip.to_string();
    };
    let network: IpAddr = match ip {
        IpAddr::V4(ip) => {
            let kept = u32::MAX
                .checked_shl(32_u32.saturating_sub(bits))
                .unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & kept).into()
        }
        IpAddr::V6(ip) => {
            let kept = u128::MAX
                .checked_shl(128_u32.saturating_sub(bits))
                .unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & kept).into()
        }
    };
    format!("{network}/{bits}")
}

fn port<'a>(address: Option<SocketAddr>) -> Value<'a> {
    address.map_or(Value::None, |address| Value::Number(address.port().into()))
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

/// The name of a protocol as Envoy writes it.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_on_one_line() {
        assert_eq!(on_one_line("a\tb é \"\\"), "a\tb é \"\\");
        assert_eq!(
            on_one_line("a\r\nGET / 200\0\u{1b}[2J\u{85}\u{2028}b"),
            "a\\r\\nGET / 200\\u{0}\\u{1b}[2J\\u{85}\\u{2028}b"
        );
    }

    #[test]
    fn cutting_keeps_characters_whole() {
        assert_eq!(cut("aé", Some(2)), "a");
        assert_eq!(cut("abc", Some(3)), "abc");
        assert_eq!(cut("abc", None), "abc");
    }
}
