//! Operators and functions as the evaluator has them.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, SelectExpr, operators},
};

use super::{Joins, Vocabulary};

/// Addition. No expression can name it.
pub(super) const ADD: &str = "@add";

/// Gives the attributes and operators of an expression the names that they have here. Tells what its additions do,
/// if it has any.
pub(super) fn translate(vocabulary: Vocabulary, expression: &mut IdedExpr) -> Option<Joins> {
    let mut adds = None;
    each(
        expression,
        &mut |expression| match (vocabulary, expression) {
            (_, Expr::Select(select)) => rename(vocabulary, select),
            (_, Expr::Call(call)) if call.func_name == operators::ADD && !collects(call) => {
                call.func_name = ADD.into();
                adds = Some(match vocabulary {
                    Vocabulary::Envoy => Joins::No,
                    Vocabulary::Agentgateway => Joins::Yes,
                });
            }
            (_, Expr::Call(call)) => {
                as_member(call);
                if call.func_name == MILLISECONDS {
                    below_a_second(call);
                }
            }
            _ => {}
        },
    );
    adds
}

/// Functions that a vocabulary has beside the common ones.
pub(super) fn of(vocabulary: Vocabulary) -> &'static [&'static str] {
    match vocabulary {
        Vocabulary::Envoy => &[],
        Vocabulary::Agentgateway => &["string"],
    }
}

const MILLISECONDS: &str = "getMilliseconds";

/// `startsWith(a, b)` as `a.startsWith(b)`.
fn as_member(call: &mut CallExpr) {
    let member = matches!(
        call.func_name.as_str(),
        "startsWith" | "endsWith" | "contains"
    );
    if member && call.target.is_none() && call.args.len() == 2 {
        call.target = Some(Box::new(call.args.remove(0)));
    }
}

/// The milliseconds of a duration are those beyond its seconds, as those of a time are.
fn below_a_second(call: &mut CallExpr) {
    let whole = CallExpr {
        func_name: MILLISECONDS.into(),
        target: call.target.take(),
        args: std::mem::take(&mut call.args),
    };
    let second = Expr::Literal(LiteralValue::Int(1000.into()));
    call.func_name = operators::MODULO.into();
    call.args = [Expr::Call(whole), second]
        .map(|expr| IdedExpr { id: 0, expr })
        .into();
}

/// Returns whether the call is the step of a comprehension that makes a list.
fn collects(call: &CallExpr) -> bool {
    let Some(IdedExpr {
        expr: Expr::Ident(name),
        ..
    }) = call.args.first()
    else {
        return false;
    };
    name.starts_with('@')
}

fn rename(vocabulary: Vocabulary, select: &mut SelectExpr) {
    if let Expr::Ident(root) = &select.operand.expr
        && let Some(ours) = vocabulary.rename(root, &select.field)
    {
        select.field = ours.into();
    }
}

/// Calls `f` with an expression and every one inside it, which come first.
pub(super) fn each(expression: &mut IdedExpr, f: &mut impl FnMut(&mut Expr)) {
    match &mut expression.expr {
        Expr::Select(select) => each(&mut select.operand, f),
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|e| each(e, f));
            call.args.iter_mut().for_each(|e| each(e, f));
        }
        Expr::List(list) => list.elements.iter_mut().for_each(|e| each(e, f)),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    each(&mut entry.key, f);
                    each(&mut entry.value, f);
                }
            }
        }
        Expr::Comprehension(comprehension) => {
            each(&mut comprehension.iter_range, f);
            each(&mut comprehension.accu_init, f);
            each(&mut comprehension.loop_cond, f);
            each(&mut comprehension.loop_step, f);
            each(&mut comprehension.result, f);
        }
        _ => {}
    }
    f(&mut expression.expr);
}
