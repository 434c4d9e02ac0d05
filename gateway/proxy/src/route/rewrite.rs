//! Changes of a route to a request's target, and the location of a redirect.

use extproc_client::config::RegexSubstitution;
use http::{HeaderMap, HeaderValue, Uri, request::Parts, uri::Authority};

use crate::{
    config::snapshot::{Forward, PathMatch, Redirect, RouteMatch},
    http::headers::append_to_list,
};

/// A target cannot become what a route says. The request goes nowhere: who wrote the route relies on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwritable {
    /// A regular expression would take too long for the path.
    Effort,
    /// The new path or host is none, or too long for a target.
    Target,
}

/// Rewrites path and authority of a request as the route says. `hostname` is the endpoint's, for
/// `auto_host_rewrite`.
///
/// # Errors
/// A regular expression takes too long, or what comes of it is no target; the request is as it was.
pub(crate) fn rewrite(
    request: &mut Parts,
    matches: &RouteMatch,
    forward: &Forward,
    hostname: Option<&str>,
) -> Result<(), Unwritable> {
    let path = request.uri.path();
    let path = if let Some(prefix) = &forward.prefix_rewrite {
        Some(replace_match(path, matches, prefix))
    } else {
        substitute(forward.regex_rewrite.as_ref(), path)?
    };
    let authority = new_authority(request, forward, hostname)?;
    if path.is_none() && authority.is_none() {
        return Ok(());
    }
    let mut parts = request.uri.clone().into_parts();
    if let Some(mut path) = path {
        if let Some(query) = parts.path_and_query.as_ref().and_then(|p| p.query()) {
            path.push('?');
            path.push_str(query);
        }
        parts.path_and_query = Some(path.parse().map_err(|_| Unwritable::Target)?);
    }
    let mut replaced = None;
    if let Some(authority) = authority {
        replaced = parts.authority.replace(authority);
    }
    request.uri = Uri::from_parts(parts).map_err(|_| Unwritable::Target)?;
    if let Some(replaced) = replaced
        && forward.append_x_forwarded_host
    {
        append_forwarded_host(&mut request.headers, replaced.as_str());
    }
    Ok(())
}

/// Gives a request this authority. A request that has none, as `OPTIONS *` may, is left as it is.
pub(crate) fn set_authority(request: &mut Parts, authority: Authority) {
    let mut parts = request.uri.clone().into_parts();
    parts.authority = Some(authority);
    if let Ok(uri) = Uri::from_parts(parts) {
        request.uri = uri;
    }
}

/// The authority that takes the place of a request's.
fn new_authority(
    request: &Parts,
    forward: &Forward,
    hostname: Option<&str>,
) -> Result<Option<Authority>, Unwritable> {
    let of_header = || {
        let name = forward.host_rewrite_header.as_ref()?;
        request.headers.get(name).filter(|value| !value.is_empty())
    };
    let hostname = hostname.filter(|name| forward.auto_host_rewrite && !name.is_empty());
    let authority = if let Some(value) = &forward.host_rewrite {
        Authority::try_from(value.as_bytes())
    } else if let Some(name) = hostname {
        Authority::try_from(name)
    } else if let Some(value) = of_header() {
        Authority::try_from(value.as_bytes())
    } else {
        let of_path = forward.host_rewrite_path_regex.as_ref();
        match substitute(of_path, request.uri.path())? {
            Some(host) => Authority::try_from(host),
            None => return Ok(None),
        }
    };
    authority.map(Some).map_err(|_| Unwritable::Target)
}

/// Adds an authority to `x-forwarded-host`, unless it is the last one there.
fn append_forwarded_host(headers: &mut HeaderMap, authority: &str) {
    const NAME: &str = "x-forwarded-host";
    let list = headers.get(NAME).map_or(&b""[..], HeaderValue::as_bytes);
    if list.rsplit(|byte| *byte == b',').next() != Some(authority.as_bytes()) {
        append_to_list(headers, NAME, ",", authority);
    }
}

/// The path after a substitution, if there is one.
fn substitute(
    substitution: Option<&RegexSubstitution>,
    path: &str,
) -> Result<Option<String>, Unwritable> {
    let done = substitution.map(|substitution| substitution.apply(path));
    done.map(|done| done.ok_or(Unwritable::Effort)).transpose()
}

/// The path with what matched replaced. One that a filter has changed since, so that it does not match any more, stays
/// as it is; Envoy does not look at the case for that.
fn replace_match(path: &str, matches: &RouteMatch, with: &str) -> String {
    let rest = match &matches.path {
        PathMatch::Prefix(matched)
        | PathMatch::PathSeparatedPrefix(matched)
        | PathMatch::Exact(matched) => {
            let begin = path.get(..matched.len());
            if !begin.is_some_and(|begin| begin.eq_ignore_ascii_case(matched)) {
                return path.to_owned();
            }
            path.get(matched.len()..).unwrap_or_default()
        }
        PathMatch::Regex(_) | PathMatch::Connect => "",
    };
    // A target without its slash is none (RFC 9112 §3.2.1).
    let slash = match with.starts_with('/') || (with.is_empty() && rest.starts_with('/')) {
        true => "",
        false => "/",
    };
    format!("{slash}{with}{rest}")
}

/// The `location` of a redirect.
///
/// # Errors
/// A regular expression takes too long.
pub(crate) fn redirect_location(
    request: &Parts,
    matches: &RouteMatch,
    redirect: &Redirect,
) -> Result<String, Unwritable> {
    let scheme = match &redirect.scheme {
        Some(scheme) => scheme.as_str(),
        None if redirect.https => "https",
        None => request.uri.scheme_str().unwrap_or("http"),
    };
    let authority = request.uri.authority().map_or("", |a| a.as_str());
    let own = || {
        let scheme_changes = request.uri.scheme_str().unwrap_or("http") != scheme;
        match request.uri.authority() {
            // The port of the other scheme would lead nowhere.
            Some(known)
                if scheme_changes
                    && !redirect.keep_port
                    && matches!(known.port_u16(), Some(80 | 443)) =>
            {
                known.host()
            }
            _ => authority,
        }
    };
    let mut host = match &redirect.host {
        Some(host) => host.clone(),
        None if redirect.port.is_some() || redirect.strip_port => {
            request.uri.host().unwrap_or_default().to_owned()
        }
        None => own().to_owned(),
    };
    if let Some(port) = redirect.port {
        host.push_str(&format!(":{port}"));
    }
    let query = request.uri.query().filter(|_| !redirect.strip_query);
    let path = match (&redirect.path, &redirect.prefix_rewrite) {
        // A query in the new path takes the place of the request's.
        (Some(path), _) if path.contains('?') => {
            return Ok(format!("{scheme}://{host}{path}"));
        }
        (Some(path), _) => path.clone(),
        (None, Some(prefix)) => replace_match(request.uri.path(), matches, prefix),
        (None, None) => substitute(redirect.regex_rewrite.as_ref(), request.uri.path())?
            .unwrap_or_else(|| request.uri.path().to_owned()),
    };
    Ok(match query {
        Some(query) => format!("{scheme}://{host}{path}?{query}"),
        None => format!("{scheme}://{host}{path}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> Parts {
        http::Request::get(target).body(()).unwrap().into_parts().0
    }

    fn prefix(path: &str) -> RouteMatch {
        RouteMatch {
            fraction: None,
            path: PathMatch::Prefix(path.into()),
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
            metadata: Vec::new(),
            case_sensitive: true,
        }
    }

    #[test]
    fn redirects() {
        let from = request("http://a.example:80/old/x?q=1");
        let matches = prefix("/old");
        let to = |redirect| redirect_location(&from, &matches, &redirect).unwrap();
        assert_eq!(
            to(Redirect {
                https: true,
                ..Redirect::default()
            }),
            "https://a.example/old/x?q=1"
        );
        assert_eq!(
            to(Redirect {
                port: Some(8443),
                path: Some("/new".into()),
                ..Redirect::default()
            }),
            "http://a.example:8443/new?q=1"
        );
        assert_eq!(
            to(Redirect {
                host: Some("b.example".into()),
                prefix_rewrite: Some("/new".into()),
                strip_query: true,
                ..Redirect::default()
            }),
            "http://b.example/new/x"
        );
    }

    #[test]
    fn rewrites_keep_the_query() {
        let mut from = request("http://a.example/a/b?q=1");
        let forward = Forward {
            prefix_rewrite: Some("/z".into()),
            host_rewrite: Some(HeaderValue::from_static("b.example")),
            ..Forward::default()
        };
        rewrite(&mut from, &prefix("/a"), &forward, None).unwrap();
        assert_eq!(from.uri, "http://b.example/z/b?q=1");
        // A filter has changed it.
        let mut other = request("http://a.example/other?q=1");
        rewrite(&mut other, &prefix("/a"), &forward, None).unwrap();
        assert_eq!(other.uri, "http://b.example/other?q=1");
    }

    #[test]
    fn hosts() {
        let matches = prefix("/");
        let host = |forward: &Forward| {
            let mut from = http::Request::get("http://a.example/x/b.example?q")
                .header("x-host", "c.example:81")
                .body(())
                .unwrap()
                .into_parts()
                .0;
            rewrite(&mut from, &matches, forward, Some("endpoint")).unwrap();
            from.uri.to_string()
        };
        let of_header = Forward {
            host_rewrite_header: Some("x-host".parse().unwrap()),
            ..Forward::default()
        };
        assert_eq!(host(&of_header), "http://c.example:81/x/b.example?q");
        let missing = Forward {
            host_rewrite_header: Some("x-none".parse().unwrap()),
            ..Forward::default()
        };
        assert_eq!(host(&missing), "http://a.example/x/b.example?q");
        let of_path = Forward {
            host_rewrite_path_regex: RegexSubstitution::new("^/x/(.+)$", "${1}").ok(),
            ..Forward::default()
        };
        assert_eq!(host(&of_path), "http://b.example/x/b.example?q");
    }

    #[test]
    fn what_is_no_target_fails() {
        let long = format!("/{}", "x".repeat(65_000));
        let fails = |target: &str, forward: Forward| {
            let mut from = request(target);
            from.headers.insert("x-host", "bad host".parse().unwrap());
            let before = from.uri.clone();
            let done = rewrite(&mut from, &prefix("/a"), &forward, None);
            assert_eq!(from.uri, before);
            assert_eq!(done, Err(Unwritable::Target));
        };
        fails(
            &format!("http://a.example/a{}", "y".repeat(1_000)),
            Forward {
                prefix_rewrite: Some(long.clone()),
                ..Forward::default()
            },
        );
        // The query counts.
        fails(
            &format!("http://a.example/a?{}", "y".repeat(1_000)),
            Forward {
                regex_rewrite: RegexSubstitution::new("^/a", &long).ok(),
                ..Forward::default()
            },
        );
        fails(
            "http://a.example/a",
            Forward {
                host_rewrite_header: Some("x-host".parse().unwrap()),
                ..Forward::default()
            },
        );
        fails(
            "http://a.example/a/b",
            Forward {
                host_rewrite_path_regex: RegexSubstitution::new("^/(.+)$", "${1}").ok(),
                ..Forward::default()
            },
        );
    }
}
