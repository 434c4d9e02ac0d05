//! HTTP without exchanges: bodies, header fields, lengths, and what the engines of both versions lack.

pub(crate) mod authority;
pub(crate) mod body;
pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod hash;
pub(crate) mod headers;
pub(crate) mod io;
pub(crate) mod lazy_timer;
pub(crate) mod length;
pub(crate) mod local_reply;
pub(crate) mod portions;

/// Returns a random UUID (version 4), as text.
pub(crate) fn random_id() -> String {
    uuid::Builder::from_random_bytes(rand::random())
        .into_uuid()
        .to_string()
}
