//! Regular expressions in CEL: `matches`, and `re.extract`, `re.capture` and `re.captureN` as in Envoy's CEL library.
//!
//! One that is written out is compiled with the expression. Others are compiled when they are used, which costs steps.

use std::{borrow::Cow, sync::Arc};

use cel::{
    Context, ExecutionError, IdedExpr, Value,
    common::ast::{CallExpr, Expr, LiteralValue},
    objects::Key,
};
use regex::{Captures, Regex, RegexBuilder};

use super::{budget::Meter, value::text_value};
use crate::text::pattern::{BoundedRegex, Effort, Sizes, Unusable};

/// The library's name.
const LIBRARY: &str = "re";
/// Longest text of a regular expression that is written out, and its largest compiled form, in bytes.
const WRITTEN: (usize, usize) = (4 * 1024, 32 * 1024);
/// The same of one that is compiled when it is used.
const GIVEN: (usize, usize) = (256, 8 * 1024);
/// Steps for compiling one.
const COMPILING: i64 = 2_000;
/// States of a regular expression that are visited for one step.
const VISITS: u64 = 16;

/// A function that takes a regular expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Matches,
    Extract,
    Capture,
    CaptureAll,
}

impl Function {
    /// The name by which a rewritten call calls it, with an expression that is written out or another one. No expression
    /// can name it.
    fn name(self, written: bool) -> &'static str {
        match (self, written) {
            (Self::Matches, true) => "@matches",
            (Self::Matches, false) => "@matches_given",
            (Self::Extract, true) => "@extract",
            (Self::Extract, false) => "@extract_given",
            (Self::Capture, true) => "@capture",
            (Self::Capture, false) => "@capture_given",
            (Self::CaptureAll, true) => "@capture_all",
            (Self::CaptureAll, false) => "@capture_all_given",
        }
    }

    /// The function of the library by its name there, and how many arguments it has.
    fn of_library(name: &str) -> Option<(Self, usize)> {
        match name {
            "extract" => Some((Self::Extract, 3)),
            "capture" => Some((Self::Capture, 2)),
            "captureN" => Some((Self::CaptureAll, 2)),
            _ => None,
        }
    }

    /// Tells if the whole of a text has to match.
    fn takes_all(self) -> bool {
        matches!(self, Self::Capture | Self::CaptureAll)
    }
}

/// Returns whether this is a call of the library.
pub(super) fn is_ours(call: &CallExpr) -> bool {
    Function::of_library(&call.func_name).is_some() && is_on_library(call)
}

fn is_on_library(call: &CallExpr) -> bool {
    let of_library = |target: &IdedExpr| match &target.expr {
        Expr::Ident(name) => name == LIBRARY,
        _ => false,
    };
    call.target.as_deref().is_some_and(of_library)
}

/// The regular expressions of an expression, and the functions that use them.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    written: Vec<Compiled>,
    functions: Vec<(Function, bool)>,
    calls: i64,
    /// Calls with a regular expression that is not written out.
    given: i64,
}

impl Patterns {
    /// Rewrites a call that takes a regular expression, and compiles that if it is known.
    ///
    /// # Errors
    /// The regular expression of `matches` is none; those of the library are looked at when they are used, as in
    /// Envoy. Or it is too large.
    pub(super) fn take(&mut self, call: &mut CallExpr) -> Result<(), String> {
        let function = match Function::of_library(&call.func_name) {
            Some((function, count)) if is_on_library(call) => {
                if call.args.len() != count {
                    return Ok(());
                }
                call.target = None;
                function
            }
            _ if call.func_name == "matches" => {
                let text = call.target.take();
                call.args.splice(0..0, text.map(|text| *text));
                if call.args.len() != 2 {
                    return Err("matches takes a text and a regular expression".into());
                }
                Function::Matches
            }
            _ => return Ok(()),
        };
        let Some(pattern) = call.args.get_mut(1) else {
            return Ok(());
        };
        let mut written = false;
        if let Expr::Literal(LiteralValue::String(text)) = &pattern.expr {
            match Compiled::new(text.inner(), function, WRITTEN) {
                Ok(regex) => {
                    let index = i64::try_from(self.written.len()).unwrap_or(i64::MAX);
                    pattern.expr = Expr::Literal(LiteralValue::Int(index.into()));
                    self.written.push(regex);
                    written = true;
                }
                Err(Unusable::Syntax(_)) if function != Function::Matches => {}
                Err(Unusable::Syntax(error)) => {
                    return Err(format!("not a regular expression: {error}"));
                }
                Err(Unusable::Size) => {
                    return Err("the regular expression is larger than may be".into());
                }
            }
        }
        call.func_name = function.name(written).into();
        self.calls += 1;
        self.given += i64::from(!written);
        if !self.functions.contains(&(function, written)) {
            self.functions.push((function, written));
        }
        Ok(())
    }

    /// Steps for compiling those that are not written out, and for looking for each in a long text.
    pub(super) fn steps(&self) -> i64 {
        self.given * COMPILING + self.calls * COMPILING
    }

    /// The same to evaluate with.
    pub(super) fn finish(self) -> Library {
        Library {
            written: self.written.into(),
            functions: self.functions,
        }
    }
}

/// Regular expressions and functions of rewritten calls.
#[derive(Debug)]
pub(super) struct Library {
    written: Arc<[Compiled]>,
    functions: Vec<(Function, bool)>,
}

impl Library {
    /// Makes the functions known; `None` if something else has their names.
    pub(super) fn add_to(&self, context: &mut Context<'_, '_>, meter: &Meter) -> Option<()> {
        for (function, written) in &self.functions {
            let source = Source {
                written: written.then(|| self.written.clone()),
                function: *function,
                meter: meter.clone(),
            };
            let name = function.name(*written);
            match function {
                Function::Matches => context.add_function(name, move |text, pattern| {
                    source.is_match(&text, &pattern).map(Value::Bool)
                }),
                Function::Extract => {
                    context.add_function(name, move |text, pattern, rewrite: Value| {
                        extract(&source, &text, &pattern, &rewrite)
                    })
                }
                Function::Capture => context
                    .add_function(name, move |text, pattern| capture(&source, &text, &pattern)),
                Function::CaptureAll => context.add_function(name, move |text, pattern| {
                    capture_all(&source, &text, &pattern)
                }),
            }
            .ok()?;
        }
        Some(())
    }
}

/// Source of a function's regular expressions.
struct Source {
    /// Those that are written out, which calls name by their place.
    written: Option<Arc<[Compiled]>>,
    function: Function,
    meter: Meter,
}

impl Source {
    /// The regular expression, with the steps paid for going through a text once.
    fn regex(&self, text: &str, pattern: &Value) -> Result<Cow<'_, Compiled>, ExecutionError> {
        self.pay(text.len() as u64)?;
        match (&self.written, pattern) {
            (Some(written), Value::Int(index)) => {
                let regex = usize::try_from(*index).ok().and_then(|at| written.get(at));
                regex.map(Cow::Borrowed)
            }
            (None, Value::String(pattern)) => {
                self.meter.pay(COMPILING)?;
                let compiled = Compiled::new(pattern, self.function, GIVEN);
                compiled.ok().map(Cow::Owned)
            }
            _ => None,
        }
        .ok_or_else(|| failed("not a regular expression"))
    }

    fn pay(&self, visits: u64) -> Result<(), ExecutionError> {
        let steps = i64::try_from(visits / VISITS).unwrap_or(i64::MAX);
        self.meter.pay(steps)
    }

    fn is_match(&self, text: &Value, pattern: &Value) -> Result<bool, ExecutionError> {
        let text = text_of(text)?;
        let compiled = self.regex(text, pattern)?;
        let left = u64::try_from(self.meter.left()).unwrap_or_default();
        let mut effort = Effort::new(left.saturating_mul(VISITS));
        let before = effort.left();
        let found = compiled.regex.is_match(text, &mut effort);
        // What could not be told has taken all that was left.
        let spent = before - effort.left();
        self.pay(spent.saturating_add(u64::from(found.is_none()) * VISITS))?;
        found.ok_or_else(|| failed("takes too long"))
    }

    fn captures<'t>(
        &self,
        text: &'t Value,
        pattern: &Value,
    ) -> Result<(Cow<'_, Compiled>, Captures<'t>), ExecutionError> {
        let text = text_of(text)?;
        let compiled = self.regex(text, pattern)?;
        // It may go through all states for each byte.
        self.pay(compiled.regex.states().saturating_mul(text.len() as u64))?;
        let groups = compiled.groups.as_ref();
        let found = groups.and_then(|groups| groups.captures(text));
        let found = found.ok_or_else(|| failed("no match"))?;
        Ok((compiled, found))
    }
}

/// The first match, rewritten: `\1` stands for a group, `\0` for all of it, `\\` for a backslash.
fn extract(
    source: &Source,
    text: &Value,
    pattern: &Value,
    rewrite: &Value,
) -> Result<Value, ExecutionError> {
    let (_, found) = source.captures(text, pattern)?;
    let mut out = String::new();
    let mut rest = text_of(rewrite)?.chars();
    while let Some(next) = rest.next() {
        if next != '\\' {
            out.push(next);
            continue;
        }
        match rest.next() {
            Some('\\') => out.push('\\'),
            Some(digit) => {
                let group = digit.to_digit(10).map(|digit| digit as usize);
                let group = group.filter(|group| *group < found.len());
                let group = group.ok_or_else(|| failed("no such group"))?;
                let group = found.get(group).map_or("", |group| group.as_str());
                source
                    .meter
                    .pay(i64::try_from(group.len() / 64).unwrap_or(i64::MAX))?;
                out.push_str(group);
            }
            None => return Err(failed("a rewrite ends with a backslash")),
        }
    }
    Ok(text_value(out.into()))
}

/// The first group, where the whole text matches.
fn capture(source: &Source, text: &Value, pattern: &Value) -> Result<Value, ExecutionError> {
    let (_, found) = source.captures(text, pattern)?;
    match found.len() {
        0 | 1 => Err(failed("no group")),
        _ => Ok(group(&found, 1)),
    }
}

/// All groups by name or number, where the whole text matches.
fn capture_all(source: &Source, text: &Value, pattern: &Value) -> Result<Value, ExecutionError> {
    let (compiled, found) = source.captures(text, pattern)?;
    let names = compiled.groups.iter().flat_map(Regex::capture_names);
    let groups: std::collections::HashMap<Key, Value> = names
        .enumerate()
        .skip(1)
        .map(|(number, name)| {
            let name = name.map_or_else(|| number.to_string(), str::to_owned);
            (Key::from(name), group(&found, number))
        })
        .collect();
    match groups.is_empty() {
        true => Err(failed("no group")),
        false => Ok(groups.into()),
    }
}

/// A regular expression for a function.
#[derive(Clone, Debug)]
struct Compiled {
    regex: BoundedRegex,
    /// The same with its groups, for functions that give them.
    groups: Option<Regex>,
}

impl Compiled {
    /// Compiles an expression within limits of its text and of its compiled form, in bytes.
    fn new(
        pattern: &str,
        function: Function,
        (text, compiled): (usize, usize),
    ) -> Result<Self, Unusable> {
        if pattern.len() > text {
            return Err(Unusable::Size);
        }
        let whole = function.takes_all();
        let regex = BoundedRegex::new(pattern, whole, Sizes::within(compiled))?;
        let with_groups = || {
            let pattern: Cow<'_, str> = match whole {
                true => format!("^(?:{pattern})$").into(),
                false => pattern.into(),
            };
            RegexBuilder::new(&pattern)
                .size_limit(compiled)
                .dfa_size_limit(compiled)
                .build()
                .map_err(|error| match error {
                    regex::Error::CompiledTooBig(_) => Unusable::Size,
                    error => Unusable::Syntax(error.to_string()),
                })
        };
        let groups = (function != Function::Matches).then(with_groups);
        Ok(Self {
            regex,
            groups: groups.transpose()?,
        })
    }
}

fn text_of(value: &Value) -> Result<&str, ExecutionError> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err(failed("not a text")),
    }
}

fn group(found: &Captures<'_>, number: usize) -> Value {
    let text = found.get(number).map_or("", |group| group.as_str());
    text_value(text.to_owned().into())
}

fn failed(reason: &str) -> ExecutionError {
    ExecutionError::function_error("re", reason)
}
