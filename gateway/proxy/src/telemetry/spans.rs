//! Spans of exchanges, attempts and side streams, with Envoy's attributes and those of OpenTelemetry's conventions for HTTP.

use std::{borrow::Cow, sync::Arc, time::SystemTime};

use extproc_client::{
    config::Service,
    headers::CLIENT_TRACE_ID,
    host::{ExchangeContext, UpstreamInfo},
    observer::{Detail, Event, Observer, Watched},
};
use http::{HeaderMap, Response, StatusCode, Version, request};

use crate::{
    config::snapshot::{CustomTag, RouteTracing, Template, TraceSampling, Tracing as Config},
    exchange::{
        Exchange,
        operators::{self, Scope},
        record::{Head, Reply},
    },
    route::Selected,
    trace::{Span, Start, Trace, TraceId, Tracer, Value},
};

/// Traces of a connection manager.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    pub(crate) config: Arc<Config>,
    pub(crate) tracer: Arc<dyn Tracer>,
}

impl Recorder {
    /// The trace of a request that begins; `sampled` is what its sampling says.
    pub(crate) fn start(&self, headers: &HeaderMap, sampled: bool) -> Option<Trace> {
        let span = self.tracer.start(Start {
            name: "ingress".into(),
            time: SystemTime::now(),
            headers,
            sampled,
        })?;
        Some(Trace::new(span, headers))
    }

    /// The sampling that holds on a route.
    pub(crate) fn sampling(&self, route: Option<&Selected>) -> TraceSampling {
        let own = route.and_then(of_route).and_then(|route| route.sampling);
        own.unwrap_or(self.config.sampling)
    }
}

fn of_route(route: &Selected) -> Option<&RouteTracing> {
    route.route.tracing.as_deref()
}

/// Completes and ends the span of an exchange.
pub(crate) fn finish(trace: &Trace, config: &Config, scope: &Scope<'_>) {
    let span = &*trace.span;
    if !trace.recording {
        return;
    }
    let Some(exchange) = scope.exchange else {
        return;
    };
    let route = exchange.route();
    let own = route.as_ref().and_then(of_route);
    if let Some(name) = operation(config, own, scope) {
        span.rename(name);
    }
    let reply = scope.reply;
    if let Some(head) = scope.head {
        of_request(span, head, config.max_path_tag_length);
    }
    tag(span, "component", "proxy");
    tag(span, "http.protocol", protocol(exchange.version));
    tag(span, "network.protocol.version", version(exchange.version));
    tag(span, "peer.address", exchange.client.ip().to_string());
    tag(span, "client.address", exchange.client.ip().to_string());
    tag(span, "request_size", scope.received.to_string());
    tag(span, "response_size", scope.sent.to_string());
    if let Some(route) = &route {
        let facts = route.facts();
        if !facts.cluster_name.is_empty() {
            tag(span, "upstream_cluster", facts.cluster_name.clone());
            tag(span, "upstream_cluster.name", facts.cluster_name.clone());
        }
        if !facts.route_name.is_empty() {
            tag(span, "http.route", facts.route_name.clone());
        }
    }
    if let Some(address) = reply.upstream.as_ref().and_then(|info| info.address) {
        tag(span, "upstream_address", address.to_string());
    }
    let flags = operators::short_flags(reply.flags);
    let details = reply.details.as_deref();
    of_answer(span, reply.status, &flags, details);
    if let Some(code) = operators::grpc_status(scope) {
        tag(span, "grpc.status_code", code.to_string());
    }
    for custom in custom_tags(&config.custom_tags, own) {
        set_custom(span, custom, scope);
    }
    if config.verbose {
        let moments = [
            ("downstream_request_end", exchange.moments.request_end()),
            ("upstream_response_begin", exchange.moments.response_begin()),
        ];
        for (name, after) in moments {
            if let Some(after) = after {
                span.event(name, exchange.time + after, Vec::new());
            }
        }
    }
    span.end();
}

/// The connection manager's tags but for those of a name that the route has, and the route's. A span would keep both.
fn custom_tags<'a>(
    tags: &'a [CustomTag],
    own: Option<&'a RouteTracing>,
) -> impl Iterator<Item = &'a CustomTag> {
    let own = own.map(|own| &*own.custom_tags).unwrap_or_default();
    let is_replaced = |custom: &&CustomTag| own.iter().any(|other| other.tag == custom.tag);
    tags.iter()
        .filter(move |custom| !is_replaced(custom))
        .chain(own)
}

/// The name of an exchange's span; `None` if nothing names it.
fn operation(config: &Config, own: Option<&RouteTracing>, scope: &Scope<'_>) -> Option<String> {
    let route = own.and_then(|own| own.operation.as_ref());
    match route.or(config.operation.as_ref()) {
        Some(template) => Some(rendered(template, scope)),
        None => own
            .map(|own| own.decorator.clone())
            .filter(|name| !name.is_empty()),
    }
}

fn rendered(template: &Template, scope: &Scope<'_>) -> String {
    let mut text = String::new();
    scope.render(template, "", &mut text);
    text
}

fn set_custom(span: &dyn Span, custom: &CustomTag, scope: &Scope<'_>) {
    let mut value = rendered(&custom.value, scope);
    if value.is_empty() {
        value.clone_from(&custom.default);
    }
    if !value.is_empty() {
        span.tag(custom.tag.clone().into(), value.into());
    }
}

fn tag(span: &dyn Span, name: &'static str, value: impl Into<Value>) {
    span.tag(name.into(), value.into());
}

/// The beginning of a text, no longer than so many bytes.
fn first_bytes(text: &str, most: usize) -> &str {
    let mut ends = (0..=most.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

fn of_request(span: &dyn Span, head: &Head, longest_path: usize) {
    let text = |name: &str| {
        let value = head.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let authority = head
        .uri
        .authority()
        .map_or("", |authority| authority.as_str());
    let scheme = head.uri.scheme_str().unwrap_or("http");
    let original = text("x-envoy-original-path");
    let path = match &original {
        Some(path) => path.as_str(),
        None => head.uri.path_and_query().map_or("/", |path| path.as_str()),
    };
    let shown = first_bytes(path, longest_path);
    tag(span, "http.url", format!("{scheme}://{authority}{shown}"));
    tag(span, "http.method", head.method.to_string());
    tag(span, "http.request.method", head.method.to_string());
    tag(span, "url.scheme", scheme.to_owned());
    let (path, query) = shown.split_once('?').unwrap_or((shown, ""));
    tag(span, "url.path", path.to_owned());
    if !query.is_empty() {
        tag(span, "url.query", query.to_owned());
    }
    if let Some(host) = head.uri.host() {
        tag(span, "server.address", host.to_owned());
    }
    for (name, header) in [
        ("guid:x-request-id", "x-request-id"),
        ("user_agent", "user-agent"),
        ("user_agent.original", "user-agent"),
    ] {
        if let Some(value) = text(header) {
            tag(span, name, value);
        }
    }
    if let Some(value) = text(CLIENT_TRACE_ID) {
        span.tag(format!("guid:{CLIENT_TRACE_ID}").into(), value.into());
    }
    let downstream = text("x-envoy-downstream-service-cluster");
    tag(
        span,
        "downstream_cluster",
        downstream.unwrap_or_else(|| "-".into()),
    );
}

/// Its outcome.
fn of_answer(span: &dyn Span, status: Option<StatusCode>, flags: &str, details: Option<&str>) {
    let code = status.map_or(0, |status| status.as_u16());
    tag(span, "http.status_code", code.to_string());
    if code > 0 {
        tag(span, "http.response.status_code", u64::from(code));
    }
    let shown = if flags.is_empty() { "-" } else { flags };
    tag(span, "response_flags", shown.to_owned());
    if let Some(details) = details {
        tag(span, "response_code_details", details.to_owned());
    }
    if code == 0 || code >= 500 {
        tag(span, "error", "true");
        let reason = match (details, code) {
            (Some(details), _) => details.to_owned(),
            (None, 0) => "no response".to_owned(),
            (None, code) => code.to_string(),
        };
        tag(span, "error.type", reason.clone());
        span.fail(&reason);
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

/// The span of an attempt to have a request answered. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Attempt(Arc<dyn Span>);

impl Attempt {
    /// Begins an attempt, the `made`th one, of the exchange at `cluster`, and tells the upstream of the trace.
    pub(crate) fn begin(
        exchange: &Exchange,
        cluster: &str,
        made: u32,
        parts: &mut request::Parts,
    ) -> Option<Self> {
        let trace = exchange.trace.as_ref()?;
        let config = exchange.http.tracing.as_deref()?;
        let own = (config.spawn_upstream_span && trace.recording).then(|| {
            let route = exchange.route();
            let name = named(exchange, route.as_ref().and_then(of_route), config);
            let name = name.map_or_else(|| format!("router {cluster} egress").into(), Cow::Owned);
            trace.span.child(name)
        });
        if !config.no_context_propagation {
            own.as_ref()
                .unwrap_or(&trace.span)
                .inject(&mut parts.headers);
        }
        let span = own?;
        let of = &*span;
        tag(of, "component", "proxy");
        tag(of, "upstream_cluster", cluster.to_owned());
        tag(of, "upstream_cluster.name", cluster.to_owned());
        tag(of, "http.request.method", parts.method.to_string());
        if made > 1 {
            tag(of, "retry.count", (made - 1).to_string());
            tag(of, "http.request.resend_count", u64::from(made - 1));
        }
        Some(Self(span))
    }

    /// The endpoint that is asked.
    pub(crate) fn reached(&self, info: &UpstreamInfo) {
        if let Some(address) = info.address {
            tag(&*self.0, "upstream_address", address.to_string());
            tag(&*self.0, "peer.address", address.to_string());
            tag(&*self.0, "server.address", address.ip().to_string());
            tag(&*self.0, "server.port", u64::from(address.port()));
        }
    }

    /// The trace that it belongs to.
    pub(crate) fn trace_id(&self) -> TraceId {
        self.0.trace_id()
    }

    /// The head of the response.
    pub(crate) fn answered<B>(&self, response: &Response<B>) {
        tag(&*self.0, "http.protocol", protocol(response.version()));
        of_answer(&*self.0, Some(response.status()), "", None);
    }

    /// There is none, or not the whole of it.
    pub(crate) fn failed(&self, reason: &str) {
        tag(&*self.0, "error", "true");
        tag(&*self.0, "error.type", reason.to_owned());
        self.0.fail(reason);
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The name that the configuration gives to an attempt's span.
fn named(exchange: &Exchange, own: Option<&RouteTracing>, config: &Config) -> Option<String> {
    let route = own.and_then(|own| own.upstream_operation.as_ref());
    let template = route.or(config.upstream_operation.as_ref())?;
    let head = exchange.head();
    Some(rendered(
        template,
        &Scope::of(exchange, head.as_ref(), &Reply::default()),
    ))
}

/// Observes side streams: a span of each, with an event for each message, and the trace in its metadata.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SideSpans;

pub(super) fn trace_of(context: &ExchangeContext) -> Option<&Trace> {
    let host = context.host.as_ref()?;
    host.own()?.downcast_ref::<Exchange>()?.trace.as_ref()
}

impl Observer for SideSpans {
    fn detail(&self, context: &ExchangeContext) -> Detail {
        match trace_of(context) {
            None => Detail::Counts,
            Some(trace) if trace.recording => Detail::Full,
            Some(_) => Detail::Openings,
        }
    }

    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        let Some(trace) = trace_of(exchange.context) else {
            return;
        };
        if let Some(baggage) = &trace.baggage {
            metadata.insert("baggage", baggage.clone());
        }
        if !trace.recording || !exchange.config.emit_client_span() {
            return trace.span.inject(metadata);
        }
        let (target, grpc) = match exchange.config.service() {
            Service::Grpc(service) => (service.destination(), true),
            Service::Http(service) => (service.cluster.as_str(), false),
            _ => ("", false),
        };
        let span = trace.span.child(format!("async {target} egress").into());
        tag(&*span, "component", "proxy");
        tag(&*span, "upstream_cluster", target.to_owned());
        tag(&*span, "upstream_cluster.name", target.to_owned());
        tag(&*span, "ext_proc.filter", exchange.filter.to_owned());
        if grpc {
            tag(&*span, "rpc.system", "grpc");
            tag(
                &*span,
                "rpc.service",
                "envoy.service.ext_proc.v3.ExternalProcessor",
            );
            tag(&*span, "rpc.method", "Process");
        }
        span.inject(metadata);
        trace.open_side(exchange.part, span);
    }

    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        let Some(trace) = trace_of(exchange.context).filter(|trace| trace.recording) else {
            return;
        };
        let now = SystemTime::now;
        match *event {
            Event::StreamReached { facts } => {
                let Some(span) = trace.side(exchange.part) else {
                    return;
                };
                if let Some(endpoint) = facts.endpoint {
                    tag(&*span, "upstream_address", endpoint.to_string());
                    tag(&*span, "peer.address", endpoint.to_string());
                    tag(&*span, "server.address", endpoint.ip().to_string());
                    tag(&*span, "server.port", u64::from(endpoint.port()));
                }
                if facts.attempts > 1 {
                    tag(&*span, "retry.count", u64::from(facts.attempts - 1));
                }
            }
            Event::MessageSent {
                phase,
                message,
                left: true,
            } => {
                if let Some(span) = trace.side(exchange.part) {
                    let tags = vec![
                        ("rpc.message.type", "SENT".into()),
                        ("ext_proc.phase", phase_name(Some(phase)).into()),
                        (
                            "rpc.message.uncompressed_size",
                            (message.framed_len() as u64).into(),
                        ),
                    ];
                    span.event("rpc.message", now(), tags);
                }
            }
            Event::MessageReceived {
                phase,
                latency,
                effect,
            } => {
                if let Some(span) = trace.side(exchange.part) {
                    let mut tags = vec![
                        ("rpc.message.type", "RECEIVED".into()),
                        ("ext_proc.phase", phase_name(phase).into()),
                        (
                            "ext_proc.effect",
                            format!("{effect:?}").to_lowercase().into(),
                        ),
                    ];
                    if let Some(latency) = latency {
                        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                        tags.push(("ext_proc.latency_us", micros.into()));
                    }
                    span.event("rpc.message", now(), tags);
                }
            }
            Event::MessageTimeout { phase } => {
                if let Some(span) = trace.side(exchange.part) {
                    let tags = vec![("ext_proc.phase", phase_name(Some(phase)).into())];
                    span.event("ext_proc.timeout", now(), tags);
                    fail(&*span, "message_timeout");
                }
            }
            Event::SpuriousMessage { detail } => {
                if let Some(span) = trace.side(exchange.part) {
                    fail(&*span, detail);
                }
            }
            Event::StreamFailed { close } => {
                if let Some(span) = trace.close_side(exchange.part) {
                    let code = u64::try_from(close.code()).unwrap_or_default();
                    tag(&*span, "grpc.status_code", code.to_string());
                    tag(&*span, "rpc.grpc.status_code", code);
                    tag(&*span, "grpc.message", close.message().to_owned());
                    fail(&*span, &close.to_string());
                    span.end();
                }
            }
            Event::StreamClosed => {
                if let Some(span) = trace.close_side(exchange.part) {
                    tag(&*span, "grpc.status_code", "0");
                    tag(&*span, "rpc.grpc.status_code", 0);
                    span.end();
                }
            }
            // A stream that is only dropped ends here.
            Event::Ended { .. } if !exchange.config.observability_mode() => {
                if let Some(span) = trace.close_side(exchange.part) {
                    span.end();
                }
            }
            _ => {}
        }
    }
}

fn fail(span: &dyn Span, reason: &str) {
    tag(span, "error", "true");
    tag(span, "error.type", reason.to_owned());
    span.fail(reason);
}

fn phase_name(phase: Option<extproc_client::observer::Phase>) -> &'static str {
    phase.map_or("immediate_response", extproc_client::observer::Phase::name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_the_route_replace_those_of_the_connection_manager() {
        let tag = |tag: &str, default: &str| CustomTag {
            tag: tag.to_owned(),
            value: Template::default(),
            default: default.to_owned(),
        };
        let manager = [tag("a", "manager"), tag("b", "manager")];
        let own = RouteTracing {
            custom_tags: vec![tag("b", "route"), tag("c", "route")],
            ..RouteTracing::default()
        };
        let shown = |own| {
            let tags = custom_tags(&manager, own);
            tags.map(|custom| format!("{}={}", custom.tag, custom.default))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(None), ["a=manager", "b=manager"]);
        assert_eq!(shown(Some(&own)), ["a=manager", "b=route", "c=route"]);
    }

    #[test]
    fn paths_are_cut_by_bytes() {
        for (most, shown) in [(0, ""), (1, "/"), (2, "/"), (3, "/ä"), (9, "/äb")] {
            assert_eq!(first_bytes("/äb", most), shown);
        }
    }
}
