//! `normalize_path`, `merge_slashes`, `path_with_escaped_slashes_action`,
//! `headers_with_underscores_action`.

use http::{HeaderMap, HeaderName};

use crate::config::snapshot::{EscapedSlashes, Normalization, Underscores, decode_unreserved};

/// What becomes of a request after its path was looked at.
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
    // Escapes, dots after a slash, slashes the wrong way round or twice: without them, no rule applies.
    let bytes = path.as_bytes();
    let plain = bytes.windows(2).all(|two| !matches!(two, b"/." | b"//"))
        && !bytes.iter().any(|byte| matches!(byte, b'%' | b'\\'));
    if plain {
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
        match remove_dots(&decode_unreserved(&current)) {
            Some(clean) => current = clean,
            None => return Path::Refuse,
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

/// Resolves `.` and `..` segments; `None` if they lead above the root.
fn remove_dots(path: &str) -> Option<String> {
    let path = path.replace('\\', "/");
    if !path.starts_with('/') {
        return Some(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop()?;
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if last {
            kept.push("");
        }
    }
    Some(format!("/{}", kept.join("/")))
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

    #[test]
    fn dots_slashes_and_escapes() {
        for (from, to) in [
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/%2e%2E/a", "refused"),
            ("/..", "refused"),
            ("//a///b", "/a/b"),
            ("/%7euser/%2fa", "/~user/%2Fa"),
            ("/a%", "/a%"),
            ("*", "*"),
        ] {
            let clean = match path(from, &all()) {
                Path::Same => from.to_owned(),
                Path::New(path) => path,
                Path::Redirect(path) => format!("redirect {path}"),
                Path::Refuse => "refused".to_owned(),
            };
            assert_eq!(clean, to, "{from}");
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
