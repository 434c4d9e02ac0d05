//! `ProcessingRequest`, encoded by hand.
//!
//! Each message is written once into one buffer, behind room for the gRPC length prefix. The part
//! that names the phase comes last, and in body messages the bytes of the body last of all, so
//! that they follow in the pieces in which they came, without a copy.

use prost::encoding::{encode_varint, encoded_len_varint};

use super::GRPC_PREFIX;
use crate::{
    types::{phase::Phase, pieces::Pieces},
    wire::message::Message,
};

/// Fields of every message, whatever its phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Envelope<'a> {
    /// Encoded `metadata_context`; always present on the wire, even if empty.
    pub(crate) metadata: &'a [u8],
    /// Encoded `Struct` of attributes, in the first message of a direction.
    pub(crate) attributes: Option<&'a [u8]>,
    /// In the first message of the stream.
    pub(crate) protocol: Option<ProtocolConfig>,
    /// `observability_mode`.
    pub(crate) observability: bool,
}

/// `ProtocolConfiguration`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProtocolConfig {
    pub(crate) request_body_mode: i32,
    pub(crate) response_body_mode: i32,
    pub(crate) send_body_without_waiting: bool,
}

/// The flags of an `HttpBody`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BodyFlags {
    pub(crate) end_of_stream: bool,
    pub(crate) end_of_stream_without_message: bool,
    pub(crate) grpc_message_compressed: bool,
    pub(crate) drain_complete: bool,
}

/// A header block that can be walked more than once.
pub(crate) trait Fields {
    /// Calls `f` with each name and value, pseudo-headers first.
    fn each(&self, f: impl FnMut(&[u8], &[u8]));
}

/// A `HttpHeaders` message.
pub(crate) fn headers(
    phase: Phase,
    envelope: Envelope<'_>,
    fields: &impl Fields,
    end_of_stream: bool,
) -> Message {
    let map = map_len(fields);
    let inner = field_len(map) + if end_of_stream { 2 } else { 0 };
    let mut out = start(envelope, field_len(inner));
    put_tag(&mut out, tag(phase), LEN);
    put_varint(&mut out, inner as u64);
    put_map(&mut out, 1, map, fields);
    if end_of_stream {
        put_bool(&mut out, 3);
    }
    finish(out, Pieces::default())
}

/// A `HttpTrailers` message.
pub(crate) fn trailers(phase: Phase, envelope: Envelope<'_>, fields: &impl Fields) -> Message {
    let map = map_len(fields);
    let inner = field_len(map);
    let mut out = start(envelope, field_len(inner));
    put_tag(&mut out, tag(phase), LEN);
    put_varint(&mut out, inner as u64);
    put_map(&mut out, 1, map, fields);
    finish(out, Pieces::default())
}

/// A `HttpBody` message; `body` is not copied.
pub(crate) fn body(
    phase: Phase,
    envelope: Envelope<'_>,
    body: Pieces,
    flags: BodyFlags,
) -> Message {
    let set = [
        (2, flags.end_of_stream),
        (3, flags.end_of_stream_without_message),
        (4, flags.grpc_message_compressed),
        (5, flags.drain_complete),
    ];
    let body_len = match body.len() {
        0 => 0,
        len => field_len(len),
    };
    let inner = set.iter().filter(|(_, set)| *set).count() * 2 + body_len;
    let mut out = start(envelope, field_len(inner) - body.len());
    put_tag(&mut out, tag(phase), LEN);
    put_varint(&mut out, inner as u64);
    for (number, set) in set {
        if set {
            put_bool(&mut out, number);
        }
    }
    if !body.is_empty() {
        put_tag(&mut out, 1, LEN);
        put_varint(&mut out, body.len() as u64);
    }
    finish(out, body)
}

const VARINT: u32 = 0;
const LEN: u32 = 2;
const ATTRIBUTES_KEY: &str = "envoy.filters.http.ext_proc";

fn tag(phase: Phase) -> u32 {
    match phase {
        Phase::RequestHeaders => 2,
        Phase::ResponseHeaders => 3,
        Phase::RequestBody => 4,
        Phase::ResponseBody => 5,
        Phase::RequestTrailers => 6,
        Phase::ResponseTrailers => 7,
    }
}

/// Starts a message: room for the prefix, then everything that all phases share.
fn start(envelope: Envelope<'_>, phase_len: usize) -> Vec<u8> {
    let attributes = envelope.attributes.map(|encoded| {
        (
            encoded,
            field_len(ATTRIBUTES_KEY.len()) + field_len(encoded.len()),
        )
    });
    let shared = field_len(envelope.metadata.len())
        + attributes.map_or(0, |(_, entry)| field_len(entry))
        + if envelope.observability { 2 } else { 0 }
        + envelope
            .protocol
            .map_or(0, |config| field_len(config.len()));
    let mut out = Vec::with_capacity(GRPC_PREFIX + shared + phase_len);
    out.resize(GRPC_PREFIX, 0);
    put_bytes(&mut out, 8, envelope.metadata);
    if let Some((encoded, entry)) = attributes {
        put_tag(&mut out, 9, LEN);
        put_varint(&mut out, entry as u64);
        put_bytes(&mut out, 1, ATTRIBUTES_KEY.as_bytes());
        put_bytes(&mut out, 2, encoded);
    }
    if envelope.observability {
        put_bool(&mut out, 10);
    }
    if let Some(config) = envelope.protocol {
        put_tag(&mut out, 11, LEN);
        put_varint(&mut out, config.len() as u64);
        config.put(&mut out);
    }
    out
}

/// Fills the gRPC prefix in: not compressed, and the length of head and body together.
fn finish(mut head: Vec<u8>, body: Pieces) -> Message {
    let len = head.len() - GRPC_PREFIX + body.len();
    // A body is one read of a socket or a bounded buffer: far below 4 GiB.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    if let Some(prefix) = head.get_mut(1..GRPC_PREFIX) {
        prefix.copy_from_slice(&len.to_be_bytes());
    }
    Message {
        framed_head: head.into(),
        body,
    }
}

impl ProtocolConfig {
    fn numbers(self) -> [(u32, i32); 3] {
        [
            (1, self.request_body_mode),
            (2, self.response_body_mode),
            (3, i32::from(self.send_body_without_waiting)),
        ]
    }

    /// Each number is below 128: one byte of tag, one of value.
    fn len(self) -> usize {
        self.numbers().iter().filter(|(_, n)| *n != 0).count() * 2
    }

    fn put(self, out: &mut Vec<u8>) {
        for (field, number) in self.numbers() {
            if number != 0 {
                put_tag(out, field, VARINT);
                put_varint(out, u64::from(number.unsigned_abs()));
            }
        }
    }
}

fn entry_len(name: &[u8], value: &[u8]) -> usize {
    let value = match value.len() {
        0 => 0,
        len => field_len(len),
    };
    field_len(name.len()) + value
}

fn map_len(fields: &impl Fields) -> usize {
    let mut len = 0;
    fields.each(|name, value| len += field_len(entry_len(name, value)));
    len
}

fn put_map(out: &mut Vec<u8>, field: u32, len: usize, fields: &impl Fields) {
    put_tag(out, field, LEN);
    put_varint(out, len as u64);
    fields.each(|name, value| {
        put_tag(out, 1, LEN);
        put_varint(out, entry_len(name, value) as u64);
        put_bytes(out, 1, name);
        if !value.is_empty() {
            put_bytes(out, 3, value);
        }
    });
}

/// The length of a length-delimited field with its tag; all our field numbers take one byte.
fn field_len(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn put_tag(out: &mut Vec<u8>, field: u32, wire_type: u32) {
    put_varint(out, u64::from(field << 3 | wire_type));
}

/// Nearly all of our numbers take one byte.
fn put_varint(out: &mut Vec<u8>, number: u64) {
    match u8::try_from(number) {
        Ok(byte @ ..0x80) => out.push(byte),
        _ => encode_varint(number, out),
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_tag(out, field, LEN);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_bool(out: &mut Vec<u8>, field: u32) {
    put_tag(out, field, VARINT);
    out.push(1);
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::service::ext_proc::v3::{
        ProcessingRequest, processing_request::Request,
    };
    use prost::Message as _;

    use super::*;

    struct List(&'static [(&'static str, &'static str)]);

    impl Fields for List {
        fn each(&self, mut f: impl FnMut(&[u8], &[u8])) {
            for (name, value) in self.0 {
                f(name.as_bytes(), value.as_bytes());
            }
        }
    }

    fn decode(message: &Message) -> ProcessingRequest {
        let framed: Vec<_> = message.clone().framed().flatten().collect();
        let len = u32::from_be_bytes(framed[1..5].try_into().unwrap()) as usize;
        assert_eq!(len, framed.len() - 5);
        ProcessingRequest::decode(message.to_bytes()).unwrap()
    }

    #[test]
    fn headers_decode_as_the_official_message() {
        let mut attributes = Vec::new();
        prost_types::Struct::default()
            .encode(&mut attributes)
            .unwrap();
        let envelope = Envelope {
            attributes: Some(&attributes),
            protocol: Some(ProtocolConfig {
                request_body_mode: 4,
                response_body_mode: 0,
                send_body_without_waiting: true,
            }),
            ..Envelope::default()
        };
        let fields = List(&[(":path", "/"), ("x-a", ""), ("x-b", "v")]);
        let message = decode(&headers(Phase::RequestHeaders, envelope, &fields, true));
        let config = message.protocol_config.unwrap();
        assert_eq!(config.request_body_mode, 4);
        assert!(config.send_body_without_waiting_for_header_response);
        assert!(message.metadata_context.is_some());
        assert!(message.attributes.contains_key(ATTRIBUTES_KEY));
        let Some(Request::RequestHeaders(headers)) = message.request else {
            panic!("{:?}", message.request);
        };
        assert!(headers.end_of_stream);
        let map = headers.headers.unwrap().headers;
        let got: Vec<_> = map
            .iter()
            .map(|h| (h.key.as_str(), h.raw_value.as_slice(), h.value.as_str()))
            .collect();
        assert_eq!(
            got,
            [
                (":path", &b"/"[..], ""),
                ("x-a", b"", ""),
                ("x-b", b"v", "")
            ]
        );
    }

    #[test]
    fn bodies_decode_as_the_official_message() {
        for (chunk, end_of_stream) in [("", true), ("abc", false), ("abc", true)] {
            let flags = BodyFlags {
                end_of_stream,
                ..BodyFlags::default()
            };
            let message = decode(&body(
                Phase::ResponseBody,
                Envelope {
                    observability: true,
                    ..Envelope::default()
                },
                bytes::Bytes::from_static(chunk.as_bytes()).into(),
                flags,
            ));
            assert!(message.observability_mode);
            assert!(message.protocol_config.is_none());
            let Some(Request::ResponseBody(body)) = message.request else {
                panic!("{:?}", message.request);
            };
            assert_eq!(body.body, chunk.as_bytes());
            assert_eq!(body.end_of_stream, end_of_stream);
        }
    }

    #[test]
    fn trailers_decode_as_the_official_message() {
        let message = decode(&trailers(
            Phase::RequestTrailers,
            Envelope::default(),
            &List(&[("x-t", "1")]),
        ));
        let Some(Request::RequestTrailers(trailers)) = message.request else {
            panic!("{:?}", message.request);
        };
        assert_eq!(trailers.trailers.unwrap().headers[0].raw_value, b"1");
    }
}
