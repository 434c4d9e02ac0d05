//! Script of a processor.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::Kind;
use crate::support::script::{Field, Payload};

/// A processor's script: for every kind of message the answers to the first, second, … of them.
///
/// A message without an answer of its own gets `after`, which is `continue` unless said otherwise.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessorScript {
    /// Steps when a stream opens, before its first message is read.
    pub open: Answer,
    /// Answers to request headers.
    pub request_headers: Answers,
    /// Answers to pieces of the request body.
    pub request_body: Answers,
    /// Answers to request trailers.
    pub request_trailers: Answers,
    /// Answers to response headers.
    pub response_headers: Answers,
    /// Answers to pieces of the response body.
    pub response_body: Answers,
    /// Answers to response trailers.
    pub response_trailers: Answers,
    /// The answer when no other is left.
    pub after: Option<Answer>,
    /// A script of its own for each stream, in order of opening; the last one also serves the rest.
    pub streams: Vec<Self>,
    /// Body kinds whose unchanged answer is a `streamed_response`, where `protocol_config` does not tell.
    pub duplex: Vec<Kind>,
    /// Nothing listens.
    pub absent: bool,
    /// Connections are accepted and closed at once.
    pub refuse: bool,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`.
    pub max_streams: Option<u32>,
}

impl ProcessorScript {
    /// The script of the stream with this index.
    #[must_use]
    pub fn for_stream(&self, index: usize) -> &Self {
        self.streams
            .get(index)
            .or_else(|| self.streams.last())
            .unwrap_or(self)
    }

    /// The answer to the message number `index` (from 0) of a kind.
    #[must_use]
    pub fn answer(&self, kind: Kind, index: usize) -> Answer {
        let answers = match kind {
            Kind::RequestHeaders => &self.request_headers,
            Kind::RequestBody => &self.request_body,
            Kind::RequestTrailers => &self.request_trailers,
            Kind::ResponseHeaders => &self.response_headers,
            Kind::ResponseBody => &self.response_body,
            Kind::ResponseTrailers => &self.response_trailers,
        };
        let own = match answers {
            Answers::List(list) => list.get(index).cloned(),
            Answers::Always { always } => Some(always.clone()),
        };
        own.or_else(|| self.after.clone())
            .unwrap_or_else(|| Answer(vec![Step::Word(Word::Continue)]))
    }
}

/// The answers to the messages of one kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Answers {
    /// The same for all of them.
    Always {
        /// The answer.
        always: Answer,
    },
    /// The first, the second, …
    List(Vec<Answer>),
}

impl Answers {
    /// Every answer that is written down.
    #[must_use]
    pub fn all(&self) -> &[Answer] {
        match self {
            Self::Always { always } => std::slice::from_ref(always),
            Self::List(list) => list,
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// Steps about one message: a step or a list of steps (lists in it are flattened).
#[derive(Debug, Clone, Default)]
pub struct Answer(Vec<Step>);

impl Answer {
    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn collect<E: serde::de::Error>(value: Value, into: &mut Vec<Step>) -> Result<(), E> {
            match value {
                Value::Array(items) => items.into_iter().try_for_each(|i| collect(i, into)),
                Value::String(_) => {
                    into.push(Step::Word(
                        serde_json::from_value(value).map_err(E::custom)?,
                    ));
                    Ok(())
                }
                other => {
                    let action = serde_json::from_value(other).map_err(E::custom)?;
                    into.push(Step::Action(Box::new(action)));
                    Ok(())
                }
            }
        }
        let mut steps = Vec::new();
        collect(Value::deserialize(deserializer)?, &mut steps)?;
        Ok(Self(steps))
    }
}

/// One step of an answer.
#[derive(Debug, Clone)]
pub enum Step {
    /// A step without parameters.
    Word(Word),
    /// A step with parameters.
    Action(Box<Action>),
}

/// Steps without parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// The answer that changes nothing.
    Continue,
    /// No answer.
    Silence,
    /// End the stream with status OK.
    Close,
    /// Drop the connection (TCP RST).
    Abort,
    /// GOAWAY on the connection, the stream goes on.
    Goaway,
}

/// A step with parameters: a pause, an end, bytes that are no message, or else a `ProcessingResponse`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Action {
    /// Wait, in milliseconds.
    pub sleep: Option<u64>,
    /// End the stream with this gRPC status.
    pub error: Option<u32>,
    /// The `grpc-message` that goes with it.
    pub message: Option<String>,
    /// `RST_STREAM` with this code.
    pub reset: Option<u32>,
    /// Answer with this HTTP status and no gRPC at all.
    pub http: Option<u16>,
    /// A framed gRPC message with these bytes in it.
    pub garbage: Option<Payload>,
    /// These bytes as they are, no framing.
    pub raw: Option<Payload>,

    /// A reply of the kind that the message asks for.
    pub reply: Option<Common>,
    /// `request_headers`.
    pub request_headers: Option<Common>,
    /// `request_body`.
    pub request_body: Option<Common>,
    /// `request_trailers`.
    pub request_trailers: Option<Common>,
    /// `response_headers`.
    pub response_headers: Option<Common>,
    /// `response_body`.
    pub response_body: Option<Common>,
    /// `response_trailers`.
    pub response_trailers: Option<Common>,
    /// `immediate_response`.
    pub immediate: Option<Immediate>,
    /// `streamed_immediate_response`.
    pub local: Option<Local>,

    /// `mode_override`.
    pub mode_override: Option<Mode>,
    /// `dynamic_metadata`.
    pub dynamic_metadata: Option<Value>,
    /// `typed_dynamic_metadata`: namespace to type URL and bytes.
    pub typed_dynamic_metadata: Option<std::collections::BTreeMap<String, TypedValue>>,
    /// `override_message_timeout` in milliseconds.
    pub override_message_timeout: Option<i64>,
    /// `request_drain`.
    pub request_drain: bool,
    /// A message with nothing in it.
    pub empty: bool,
}

/// `CommonResponse`, or `TrailersResponse` for trailers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Common {
    /// `header_mutation.set_headers`.
    pub set: Vec<SetField>,
    /// That many more of them, `x-many-<n>: <n>`.
    pub set_many: usize,
    /// `header_mutation.remove_headers`.
    pub remove: Vec<String>,
    /// That many more of them, `x-many-<n>`.
    pub remove_many: usize,
    /// `header_mutation` is there even when empty.
    pub mutation: bool,
    /// `status: CONTINUE_AND_REPLACE`.
    pub replace: bool,
    /// `body_mutation.body`.
    pub body: Option<Payload>,
    /// `body_mutation.clear_body`.
    pub clear_body: Option<bool>,
    /// `body_mutation.streamed_response.body`.
    pub stream: Option<Payload>,
    /// `body_mutation.streamed_response.end_of_stream`.
    pub eos: bool,
    /// `body_mutation` is there with nothing in it.
    pub empty_body_mutation: bool,
    /// `trailers`.
    pub trailers: Vec<Field>,
    /// `clear_route_cache`.
    pub clear_route_cache: bool,
    /// The `response` message is there even when empty.
    pub response: bool,
}

/// A `HeaderValueOption`: `"name: value"` sets `raw_value` and nothing else.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum SetField {
    /// `name: value`.
    Line(String),
    /// In full.
    Full(Box<FullField>),
}

/// A `HeaderValueOption` in full.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullField {
    /// `header.key`.
    pub name: String,
    /// `header.raw_value`.
    #[serde(default)]
    pub value: Option<Payload>,
    /// `header.value`.
    #[serde(default)]
    pub text: Option<String>,
    /// `append`.
    #[serde(default)]
    pub append: Option<bool>,
    /// `append_action`, by name.
    #[serde(default)]
    pub action: Option<String>,
    /// `keep_empty_value`.
    #[serde(default)]
    pub keep_empty: bool,
    /// The entry has no `header` at all.
    #[serde(default)]
    pub missing: bool,
}

/// `ImmediateResponse`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Immediate {
    /// `status.code`; without it there is no `status`.
    pub status: Option<i32>,
    /// `headers.set_headers`.
    pub set: Vec<SetField>,
    /// `headers.remove_headers`.
    pub remove: Vec<String>,
    /// That many more `set_headers`.
    pub set_many: usize,
    /// `body`.
    pub body: Option<Payload>,
    /// `grpc_status.status`.
    pub grpc: Option<u32>,
    /// `details`.
    pub details: String,
}

/// `StreamedImmediateResponse`: at most one of the three.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Local {
    /// `headers_response`.
    pub headers: Option<Vec<Field>>,
    /// `body_response`.
    pub body: Option<Payload>,
    /// `trailers_response`.
    pub trailers: Option<Vec<Field>>,
    /// `end_of_stream` of either.
    pub eos: bool,
}

/// `ProcessingMode`; the values by name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mode {
    /// `request_header_mode`.
    pub request_header_mode: Option<String>,
    /// `response_header_mode`.
    pub response_header_mode: Option<String>,
    /// `request_body_mode`.
    pub request_body_mode: Option<String>,
    /// `response_body_mode`.
    pub response_body_mode: Option<String>,
    /// `request_trailer_mode`.
    pub request_trailer_mode: Option<String>,
    /// `response_trailer_mode`.
    pub response_trailer_mode: Option<String>,
}

/// A `google.protobuf.Any`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TypedValue {
    /// The type URL without `type.googleapis.com/`.
    pub r#type: String,
    /// The encoded message.
    pub value: Payload,
}
