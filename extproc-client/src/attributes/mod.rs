//! What a processor may ask for beside the message: CEL expressions over the exchange.
//!
//! An [`Expression`] is nearly always the name of an attribute (`request.path`) or one header
//! (`request.headers['x-a']`). Those are looked up directly; anything else is evaluated as CEL over
//! maps that are built for it. Attribute names, presence and kinds are Envoy's.
//!
//! Beyond Envoy, comprehensions (`exists`, `map`, …) work; in agentgateway's [`Vocabulary`] also `string()` and
//! `+` on strings, bytes and lists, which Envoy's CEL leaves out. Not available: `filter_state` (always empty),
//! and the certificate attributes of `connection`.

mod budget;
mod lookup;
mod print;
mod regex;
mod text;
mod value;
mod vocabulary;

use std::sync::{Arc, LazyLock};

use cel::{
    Context, Env, IdedExpr, Value,
    common::ast::{CallExpr, Expr, LiteralValue, operators},
};
use prost::encoding::{
    WireType::{LengthDelimited, SixtyFourBit, Varint},
    encode_key, encode_varint, encoded_len_varint, key_len,
};

pub use self::vocabulary::Vocabulary;
use self::{budget::Meter, lookup::Item};
use crate::{
    config::AttributeSet,
    host::{ExchangeContext, HostFacts, RouteFacts, UpstreamInfo},
    metadata::DynamicMetadata,
};

/// Why a text is no [`Expression`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExpressionError(String);

/// A compiled CEL expression.
#[derive(Clone, Debug)]
pub struct Expression {
    form: Form,
}

#[derive(Clone, Debug)]
enum Form {
    /// `root.field`, or `root` alone.
    Name(Box<str>, Option<Box<str>>),
    /// A header by its lower-case name.
    Header(Headers, Box<str>),
    /// Anything else.
    Cel(Arc<Compiled>),
}

/// A header map that expressions may index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headers {
    Request,
    Response,
    ResponseTrailers,
}

/// An evaluation that ended because it took too many steps.
///
/// Nothing can be said of the expression's value then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the expression takes too many steps")]
pub struct OverBudget;

#[derive(Debug)]
struct Compiled {
    expression: IdedExpr,
    /// Steps for looking at all of it once.
    cost: i64,
    /// Most steps that an evaluation takes.
    steps: i64,
    /// It has parts that count by themselves.
    counts: bool,
    /// The variables it mentions, among those that exist.
    roots: Vec<&'static str>,
    /// Adds, and joins texts, bytes and lists by it.
    adds: Option<Joins>,
    /// Regular expressions.
    regexes: regex::Library,
}

/// Tells if `+` joins texts, bytes and lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joins {
    Yes,
    No,
}

/// The names that an expression may begin with.
const ROOTS: &[&str] = &[
    "request",
    "response",
    "source",
    "destination",
    "connection",
    "upstream",
    "xds",
    "metadata",
    "filter_state",
    "upstream_filter_state",
];

/// Functions that may be called; operators have names of punctuation.
const FUNCTIONS: &[&str] = &[
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "int",
    "uint",
    "double",
    "bytes",
    "bool",
    "dyn",
    "type",
    "duration",
    "timestamp",
    "getFullYear",
    "getMonth",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

/// Steps for the map that a root is, with all headers.
const ROOT: i64 = 1_000;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

impl Expression {
    /// Compiles `text`. An unknown name is no error: the expression then has no value.
    ///
    /// # Errors
    /// `text` is not CEL, is longer or nested deeper than may be, calls a function that does not exist, or gives
    /// `matches` a text that is no regular expression or a large one.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        Self::compile_with(text, Vocabulary::Envoy)
    }

    /// Compiles `text` with the names of a vocabulary.
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_with(text: &str, vocabulary: Vocabulary) -> Result<Self, ExpressionError> {
        budget::check_text(text)
            .and_then(|()| budget::with_room(|| Self::parse(text, vocabulary)))
            .flatten()
            .map_err(ExpressionError)
    }

    fn parse(text: &str, vocabulary: Vocabulary) -> Result<Self, String> {
        let program = ENV.compile(text).map_err(|errors| {
            let text = errors.to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("not a CEL expression: {line}")
        })?;
        budget::check(program.expression())?;
        let references = program.references();
        let mut expression = program.expression().clone();
        let mut calls = Ok(());
        let mut patterns = regex::Patterns::default();
        vocabulary::each(&mut expression, &mut |part| {
            if let (Expr::Call(call), Ok(())) = (part, &calls) {
                calls = check_call(call, vocabulary).and_then(|()| patterns.take(call));
            }
        });
        calls?;
        let adds = vocabulary.translate(&mut expression);
        let form = match plain(&expression) {
            Some(form) => form,
            None => {
                let roots: Vec<&str> = ROOTS
                    .iter()
                    .copied()
                    .filter(|root| references.has_variable(root))
                    .collect();
                lower_header_names(&mut expression);
                let cost = budget::cost(&expression);
                let steps = match budget::has_loops(&expression) {
                    true => budget::STEPS,
                    false => {
                        (cost + patterns.steps() + ROOT * roots.len() as i64).min(budget::STEPS)
                    }
                };
                let mut counts = false;
                vocabulary::each(&mut expression, &mut |part| counts |= budget::count(part));
                Form::Cel(Arc::new(Compiled {
                    expression,
                    cost,
                    steps,
                    counts,
                    roots,
                    adds,
                    regexes: patterns.finish(),
                }))
            }
        };
        Ok(Self { form })
    }

    /// Tells whether the expression is true of a request, before it goes anywhere. What has no value is not
    /// true.
    ///
    /// # Errors
    /// The evaluation takes too many steps. Where the expression guards something, that has to stay closed.
    pub fn holds(
        &self,
        request: &http::request::Parts,
        context: &ExchangeContext,
    ) -> Result<bool, OverBudget> {
        let view = View::of_request(request, context);
        let value = self.try_evaluate(&view)?;
        Ok(matches!(value, Some(Item::Bool(true))))
    }

    /// The expression's value for a request, before it goes anywhere: a boolean, a number, or text as a
    /// processor would get it. One that takes too many steps has none.
    pub fn value(
        &self,
        request: &http::request::Parts,
        context: &ExchangeContext,
    ) -> Option<prost_types::Value> {
        use prost_types::value::Kind;
        let view = View::of_request(request, context);
        let kind = match self.evaluate(&view)? {
            Item::Null => return None,
            item => match item.encoded() {
                Encoded::Bool(value) => Kind::BoolValue(value),
                Encoded::Number(value) => Kind::NumberValue(value),
                Encoded::Text(text) => Kind::StringValue(text.into_owned()),
            },
        };
        Some(prost_types::Value { kind: Some(kind) })
    }

    /// Most steps that an evaluation takes, about one for each part of the expression that is looked at.
    pub fn steps(&self) -> u64 {
        match &self.form {
            Form::Name(..) | Form::Header(..) => 1,
            Form::Cel(compiled) => compiled.steps.unsigned_abs(),
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
            Form::Cel(compiled) => {
                let meter = Meter::new();
                let value = compiled.evaluate(view, &meter);
                match meter.is_overdrawn() {
                    // Also where it has a value: an operator may have passed over the end.
                    true => Err(OverBudget),
                    false => Ok(value),
                }
            }
        }
    }
}

impl Compiled {
    fn evaluate(&self, view: &View<'_>, meter: &Meter) -> Option<Item<'static>> {
        meter.pay(self.cost).ok()?;
        let mut context = Context::with_env(ENV.clone());
        for root in &self.roots {
            if let Some(value) = value::of_root(view, root) {
                context.add_variable_from_value(*root, value);
            }
        }
        if self.counts {
            meter.add_to(&mut context)?;
        }
        if let Some(joins) = self.adds {
            let meter = meter.clone();
            let add = move |left, right| value::add(joins, &meter, left, right);
            context.add_function(vocabulary::ADD, add).ok()?;
        }
        self.regexes.add_to(&mut context, meter)?;
        let value = Value::resolve(&self.expression, &context).ok()?;
        match &self.expression.expr {
            Expr::Call(call) if call.func_name == "type" => Some(print::a_type()),
            _ => Some(print::item(value)),
        }
    }
}

/// Checks that a function exists.
fn check_call(call: &CallExpr, vocabulary: Vocabulary) -> Result<(), String> {
    let name = call.func_name.as_str();
    let known = !name.starts_with(|c: char| c.is_ascii_alphabetic())
        || FUNCTIONS.contains(&name)
        || vocabulary.functions().contains(&name)
        || regex::is_ours(call);
    match known {
        true => Ok(()),
        false => Err(format!("unknown function {name:?}")),
    }
}

/// The direct form of an expression that has one.
fn plain(expression: &IdedExpr) -> Option<Form> {
    match &expression.expr {
        Expr::Ident(root) => Some(Form::Name(root.as_str().into(), None)),
        Expr::Select(select) if !select.test => {
            if let Some(headers) = header_map(&select.operand) {
                return Some(Form::Header(
                    headers,
                    select.field.to_ascii_lowercase().into(),
                ));
            }
            let Expr::Ident(root) = &select.operand.expr else {
                return None;
            };
            Some(Form::Name(
                root.as_str().into(),
                Some(select.field.as_str().into()),
            ))
        }
        Expr::Call(call) => {
            let (headers, name) = header_index(call)?;
            Some(Form::Header(headers, name.to_ascii_lowercase().into()))
        }
        _ => None,
    }
}

/// `request.headers['name']` and its like.
fn header_index(call: &CallExpr) -> Option<(Headers, &str)> {
    let (operators::INDEX, None, [map, index]) =
        (call.func_name.as_str(), &call.target, call.args.as_slice())
    else {
        return None;
    };
    let Expr::Literal(LiteralValue::String(name)) = &index.expr else {
        return None;
    };
    Some((header_map(map)?, name.inner()))
}

/// `request.headers` and its like.
fn header_map(expression: &IdedExpr) -> Option<Headers> {
    let Expr::Select(select) = &expression.expr else {
        return None;
    };
    let Expr::Ident(root) = &select.operand.expr else {
        return None;
    };
    match (root.as_str(), select.field.as_str(), select.test) {
        ("request", "headers", false) => Some(Headers::Request),
        ("response", "headers", false) => Some(Headers::Response),
        ("response", "trailers", false) => Some(Headers::ResponseTrailers),
        _ => None,
    }
}

/// Header names match in any case; the maps that expressions see hold lower case.
fn lower_header_names(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Call(call) => {
            if let Some((_, name)) = header_index(call) {
                let lower = name.to_ascii_lowercase();
                if let Some(index) = call.args.get_mut(1) {
                    index.expr = Expr::Literal(LiteralValue::String(lower.into()));
                }
            }
            call.target.iter_mut().for_each(|e| lower_header_names(e));
            call.args.iter_mut().for_each(lower_header_names);
        }
        Expr::Select(select) => lower_header_names(&mut select.operand),
        Expr::List(list) => list.elements.iter_mut().for_each(lower_header_names),
        _ => {}
    }
}

/// What expressions are evaluated over: the exchange as it is now.
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
    pub(crate) facts: &'a HostFacts,
    pub(crate) route: Arc<RouteFacts>,
    pub(crate) upstream: Option<&'a UpstreamInfo>,
    pub(crate) metadata: &'a DynamicMetadata,
}

impl<'a> View<'a> {
    fn of_request(request: &'a http::request::Parts, context: &'a ExchangeContext) -> Self {
        Self {
            request: Some(request),
            response: None,
            response_head_sent: false,
            response_trailers: None,
            request_size: 0,
            response_size: 0,
            backend_latency: None,
            facts: &context.facts,
            route: context.route_facts(),
            upstream: None,
            metadata: &context.metadata,
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

/// The three kinds that Envoy encodes a value as.
#[derive(Debug, PartialEq)]
enum Encoded<'a> {
    Bool(bool),
    Number(f64),
    Text(std::borrow::Cow<'a, str>),
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
    }
}

#[cfg(test)]
mod tests;
