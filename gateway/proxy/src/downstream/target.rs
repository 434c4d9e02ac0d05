//! Target of a request: from the target, the authority and the path that came to those that count.

use h2::ext::Protocol;
use http::{
    HeaderValue, Method, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::{
    ingress::{Refusal, bad},
    normalize::{self, Path},
};
use crate::{
    config::snapshot::{HttpManager, Normalization, StripPort},
    http::authority::{valid_authority, with_scheme},
};

/// The absolute target: the authority of the request line, else that of the one `host` line
/// (RFC 9112 §3.2).
pub(super) fn absolute(parts: &Parts, tls: bool, trusted: bool) -> Result<Uri, &'static str> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("http1.codec_error");
    }
    let host = match host {
        Some(host) if !host.is_empty() => Some(
            host.to_str()
                .ok()
                .filter(|host| valid_authority(host))
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
        (Some(authority), _) if valid_authority(authority.as_str()) => authority.clone(),
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
        Some(said) if said.eq_ignore_ascii_case(b"https") => Scheme::HTTPS,
        Some(said) if said.eq_ignore_ascii_case(b"http") => Scheme::HTTP,
        _ if tls => Scheme::HTTPS,
        _ => Scheme::HTTP,
    });
    uri.authority = Some(authority);
    uri.path_and_query = Some(path);
    Uri::from_parts(uri).map_err(|_| "path_normalization_failed")
}

/// Gives a request the scheme that `x-forwarded-proto` says now, if it says one.
pub(super) fn follow_forwarded(parts: &mut Parts) {
    let said = parts.headers.get("x-forwarded-proto");
    let scheme = match said.map(HeaderValue::as_bytes) {
        Some(said) if said.eq_ignore_ascii_case(b"https") => Scheme::HTTPS,
        Some(said) if said.eq_ignore_ascii_case(b"http") => Scheme::HTTP,
        _ => return,
    };
    parts.uri = with_scheme(std::mem::take(&mut parts.uri), &scheme);
}

/// Returns whether `:authority` and `host` name different authorities. In HTTP/1 the target simply wins.
fn differs(version: Version, authority: &Authority, host: &str) -> bool {
    version == Version::HTTP_2 && !authority.as_str().eq_ignore_ascii_case(host)
}

/// `strip_trailing_host_dot`, `strip_matching_host_port` and `strip_any_host_port`. A listener's own port is all that
/// the second takes; CONNECT keeps its port, which is what it asks for. A name that ends with more dots has an empty label, and
/// is none.
pub(super) fn normalize_host(
    rules: &Normalization,
    own: u16,
    parts: &mut Parts,
) -> Result<(), &'static str> {
    let Some(authority) = parts.uri.authority() else {
        return Ok(());
    };
    if !rules.strip_host_dot && rules.strip_port == StripPort::No {
        return Ok(());
    }
    let host = authority.host();
    let absolute = rules.strip_host_dot && host.ends_with('.');
    let port = authority
        .port_u16()
        .filter(|_| parts.method != Method::CONNECT);
    let strip = port.is_some_and(|port| match rules.strip_port {
        StripPort::No => false,
        StripPort::Matching => port == own,
        StripPort::Any => true,
    });
    if !(absolute || strip) {
        return Ok(());
    }
    let name = host.strip_suffix('.').filter(|_| absolute).unwrap_or(host);
    if absolute && (name.is_empty() || name.ends_with('.')) {
        return Err("invalid_authority");
    }
    let after = authority.as_str().get(host.len()..).unwrap_or_default();
    let authority = match strip {
        true => Authority::try_from(name),
        false => Authority::try_from(format!("{name}{after}")),
    };
    let mut uri = parts.uri.clone().into_parts();
    uri.authority = Some(authority.map_err(|_| "invalid_authority")?);
    parts.uri = Uri::from_parts(uri).map_err(|_| "invalid_authority")?;
    Ok(())
}

/// Applies the rules for paths.
pub(super) fn normalize(http: &HttpManager, parts: &mut Parts) -> Option<Refusal> {
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

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_request_line_wins_over_host() {
        let from = parts(Request::get("http://x.example/a?b").header("host", "y.example"));
        assert_eq!(
            absolute(&from, false, true).unwrap(),
            "http://x.example/a?b"
        );
        let from = parts(Request::get("/a").header("host", "y.example:81"));
        assert_eq!(
            absolute(&from, false, true).unwrap(),
            "http://y.example:81/a"
        );
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
            (StripPort::Any, "a.:81", "a."),
        ] {
            let rules = Normalization {
                strip_port: rule,
                ..Normalization::default()
            };
            let mut from = parts(Request::get(format!("http://{authority}/x")));
            normalize_host(&rules, 80, &mut from).unwrap();
            assert_eq!(
                from.uri.to_string(),
                format!("http://{expected}/x"),
                "{rule:?}"
            );
        }
    }

    #[test]
    fn trailing_dots() {
        for (strip_port, authority, expected) in [
            (StripPort::No, "a.b.", Ok("a.b")),
            (StripPort::No, "a.b", Ok("a.b")),
            (StripPort::No, "a.b.:81", Ok("a.b:81")),
            (StripPort::Any, "a.b.:81", Ok("a.b")),
            (StripPort::No, "[::1]:81", Ok("[::1]:81")),
            (StripPort::No, "a.b..", Err("invalid_authority")),
            (StripPort::No, ".", Err("invalid_authority")),
            (StripPort::No, ".:81", Err("invalid_authority")),
        ] {
            let rules = Normalization {
                strip_port,
                strip_host_dot: true,
                ..Normalization::default()
            };
            let mut from = parts(Request::get(format!("http://{authority}/x")));
            let done = normalize_host(&rules, 80, &mut from);
            let found = done.map(|()| from.uri.authority().unwrap().as_str());
            assert_eq!(found, expected, "{authority}");
        }
    }

    #[test]
    fn bad_targets() {
        let refused =
            |request: http::request::Builder| absolute(&parts(request), false, true).is_err();
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
}
