//! The guard before all routes, which looks at who asks.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::Inner;

const COOKIE: &str = "inspector";

/// Looks at host and token of a request, and dresses its response.
pub(super) async fn guard(
    State(inner): State<Arc<Inner>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match admit(&inner, &request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused,
    };
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        let name = HeaderName::from_static(name);
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

#[allow(clippy::result_large_err, reason = "the error is the response")]
fn admit(inner: &Inner, request: &Request) -> Result<(), Response> {
    let text = |name: HeaderName| {
        let value = request.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    // All that say a name count, those of the target as well.
    let hosts = request.headers().get_all(header::HOST);
    let mut named = hosts.iter().map(|host| host.to_str().unwrap_or_default());
    let target = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let is_ours = request.headers().contains_key(header::HOST)
        && named.all(|host| is_known(inner, host))
        && target.is_none_or(|target| is_known(inner, target));
    if !is_ours {
        let reason = "unknown host: open the inspector by its address or as localhost\n";
        return Err((StatusCode::MISDIRECTED_REQUEST, reason).into_response());
    }
    if let Some(token) = &inner.token {
        let query = request.uri().query().unwrap_or_default();
        let given = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("token="));
        if given.is_some_and(|given| same(given, token)) && request.method() == Method::GET {
            // The token leaves the address bar.
            let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
            // Two slashes would lead to another host.
            let to = format!("/{}", request.uri().path().trim_start_matches(['/', '\\']));
            let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, to)];
            return Err((StatusCode::SEE_OTHER, headers).into_response());
        }
        let cookies = text(header::COOKIE).split(';');
        let mut cookies = cookies.filter_map(|cookie| cookie.trim().split_once('='));
        let bearer = text(header::AUTHORIZATION).strip_prefix("Bearer ");
        let admitted = cookies.any(|(name, value)| name == COOKIE && same(value, token))
            || bearer.is_some_and(|given| same(given, token));
        if !admitted {
            let reason = "token missing or wrong: the log of the gateway has the address with it\n";
            return Err((StatusCode::UNAUTHORIZED, reason).into_response());
        }
    }
    Ok(())
}

/// Returns whether a `host` is a name of ours or an address, which nobody can rebind.
fn is_known(inner: &Inner, host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok()
        || inner
            .hosts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
}

/// Compares in a time that says nothing of where two texts differ.
fn same(given: &str, token: &str) -> bool {
    let pairs = given.bytes().zip(token.bytes());
    given.len() == token.len() && pairs.fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
