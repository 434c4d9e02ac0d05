//! Answers of a processor: continue with changes, or respond at once.
//!
//! Replies are built, not filled in, and building cannot fail: everything is checked when the reply is about to be
//! sent (see [`validate`](crate::validate)), and a reply that fails the check is a failure of the handler.
//!
//! | reply to | headers | body | status or method | rest |
//! | --- | --- | --- | --- | --- |
//! | headers | set, append, remove | replace, clear | `:status`; `:method`, `:path`, … as the proxy's rules allow | mode override, clear route cache |
//! | body | set, append, remove, in the buffered modes | replace, clear this piece | – | clear route cache |
//! | trailers | set, append, remove trailers | bytes before the trailers, in the duplex modes | – | – |
//!
//! And always: dynamic metadata, [`Immediate`], and an end to the processing (`skip_rest`).

pub mod validate;
pub(crate) mod wire;

use std::collections::HashMap;

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
        },
        service::ext_proc::v3::HeaderMutation,
    },
    google::protobuf::{Any, BoolValue, Struct},
};
use http::StatusCode;
use serde::Serialize;

use crate::{types::ModeOverride, view::attributes};

/// The answer to request headers or response headers. [`HeadersReply::new`] continues unchanged.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct HeadersReply {
    pub(crate) mutation: Mutation,
    pub(crate) body: Option<Bytes>,
    pub(crate) clear_route_cache: bool,
    pub(crate) mode: Option<ModeOverride>,
    pub(crate) extras: Extras,
}

impl HeadersReply {
    /// Continue unchanged.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the message this body instead of its own, or instead of none.
    ///
    /// The rest of this message is not shown to the processor: neither its body nor its trailers, which stay. A
    /// `content-length` of the message is corrected. Works in every body mode but [`BodyMode::Grpc`](crate::BodyMode).
    pub fn replace_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Takes the body away; as [`replace_body`](Self::replace_body) with nothing.
    pub fn clear_body(self) -> Self {
        self.replace_body(Bytes::new())
    }

    /// Has the proxy choose the route again, with the headers as changed (`CommonResponse.clear_route_cache`). Only on
    /// requests; a proxy configured with `route_cache_action: RETAIN` or `disable_clear_route_cache` does not.
    pub fn clear_route_cache(mut self) -> Self {
        self.clear_route_cache = true;
        self
    }

    /// Asks for another processing mode for the rest of this exchange.
    pub fn mode(mut self, mode: ModeOverride) -> Self {
        self.mode = Some(mode);
        self
    }
}

/// The answer to a piece of a body. [`BodyReply::new`] continues unchanged.
///
/// In the duplex modes the same three answers mean: pass this piece on, send these bytes in its place, send nothing.
/// A handler that clears every piece and replaces the last one by the whole works in every mode.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct BodyReply {
    pub(crate) mutation: Mutation,
    pub(crate) content: Content,
    pub(crate) clear_route_cache: bool,
    pub(crate) extras: Extras,
}

/// Fate of a piece of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Content {
    #[default]
    Keep,
    Replace(Bytes),
    Clear,
}

impl BodyReply {
    /// Continue unchanged.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends these bytes in place of the piece. A `content-length` is corrected where the headers are still held.
    pub fn replace(body: impl Into<Bytes>) -> Self {
        Self {
            content: Content::Replace(body.into()),
            ..Self::default()
        }
    }

    /// Sends this value as JSON in place of the piece. Does not touch the `content-type`.
    ///
    /// # Errors
    /// The value has no form in JSON.
    pub fn json(value: &impl Serialize) -> serde_json::Result<Self> {
        serde_json::to_vec(value).map(Self::replace)
    }

    /// Sends nothing in place of the piece.
    pub fn clear() -> Self {
        Self {
            content: Content::Clear,
            ..Self::default()
        }
    }

    /// Has the proxy choose the route again. Only on requests whose headers are still held.
    pub fn clear_route_cache(mut self) -> Self {
        self.clear_route_cache = true;
        self
    }
}

/// The answer to trailers. [`TrailersReply::new`] continues unchanged.
///
/// Trailers are sent to a processor only where the message has some; a proxy cannot be asked to add trailers to a
/// message without.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct TrailersReply {
    pub(crate) mutation: Mutation,
    pub(crate) body: Option<Bytes>,
    pub(crate) extras: Extras,
}

impl TrailersReply {
    /// Continue unchanged.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends these bytes as the end of the body, before the trailers. Only in the duplex body modes, and only if the
    /// message has a body; otherwise the reply fails its check, since no proxy would take them.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }
}

/// A response made by the processor; the exchange ends with it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Immediate {
    pub(crate) status: StatusCode,
    pub(crate) mutation: Mutation,
    pub(crate) body: Bytes,
    pub(crate) details: String,
    pub(crate) grpc_status: Option<u32>,
}

impl Immediate {
    /// A response with this status and no body. The status must be 200 or above.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            mutation: Mutation::default(),
            body: Bytes::new(),
            details: String::new(),
            grpc_status: None,
        }
    }

    /// The body. Proxies call it `text/plain` unless a `content-type` is set. For a gRPC request it becomes
    /// `grpc-message`.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Reason, in a few words, for the proxy's access log (`%RESPONSE_CODE_DETAILS%`).
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The gRPC status for a gRPC request. Without it the proxy derives one from the HTTP status.
    pub fn grpc_status(mut self, code: tonic::Code) -> Self {
        self.grpc_status = Some(code as u32);
        self
    }
}

/// Parts that every reply may carry beside its own content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extras {
    pub(crate) immediate: Option<Box<Immediate>>,
    pub(crate) metadata: Struct,
    pub(crate) typed_metadata: HashMap<String, Any>,
    pub(crate) skip_rest: bool,
}

/// Headers to set, to append and to remove. A proxy removes before it sets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mutation {
    wire: HeaderMutation,
}

impl Mutation {
    pub(crate) fn set(&mut self, name: &str, value: &[u8]) {
        self.wire.set_headers.push(HeaderValueOption {
            header: Some(entry(name, value)),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..HeaderValueOption::default()
        });
    }

    // Proxies look at the deprecated field: without it they overwrite.
    #[expect(deprecated)]
    pub(crate) fn append(&mut self, name: &str, value: &[u8]) {
        self.wire.set_headers.push(HeaderValueOption {
            header: Some(entry(name, value)),
            append: Some(BoolValue { value: true }),
            append_action: HeaderAppendAction::AppendIfExistsOrAdd.into(),
            ..HeaderValueOption::default()
        });
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.wire.remove_headers.push(name.to_ascii_lowercase());
    }

    /// Forgets what was asked for this header.
    pub(crate) fn forget(&mut self, name: &str) {
        let named = |option: &HeaderValueOption| {
            option
                .header
                .as_ref()
                .is_some_and(|header| header.key == name)
        };
        self.wire.set_headers.retain(|option| !named(option));
        self.wire.remove_headers.retain(|removed| removed != name);
    }

    pub(crate) fn sets(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.wire
            .set_headers
            .iter()
            .filter_map(|option| option.header.as_ref())
            .map(|header| (header.key.as_str(), header.raw_value.as_slice()))
    }

    pub(crate) fn removes(&self) -> impl Iterator<Item = &str> {
        self.wire.remove_headers.iter().map(String::as_str)
    }

    /// Returns the fields to be set, as plain entries.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = HeaderValue> {
        self.wire
            .set_headers
            .into_iter()
            .filter_map(|option| option.header)
    }

    /// The message, or nothing if there is nothing to change.
    pub(crate) fn into_wire(self) -> Option<HeaderMutation> {
        let empty = self.wire.set_headers.is_empty() && self.wire.remove_headers.is_empty();
        (!empty).then_some(self.wire)
    }
}

fn entry(name: &str, value: &[u8]) -> HeaderValue {
    HeaderValue {
        key: name.to_ascii_lowercase(),
        value: String::new(),
        raw_value: value.to_vec(),
    }
}

macro_rules! mutates_headers {
    ($($reply:ident: $what:literal),*) => {$(
        impl $reply {
            #[doc = concat!("Sets a ", $what, ": all its present values are replaced.")]
            pub fn set(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
                self.mutation.set(name.as_ref(), value.as_ref());
                self
            }

            #[doc = concat!("Adds another value of a ", $what, ".")]
            pub fn append(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
                self.mutation.append(name.as_ref(), value.as_ref());
                self
            }

            #[doc = concat!("Removes all values of a ", $what, ". Removals are carried out before anything is set.")]
            pub fn remove(mut self, name: impl AsRef<str>) -> Self {
                self.mutation.remove(name.as_ref());
                self
            }
        }
    )*};
}

mutates_headers!(HeadersReply: "header", BodyReply: "header", TrailersReply: "trailer", Immediate: "header");

macro_rules! carries_extras {
    ($($reply:ident),*) => {$(
        impl $reply {
            /// Writes dynamic metadata, for the proxy's access log and later filters. The proxy must list the
            /// namespace (`metadata_options.receiving_namespaces.untyped`) and merges into what is there.
            ///
            /// The value is taken if it is a JSON object; anything else writes an empty object.
            pub fn metadata(mut self, namespace: impl Into<String>, value: serde_json::Value) -> Self {
                self.extras.metadata.fields.insert(namespace.into(), attributes::object(value));
                self
            }

            /// Writes typed dynamic metadata (`metadata_options.receiving_namespaces.typed`).
            pub fn typed_metadata(mut self, namespace: impl Into<String>, value: Any) -> Self {
                self.extras.typed_metadata.insert(namespace.into(), value);
                self
            }

            /// Ends the processing of this exchange with this reply: no handler is called again.
            ///
            /// If no body is in full duplex, the gRPC stream is closed and the proxy goes on without the processor.
            /// Otherwise closing would lose bytes under way, and the SDK passes everything through instead.
            pub fn skip_rest(mut self) -> Self {
                self.extras.skip_rest = true;
                self
            }
        }

        impl From<Immediate> for $reply {
            fn from(immediate: Immediate) -> Self {
                let extras = Extras { immediate: Some(Box::new(immediate)), ..Extras::default() };
                Self { extras, ..Self::default() }
            }
        }
    )*};
}

carries_extras!(HeadersReply, BodyReply, TrailersReply);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_raw_value_is_written_and_names_are_lower_case() {
        let reply = HeadersReply::new()
            .set("X-A", "1")
            .append("x-b", b"\xff")
            .remove("X-C");
        let wire = reply.mutation.into_wire().unwrap();
        for option in &wire.set_headers {
            assert_eq!(option.header.as_ref().unwrap().value, "");
        }
        assert_eq!(wire.set_headers[0].header.as_ref().unwrap().key, "x-a");
        assert_eq!(wire.set_headers[0].header.as_ref().unwrap().raw_value, b"1");
        assert_eq!(wire.remove_headers, ["x-c"]);
    }

    #[test]
    #[expect(deprecated)]
    fn append_is_said_in_both_fields() {
        let wire = HeadersReply::new()
            .set("a", "1")
            .append("b", "2")
            .mutation
            .into_wire()
            .unwrap();
        assert_eq!(wire.set_headers[0].append, None);
        assert_eq!(
            wire.set_headers[0].append_action(),
            HeaderAppendAction::OverwriteIfExistsOrAdd
        );
        assert_eq!(wire.set_headers[1].append, Some(BoolValue { value: true }));
        assert_eq!(
            wire.set_headers[1].append_action(),
            HeaderAppendAction::AppendIfExistsOrAdd
        );
    }

    #[test]
    fn nothing_to_change_is_no_message() {
        assert!(HeadersReply::new().mutation.into_wire().is_none());
    }
}
