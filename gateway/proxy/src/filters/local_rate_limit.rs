//! The filter `envoy.filters.http.local_ratelimit`.

use std::{borrow::Cow, sync::Arc, time::Instant};

use extproc_client::config::Effort;
use http::{HeaderValue, Request, request::Parts};
use serde_json::Value;

use super::{Chain, ResponseFuture, Serve, show_behind::show, switched::said};
use crate::{
    config::snapshot::{
        AddressRange, FilterKind, LocalRateLimit, OfHost, OnRoute, RateLimitAction, RateLimitRule,
        RouteRateLimits, flag,
    },
    exchange::{Exchange, header_changes, host::is_answered, record::Head},
    http::{body::Body, headers::head_lines, local_reply},
    limits::buckets::Chosen,
    route::{Selected, headers_match, is_drawn},
};

/// The filter; a route may have a limit of its own.
pub(super) struct RateLimitFilter {
    /// Its name, if routes speak of it.
    pub(super) name: Option<String>,
    pub(super) config: Arc<LocalRateLimit>,
    pub(super) buckets: Arc<Chosen>,
    pub(super) inner: Chain,
}

impl RateLimitFilter {
    fn config(&self, parts: &Parts) -> Arc<LocalRateLimit> {
        match said(parts, self.name.as_deref()) {
            Some(OnRoute::As(FilterKind::LocalRateLimit(own))) => own,
            _ => self.config.clone(),
        }
    }

    /// Tells whether the request finds no token that it needs.
    fn is_limited(&self, config: &Arc<LocalRateLimit>, parts: &Parts, exchange: &Exchange) -> bool {
        let Some(tokens) = self.buckets.of(config) else {
            return false;
        };
        if !is_drawn(config.enabled) {
            return false;
        }
        let fitting = match config.descriptors.is_empty() {
            true => Vec::new(),
            false => fitting(config, parts, exchange),
        };
        !tokens.take(&fitting, config.default_too, Instant::now())
    }
}

/// The descriptors, by their numbers, that rules of the filter or the route make of the request.
fn fitting(config: &LocalRateLimit, parts: &Parts, exchange: &Exchange) -> Vec<usize> {
    let Some(route) = exchange.current_route(parts) else {
        return Vec::new();
    };
    let RouteRateLimits {
        own,
        of_host,
        include,
    } = &*route.route.rate_limits;
    let with_host = match config.of_host {
        _ if *include => true,
        OfHost::Include => true,
        OfHost::Override => own.is_empty(),
        OfHost::Ignore => false,
    };
    let rules: Vec<&RateLimitRule> = match config.rules.as_slice() {
        [] if with_host => own.iter().chain(of_host).collect(),
        [] => own.iter().collect(),
        rules => rules.iter().collect(),
    };
    let request = Described {
        parts,
        exchange,
        route: &route,
    };
    let mut fitting = Vec::new();
    for rule in rules.iter().filter(|rule| rule.stage == config.stage) {
        let Some(entries) = request.by(rule) else {
            continue;
        };
        let mut all = config.descriptors.iter();
        fitting.extend(all.position(|descriptor| descriptor.entries == entries));
    }
    fitting
}

/// A request that rules describe.
struct Described<'a> {
    parts: &'a Parts,
    exchange: &'a Exchange,
    route: &'a Selected,
}

impl Described<'_> {
    /// The entries of a description; `None` if one of them cannot be made.
    fn by(&self, rule: &RateLimitRule) -> Option<Vec<(String, String)>> {
        let mut entries = Vec::with_capacity(rule.actions.len());
        for action in &rule.actions {
            entries.extend(self.entry(action)?);
        }
        (!entries.is_empty()).then_some(entries)
    }

    /// An entry, `Some(None)` if there is none and the others are made all the same.
    fn entry(&self, action: &RateLimitAction) -> Option<Option<(String, String)>> {
        let or_skip = |value: Option<String>, key: &str, optional: bool| match value {
            Some(value) => Some(Some((key.to_owned(), value))),
            None if optional => Some(None),
            None => None,
        };
        let given = |key: &str, value: String| Some(Some((key.to_owned(), value)));
        match action {
            RateLimitAction::Fixed(key, value) => given(key, value.clone()),
            RateLimitAction::Node => {
                let facts = self.route.facts();
                let cluster = facts.node.get("cluster").and_then(Value::as_str);
                given("source_cluster", cluster.unwrap_or_default().to_owned())
            }
            RateLimitAction::Cluster => {
                given("destination_cluster", self.route.cluster_name().to_owned())
            }
            RateLimitAction::Address => {
                given("remote_address", self.exchange.client.ip().to_string())
            }
            RateLimitAction::Network(v4, v6) => {
                let ip = self.exchange.client.ip();
                let length = if ip.is_ipv4() { v4 } else { v6 };
                let network = AddressRange {
                    address: ip,
                    length: *length,
                };
                let text = format!("{}/{length}", network.first());
                given("masked_remote_address", text)
            }
            RateLimitAction::Header {
                name,
                key,
                optional,
            } => {
                let mut lines = head_lines(
                    &self.parts.method,
                    &self.parts.uri,
                    &self.parts.headers,
                    name,
                );
                let value = lines.next().map(Cow::into_owned);
                or_skip(value, key, *optional)
            }
            RateLimitAction::Query {
                name,
                key,
                optional,
            } => {
                let query = self.parts.uri.query().unwrap_or_default();
                let mut pairs = query
                    .split('&')
                    .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
                let value = pairs.find(|(key, _)| key == name);
                or_skip(value.map(|(_, value)| value.to_owned()), key, *optional)
            }
            RateLimitAction::Matching {
                headers,
                wanted,
                key,
                value,
            } => {
                let mut effort = Effort::default();
                let matches = headers_match(headers, self.parts, &mut effort);
                match matches == *wanted {
                    true => given(key, value.clone()),
                    false => None,
                }
            }
            RateLimitAction::Metadata {
                namespace,
                path,
                key,
                default,
                optional,
            } => {
                let path: Vec<&str> = path.iter().map(String::as_str).collect();
                let found = self.exchange.metadata.json(namespace, &path);
                let text = found.as_ref().and_then(Value::as_str);
                let text = text.filter(|text| !text.is_empty()).unwrap_or(default);
                let value = (!text.is_empty()).then(|| text.to_owned());
                or_skip(value, key, *optional)
            }
        }
    }
}

impl Serve for RateLimitFilter {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (mut parts, body) = request.into_parts();
        let exchange = Exchange::of_head(&parts).cloned();
        let exchange = exchange.filter(|_| !is_answered(&parts));
        let Some(exchange) = exchange else {
            return self.inner.call(Request::from_parts(parts, body));
        };
        let config = self.config(&parts);
        if !self.is_limited(&config, &parts, &exchange) {
            return self.inner.call(Request::from_parts(parts, body));
        }
        if !is_drawn(config.enforced) {
            let changes = config.request_headers.as_slice();
            header_changes::request(&mut parts, std::iter::once(changes), &exchange);
            if !changes.is_empty() {
                exchange.note_head(&parts);
            }
            return self.inner.call(Request::from_parts(parts, body));
        }
        let mut response = local_reply::reply(
            exchange.grpc,
            config.status,
            "local_rate_limited".into(),
            "local_rate_limited",
            flag::RATE_LIMITED,
        );
        if exchange.grpc && config.resource_exhausted {
            let headers = response.headers_mut();
            headers.insert("grpc-status", HeaderValue::from_static("8"));
        }
        let changes = std::iter::once(config.response_headers.as_slice());
        let head = Head::of(&parts);
        header_changes::response(&mut response, changes, &exchange, Some(&head));
        show(&self.inner, parts, response)
    }
}
