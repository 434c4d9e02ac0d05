//! `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`,
//! `headers_with_underscores_action`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use http_body::{Frame, SizeHint};

use super::readings::is_ambiguous;
use crate::{
    config::snapshot::{EscapeCase, EscapedSlashes, Normalization, Underscores, canonical_path},
    http::body::{Body, BoxError},
};

/// Treatment of a request after its path was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Nothing changes.
    Same,
    /// Go on with this path.
    New(String),
    /// Send the client to this path (307).
    Redirect(String),
    /// Answer 400.
    Refuse,
}

/// Looks at a path without its query.
pub(super) fn path(path: &str, rules: &Normalization) -> Path {
    let nothing = !rules.normalize_path && !rules.merge_slashes;
    if nothing && rules.escaped_slashes == EscapedSlashes::Keep || is_plain(path.as_bytes()) {
        return Path::Same;
    }
    let mut current = path.to_owned();
    let mut redirect = false;
    if has_escaped_slash(&current) {
        match rules.escaped_slashes {
            EscapedSlashes::Keep => {}
            EscapedSlashes::Reject => return Path::Refuse,
            action => {
                redirect = action == EscapedSlashes::UnescapeAndRedirect;
                current = unescape_slashes(&current);
            }
        }
    }
    if rules.normalize_path {
        let case = match rules.one_reading {
            true => EscapeCase::Upper,
            false => EscapeCase::Kept,
        };
        let Some(canonical) = canonical_path(&current, case) else {
            return Path::Refuse;
        };
        current = remove_dots(&canonical);
        if rules.one_reading && is_ambiguous(&current) {
            return Path::Refuse;
        }
    }
    if rules.merge_slashes {
        current = merge_slashes(&current);
    }
    if redirect {
        Path::Redirect(current)
    } else if current == path {
        Path::Same
    } else {
        Path::New(current)
    }
}

/// Tells that no rule applies: there are no escapes, no dots after a slash, no slashes the wrong way round or twice, and no
/// characters that are to be escaped.
fn is_plain(path: &[u8]) -> bool {
    let odd = |byte: &u8| {
        matches!(
            byte,
            b'%' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
    };
    path.windows(2).all(|two| !matches!(two, b"/." | b"//")) && !path.iter().any(odd)
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(is_escaped_slash)
}

fn is_escaped_slash(bytes: &[u8]) -> bool {
    bytes.eq_ignore_ascii_case(b"%2f") || bytes.eq_ignore_ascii_case(b"%5c")
}

fn unescape_slashes(path: &str) -> String {
    let replace = |text: String, from: &str, to| text.replace(from, to);
    let path = replace(path.to_owned(), "%2F", "/");
    let path = replace(path, "%2f", "/");
    let path = replace(path, "%5C", "\\");
    replace(path, "%5c", "\\")
}

/// Resolves segments that are `.` or `..`, with parameters (`..;x`) as well: servers that read those take the segment for one
/// without them. As in Envoy, nothing leads above the root.
fn remove_dots(path: &str) -> String {
    let path = path.replace('\\', "/");
    if !path.starts_with('/') {
        return path;
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match without_parameters(segment) {
            "." => {}
            ".." => {
                kept.pop();
            }
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

fn without_parameters(segment: &str) -> &str {
    segment
        .split_once(';')
        .map_or(segment, |(before, _)| before)
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if !(c == '/' && out.ends_with('/')) {
            out.push(c);
        }
    }
    out
}

/// Applies the rule for names with an underscore; `false` refuses the request.
pub(super) fn underscores(headers: &mut HeaderMap, rule: Underscores) -> bool {
    if rule == Underscores::Allow {
        return true;
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    if rule == Underscores::Reject && !names.is_empty() {
        return false;
    }
    for name in names {
        headers.remove(name);
    }
    true
}

/// A body to whose trailers the rule for names with an underscore applies, too: those of a request that is refused end it with an error.
pub(super) fn with_trailers(body: Body, rule: Underscores) -> Body {
    match rule == Underscores::Allow || http_body::Body::is_end_stream(&body) {
        true => body,
        false => Body::new(Trailers { body, rule }),
    }
}

struct Trailers {
    body: Body,
    rule: Underscores,
}

impl http_body::Body for Trailers {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let mut frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
            && !underscores(trailers, this.rule)
        {
            let reason = "the name of a trailer has an underscore";
            let error = io::Error::new(io::ErrorKind::InvalidData, reason);
            return Poll::Ready(Some(Err(error.into())));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Normalization {
        Normalization {
            normalize_path: true,
            merge_slashes: true,
            ..Normalization::default()
        }
    }

    fn shown(from: &str, rules: &Normalization) -> String {
        match path(from, rules) {
            Path::Same => from.to_owned(),
            Path::New(path) => path,
            Path::Redirect(path) => format!("redirect {path}"),
            Path::Refuse => "refused".to_owned(),
        }
    }

    #[test]
    fn dots_slashes_and_escapes() {
        for (from, to) in [
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/%2e%2E/a", "/a"),
            ("/..", "/"),
            ("//a///b", "/a/b"),
            ("/%7euser/%2fa", "/~user/%2fa"),
            ("/a%", "/a%"),
            ("/a%00b", "refused"),
            ("/a|b", "/a%7Cb"),
            ("*", "*"),
            // Parameters of a segment.
            ("/pub/..;/admin", "/admin"),
            ("/pub/..;x=y/admin", "/admin"),
            ("/pub/..;x;y/admin", "/admin"),
            ("/pub/.;x/admin", "/pub/admin"),
            ("/pub/%2e.;/admin", "/admin"),
            ("/pub\\..;\\admin", "/admin"),
            ("/pub/..;", "/"),
            ("/pub/...;/admin", "/pub/...;/admin"),
            ("/pub;x/admin", "/pub;x/admin"),
            ("/pub/a..;/admin", "/pub/a..;/admin"),
            // Escapes of escapes stay what they are.
            ("/pub/%2%65%2%65/admin", "/pub/%252e%252e/admin"),
        ] {
            assert_eq!(shown(from, &all()), to, "{from}");
        }
    }

    #[test]
    fn one_reading() {
        let rules = Normalization {
            one_reading: true,
            ..all()
        };
        for (from, to) in [
            ("/pub/..;/admin", "/admin"),
            ("/pub/%2E%2e;x/admin", "/admin"),
            ("/%7euser/%c3%a4", "/~user/%C3%A4"),
            ("/100%25", "/100%25"),
            ("/pub/%252e%252e/admin", "refused"),
            ("/pub/%2%65%2%65/admin", "refused"),
            ("/pub/..%20/admin", "refused"),
            ("/a%00", "refused"),
        ] {
            assert_eq!(shown(from, &rules), to, "{from}");
        }
    }

    #[test]
    fn escaped_slashes() {
        let rules = |escaped_slashes| Normalization {
            escaped_slashes,
            ..Normalization::default()
        };
        assert_eq!(path("/a%2Fb", &rules(EscapedSlashes::Keep)), Path::Same);
        assert_eq!(path("/a%2Fb", &rules(EscapedSlashes::Reject)), Path::Refuse);
        assert_eq!(
            path("/a%2fb", &rules(EscapedSlashes::UnescapeAndForward)),
            Path::New("/a/b".into())
        );
        assert_eq!(
            path("/a%5Cb", &rules(EscapedSlashes::UnescapeAndRedirect)),
            Path::Redirect("/a\\b".into())
        );
        assert_eq!(path("/ab", &rules(EscapedSlashes::Reject)), Path::Same);
    }

    #[test]
    fn underscore_rules() {
        let mut headers = HeaderMap::new();
        headers.insert("x_a", http::HeaderValue::from_static("1"));
        assert!(underscores(&mut headers, Underscores::Allow));
        assert!(!underscores(&mut headers, Underscores::Reject));
        assert!(underscores(&mut headers, Underscores::Drop));
        assert!(headers.is_empty());
    }
}
