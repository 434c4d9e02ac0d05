//! gRPC statuses and response flags, by their names.

use extproc_client::text::grpc::grpc_code;
use http::HeaderMap;

use super::{Scope, Value, text};
use crate::{config::snapshot::RESPONSE_FLAGS, exchange::record::Reply};

/// The gRPC status of the response to a request of gRPC.
pub(crate) fn grpc_status(scope: &Scope<'_>) -> Option<u64> {
    grpc_code_of(scope.reply).filter(|_| scope.exchange.is_some_and(|exchange| exchange.grpc))
}

/// The gRPC status of a response: its own, or else what its HTTP status means.
pub(crate) fn grpc_code_of(reply: &Reply) -> Option<u64> {
    let of = |headers: &HeaderMap| headers.get("grpc-status")?.to_str().ok()?.parse().ok();
    let own = reply.trailers.as_ref().and_then(of);
    own.or_else(|| of(&reply.headers))
        .or_else(|| Some(u16::from(grpc_code(reply.status?)).into()))
}

/// The names of gRPC's status codes.
const GRPC: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

pub(super) fn grpc_name<'a>(code: u64, snake: bool) -> Value<'a> {
    let names = usize::try_from(code).ok().and_then(|code| GRPC.get(code));
    match names {
        Some((camel, snake_name)) => Value::Text(if snake { *snake_name } else { *camel }.into()),
        None => text(code.to_string()),
    }
}

/// Response flags by their short names.
pub(crate) fn short_flags(bits: u64) -> String {
    flags(bits, |(short, _)| short)
}

pub(super) fn flags(
    bits: u64,
    name: impl Fn(&(&'static str, &'static str)) -> &'static str,
) -> String {
    let named = RESPONSE_FLAGS.iter().enumerate();
    let mut names: Vec<_> = named
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, names)| names)
        .collect();
    // As in Envoy, in the order in which they were noted: what ended the retries before that of the last attempt, and
    // what the client did last.
    names.sort_by_key(|(short, _)| match *short {
        "URX" | "UO" => 0,
        "DC" | "DR" => 2,
        _ => 1,
    });
    let names: Vec<&str> = names.into_iter().map(name).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_names() {
        let short = short_flags;
        assert_eq!(short(0), "");
        assert_eq!(short(0x100), "NR");
        assert_eq!(short(0x20 | 0x8000), "URX,UF");
    }
}
