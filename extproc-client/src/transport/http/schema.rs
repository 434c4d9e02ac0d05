//! The messages of `envoy/service/ext_proc/v3/external_processor.proto` as tables, for their JSON
//! form.
//!
//! Names and numbers of every field, those that the filter does not use included: an answer with a
//! field that is not here is refused.

/// One message type.
#[derive(Debug)]
pub(super) struct Schema {
    /// In the order of their numbers.
    pub(super) fields: &'static [Field],
    /// Numbers of the fields of which at most one may be set.
    pub(super) one_of: &'static [u32],
}

/// One field.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// In snake case, as in the proto.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
}

/// Type of a field's value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bool,
    /// Any integer type that is a plain varint on the wire.
    Integer,
    Text,
    Bytes,
    /// By name; the index is the number.
    Enum(&'static [&'static str]),
    /// `envoy.type.v3.StatusCode`, whose names are those of HTTP without blanks.
    Status,
    Message(&'static Schema),
    /// `google.protobuf.Struct`.
    Struct,
    /// `google.protobuf.Duration`.
    Duration,
    /// `google.protobuf.BoolValue`.
    BoolValue,
    /// `google.protobuf.Any`.
    Any,
}

/// Cardinality of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    Many,
    /// A map from strings.
    Map,
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        number,
        name,
        kind,
        shape: Shape::One,
    }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        shape: Shape::Many,
        ..one(number, name, kind)
    }
}

const fn map(number: u32, name: &'static str, kind: Kind) -> Field {
    Field {
        shape: Shape::Map,
        ..one(number, name, kind)
    }
}

const fn plain(fields: &'static [Field]) -> Schema {
    Schema {
        fields,
        one_of: &[],
    }
}

use Kind::{Bool, Bytes, Integer, Message, Text};

/// Schema of `ProcessingRequest`.
pub(super) static REQUEST: Schema = Schema {
    fields: &[
        one(2, "request_headers", Message(&HTTP_HEADERS)),
        one(3, "response_headers", Message(&HTTP_HEADERS)),
        one(4, "request_body", Message(&BODY)),
        one(5, "response_body", Message(&BODY)),
        one(6, "request_trailers", Message(&HTTP_TRAILERS)),
        one(7, "response_trailers", Message(&HTTP_TRAILERS)),
        one(8, "metadata_context", Message(&METADATA)),
        map(9, "attributes", Kind::Struct),
        one(10, "observability_mode", Bool),
        one(11, "protocol_config", Message(&PROTOCOL)),
    ],
    one_of: &[2, 3, 4, 5, 6, 7],
};

/// Schema of `ProcessingResponse`.
pub(super) static RESPONSE: Schema = Schema {
    fields: &[
        one(1, "request_headers", Message(&WRAPPED_COMMON)),
        one(2, "response_headers", Message(&WRAPPED_COMMON)),
        one(3, "request_body", Message(&WRAPPED_COMMON)),
        one(4, "response_body", Message(&WRAPPED_COMMON)),
        one(5, "request_trailers", Message(&TRAILERS_RESPONSE)),
        one(6, "response_trailers", Message(&TRAILERS_RESPONSE)),
        one(7, "immediate_response", Message(&IMMEDIATE)),
        one(8, "dynamic_metadata", Kind::Struct),
        one(9, "mode_override", Message(&MODE)),
        one(10, "override_message_timeout", Kind::Duration),
        one(
            11,
            "streamed_immediate_response",
            Message(&STREAMED_IMMEDIATE),
        ),
        one(12, "request_drain", Bool),
        map(13, "typed_dynamic_metadata", Kind::Any),
        one(14, "server_window_update", Message(&WINDOW)),
        one(15, "request_drain_requests", Bool),
        one(16, "request_drain_responses", Bool),
    ],
    one_of: &[1, 2, 3, 4, 5, 6, 7, 11],
};

static HTTP_HEADERS: Schema = plain(&[
    one(1, "headers", Message(&HEADER_MAP)),
    map(2, "attributes", Kind::Struct),
    one(3, "end_of_stream", Bool),
]);

static HTTP_TRAILERS: Schema = plain(&[one(1, "trailers", Message(&HEADER_MAP))]);

static HEADER_MAP: Schema = plain(&[many(1, "headers", Message(&HEADER))]);

static HEADER: Schema = plain(&[
    one(1, "key", Text),
    one(2, "value", Text),
    one(3, "raw_value", Bytes),
]);

/// `HttpBody` and `StreamedBodyResponse`.
static BODY: Schema = plain(&[
    one(1, "body", Bytes),
    one(2, "end_of_stream", Bool),
    one(3, "end_of_stream_without_message", Bool),
    one(4, "grpc_message_compressed", Bool),
    one(5, "drain_complete", Bool),
]);

static METADATA: Schema = plain(&[
    map(1, "filter_metadata", Kind::Struct),
    map(2, "typed_filter_metadata", Kind::Any),
]);

static PROTOCOL: Schema = plain(&[
    one(1, "request_body_mode", Kind::Enum(BODY_MODES)),
    one(2, "response_body_mode", Kind::Enum(BODY_MODES)),
    one(3, "send_body_without_waiting_for_header_response", Bool),
]);

const BODY_MODES: &[&str] = &[
    "NONE",
    "STREAMED",
    "BUFFERED",
    "BUFFERED_PARTIAL",
    "FULL_DUPLEX_STREAMED",
    "GRPC",
];

const SEND_MODES: &[&str] = &["DEFAULT", "SEND", "SKIP"];

static MODE: Schema = plain(&[
    one(1, "request_header_mode", Kind::Enum(SEND_MODES)),
    one(2, "response_header_mode", Kind::Enum(SEND_MODES)),
    one(3, "request_body_mode", Kind::Enum(BODY_MODES)),
    one(4, "response_body_mode", Kind::Enum(BODY_MODES)),
    one(5, "request_trailer_mode", Kind::Enum(SEND_MODES)),
    one(6, "response_trailer_mode", Kind::Enum(SEND_MODES)),
]);

/// `HeadersResponse` and `BodyResponse`.
static WRAPPED_COMMON: Schema = plain(&[one(1, "response", Message(&COMMON))]);

static COMMON: Schema = plain(&[
    one(
        1,
        "status",
        Kind::Enum(&["CONTINUE", "CONTINUE_AND_REPLACE"]),
    ),
    one(2, "header_mutation", Message(&HEADER_MUTATION)),
    one(3, "body_mutation", Message(&BODY_MUTATION)),
    one(4, "trailers", Message(&HEADER_MAP)),
    one(5, "clear_route_cache", Bool),
]);

static TRAILERS_RESPONSE: Schema = plain(&[one(1, "header_mutation", Message(&HEADER_MUTATION))]);

static HEADER_MUTATION: Schema = plain(&[
    many(1, "set_headers", Message(&HEADER_OPTION)),
    many(2, "remove_headers", Text),
]);

static HEADER_OPTION: Schema = plain(&[
    one(1, "header", Message(&HEADER)),
    one(2, "append", Kind::BoolValue),
    one(3, "append_action", Kind::Enum(APPEND_ACTIONS)),
    one(4, "keep_empty_value", Bool),
]);

const APPEND_ACTIONS: &[&str] = &[
    "APPEND_IF_EXISTS_OR_ADD",
    "ADD_IF_ABSENT",
    "OVERWRITE_IF_EXISTS_OR_ADD",
    "OVERWRITE_IF_EXISTS",
];

static BODY_MUTATION: Schema = Schema {
    fields: &[
        one(1, "body", Bytes),
        one(2, "clear_body", Bool),
        one(3, "streamed_response", Message(&BODY)),
    ],
    one_of: &[1, 2, 3],
};

static IMMEDIATE: Schema = plain(&[
    one(1, "status", Message(&HTTP_STATUS)),
    one(2, "headers", Message(&HEADER_MUTATION)),
    one(3, "body", Bytes),
    one(4, "grpc_status", Message(&GRPC_STATUS)),
    one(5, "details", Text),
]);

static HTTP_STATUS: Schema = plain(&[one(1, "code", Kind::Status)]);

static GRPC_STATUS: Schema = plain(&[one(1, "status", Integer)]);

static STREAMED_IMMEDIATE: Schema = Schema {
    fields: &[
        one(1, "headers_response", Message(&HTTP_HEADERS)),
        one(2, "body_response", Message(&BODY)),
        one(3, "trailers_response", Message(&HEADER_MAP)),
    ],
    one_of: &[1, 2, 3],
};

static WINDOW: Schema = plain(&[
    one(1, "window_increment_downstream_to_sidestream", Integer),
    one(2, "window_increment_upstream_to_sidestream", Integer),
]);
