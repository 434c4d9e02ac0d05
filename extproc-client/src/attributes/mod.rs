//! Attributes that a processor may ask for beside the message: CEL expressions over the exchange.
//!
//! An [`Expression`] is nearly always the name of an attribute (`request.path`) or one header
//! (`request.headers['x-a']`). Those are looked up directly; anything else is evaluated as CEL over
//! maps that are built for it, which needs the crate's feature `cel`. Attribute names, presence and kinds are Envoy's.
//!
//! Beyond Envoy, comprehensions (`exists`, `map`, …) work; in agentgateway's [`Vocabulary`] also `string()` and
//! `+` on strings, bytes and lists, which Envoy's CEL leaves out. Not available: `filter_state` (always empty),
//! and the certificate attributes of `connection`.

#[cfg(feature = "cel")]
mod cel;
mod lookup;
#[cfg(any(not(feature = "cel"), test))]
mod name;
mod print;
mod text;
mod vocabulary;

use std::sync::Arc;

use prost::encoding::{
    WireType::{LengthDelimited, SixtyFourBit, Varint},
    encode_key, encode_varint, encoded_len_varint, key_len,
};

use self::lookup::Item;
pub use self::vocabulary::Vocabulary;
use crate::{
    context::facts::{HostFacts, RouteFacts, UpstreamInfo},
    metadata::DynamicMetadata,
};

/// Reason for which a text is no [`Expression`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExpressionError(String);

/// A compiled CEL expression.
///
/// Without the crate's feature `cel` it is the name of an attribute or one header.
#[derive(Clone, Debug)]
pub struct Expression {
    text: Arc<str>,
    form: Form,
    shape: Shape,
}

/// Form of lists, maps and null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// As Envoy's attributes: in words that say what they are.
    Printed,
    /// As what they are.
    Kept,
}

#[derive(Clone, Debug)]
enum Form {
    /// `root.field`, or `root` alone.
    Name(Box<str>, Option<Box<str>>),
    /// A header by its lower-case name.
    Header(Headers, Box<str>),
    /// Anything else.
    #[cfg(feature = "cel")]
    Cel(Arc<cel::Compiled>),
}

/// A header map that expressions may index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    Request,
    Response,
    ResponseTrailers,
}

impl Headers {
    /// The map that an attribute is.
    fn of(root: &str, field: &str) -> Option<Self> {
        match (root, field) {
            ("request", "headers") => Some(Self::Request),
            ("response", "headers") => Some(Self::Response),
            ("response", "trailers") => Some(Self::ResponseTrailers),
            _ => None,
        }
    }
}

/// An evaluation that ended because it took too many steps.
///
/// Nothing can be said of the expression's value then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the expression takes too many steps")]
pub struct OverBudget;

impl Expression {
    /// Compiles `text`. An unknown name is no error: the expression then has no value.
    ///
    /// # Errors
    /// `text` is not CEL, is longer or nested deeper than may be, calls a function that does not exist, or gives
    /// `matches` a text that is no regular expression or a large one. Without the feature `cel`: it is neither the name
    /// of an attribute nor one header.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        Self::compile_with(text, Vocabulary::Envoy)
    }

    /// Compiles `text` with the names of a vocabulary.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_with(text: &str, vocabulary: Vocabulary) -> Result<Self, ExpressionError> {
        let shape = match vocabulary {
            Vocabulary::Envoy => Shape::Printed,
            Vocabulary::Agentgateway => Shape::Kept,
        };
        Self::compile_as(text, vocabulary, shape)
    }

    /// Compiles `text` with Envoy's names, and keeps lists, maps and null, which are words otherwise.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_kept(text: &str) -> Result<Self, ExpressionError> {
        Self::compile_as(text, Vocabulary::Envoy, Shape::Kept)
    }

    fn compile_as(
        text: &str,
        vocabulary: Vocabulary,
        shape: Shape,
    ) -> Result<Self, ExpressionError> {
        #[cfg(feature = "cel")]
        let form = cel::compile(text, vocabulary, shape);
        #[cfg(not(feature = "cel"))]
        let form = name::parse(text, vocabulary).ok_or_else(|| {
            "is more than the name of an attribute or a header, which needs the cargo feature `cel`".to_owned()
        });
        Ok(Self {
            text: text.into(),
            form: form.map_err(ExpressionError)?,
            shape,
        })
    }

    /// The text that it was compiled of.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Tells whether the expression is true of a request, before it goes anywhere. What has no value is not
    /// true.
    ///
    /// # Errors
    /// The evaluation takes too many steps. Where the expression guards something, that has to stay closed.
    pub fn holds(
        &self,
        request: &http::request::Parts,
        around: &Surroundings<'_>,
    ) -> Result<bool, OverBudget> {
        let view = View::of_request(request, around);
        let value = self.try_evaluate(&view)?;
        Ok(matches!(value, Some(Item::Bool(true))))
    }

    /// The expression's value for a request, before it goes anywhere: a boolean, a number, or text as a
    /// processor would get it, and in agentgateway's vocabulary a list, a map or null as well. One that takes too many steps has
    /// none.
    pub fn value(
        &self,
        request: &http::request::Parts,
        around: &Surroundings<'_>,
    ) -> Option<prost_types::Value> {
        let seen = Seen {
            request: Some(request),
            ..Seen::default()
        };
        self.value_of(&seen, around)
    }

    /// The expression's value for what there is of an exchange, as [`value`](Self::value).
    pub fn value_of(
        &self,
        seen: &Seen<'_>,
        around: &Surroundings<'_>,
    ) -> Option<prost_types::Value> {
        use prost_types::value::Kind;
        let view = View::of(seen, around);
        let kind = match self.evaluate(&view)? {
            Item::Null if self.shape == Shape::Kept => Kind::NullValue(0),
            item => match item.encoded() {
                Encoded::Bool(value) => Kind::BoolValue(value),
                Encoded::Number(value) => Kind::NumberValue(value),
                Encoded::Text(text) => Kind::StringValue(text.into_owned()),
                #[cfg(feature = "cel")]
                Encoded::Data(value) => return Some(value),
            },
        };
        Some(prost_types::Value { kind: Some(kind) })
    }

    /// Most steps that an evaluation takes, about one for each part of the expression that is looked at.
    pub fn steps(&self) -> u64 {
        match &self.form {
            Form::Name(..) | Form::Header(..) => 1,
            #[cfg(feature = "cel")]
            Form::Cel(compiled) => compiled.steps(),
        }
    }

    /// The value, if there is one. An evaluation that takes too many steps gives none.
    fn evaluate<'a>(&'a self, view: &'a View<'a>) -> Option<Item<'a>> {
        self.try_evaluate(view).ok().flatten()
    }

    fn try_evaluate<'a>(&'a self, view: &'a View<'a>) -> Result<Option<Item<'a>>, OverBudget> {
        match &self.form {
            Form::Name(root, field) => Ok(view.lookup(root, field.as_deref())),
            Form::Header(headers, name) => Ok(view.header(*headers, name).map(Item::Text)),
            #[cfg(feature = "cel")]
            Form::Cel(compiled) => compiled.evaluate(view),
        }
    }
}

/// Facts that an expression over a request may ask for beside its head.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// Facts about the connection.
    pub facts: &'a HostFacts,
    /// Facts of the route that was selected last.
    pub route: Arc<RouteFacts>,
    /// Dynamic metadata of the exchange.
    pub metadata: &'a DynamicMetadata,
    /// Attempts that were made so far to get a response.
    pub attempts: u64,
}

/// The part of an exchange that there is, for [`Expression::value_of`].
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Seen<'a> {
    /// Head of the request.
    pub request: Option<&'a http::request::Parts>,
    /// Head of the response. Its [`Outcome`](crate::host::Outcome) says how it came about.
    pub response: Option<&'a http::response::Parts>,
    /// Trailers of the response.
    pub response_trailers: Option<&'a http::HeaderMap>,
    /// The upstream that responded, or that was asked last.
    pub upstream: Option<&'a UpstreamInfo>,
    /// Bytes of the request's body.
    pub request_size: u64,
    /// Bytes of the response's body.
    pub response_size: u64,
    /// Time from the beginning of the exchange to its end.
    pub duration: Option<std::time::Duration>,
}

/// Expressions sent to the processor, each under its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct AttributeSet {
    pub(crate) entries: Arc<[(String, Expression)]>,
}

/// Subject of expressions: the exchange as it is now.
pub(crate) struct View<'a> {
    pub(crate) request: Option<&'a http::request::Parts>,
    pub(crate) response: Option<&'a http::response::Parts>,
    /// The processor was shown the response's head; as in Envoy, its fields are there then only.
    pub(crate) response_head_sent: bool,
    pub(crate) response_trailers: Option<&'a http::HeaderMap>,
    /// Body bytes seen so far.
    pub(crate) request_size: u64,
    pub(crate) response_size: u64,
    /// From the request's way to the upstream to the end of the response, once that is here.
    pub(crate) backend_latency: Option<std::time::Duration>,
    /// From the beginning of the exchange to its end.
    pub(crate) duration: Option<std::time::Duration>,
    pub(crate) facts: &'a HostFacts,
    pub(crate) route: Arc<RouteFacts>,
    pub(crate) upstream: Option<&'a UpstreamInfo>,
    /// Attempts that were made so far to get a response.
    pub(crate) attempts: u64,
    /// The endpoint, if it was known before the response.
    pub(crate) endpoint: Option<&'a UpstreamInfo>,
    pub(crate) metadata: &'a DynamicMetadata,
}

impl<'a> View<'a> {
    fn of_request(request: &'a http::request::Parts, around: &'a Surroundings<'_>) -> Self {
        let seen = Seen {
            request: Some(request),
            ..Seen::default()
        };
        Self::of(&seen, around)
    }

    fn of(seen: &Seen<'a>, around: &'a Surroundings<'_>) -> Self {
        Self {
            request: seen.request,
            response: seen.response,
            response_head_sent: true,
            response_trailers: seen.response_trailers,
            request_size: seen.request_size,
            response_size: seen.response_size,
            backend_latency: None,
            duration: seen.duration,
            facts: around.facts,
            route: around.route.clone(),
            upstream: seen.upstream,
            attempts: around.attempts,
            endpoint: None,
            metadata: around.metadata,
        }
    }
}

/// Encodes the values of `set` as a `google.protobuf.Struct`; what has no value is left out.
pub(crate) fn evaluate(set: &AttributeSet, view: &View<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(set.entries.len() * 48);
    for (name, expression) in set.entries.iter() {
        if let Some(item) = expression.evaluate(view) {
            put_field(&mut out, name, &item.encoded());
        }
    }
    out
}

/// The three kinds that Envoy encodes a value as, and data that is kept.
#[derive(Debug, PartialEq)]
enum Encoded<'a> {
    Bool(bool),
    Number(f64),
    Text(std::borrow::Cow<'a, str>),
    #[cfg(feature = "cel")]
    Data(prost_types::Value),
}

/// One entry of `Struct.fields`, a `map<string, Value>`.
fn put_field(out: &mut Vec<u8>, name: &str, value: &Encoded<'_>) {
    /// Fields of `google.protobuf.Value`.
    const NUMBER: u32 = 2;
    const STRING: u32 = 3;
    const BOOL: u32 = 4;
    let length = |bytes: usize| key_len(1) + encoded_len_varint(bytes as u64) + bytes;
    let value_length = match value {
        Encoded::Bool(_) => 2,
        Encoded::Number(_) => 9,
        Encoded::Text(text) => length(text.len()),
        #[cfg(feature = "cel")]
        Encoded::Data(value) => prost::Message::encoded_len(value),
    };
    encode_key(1, LengthDelimited, out);
    encode_varint((length(name.len()) + length(value_length)) as u64, out);
    encode_key(1, LengthDelimited, out);
    encode_varint(name.len() as u64, out);
    out.extend_from_slice(name.as_bytes());
    encode_key(2, LengthDelimited, out);
    encode_varint(value_length as u64, out);
    match value {
        Encoded::Bool(value) => {
            encode_key(BOOL, Varint, out);
            out.push(u8::from(*value));
        }
        Encoded::Number(value) => {
            encode_key(NUMBER, SixtyFourBit, out);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Encoded::Text(text) => {
            encode_key(STRING, LengthDelimited, out);
            encode_varint(text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
        }
        #[cfg(feature = "cel")]
        Encoded::Data(value) => prost::Message::encode_raw(value, out),
    }
}

#[cfg(all(test, feature = "cel"))]
mod tests;
