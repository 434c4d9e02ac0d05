//! Endpoints whose answer is a status: `/status`, `/unstable`, and the redirects.

use axum::{
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{
    query::first,
    reply::{self, Refusal},
    seen::{Args, Seen},
};

/// `/status/404`, or `/status/200:0.9,500:0.1` for one of several by weight.
pub(super) async fn status(Path(codes): Path<String>) -> Result<Response, Refusal> {
    let code = if codes.contains(',') {
        weighted(&codes)?
    } else {
        parse_code(&codes)?
    };
    Ok(with_code(code))
}

/// 500 at the rate `failure_rate` (0 to 1, default one half), otherwise 200; `seed` repeats the choice.
pub(super) async fn unstable(Args(args): Args) -> Result<Response, Refusal> {
    let rate = match first(&args, "failure_rate") {
        None => 0.5,
        Some(text) => text
            .parse()
            .ok()
            .filter(|rate| (0.0..=1.0).contains(rate))
            .ok_or_else(|| {
                Refusal::bad(format!(
                    "invalid failure_rate: {text:?} is not between 0 and 1"
                ))
            })?,
    };
    let failed = seeded(first(&args, "seed"))?.random::<f64>() < rate;
    let code = if failed {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::OK
    };
    Ok((code, reply::typed(reply::TEXT, "")).into_response())
}

/// A generator that repeats itself when a seed is given.
pub(super) fn seeded(seed: Option<&str>) -> Result<SmallRng, Refusal> {
    Ok(match seed {
        Some(text) => SmallRng::seed_from_u64(reply::integer(text, "seed")?.cast_unsigned()),
        None => SmallRng::from_os_rng(),
    })
}

/// A final status code, 200 to 599.
pub(super) fn parse_code(text: &str) -> Result<StatusCode, Refusal> {
    let code = reply::integer(text, "status code")?;
    u16::try_from(code)
        .ok()
        .filter(|code| (200..=599).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| {
            Refusal::bad(format!(
                "invalid status code: {code} is not between 200 and 599"
            ))
        })
}

fn weighted(codes: &str) -> Result<StatusCode, Refusal> {
    let mut choices = Vec::new();
    for choice in codes.split(',') {
        let (code, weight) = choice.split_once(':').unwrap_or((choice, "1"));
        let weight = weight
            .parse()
            .ok()
            .filter(|weight: &f64| weight.is_finite() && *weight >= 0.0)
            .ok_or_else(|| Refusal::bad(format!("invalid weight: {weight:?} in {choice:?}")))?;
        choices.push((parse_code(code)?, weight));
    }
    let total: f64 = choices.iter().map(|(_, weight)| weight).sum();
    let mut point = rand::rng().random::<f64>() * total;
    for (code, weight) in &choices {
        if point < *weight {
            return Ok(*code);
        }
        point -= weight;
    }
    Err(Refusal::bad(format!(
        "no choice in {codes:?} has a weight above zero"
    )))
}

fn with_code(code: StatusCode) -> Response {
    const TEAPOT: HeaderValue = HeaderValue::from_static("http://tools.ietf.org/html/rfc2324");
    const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"Fake Realm\"");
    let (extra, body): (Option<(HeaderName, HeaderValue)>, &str) = match code.as_u16() {
        300 | 301 | 302 | 303 | 305 | 307 | 308 => (
            Some((header::LOCATION, HeaderValue::from_static("/redirect/1"))),
            "",
        ),
        401 => (Some((header::WWW_AUTHENTICATE, CHALLENGE)), ""),
        402 => (None, "please insert a coin"),
        406 => {
            return (
                code,
                reply::typed(
                    reply::JSON,
                    "{\n  \"message\": \"nothing here fits the accept header\"\n}\n",
                ),
            )
                .into_response();
        }
        407 => (Some((header::PROXY_AUTHENTICATE, CHALLENGE)), ""),
        418 => (
            Some((HeaderName::from_static("x-more-info"), TEAPOT)),
            "I'm a teapot!",
        ),
        _ => (None, ""),
    };
    let mut response = (code, reply::typed(reply::TEXT, body)).into_response();
    response.headers_mut().extend(extra);
    if code == StatusCode::NOT_MODIFIED {
        // There is no representation that it could describe (RFC 9110 §15.4.5).
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    response
}

/// Redirects `times` times, then to `/get`; in the absolute form when asked with `?absolute=true`.
pub(super) async fn redirect(seen: Seen, Path(times): Path<String>) -> Result<Response, Refusal> {
    let absolute =
        first(&seen.args, "absolute").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    redirect_again(&seen, &times, absolute)
}

pub(super) async fn relative_redirect(
    seen: Seen,
    Path(times): Path<String>,
) -> Result<Response, Refusal> {
    redirect_again(&seen, &times, false)
}

pub(super) async fn absolute_redirect(
    seen: Seen,
    Path(times): Path<String>,
) -> Result<Response, Refusal> {
    redirect_again(&seen, &times, true)
}

/// To `url`, with `status_code` (300 to 399, default 302).
pub(super) async fn redirect_to(Args(args): Args) -> Result<Response, Refusal> {
    let url =
        first(&args, "url").ok_or_else(|| Refusal::bad("the query parameter url is missing"))?;
    let code = match first(&args, "status_code") {
        None => StatusCode::FOUND,
        Some(text) => {
            let code = parse_code(text)?;
            if !code.is_redirection() {
                return Err(Refusal::bad(format!(
                    "invalid status code: {text} is not between 300 and 399"
                )));
            }
            code
        }
    };
    found(code, url)
}

fn redirect_again(seen: &Seen, times: &str, absolute: bool) -> Result<Response, Refusal> {
    let left = reply::integer(times, "redirect count")? - 1;
    if left < 0 {
        return Err(Refusal::bad("the redirect count must be above zero"));
    }
    let path = match (left, absolute) {
        (0, _) => "/get".to_owned(),
        (left, false) => format!("/relative-redirect/{left}"),
        (left, true) => format!("/absolute-redirect/{left}"),
    };
    if !absolute {
        return found(StatusCode::FOUND, &path);
    }
    // The URL of this request up to its path: scheme and authority hold no slash but the two between them.
    let base: Vec<&str> = seen.url.splitn(4, '/').take(3).collect();
    found(StatusCode::FOUND, &format!("{}{path}", base.join("/")))
}

/// A redirect without a body.
pub(super) fn found(code: StatusCode, location: &str) -> Result<Response, Refusal> {
    let location = HeaderValue::from_str(location).map_err(|_| {
        Refusal::bad(format!(
            "invalid url: {location:?} cannot stand in a header"
        ))
    })?;
    Ok((code, [(header::LOCATION, location)]).into_response())
}
