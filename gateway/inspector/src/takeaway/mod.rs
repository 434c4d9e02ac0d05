//! Forms in which an exchange can be taken away.

mod curl;
mod fake_proxy;
mod scenario;

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};

pub(crate) use self::{curl::curl, fake_proxy::fake_proxy, scenario::scenario};
use crate::{
    record::{Field, Message, Record},
    redact::REDACTED,
};

/// Headers that a client sets by itself.
const OF_CLIENT: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// Headers that a proxy adds to a request before its filters.
const OF_PROXY: [&str; 5] = [
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
];

/// Headers, pseudo-headers aside.
fn fields(head: &Option<Vec<Field>>) -> impl Iterator<Item = &Field> {
    let all = head.iter().flatten();
    all.filter(|field| !field.name.starts_with(':'))
}

fn has_length(message: &Message) -> bool {
    fields(&message.head).any(|field| field.name == "content-length")
}

/// The path with its query, or `*`.
fn path(record: &Record) -> Cow<'_, str> {
    let first = record.processors.first();
    let head = first.into_iter().flat_map(|p| &p.request.before.head);
    let uri = head.flatten().find(|field| field.name == ":uri");
    uri.and_then(|uri| path_of(&uri.value))
        .unwrap_or_else(|| record.path.as_str().into())
}

/// The path with its query of a request's target (RFC 9112, section 3.2), unless that is an authority.
fn path_of(target: &str) -> Option<Cow<'_, str>> {
    if target.starts_with(['/', '*']) {
        return Some(target.into());
    }
    let (_, rest) = target.split_once("://")?;
    Some(match rest.find(['/', '?']) {
        Some(at) if rest[at..].starts_with('?') => format!("/{}", &rest[at..]).into(),
        Some(at) => rest[at..].into(),
        None => "/".into(),
    })
}

/// The bytes of a body that are recorded; the first of them if they are not all.
fn kept(message: &Message) -> Vec<u8> {
    STANDARD.decode(&message.body).unwrap_or_default()
}

/// Tells whether a value stands here as it was.
fn is_true(value: &str) -> bool {
    !value.contains(REDACTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_targets() {
        for (target, path) in [
            ("/a?b", Some("/a?b")),
            (
                "/login?next=https://b.example/c",
                Some("/login?next=https://b.example/c"),
            ),
            ("/a://b/c", Some("/a://b/c")),
            ("*", Some("*")),
            ("http://a.example", Some("/")),
            ("http://a.example/b?c=d://e", Some("/b?c=d://e")),
            ("http://a.example?b=/c", Some("/?b=/c")),
            ("a.example:443", None),
        ] {
            assert_eq!(path_of(target).as_deref(), path, "{target}");
        }
    }
}
