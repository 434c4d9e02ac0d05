//! From a request as it was read to one that filters and router can work with.

use std::{borrow::Cow, sync::Arc};

use extproc_client::host::{ExchangeContext, HostFacts, Limits, RouteCache};
use h2::ext::Protocol;
use http::{
    HeaderValue, Method, Request, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::{
    Context, forwarded,
    normalize::{self, Path},
};
use crate::{
    body::{Body, Watched},
    config::snapshot::{HttpManager, StripPort},
    exchange::{Begin, Exchange, Head, RequestWatch},
    filters,
    forward::Refusal,
    headers::{is_grpc, nominated, strip_hop_by_hop, tokens, values_are_trimmed},
    http1::Outgoing,
    router,
};

/// A request on its way into the chain.
pub(super) struct Ingress {
    pub(super) request: Request<Body>,
    pub(super) exchange: Arc<Exchange>,
}

/// Whether a request asks for another protocol on this connection: `Upgrade` with HTTP/1.1, or
/// CONNECT. Not so if it has a body of its own, which would have to end first.
pub(super) fn upgrade_kind(parts: &Parts, has_body: bool) -> Option<Cow<'_, str>> {
    if parts.method == Method::CONNECT && parts.version == Version::HTTP_2 {
        let protocol = parts.extensions.get::<Protocol>();
        return Some(match protocol {
            Some(kind) => kind.as_str().to_ascii_lowercase().into(),
            None => "CONNECT".into(),
        });
    }
    if has_body || parts.version != Version::HTTP_11 {
        return None;
    }
    if parts.method == Method::CONNECT {
        return Some("CONNECT".into());
    }
    let asked = tokens(&parts.headers, &header::CONNECTION)
        .any(|token| token.eq_ignore_ascii_case("upgrade"));
    // RFC 9113 §3.1: an upgrade to HTTP/2 is ignored.
    tokens(&parts.headers, &header::UPGRADE)
        .next()
        .filter(|kind| asked && !kind.eq_ignore_ascii_case("h2c"))
        .map(|kind| kind.to_ascii_lowercase().into())
}

/// Prepares a request. `body` is given the exchange, so that it can be watched.
pub(super) fn begin(
    context: &Context,
    mut parts: Parts,
    outgoing: Arc<Outgoing>,
    body: impl FnOnce(&mut Parts, bool) -> Body,
    has_body: bool,
) -> Ingress {
    let http = context.http();
    let version = parts.version;
    let mut refusal = None;
    let kind = upgrade_kind(&parts, has_body).map(Cow::into_owned);
    let extended = parts.extensions.get::<Protocol>();
    let extended = extended.map(|protocol| protocol.as_str().to_owned());

    let tls = context.peer.tls.is_some();
    let target = target(&parts, tls, !http.use_remote_address);
    match target {
        Ok(uri) => {
            parts.uri = uri;
            let own = context.peer.local.port();
            strip_port(http.normalization.strip_port, own, &mut parts);
        }
        Err(details) => refusal = Some(bad(details)),
    }
    if version == Version::HTTP_2 && !values_are_trimmed(&parts.headers) {
        refusal = Some(bad("http2.invalid.header.field"));
    }
    if version < Version::HTTP_11 && !http.http1.accept_http_10 && refusal.is_none() {
        refusal = Some(Refusal {
            status: StatusCode::UPGRADE_REQUIRED,
            details: "low_version",
            location: None,
        });
    }
    // One line more than the limit is one too many; the authority was one of them.
    if parts.headers.len() > http.request_headers.count {
        refusal = Some(Refusal {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            details: "too_many_headers",
            location: None,
        });
    }
    refusal = refusal.or_else(|| goes_no_further(http, &mut parts));
    // Host has become the authority: hop-by-hop rules cannot take that away any more.
    parts.headers.remove(header::HOST);

    let allowed = |route: Option<&router::Selected>, kind: &str| {
        route
            .and_then(|route| route.allows_upgrade(kind))
            .unwrap_or_else(|| http.upgrades.iter().any(|u| u.eq_ignore_ascii_case(kind)))
    };
    let named = match parts.headers.contains_key(header::CONNECTION) {
        true => nominated(&parts.headers),
        false => Vec::new(),
    };
    strip_hop_by_hop(&mut parts.headers, kind.is_some());
    if let Some(Ok(protocol)) = extended.map(HeaderValue::try_from) {
        // Filters see what they would see over HTTP/1.1 (RFC 8441 §5).
        parts.method = Method::GET;
        let upgrade = HeaderValue::from_static("upgrade");
        parts.headers.insert(header::CONNECTION, upgrade);
        parts.headers.insert(header::UPGRADE, protocol);
    }
    let awaits_continue = has_body && parts.headers.contains_key(header::EXPECT);
    forwarded::clean(&mut parts.headers, http.use_remote_address);
    forwarded::add(context, http, &mut parts, version);
    if !normalize::underscores(&mut parts.headers, http.normalization.underscores) {
        refusal = refusal.or_else(|| Some(bad("unexpected_underscore")));
    }
    if refusal.is_none() {
        refusal = normalize_target(http, &mut parts);
    }
    let route = match refusal {
        None => router::select(http, &parts),
        Some(_) => None,
    };
    let upgrade = match &kind {
        Some(kind)
            if (version != Version::HTTP_2 || http.http2.allow_connect)
                && allowed(route.as_ref(), kind) =>
        {
            true
        }
        Some(_) if refusal.is_none() && route.is_some() => {
            refusal = Some(Refusal {
                status: StatusCode::FORBIDDEN,
                details: "upgrade_failed",
                location: None,
            });
            false
        }
        _ => false,
    };
    let body = body(&mut parts, upgrade);
    let logged = !context.chain.shared.logs.is_empty();
    let exchange = Arc::new(Exchange::new(Begin {
        listener: context.chain.shared.clone(),
        http: http.clone(),
        peer: context.peer.clone(),
        version,
        outgoing,
        buffer: context.chain.buffer(version),
        upgrade,
        grpc: is_grpc(&parts.headers),
        head: logged.then(|| Head::of(&parts)),
        route,
    }));
    let extensions = &mut parts.extensions;
    extensions.clear();
    if filters::has_ext_proc(http) {
        extensions.insert(ExchangeContext {
            response_only: refusal.is_some(),
            awaits_continue,
            ..exchange_context(context, &exchange)
        });
    }
    extensions.insert(exchange.clone());
    if let Some(refusal) = refusal {
        extensions.insert(refusal);
    }
    let body = Watched::new(
        body,
        RequestWatch {
            exchange: exchange.clone(),
            nominated: named,
        },
    );
    let body = if http_body::Body::is_end_stream(&body) {
        Body::empty()
    } else {
        Body::new(body)
    };
    Ingress {
        request: Request::from_parts(parts, body),
        exchange,
    }
}

/// Answers what has come far enough: a request whose `max-forwards` is used up, which is otherwise counted
/// down (RFC 9110 §7.6.2), and one that was here before (§7.6.3).
fn goes_no_further(http: &HttpManager, parts: &mut Parts) -> Option<Refusal> {
    let answer = |status, details| {
        Some(Refusal {
            status,
            details,
            location: None,
        })
    };
    if parts.method == Method::OPTIONS || parts.method == Method::TRACE {
        let left = parts.headers.get(header::MAX_FORWARDS);
        let left = left.and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
        match left {
            // Nothing is echoed: the request may hold what only the upstream should see.
            Some(0) if parts.method == Method::TRACE => {
                return answer(StatusCode::METHOD_NOT_ALLOWED, "max_forwards");
            }
            Some(0) => return answer(StatusCode::OK, "max_forwards"),
            Some(left) => {
                parts
                    .headers
                    .insert(header::MAX_FORWARDS, (left - 1).into());
            }
            None => {}
        }
    }
    let own = http.via.split_whitespace().nth(1)?;
    let here = tokens(&parts.headers, &header::VIA)
        .filter_map(|hop| hop.split_whitespace().nth(1))
        .any(|name| name == own);
    match here {
        true => answer(StatusCode::LOOP_DETECTED, "loop_detected"),
        false => None,
    }
}

fn bad(details: &'static str) -> Refusal {
    Refusal {
        status: StatusCode::BAD_REQUEST,
        details,
        location: None,
    }
}

/// The absolute target: the authority of the request line, else that of the one `host` line
/// (RFC 9112 §3.2).
fn target(parts: &Parts, tls: bool, trusted: bool) -> Result<Uri, &'static str> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("http1.codec_error");
    }
    let host = match host {
        Some(host) if !host.is_empty() => Some(
            host.to_str()
                .ok()
                .filter(|host| normalize::valid_authority(host))
                .ok_or("invalid_authority")?,
        ),
        Some(_) => return Err("missing_host_header"),
        // RFC 9112 §3.2: required even beside an absolute target.
        None if parts.version == Version::HTTP_11 => return Err("missing_host_header"),
        None => None,
    };
    let authority = match (parts.uri.authority(), host) {
        (Some(authority), Some(host)) if differs(parts.version, authority, host) => {
            // RFC 9113 §8.3.1: both name the same, or the request is malformed.
            return Err("invalid_authority");
        }
        (Some(authority), _) if normalize::valid_authority(authority.as_str()) => authority.clone(),
        (Some(_), _) => return Err("invalid_authority"),
        // Known to be a valid one.
        (None, Some(host)) => {
            Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(host.as_bytes()))
                .map_err(|_| "invalid_authority")?
        }
        (None, None) => return Err("missing_host_header"),
    };
    let scheme = parts.uri.scheme();
    if parts.method == Method::CONNECT && parts.extensions.get::<Protocol>().is_none() {
        // RFC 9112 §3.2.3: `host:port` and nothing else.
        if scheme.is_some()
            || parts.uri.path_and_query().is_some()
            || parts.uri.authority().is_none()
        {
            return Err("invalid_authority");
        }
        return Uri::builder()
            .authority(authority)
            .build()
            .map_err(|_| "invalid_authority");
    }
    let web = scheme.is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    // HTTP/2 without `:authority` looks like it too.
    let origin_form = scheme.is_none() && parts.uri.authority().is_none();
    if !(web || origin_form) {
        return Err("invalid_scheme");
    }
    let given = parts.uri.path_and_query();
    let path = match given.map(PathAndQuery::as_str) {
        None | Some("") => PathAndQuery::from_static("/"),
        Some("*") if parts.method != Method::OPTIONS => return Err("path_normalization_failed"),
        // An absolute target may have an empty path (RFC 9110 §4.2.3), `:path` may not.
        Some(query) if query.starts_with('?') && parts.version != Version::HTTP_2 => {
            PathAndQuery::try_from(format!("/{query}")).map_err(|_| "path_normalization_failed")?
        }
        Some(path) if path != "*" && !path.starts_with('/') => {
            return Err("path_normalization_failed");
        }
        Some(_) => given.cloned().unwrap_or(PathAndQuery::from_static("/")),
    };
    let mut uri = http::uri::Parts::default();
    // What the connection is, whatever the client writes, unless a proxy in front of us says otherwise.
    let forwarded = parts.headers.get("x-forwarded-proto").filter(|_| trusted);
    uri.scheme = Some(match forwarded.map(HeaderValue::as_bytes) {
        Some(b"https") => Scheme::HTTPS,
        Some(b"http") => Scheme::HTTP,
        _ if tls => Scheme::HTTPS,
        _ => Scheme::HTTP,
    });
    uri.authority = Some(authority);
    uri.path_and_query = Some(path);
    Uri::from_parts(uri).map_err(|_| "path_normalization_failed")
}

/// Whether `:authority` and `host` name different authorities. In HTTP/1 the target simply wins.
fn differs(version: Version, authority: &Authority, host: &str) -> bool {
    version == Version::HTTP_2 && !authority.as_str().eq_ignore_ascii_case(host)
}

/// `strip_matching_host_port` and `strip_any_host_port`. A listener's own port is all that the first
/// takes; CONNECT keeps its port, which is what it asks for.
fn strip_port(rule: StripPort, own: u16, parts: &mut Parts) {
    if rule == StripPort::No || parts.method == Method::CONNECT {
        return;
    }
    let Some(authority) = parts.uri.authority() else {
        return;
    };
    let strip = match authority.port_u16() {
        Some(port) => rule == StripPort::Any || port == own,
        None => false,
    };
    if !strip {
        return;
    }
    let Ok(host) = authority.host().parse::<Authority>() else {
        return;
    };
    let mut uri = parts.uri.clone().into_parts();
    uri.authority = Some(host);
    if let Ok(uri) = Uri::from_parts(uri) {
        parts.uri = uri;
    }
}

fn normalize_target(http: &HttpManager, parts: &mut Parts) -> Option<Refusal> {
    let redirected = match normalize::path(parts.uri.path(), &http.normalization) {
        Path::Same => return None,
        Path::Refuse => return Some(bad("path_normalization_failed")),
        Path::New(path) => (path, false),
        Path::Redirect(path) => (path, true),
    };
    let (mut path, redirect) = redirected;
    if let Some(query) = parts.uri.query() {
        path.push('?');
        path.push_str(query);
    }
    let mut uri = std::mem::take(&mut parts.uri).into_parts();
    let Ok(path) = path.parse::<PathAndQuery>() else {
        return Some(bad("path_normalization_failed"));
    };
    let location = path.as_str().to_owned();
    uri.path_and_query = Some(path);
    match Uri::from_parts(uri) {
        Ok(uri) => parts.uri = uri,
        Err(_) => return Some(bad("path_normalization_failed")),
    }
    if !redirect {
        return None;
    }
    Some(Refusal {
        status: StatusCode::TEMPORARY_REDIRECT,
        details: "path_normalization_failed",
        location: HeaderValue::try_from(location).ok(),
    })
}

fn exchange_context(context: &Context, exchange: &Arc<Exchange>) -> ExchangeContext {
    let chain = &context.chain;
    let tls = context.peer.tls.as_ref();
    let route = exchange.route();
    let cluster = route.as_ref().and_then(|route| chain.cluster_limits(route));
    let mut limits = Limits {
        request_buffer: exchange.buffer,
        response_buffer: exchange.buffer,
        request_headers: chain.http.request_headers,
        ..Limits::default()
    };
    if let Some(cluster) = cluster {
        limits.response_headers = cluster;
    }
    // The exchange holds no context, so that this is no circle.
    let handle = Arc::downgrade(exchange);
    ExchangeContext {
        overrides: route.as_ref().map(router::Selected::overrides),
        limits,
        metadata: exchange.metadata.clone(),
        facts: Arc::new(HostFacts {
            connection_id: context.peer.id,
            source: Some(context.peer.remote),
            destination: Some(context.peer.local),
            version: Some(exchange.version),
            start: Some(exchange.time),
            requested_server_name: tls.map(|tls| tls.server_name.clone()).unwrap_or_default(),
            tls_version: tls.map(|tls| tls.version.to_owned()),
            mtls: tls.is_some_and(|tls| tls.mutual),
            route: route
                .as_ref()
                .map(|route| route.facts())
                .unwrap_or_default(),
        }),
        route_cache: Some(RouteCache::new(move || {
            if let Some(exchange) = handle.upgrade() {
                exchange.clear_route();
            }
        })),
        ..ExchangeContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_request_line_wins_over_host() {
        let from = parts(Request::get("http://x.example/a?b").header("host", "y.example"));
        assert_eq!(target(&from, false, true).unwrap(), "http://x.example/a?b");
        let from = parts(Request::get("/a").header("host", "y.example:81"));
        assert_eq!(target(&from, false, true).unwrap(), "http://y.example:81/a");
    }

    #[test]
    fn ports() {
        for (rule, authority, expected) in [
            (StripPort::No, "a:80", "a:80"),
            (StripPort::Matching, "a:80", "a"),
            (StripPort::Matching, "a:81", "a:81"),
            (StripPort::Any, "a:81", "a"),
            (StripPort::Any, "[::1]:81", "[::1]"),
            (StripPort::Any, "a", "a"),
        ] {
            let mut from = parts(Request::get(format!("http://{authority}/x")));
            strip_port(rule, 80, &mut from);
            assert_eq!(
                from.uri.to_string(),
                format!("http://{expected}/x"),
                "{rule:?}"
            );
        }
    }

    #[test]
    fn bad_targets() {
        let refused =
            |request: http::request::Builder| target(&parts(request), false, true).is_err();
        assert!(refused(Request::get("/")));
        assert!(refused(Request::get("/").header("host", "")));
        assert!(refused(
            Request::get("/").header("host", "a").header("host", "a")
        ));
        assert!(refused(Request::get("/").header("host", "a b")));
        assert!(refused(Request::get("/").header("host", "a/b")));
        assert!(refused(Request::get("/").header("host", "u:p@a")));
        assert!(refused(Request::get("*").header("host", "a")));
        assert!(!refused(Request::options("*").header("host", "a")));
        assert!(refused(Request::get("a:80").header("host", "a")));
        assert!(refused(Request::get("ftp://a/").header("host", "a")));
        assert!(refused(Request::get("http://a/")));
        assert!(refused(Request::connect("/").header("host", "a")));
        assert!(refused(Request::connect("http://a/").header("host", "a")));
        assert!(!refused(Request::connect("a:80").header("host", "a")));
        let both = |host: &'static str| {
            Request::get("http://a/")
                .version(Version::HTTP_2)
                .header("host", host)
        };
        assert!(refused(both("b")));
        assert!(!refused(both("A")));
    }

    #[test]
    fn upgrades() {
        let ask = |kind: &'static str| {
            Request::get("/")
                .header("connection", "keep-alive, Upgrade")
                .header("upgrade", kind)
        };
        let request = parts(ask("WebSocket"));
        assert_eq!(upgrade_kind(&request, false).as_deref(), Some("websocket"));
        assert_eq!(upgrade_kind(&request, true), None);
        assert_eq!(upgrade_kind(&parts(ask("h2c")), false), None);
        let old = parts(ask("websocket").version(Version::HTTP_10));
        assert_eq!(upgrade_kind(&old, false), None);
    }
}
