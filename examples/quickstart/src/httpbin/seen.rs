//! A request as the server saw it, apart from its body.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderName, Version, header, request::Parts},
};
use serde::Serialize;

use super::query::{self, Values, lossy};

/// The fields that every echo of a request begins with, in their order.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Seen {
    pub(super) args: Values,
    pub(super) headers: Values,
    pub(super) method: String,
    pub(super) origin: String,
    pub(super) url: String,
}

impl<S: Sync> FromRequestParts<S> for Seen {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            args: query::parse(parts.uri.query().unwrap_or_default().as_bytes()),
            headers: listed(parts),
            method: parts.method.to_string(),
            origin: origin(parts),
            url: url(parts),
        })
    }
}

/// The query of the request's target.
pub(super) struct Args(pub(super) Values);

impl<S: Sync> FromRequestParts<S> for Args {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(query::parse(
            parts.uri.query().unwrap_or_default().as_bytes(),
        )))
    }
}

/// The value of a header as text; empty when it is absent.
pub(super) fn header_text(headers: &HeaderMap, name: impl header::AsHeaderName) -> String {
    headers
        .get(name)
        .map(|value| lossy(value.as_bytes()))
        .unwrap_or_default()
}

/// `user-agent` as `User-Agent`.
fn canonical(name: &HeaderName) -> String {
    let mut start = true;
    name.as_str()
        .chars()
        .map(|c| {
            let shown = if start { c.to_ascii_uppercase() } else { c };
            start = c == '-';
            shown
        })
        .collect()
}

fn listed(parts: &Parts) -> Values {
    let chunked = parts.headers.contains_key(header::TRANSFER_ENCODING);
    let mut listed = Values::new();
    for name in parts.headers.keys() {
        // The list of trailers belongs to the framing of a chunked body, and is left out as go-httpbin does.
        if name == header::HOST || (chunked && name == header::TRAILER) {
            continue;
        }
        let mut values: Vec<String> = parts
            .headers
            .get_all(name)
            .iter()
            .map(|value| lossy(value.as_bytes()))
            .collect();
        // HTTP/2 may send one cookie header in pieces (RFC 9113 §8.2.3).
        if name == header::COOKIE && parts.version == Version::HTTP_2 {
            values = vec![values.join("; ")];
        }
        listed.insert(canonical(name), values);
    }
    listed.insert("Host".to_owned(), vec![host(parts)]);
    listed
}

fn host(parts: &Parts) -> String {
    match parts.uri.authority() {
        Some(authority) => authority.to_string(),
        None => header_text(&parts.headers, header::HOST),
    }
}

/// The client's address: as a front end reported it, or the peer of the connection.
fn origin(parts: &Parts) -> String {
    for name in [
        "fly-client-ip",
        "cf-connecting-ip",
        "fastly-client-ip",
        "true-client-ip",
    ] {
        let value = header_text(&parts.headers, name);
        if !value.is_empty() {
            return value;
        }
    }
    let forwarded = header_text(&parts.headers, "x-forwarded-for");
    if let Some(client) = forwarded
        .split(',')
        .next()
        .filter(|_| !forwarded.is_empty())
    {
        return client.trim().to_owned();
    }
    parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|ConnectInfo(peer)| peer.to_string())
        .unwrap_or_default()
}

fn url(parts: &Parts) -> String {
    let scheme = ["x-forwarded-proto", "x-forwarded-protocol"]
        .map(|name| header_text(&parts.headers, name))
        .into_iter()
        .find(|scheme| !scheme.is_empty());
    let scheme = scheme.as_deref().unwrap_or_else(|| {
        let secured = header_text(&parts.headers, "x-forwarded-ssl") == "on";
        if secured { "https" } else { "http" }
    });
    let target = parts
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    format!("{scheme}://{}{target}", host(parts))
}
