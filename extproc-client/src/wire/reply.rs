//! `ProcessingResponse`, decoded.
//!
//! Only the fields that the filter reads are declared; others are skipped, as a proto parser does.

use std::collections::HashMap;

use bytes::Bytes;
use prost_types::{Any, Duration, Struct};

use super::entries;

/// A message that is no reply.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// It is no `ProcessingResponse`.
    #[error(transparent)]
    Malformed(#[from] prost::DecodeError),
    /// It has more header changes and values of metadata than are taken.
    #[error("more than {} header changes and values of metadata", entries::MOST)]
    TooManyEntries,
}

/// A decoded `ProcessingResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    #[prost(oneof = "Part", tags = "1, 2, 3, 4, 5, 6, 7, 11")]
    pub(crate) part: Option<Part>,
    #[prost(message, optional, tag = "8")]
    pub(crate) dynamic_metadata: Option<Struct>,
    #[prost(message, optional, tag = "9")]
    pub(crate) mode_override: Option<ModeReply>,
    #[prost(message, optional, tag = "10")]
    pub(crate) override_message_timeout: Option<Duration>,
    #[prost(bool, tag = "12")]
    pub(crate) request_drain: bool,
    #[prost(map = "string, message", tag = "13")]
    pub(crate) typed_dynamic_metadata: HashMap<String, Any>,
    #[prost(bool, tag = "15")]
    pub(crate) request_drain_requests: bool,
    #[prost(bool, tag = "16")]
    pub(crate) request_drain_responses: bool,
}

impl Reply {
    /// Its length in bytes, gRPC length prefix included.
    pub fn framed_len(&self) -> usize {
        super::GRPC_PREFIX + prost::Message::encoded_len(self)
    }

    /// Decodes one message, without gRPC framing. Body bytes share `message`'s memory unless they are a small part of it, and so do
    /// header values unless it is large: they may stay as long as the exchange.
    ///
    /// # Errors
    /// The bytes are not a `ProcessingResponse`, or one with more than 65,536 header changes and values of metadata.
    pub fn decode(message: Bytes) -> Result<Self, DecodeError> {
        const LARGE: usize = 16 * 1024;
        entries::check(&message)?;
        let length = message.len();
        let large = length > LARGE;
        let mut reply: Self = prost::Message::decode(message)?;
        if large {
            for entry in reply.entries() {
                entry.raw_value = Bytes::copy_from_slice(&entry.raw_value);
            }
            if let Some(body) = reply.body()
                && body.len() < length / 2
            {
                *body = Bytes::copy_from_slice(body);
            }
        }
        Ok(reply)
    }

    fn body(&mut self) -> Option<&mut Bytes> {
        match &mut self.part {
            Some(
                Part::RequestHeaders(HeadersReply { response })
                | Part::ResponseHeaders(HeadersReply { response })
                | Part::RequestBody(BodyReply { response })
                | Part::ResponseBody(BodyReply { response }),
            ) => match &mut response.as_mut()?.body_mutation.as_mut()?.mutation {
                Some(BodyMutation::Body(body)) => Some(body),
                Some(BodyMutation::Streamed(part)) => Some(&mut part.body),
                Some(BodyMutation::Clear(_)) | None => None,
            },
            Some(Part::Immediate(immediate)) => Some(&mut immediate.body),
            Some(Part::Local(local)) => match &mut local.part {
                Some(LocalPart::Body(part)) => Some(&mut part.body),
                _ => None,
            },
            Some(Part::RequestTrailers(_) | Part::ResponseTrailers(_)) | None => None,
        }
    }

    fn entries(&mut self) -> impl Iterator<Item = &mut HeaderEntry> {
        let (mutation, list) = match &mut self.part {
            Some(
                Part::RequestHeaders(HeadersReply { response })
                | Part::ResponseHeaders(HeadersReply { response })
                | Part::RequestBody(BodyReply { response })
                | Part::ResponseBody(BodyReply { response }),
            ) => (
                response.as_mut().and_then(|it| it.header_mutation.as_mut()),
                None,
            ),
            Some(
                Part::RequestTrailers(TrailersReply { header_mutation })
                | Part::ResponseTrailers(TrailersReply { header_mutation }),
            ) => (header_mutation.as_mut(), None),
            Some(Part::Immediate(immediate)) => (immediate.headers.as_mut(), None),
            Some(Part::Local(local)) => match &mut local.part {
                Some(LocalPart::Headers(local)) => (None, local.headers.as_mut()),
                Some(LocalPart::Trailers(trailers)) => (None, Some(trailers)),
                Some(LocalPart::Body(_)) | None => (None, None),
            },
            None => (None, None),
        };
        let set = mutation.into_iter().flat_map(|it| &mut it.set_headers);
        let listed = list.into_iter().flat_map(|it| &mut it.headers);
        set.filter_map(|option| option.header.as_mut())
            .chain(listed)
    }

    /// The message without gRPC framing, with the fields that the filter reads.
    pub fn to_bytes(&self) -> Bytes {
        prost::Message::encode_to_vec(self).into()
    }
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum Part {
    #[prost(message, tag = "1")]
    RequestHeaders(HeadersReply),
    #[prost(message, tag = "2")]
    ResponseHeaders(HeadersReply),
    #[prost(message, tag = "3")]
    RequestBody(BodyReply),
    #[prost(message, tag = "4")]
    ResponseBody(BodyReply),
    #[prost(message, tag = "5")]
    RequestTrailers(TrailersReply),
    #[prost(message, tag = "6")]
    ResponseTrailers(TrailersReply),
    #[prost(message, tag = "7")]
    Immediate(ImmediateReply),
    #[prost(message, tag = "11")]
    Local(LocalReply),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeadersReply {
    #[prost(message, optional, tag = "1")]
    pub(crate) response: Option<CommonReply>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BodyReply {
    #[prost(message, optional, tag = "1")]
    pub(crate) response: Option<CommonReply>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TrailersReply {
    #[prost(message, optional, tag = "1")]
    pub(crate) header_mutation: Option<HeaderMutation>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CommonReply {
    /// 0 is CONTINUE, 1 is CONTINUE_AND_REPLACE.
    #[prost(int32, tag = "1")]
    pub(crate) status: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) header_mutation: Option<HeaderMutation>,
    #[prost(message, optional, tag = "3")]
    pub(crate) body_mutation: Option<BodyMutationMessage>,
    #[prost(bool, tag = "5")]
    pub(crate) clear_route_cache: bool,
}

impl CommonReply {
    pub(crate) fn is_replace(&self) -> bool {
        self.status == 1
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BodyMutationMessage {
    #[prost(oneof = "BodyMutation", tags = "1, 2, 3")]
    pub(crate) mutation: Option<BodyMutation>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum BodyMutation {
    #[prost(bytes = "bytes", tag = "1")]
    Body(Bytes),
    #[prost(bool, tag = "2")]
    Clear(bool),
    #[prost(message, tag = "3")]
    Streamed(StreamedBody),
}

/// `StreamedBodyResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StreamedBody {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) body: Bytes,
    #[prost(bool, tag = "2")]
    pub(crate) end_of_stream: bool,
    #[prost(bool, tag = "3")]
    pub(crate) end_of_stream_without_message: bool,
    #[prost(bool, tag = "4")]
    pub(crate) grpc_message_compressed: bool,
    #[prost(bool, tag = "5")]
    pub(crate) drain_complete: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeaderMutation {
    #[prost(message, repeated, tag = "1")]
    pub(crate) set_headers: Vec<HeaderOption>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) remove_headers: Vec<String>,
}

/// `HeaderValueOption`. `append_action` and `keep_empty_value` have no effect in Envoy 1.40 and
/// are not read.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeaderOption {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<HeaderEntry>,
    #[prost(message, optional, tag = "2")]
    pub(crate) append: Option<bool>,
}

/// `HeaderValue`; `value` is not read, as in Envoy.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeaderEntry {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) raw_value: Bytes,
}

/// `HeaderMap`, `HttpHeaders` and `HttpTrailers` as a processor sends them.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeaderList {
    #[prost(message, repeated, tag = "1")]
    pub(crate) headers: Vec<HeaderEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ImmediateReply {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<HttpStatus>,
    #[prost(message, optional, tag = "2")]
    pub(crate) headers: Option<HeaderMutation>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) body: Bytes,
    #[prost(message, optional, tag = "4")]
    pub(crate) grpc_status: Option<GrpcStatus>,
    #[prost(string, tag = "5")]
    pub(crate) details: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HttpStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct GrpcStatus {
    #[prost(uint32, tag = "1")]
    pub(crate) status: u32,
}

/// `StreamedImmediateResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LocalReply {
    #[prost(oneof = "LocalPart", tags = "1, 2, 3")]
    pub(crate) part: Option<LocalPart>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(crate) enum LocalPart {
    #[prost(message, tag = "1")]
    Headers(LocalHeaders),
    #[prost(message, tag = "2")]
    Body(StreamedBody),
    #[prost(message, tag = "3")]
    Trailers(HeaderList),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LocalHeaders {
    #[prost(message, optional, tag = "1")]
    pub(crate) headers: Option<HeaderList>,
    #[prost(bool, tag = "3")]
    pub(crate) end_of_stream: bool,
}

/// `ProcessingMode` as numbers; a number that no enum has keeps its default.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ModeReply {
    #[prost(int32, tag = "1")]
    pub(crate) request_header_mode: i32,
    #[prost(int32, tag = "2")]
    pub(crate) response_header_mode: i32,
    #[prost(int32, tag = "3")]
    pub(crate) request_body_mode: i32,
    #[prost(int32, tag = "4")]
    pub(crate) response_body_mode: i32,
    #[prost(int32, tag = "5")]
    pub(crate) request_trailer_mode: i32,
    #[prost(int32, tag = "6")]
    pub(crate) response_trailer_mode: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body keeps no message alive of which it is a small part.
    #[test]
    fn small_bodies_of_large_messages_have_memory_of_their_own() {
        for (padding, shares) in [(0, true), (60_000, false)] {
            let body = vec![7; 20_000];
            let reply = Reply {
                part: Some(Part::Immediate(ImmediateReply {
                    body: body.clone().into(),
                    ..ImmediateReply::default()
                })),
                ..Reply::default()
            };
            // A field that is not read.
            let mut message = reply.to_bytes().to_vec();
            message.extend([0xa2, 0x06]);
            prost::encoding::encode_varint(padding, &mut message);
            message.resize(message.len() + usize::try_from(padding).unwrap(), 0);
            let message = Bytes::from(message);
            let mut decoded = Reply::decode(message.clone()).unwrap();
            let decoded = decoded.body().unwrap();
            assert_eq!(decoded, &body);
            assert_eq!(message.as_ptr_range().contains(&decoded.as_ptr()), shares);
        }
    }

    /// A header that stays does not keep a large body alive that came with it.
    #[test]
    fn headers_of_large_messages_have_memory_of_their_own() {
        let entry = || HeaderEntry {
            key: "x-a".into(),
            raw_value: "1".into(),
        };
        let mutation = || {
            Some(HeaderMutation {
                set_headers: vec![HeaderOption {
                    header: Some(entry()),
                    append: None,
                }],
                remove_headers: Vec::new(),
            })
        };
        let list = || HeaderList {
            headers: vec![entry()],
        };
        let common = || {
            Some(CommonReply {
                header_mutation: mutation(),
                ..CommonReply::default()
            })
        };
        let headers = || HeadersReply { response: common() };
        let body = || BodyReply { response: common() };
        let trailers = || TrailersReply {
            header_mutation: mutation(),
        };
        let local = |part| Part::Local(LocalReply { part: Some(part) });
        for part in [
            Part::RequestHeaders(headers()),
            Part::ResponseHeaders(headers()),
            Part::RequestBody(body()),
            Part::ResponseBody(body()),
            Part::RequestTrailers(trailers()),
            Part::ResponseTrailers(trailers()),
            Part::Immediate(ImmediateReply {
                headers: mutation(),
                ..ImmediateReply::default()
            }),
            local(LocalPart::Headers(LocalHeaders {
                headers: Some(list()),
                end_of_stream: true,
            })),
            local(LocalPart::Trailers(list())),
        ] {
            for large in [false, true] {
                let reply = Reply {
                    part: Some(part.clone()),
                    ..Reply::default()
                };
                // A field that is not read makes it large.
                let mut message = reply.to_bytes().to_vec();
                if large {
                    message.extend([0xa2, 0x06, 0x80, 0x80, 0x04]);
                    message.resize(message.len() + 65_536, 0);
                }
                let message = Bytes::from(message);
                let mut decoded = Reply::decode(message.clone()).unwrap();
                assert_eq!(decoded, reply);
                let value = &decoded.entries().next().unwrap().raw_value;
                let shared = message.as_ptr_range().contains(&value.as_ptr());
                assert_eq!(shared, !large, "{part:?}");
            }
        }
    }
}
