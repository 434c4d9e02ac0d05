//! Endpoints about who the client says it is: cookies, basic and bearer authentication.

use std::collections::BTreeMap;

use axum::{
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use super::{
    query::lossy,
    reply::{self, Refusal},
    seen::{Args, header_text},
    status::found,
};

pub(super) async fn cookies(headers: HeaderMap) -> Response {
    let mut cookies = BTreeMap::new();
    for line in headers.get_all(header::COOKIE) {
        let line = lossy(line.as_bytes());
        for (name, value) in line
            .split(';')
            .filter_map(|pair| pair.trim().split_once('='))
        {
            cookies.insert(name.to_owned(), value.trim_matches('"').to_owned());
        }
    }
    reply::json(&cookies)
}

/// Sets a cookie for every query parameter and sends the client to `/cookies`.
pub(super) async fn set_cookies(args: Args) -> Result<Response, Refusal> {
    cookie_redirect(&args, |name, value| format!("{name}={value}; HttpOnly"))
}

/// Lets every cookie named in the query expire and sends the client to `/cookies`.
pub(super) async fn delete_cookies(args: Args) -> Result<Response, Refusal> {
    cookie_redirect(&args, |name, value| {
        format!("{name}={value}; Max-Age=0; HttpOnly")
    })
}

fn cookie_redirect(
    Args(args): &Args,
    cookie: impl Fn(&str, &str) -> String,
) -> Result<Response, Refusal> {
    let mut response = found(StatusCode::FOUND, "/cookies")?;
    for (name, values) in args {
        let value = values.first().map_or("", String::as_str);
        let line = HeaderValue::from_str(&cookie(name, value)).map_err(|_| {
            Refusal::bad(format!(
                "invalid cookie: {name:?} or its value cannot stand in a header"
            ))
        })?;
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    Ok(response)
}

/// Asks for the user and password in the path.
pub(super) async fn basic(
    headers: HeaderMap,
    Path((user, password)): Path<(String, String)>,
) -> Response {
    let (given_user, authorized) = check_basic(&headers, &user, &password);
    let answer = reply::json(&json!({ "authorized": authorized, "user": given_user }));
    if authorized {
        return answer;
    }
    let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"Fake Realm\"")];
    (StatusCode::UNAUTHORIZED, challenge, answer).into_response()
}

/// As [`basic`], but a stranger gets a 404.
pub(super) async fn hidden_basic(
    headers: HeaderMap,
    Path((user, password)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    match check_basic(&headers, &user, &password) {
        (user, true) => Ok(reply::json(&json!({ "authorized": true, "user": user }))),
        (_, false) => Err(Refusal::plain(StatusCode::NOT_FOUND)),
    }
}

/// Accepts any bearer token and shows it.
pub(super) async fn bearer(headers: HeaderMap) -> Response {
    let authorization = header_text(&headers, header::AUTHORIZATION);
    let mut fields = authorization.split_whitespace();
    match (fields.next(), fields.next(), fields.next()) {
        (Some("Bearer"), Some(token), None) => {
            reply::json(&json!({ "authenticated": true, "token": token }))
        }
        _ => {
            let refusal = Refusal::plain(StatusCode::UNAUTHORIZED);
            ([(header::WWW_AUTHENTICATE, "Bearer")], refusal).into_response()
        }
    }
}

/// The user that the client names, and whether it may pass.
fn check_basic(headers: &HeaderMap, user: &str, password: &str) -> (String, bool) {
    let authorization = header_text(headers, header::AUTHORIZATION);
    let credentials = authorization
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, encoded)| STANDARD.decode(encoded).ok())
        .map(|plain| lossy(&plain));
    match credentials
        .as_deref()
        .and_then(|plain| plain.split_once(':'))
    {
        Some((given_user, given_password)) => (
            given_user.to_owned(),
            given_user == user && given_password == password,
        ),
        None => (String::new(), false),
    }
}
