//! Regular expressions in CEL: `matches` with an expression that is written out is checked when it is compiled, and
//! `re.extract`, `re.capture` and `re.captureN` are as in Envoy's CEL library.

use std::borrow::Cow;

use cel::{
    Context, ExecutionError, IdedExpr, Value,
    common::ast::{CallExpr, Expr, LiteralValue},
    objects::Key,
};
use regex::{Captures, Regex};

use super::value::text_value;

/// The library's name, and what it has.
pub(super) const LIBRARY: &str = "re";
const FUNCTIONS: &[&str] = &["extract", "capture", "captureN"];

/// Whether this is a call of the library.
pub(super) fn is_ours(call: &CallExpr) -> bool {
    let of_library = |target: &IdedExpr| match &target.expr {
        Expr::Ident(name) => name == LIBRARY,
        _ => false,
    };
    FUNCTIONS.contains(&call.func_name.as_str()) && call.target.as_deref().is_some_and(of_library)
}

/// Checks the regular expression of `matches`, if it is known already. Those of the library are looked at when they are used,
/// as in Envoy.
pub(super) fn check(call: &CallExpr) -> Result<(), String> {
    if call.func_name != "matches" {
        return Ok(());
    }
    let ((Some(_), [pattern]) | (None, [_, pattern])) = (&call.target, call.args.as_slice()) else {
        return Ok(());
    };
    let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
        return Ok(());
    };
    match Regex::new(pattern.inner()) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("not a regular expression: {error}")),
    }
}

/// Makes the library known; `None` if something else has its names.
pub(super) fn add(context: &mut Context<'_, '_>) -> Option<()> {
    context.add_function("re.extract", extract).ok()?;
    context.add_function("re.capture", capture).ok()?;
    context.add_function("re.captureN", capture_all).ok()
}

/// The first match, rewritten: `\1` stands for a group, `\0` for all of it, `\\` for a backslash.
fn extract(text: Value, pattern: Value, rewrite: Value) -> Result<Value, ExecutionError> {
    let pattern = compile(text_of(&pattern)?)?;
    let found = captures(&pattern, &text)?;
    let mut out = String::new();
    let mut rest = text_of(&rewrite)?.chars();
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
                out.push_str(found.get(group).map_or("", |group| group.as_str()));
            }
            None => return Err(failed("a rewrite ends with a backslash")),
        }
    }
    Ok(text_value(out.into()))
}

/// The first group, where the whole text matches.
fn capture(text: Value, pattern: Value) -> Result<Value, ExecutionError> {
    let pattern = compile_whole(&pattern)?;
    let found = captures(&pattern, &text)?;
    match found.len() {
        0 | 1 => Err(failed("no group")),
        _ => Ok(group(&found, 1)),
    }
}

/// All groups by name or number, where the whole text matches.
fn capture_all(text: Value, pattern: Value) -> Result<Value, ExecutionError> {
    let pattern = compile_whole(&pattern)?;
    let found = captures(&pattern, &text)?;
    let groups: std::collections::HashMap<Key, Value> = pattern
        .capture_names()
        .enumerate()
        .skip(1)
        .map(|(number, name)| {
            let name: Cow<'_, str> = match name {
                Some(name) => name.into(),
                None => number.to_string().into(),
            };
            (Key::from(name.into_owned()), group(&found, number))
        })
        .collect();
    match groups.is_empty() {
        true => Err(failed("no group")),
        false => Ok(groups.into()),
    }
}

fn compile(pattern: &str) -> Result<Regex, ExecutionError> {
    Regex::new(pattern).map_err(|_| failed("not a regular expression"))
}

/// For the whole of a text.
fn compile_whole(pattern: &Value) -> Result<Regex, ExecutionError> {
    compile(&format!("^(?:{})$", text_of(pattern)?))
}

fn captures<'t>(pattern: &Regex, text: &'t Value) -> Result<Captures<'t>, ExecutionError> {
    let found = pattern.captures(text_of(text)?);
    found.ok_or_else(|| failed("no match"))
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
