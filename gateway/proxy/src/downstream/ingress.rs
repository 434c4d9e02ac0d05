//! From a request as it was read to one that filters and router can work with.

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use extproc_client::host::{Held, Outcome};
use h2::ext::Protocol;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};

use super::{Context, forwarded, normalize, sampling, target};
use crate::{
    config::snapshot::{HttpManager, SchemeHeader},
    exchange::{
        Begin, Exchange,
        activity::RequestWatch,
        answer::{Answer, Redirected, Trail, Whole},
        header_changes,
        host::Passage,
    },
    filters,
    http::{
        authority::with_scheme,
        body::{Body, Watched},
        h1::Outgoing,
        headers::{
            Nominated, grpc_timeout, has_too_many_options, is_grpc, nominates_what_stays,
            request_fits, strip_hop_fields, tokens, upgrade_field, values_are_trimmed,
        },
        local_reply,
    },
    limits::buffers::{Budget, Buffers},
    route,
    trace::Trace,
};

/// The reason for which a request goes nowhere.
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) details: &'static str,
    pub(super) location: Option<HeaderValue>,
}

impl Refusal {
    const fn new(status: StatusCode, details: &'static str) -> Self {
        Self {
            status,
            details,
            location: None,
        }
    }

    /// The response, which filters see alone.
    fn reply(self, grpc: bool) -> Response<Body> {
        let grpc = grpc && self.location.is_none();
        let mut response = local_reply::reply(grpc, self.status, "".into(), self.details, 0);
        match self.location {
            Some(location) => {
                response.headers_mut().insert(header::LOCATION, location);
            }
            // What follows a request that was not understood may be no request.
            None if self.status.is_client_error() => {
                Outcome::of_mut(&mut response).closes = true;
            }
            None => {}
        }
        response
    }
}

/// A request on its way into the chain.
pub(super) struct Ingress {
    pub(super) request: Request<Body>,
    pub(super) exchange: Arc<Exchange>,
}

/// Returns the protocol that a request asks for on this connection: that of `Upgrade` with HTTP/1.1, or CONNECT. `None` also if
/// the request has a body of its own, which would have to end first.
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
    if !asked {
        return None;
    }
    // RFC 9113 §3.1: an upgrade to HTTP/2 is ignored.
    upgrade_field(&parts.headers)
        .filter(|kind| !kind.eq_ignore_ascii_case("h2c"))
        .map(|kind| kind.to_ascii_lowercase().into())
}

/// Prepares a request. `connection` is what the exchanges of its connection may hold together. `body` is given the exchange, so
/// that it can be watched.
pub(super) fn begin(
    context: &Context,
    connection: Option<&Arc<Budget>>,
    mut parts: Parts,
    outgoing: Arc<Outgoing>,
    body: impl FnOnce(&mut Parts, &Arc<Exchange>, bool) -> Body,
    has_body: bool,
) -> Ingress {
    let http = context.http();
    let version = parts.version;
    let fits = version != Version::HTTP_2 || request_fits(&parts, http.request_headers);
    let (has_options, mut refusal) = check_options(&mut parts);
    let kind = upgrade_kind(&parts, has_body).map(Cow::into_owned);
    let extended = parts.extensions.get::<Protocol>();
    let extended = extended.map(|protocol| protocol.as_str().to_owned());

    let trusted = (!http.use_remote_address || http.xff_num_trusted_hops > 0)
        && http.scheme_header != SchemeHeader::MatchUpstream;
    let target = settle_target(context, &mut parts, trusted);
    refusal = check_head(http, &parts, fits, target.err(), refusal);
    refusal = refusal.or_else(|| goes_no_further(http, &mut parts));
    // Host has become the authority: hop-by-hop rules cannot take that away any more.
    parts.headers.remove(header::HOST);

    let allowed = |route: Option<&route::Selected>, kind: &str| {
        route
            .and_then(|route| route.allows_upgrade(kind))
            .unwrap_or_else(|| http.upgrades.iter().any(|u| u.eq_ignore_ascii_case(kind)))
    };
    let named = match has_options {
        true => Nominated::by(&parts.headers),
        false => Nominated::default(),
    };
    named.strip(&mut parts.headers);
    strip_hop_fields(&mut parts.headers, kind.is_some());
    if let Some(Ok(protocol)) = extended.map(HeaderValue::try_from) {
        // Filters see what they would see over HTTP/1.1 (RFC 8441 §5).
        parts.method = Method::GET;
        let upgrade = HeaderValue::from_static("upgrade");
        parts.headers.insert(header::CONNECTION, upgrade);
        parts.headers.insert(header::UPGRADE, protocol);
    }
    let awaits_continue = has_body && parts.headers.contains_key(header::EXPECT);
    if !http.early_headers.is_empty() {
        let unsendable = change_early(context, &mut parts);
        refusal = refusal.or(unsendable);
        // Over HTTP/2 the client has said its own.
        let is_open = trusted && version != Version::HTTP_2;
        if is_open && http.scheme_header == SchemeHeader::Keep {
            target::follow_forwarded(&mut parts);
        }
    }
    forwarded::clean(&mut parts.headers, http.use_remote_address);
    let client = forwarded::add(context, http, &mut parts, version);
    if !normalize::underscores(&mut parts.headers, http.normalization.underscores) {
        refusal = refusal.or_else(|| Some(bad("unexpected_underscore")));
    }
    if refusal.is_none() {
        refusal = target::normalize(http, &mut parts);
    }
    let route = match refusal {
        None => route::select(http, &parts, None),
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
            refusal = Some(Refusal::new(StatusCode::FORBIDDEN, "upgrade_failed"));
            false
        }
        _ => false,
    };
    let trace = trace(context, &mut parts, route.as_ref());
    let grpc = is_grpc(&parts.headers);
    let buffer = context.chain.buffer(version);
    let exchange = Exchange::new(Begin {
        upgrade,
        grpc,
        grpc_timeout: grpc.then(|| grpc_timeout(&parts.headers)).flatten(),
        route,
        trace,
        ..beginning(context, connection, client, version, outgoing, buffer)
    });
    exchange.note_head(&parts);
    let body = body(&mut parts, &exchange, upgrade);
    let body = match upgrade {
        true => body,
        false => normalize::with_trailers(body, http.normalization.underscores),
    };
    parts.extensions.clear();
    let watch = RequestWatch {
        exchange,
        nominated: named,
        held: Held::default(),
    };
    enter(context, parts, body, watch, awaits_continue, refusal)
}

/// Looks at the options of the connection, of which others speak further on: tells whether there are any, and why the request
/// goes nowhere for them.
fn check_options(parts: &mut Parts) -> (bool, Option<Refusal>) {
    if !parts.headers.contains_key(header::CONNECTION) {
        return (false, None);
    }
    if has_too_many_options(&parts.headers) {
        // None of them is looked at.
        parts.headers.remove(header::CONNECTION);
        return (false, Some(bad("too_many_connection_options")));
    }
    let refusal = nominates_what_stays(&parts.headers);
    (
        true,
        refusal.then(|| bad("http1.connection_header_rejected")),
    )
}

/// Gives the target its absolute form. A `trusted` client says the scheme itself. The error is the details of its refusal.
fn settle_target(context: &Context, parts: &mut Parts, trusted: bool) -> Result<(), &'static str> {
    let http = context.http();
    if parts.version < Version::HTTP_11
        && let Some(host) = &http.default_host
        && parts.uri.authority().is_none()
    {
        parts
            .headers
            .entry(header::HOST)
            .or_insert_with(|| host.clone());
    }
    let uri = target::absolute(parts, context.peer.tls.is_some(), trusted)?;
    parts.uri = match &http.scheme_header {
        SchemeHeader::Overwrite(scheme) => with_scheme(uri, scheme),
        SchemeHeader::Keep | SchemeHeader::MatchUpstream => uri,
    };
    target::normalize_host(&http.normalization, context.peer.local.port(), parts)
}

/// The refusal of a head, of which the last reason counts: the `known` one, that of its target, and those of its version, fields
/// and size.
fn check_head(
    http: &HttpManager,
    parts: &Parts,
    fits: bool,
    target: Option<&'static str>,
    known: Option<Refusal>,
) -> Option<Refusal> {
    let mut refusal = target.map(bad).or(known);
    if parts.version == Version::HTTP_2 && !values_are_trimmed(&parts.headers) {
        refusal = Some(bad("http2.invalid.header.field"));
    }
    if parts.version < Version::HTTP_11 && !http.http1.accept_http_10 && refusal.is_none() {
        refusal = Some(Refusal::new(StatusCode::UPGRADE_REQUIRED, "low_version"));
    }
    const TOO_LARGE: StatusCode = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    // One line more than the limit is one too many; the authority was one of them.
    if parts.headers.len() > http.request_headers.count {
        refusal = Some(Refusal::new(TOO_LARGE, "too_many_headers"));
    }
    if !fits {
        refusal = Some(Refusal::new(TOO_LARGE, "headers_too_large"));
    }
    refusal
}

/// The beginning of an exchange of which nothing is known but these.
fn beginning(
    context: &Context,
    connection: Option<&Arc<Budget>>,
    client: SocketAddr,
    version: Version,
    outgoing: Arc<Outgoing>,
    buffer: usize,
) -> Begin {
    Begin {
        http: context.http().clone(),
        peer: context.peer.clone(),
        client,
        version,
        outgoing,
        buffer,
        buffers: Buffers::new(
            connection.cloned(),
            context.chain.overload.buffers().clone(),
        ),
        upgrade: false,
        grpc: false,
        grpc_timeout: None,
        route: None,
        trace: None,
        trail: Trail::default(),
    }
}

/// Makes the changes that come before all others: what they show of the exchange is the request alone. Gives the answer to a
/// request for which a value comes out that no field may have.
fn change_early(context: &Context, parts: &mut Parts) -> Option<Refusal> {
    let client = context.peer.remote;
    let shown = beginning(context, None, client, parts.version, Arc::default(), 0);
    let shown = Exchange::new(shown);
    let changes = context.http().early_headers.chunks(1);
    header_changes::request(parts, changes, &shown);
    let unsendable = shown.unsendable().is_some();
    unsendable.then(|| bad("early_header_mutation_failed"))
}

/// The trace of a request that begins.
fn trace(context: &Context, parts: &mut Parts, route: Option<&route::Selected>) -> Option<Trace> {
    let recorder = context.chain.shared.recorder.as_ref()?;
    sampling::start(recorder, &mut parts.headers, route)
}

/// Gives a request what filters and router look for.
fn enter(
    context: &Context,
    mut parts: Parts,
    body: Body,
    watch: RequestWatch,
    awaits_continue: bool,
    refusal: Option<Refusal>,
) -> Ingress {
    let exchange = watch.exchange.clone();
    if filters::ask_for_context(&context.http().filters) {
        let mut told = exchange.context();
        told.response_only = refusal.is_some();
        told.awaits_continue = awaits_continue;
        told.attach(&mut parts);
    }
    let mut passage = Passage::new(exchange.clone());
    passage.answer = refusal.map(|refusal| Answer::new(refusal.reply(exchange.grpc)));
    passage.attach(&mut parts);
    let body = Watched::new(body, watch);
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

/// The request that takes the place of one, as its upstream redirected it. What a client may say was settled before.
pub(super) fn again(
    context: &Context,
    connection: Option<&Arc<Budget>>,
    before: &Exchange,
    redirected: Redirected,
) -> Ingress {
    let http = context.http();
    let Whole { body, cost } = redirected.take_body().unwrap_or_else(|| Whole {
        body: Body::empty(),
        cost: 0,
    });
    let Redirected { parts, trail, .. } = redirected;
    let mut parts = *parts;
    let own = context.peer.local.port();
    let refusal = match target::normalize_host(&http.normalization, own, &mut parts) {
        Ok(()) => target::normalize(http, &mut parts),
        Err(details) => Some(bad(details)),
    };
    let route = match refusal {
        None => route::select(http, &parts, None),
        Some(_) => None,
    };
    let trace = trace(context, &mut parts, route.as_ref());
    let grpc = is_grpc(&parts.headers);
    let outgoing = before.outgoing.clone();
    let (client, version, buffer) = (before.client, before.version, before.buffer);
    let exchange = Exchange::new(Begin {
        grpc,
        grpc_timeout: grpc.then(|| grpc_timeout(&parts.headers)).flatten(),
        route,
        trace,
        trail,
        ..beginning(context, connection, client, version, outgoing, buffer)
    });
    exchange.note_head(&parts);
    exchange.note_request_done();
    let mut held = Held::new(Some(exchange.clone()));
    held.set(cost);
    let watch = RequestWatch {
        exchange,
        nominated: Nominated::default(),
        held,
    };
    enter(context, parts, body, watch, false, refusal)
}

/// Answers what has come far enough: a request whose `max-forwards` is used up, which is otherwise counted
/// down (RFC 9110 §7.6.2), and one that was here before (§7.6.3).
fn goes_no_further(http: &HttpManager, parts: &mut Parts) -> Option<Refusal> {
    let answer = |status, details| Some(Refusal::new(status, details));
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

pub(super) fn bad(details: &'static str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, details)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
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
        for (asked, kind) in [
            ("websocket, evil", "websocket, evil"),
            ("evil, websocket", "evil, websocket"),
            ("h2c, websocket", "h2c, websocket"),
            ("websocket,", "websocket,"),
            ("", ""),
        ] {
            let request = parts(ask(asked));
            assert_eq!(upgrade_kind(&request, false).as_deref(), Some(kind));
        }
        let request = parts(ask("h2c").header("upgrade", "evil"));
        assert_eq!(upgrade_kind(&request, false).as_deref(), Some("h2c,evil"));
        let old = parts(ask("websocket").version(Version::HTTP_10));
        assert_eq!(upgrade_kind(&old, false), None);
    }
}
