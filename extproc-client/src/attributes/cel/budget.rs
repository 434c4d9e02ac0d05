//! Bounds of what an expression may be and may take: whoever writes one shares a worker with the requests of others.
//!
//! The cost of an evaluation is counted in steps, about one for each part of the expression that is looked at, and one
//! for every 64 bytes that are copied. The evaluator knows no limits. So an expression is rewritten when it is
//! compiled, such that it counts by itself: before a comprehension begins it pays for all of its turns, and what
//! is put into a list or map, or joined, is paid for by its size.

use std::{
    ops::BitOr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use cel::{
    Context, ExecutionError, IdedExpr, Value,
    common::ast::{CallExpr, EntryExpr, Expr},
};

/// Steps of one evaluation.
pub(super) const STEPS: i64 = 20_000;
/// Parts of an expression.
const PARTS: usize = 2_000;
/// Deepest nesting: evaluation recurses.
const DEPTH: usize = 64;
/// Signs of operators, calls and brackets in a text, each of which may be one more level for the parser.
const SIGNS: usize = 1_000;

/// The range of a comprehension, with the steps of a turn. No expression can name it.
const ITEMS: &str = "@items";
/// A value that is put into a list or map. No expression can name it.
const PART: &str = "@part";

/// Checks a text before it is parsed.
pub(super) fn check_text(text: &str) -> Result<(), String> {
    let sign = |byte: &u8| byte.is_ascii_punctuation() && !b"_,'\"\\".contains(byte);
    match text.bytes().filter(|byte| sign(byte)).count() {
        0..=SIGNS => Ok(()),
        _ => Err(format!(
            "longer than may be: more than {SIGNS} operators and brackets"
        )),
    }
}

/// Runs what recurses into a text that may be nested as deep as its signs allow, with room for that. Threads that read
/// configurations have less.
///
/// # Errors
/// There is no such thread, or it panicked.
pub(super) fn with_room<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, String> {
    /// In bytes; only what is used is taken.
    const STACK: usize = 64 * 1024 * 1024;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, f);
        let thread = thread.map_err(|error| format!("cannot be parsed: {error}"))?;
        thread.join().map_err(|_| "cannot be parsed".to_owned())
    })
}

/// Checks an expression before anything recurses into it.
pub(super) fn check(expression: &IdedExpr) -> Result<(), String> {
    let mut parts = 0;
    let mut left = vec![(expression, 1)];
    while let Some((part, depth)) = left.pop() {
        parts += 1;
        if parts > PARTS {
            return Err(format!("longer than may be: more than {PARTS} parts"));
        }
        if depth > DEPTH {
            return Err(format!("nested deeper than {DEPTH} levels"));
        }
        children(part, |child| left.push((child, depth + 1)));
    }
    Ok(())
}

fn children<'e>(expression: &'e IdedExpr, mut f: impl FnMut(&'e IdedExpr)) {
    match &expression.expr {
        Expr::Select(select) => f(&select.operand),
        Expr::Call(call) => call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .for_each(f),
        Expr::List(list) => list.elements.iter().for_each(f),
        Expr::Map(map) => {
            for entry in &map.entries {
                if let EntryExpr::MapEntry(entry) = &entry.expr {
                    f(&entry.key);
                    f(&entry.value);
                }
            }
        }
        Expr::Comprehension(loops) => {
            f(&loops.iter_range);
            f(&loops.accu_init);
            f(&loops.loop_cond);
            f(&loops.loop_step);
            f(&loops.result);
        }
        _ => {}
    }
}

/// Steps for looking at every part of an expression once.
pub(super) fn cost(expression: &IdedExpr) -> i64 {
    // What is called may go through a whole text.
    let own = match expression.expr {
        Expr::Call(_) => 8,
        _ => 1,
    };
    let mut steps = own;
    children(expression, |child| steps += cost(child));
    steps
}

/// Tells whether a part is evaluated more than once.
pub(super) fn has_loops(expression: &IdedExpr) -> bool {
    let mut found = matches!(expression.expr, Expr::Comprehension(_));
    children(expression, |child| found |= has_loops(child));
    found
}

/// Makes one part of an expression count; those inside it do already. Returns whether it has to.
pub(super) fn count(expression: &mut Expr) -> bool {
    match expression {
        Expr::Comprehension(loops) => {
            let turn = cost(&loops.loop_cond) + cost(&loops.loop_step);
            wrap(&mut loops.iter_range, ITEMS, Some(turn));
            true
        }
        Expr::List(list) => list.elements.iter_mut().map(part).fold(false, BitOr::bitor),
        Expr::Map(map) => {
            let mut counts = false;
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    counts |= part(&mut entry.key);
                    counts |= part(&mut entry.value);
                }
            }
            counts
        }
        _ => false,
    }
}

/// Makes a part of a list or map count; one that is written out is paid for by its own parts.
fn part(expression: &mut IdedExpr) -> bool {
    let counts = !matches!(
        expression.expr,
        Expr::Literal(_) | Expr::List(_) | Expr::Map(_)
    );
    if counts {
        wrap(expression, PART, None);
    }
    counts
}

fn wrap(expression: &mut IdedExpr, function: &str, argument: Option<i64>) {
    let inner = IdedExpr {
        id: expression.id,
        expr: std::mem::take(&mut expression.expr),
    };
    let argument = argument.map(|number| IdedExpr {
        id: 0,
        expr: Expr::Literal(cel::common::ast::LiteralValue::Int(number.into())),
    });
    expression.expr = Expr::Call(CallExpr {
        func_name: function.into(),
        target: None,
        args: std::iter::once(inner).chain(argument).collect(),
    });
}

/// The steps that an evaluation has left.
#[derive(Clone, Debug)]
pub(super) struct Meter(Arc<AtomicI64>);

impl Meter {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(STEPS)))
    }

    /// Takes steps.
    ///
    /// # Errors
    /// There are not so many left. The evaluation ends, and whatever it says does not count.
    pub(super) fn pay(&self, steps: i64) -> Result<(), ExecutionError> {
        match self.0.fetch_sub(steps, Ordering::Relaxed) >= steps {
            true => Ok(()),
            false => Err(ExecutionError::function_error("", "too many steps")),
        }
    }

    /// Steps that are left.
    pub(super) fn left(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn is_overdrawn(&self) -> bool {
        self.left() < 0
    }

    /// Makes the functions known that count.
    pub(super) fn add_to(&self, context: &mut Context<'_, '_>) -> Option<()> {
        let meter = self.clone();
        let items = move |range: Value, turn: i64| {
            let turns = match &range {
                Value::List(list) => list.len(),
                Value::Map(map) => map.map.len(),
                _ => 0,
            };
            let turns = i64::try_from(turns).unwrap_or(i64::MAX);
            meter.pay(turns.saturating_mul(turn).min(STEPS + 1))?;
            meter.pay(size(&range))?;
            Ok::<_, ExecutionError>(range)
        };
        context.add_function(ITEMS, items).ok()?;
        let meter = self.clone();
        let part = move |value: Value| {
            meter.pay(size(&value))?;
            Ok::<_, ExecutionError>(value)
        };
        context.add_function(PART, part).ok()
    }
}

/// Steps for copying a value.
pub(super) fn size(value: &Value) -> i64 {
    let bytes = |length: usize| i64::try_from(length / 64).unwrap_or(STEPS);
    1 + match value {
        Value::String(text) => bytes(text.len()),
        Value::Bytes(given) => bytes(given.len()),
        Value::List(list) => list.iter().map(size).sum(),
        Value::Map(map) => map
            .map
            .iter()
            .map(|(key, value)| {
                let key = match key {
                    cel::objects::Key::String(text) => bytes(text.len()),
                    _ => 0,
                };
                1 + key + size(value)
            })
            .sum(),
        _ => 0,
    }
}
