//! Expressions that are more than a name, compiled and evaluated as CEL.

mod budget;
mod calls;
mod print;
mod regex;
mod value;

use std::sync::{Arc, LazyLock};

use cel::{
    Context, Env, IdedExpr, Value,
    common::ast::{CallExpr, Expr, LiteralValue, operators},
};

use self::budget::Meter;
use super::{Form, Headers, Item, OverBudget, Shape, View, Vocabulary, lookup::ROOTS};

/// An expression over maps that are built for it.
#[derive(Debug)]
pub(super) struct Compiled {
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
    shape: Shape,
}

/// Tells if `+` joins texts, bytes and lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joins {
    Yes,
    No,
}

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

/// Compiles `text`.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn compile(text: &str, vocabulary: Vocabulary, shape: Shape) -> Result<Form, String> {
    budget::check_text(text)?;
    budget::with_room(|| parse(text, vocabulary, shape)).flatten()
}

fn parse(text: &str, vocabulary: Vocabulary, shape: Shape) -> Result<Form, String> {
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
    calls::each(&mut expression, &mut |part| {
        if let (Expr::Call(call), Ok(())) = (part, &calls) {
            calls = check_call(call, vocabulary).and_then(|()| patterns.take(call));
        }
    });
    calls?;
    let adds = calls::translate(vocabulary, &mut expression);
    if let Some(form) = plain(&expression).filter(|form| shape == Shape::Printed || is_flat(form)) {
        return Ok(form);
    }
    let roots: Vec<&str> = ROOTS
        .iter()
        .copied()
        .filter(|root| references.has_variable(root))
        .collect();
    lower_header_names(&mut expression);
    let cost = budget::cost(&expression);
    let steps = match budget::has_loops(&expression) {
        true => budget::STEPS,
        false => (cost + patterns.steps() + ROOT * roots.len() as i64).min(budget::STEPS),
    };
    let mut counts = false;
    calls::each(&mut expression, &mut |part| counts |= budget::count(part));
    Ok(Form::Cel(Arc::new(Compiled {
        expression,
        cost,
        steps,
        counts,
        roots,
        adds,
        regexes: patterns.finish(),
        shape,
    })))
}

impl Compiled {
    /// Most steps that an evaluation takes.
    pub(super) fn steps(&self) -> u64 {
        self.steps.unsigned_abs()
    }

    /// The value, if there is one.
    pub(super) fn evaluate(&self, view: &View<'_>) -> Result<Option<Item<'static>>, OverBudget> {
        let meter = Meter::new();
        let value = self.resolve(view, &meter);
        match meter.is_overdrawn() {
            // Also where it has a value: an operator may have passed over the end.
            true => Err(OverBudget),
            false => Ok(value),
        }
    }

    fn resolve(&self, view: &View<'_>, meter: &Meter) -> Option<Item<'static>> {
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
            context.add_function(calls::ADD, add).ok()?;
        }
        self.regexes.add_to(&mut context, meter)?;
        let value = Value::resolve(&self.expression, &context).ok()?;
        match &self.expression.expr {
            Expr::Call(call) if call.func_name == "type" => Some(print::a_type()),
            _ if self.shape == Shape::Kept => value::kept(value, meter),
            _ => Some(print::item(value)),
        }
    }
}

/// Checks that a function exists.
fn check_call(call: &CallExpr, vocabulary: Vocabulary) -> Result<(), String> {
    let name = call.func_name.as_str();
    let known = !name.starts_with(|c: char| c.is_ascii_alphabetic())
        || FUNCTIONS.contains(&name)
        || calls::of(vocabulary).contains(&name)
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

/// Tells whether the value has no parts that would have to be kept.
fn is_flat(form: &Form) -> bool {
    match form {
        Form::Name(_, Some(field)) => {
            !matches!(&**field, "headers" | "trailers" | "node") && !field.ends_with("metadata")
        }
        Form::Name(_, None) => false,
        Form::Header(..) | Form::Cel(_) => true,
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
    match select.test {
        true => None,
        false => Headers::of(root, &select.field),
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
