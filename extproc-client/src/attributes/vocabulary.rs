//! Names of attributes in other languages than Envoy's.

use cel::{
    IdedExpr,
    common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, SelectExpr, operators},
};

use super::Joins;

/// Whose names an expression uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Vocabulary {
    /// Envoy's: `request.path` has the query, `source.address` the port.
    #[default]
    Envoy,
    /// agentgateway's: `request.path` is the path alone, beside `request.pathAndQuery` and
    /// `request.uri`; `request.version` is the protocol; `source.address` and `destination.address`
    /// are without their ports.
    Agentgateway,
}

/// The whole URI. No expression can name it.
pub(super) const URI: &str = "@uri";
/// The address without its port. No expression can name it.
pub(super) const IP: &str = "@ip";

/// Addition. No expression can name it.
pub(super) const ADD: &str = "@add";

/// Agentgateway's names and those they have here.
const AGENTGATEWAY: &[(&str, &str, &str)] = &[
    ("request", "path", "url_path"),
    ("request", "pathAndQuery", "path"),
    ("request", "version", "protocol"),
    ("request", "uri", URI),
    ("source", "address", IP),
    ("destination", "address", IP),
];

impl Vocabulary {
    /// Gives the attributes and operators of an expression the names that they have here. Tells what its additions do,
    /// if it has any.
    pub(super) fn translate(self, expression: &mut IdedExpr) -> Option<Joins> {
        let mut adds = None;
        each(expression, &mut |expression| match (self, expression) {
            (Self::Agentgateway, Expr::Select(select)) => rename(select),
            (_, Expr::Call(call)) if call.func_name == operators::ADD && !collects(call) => {
                call.func_name = ADD.into();
                adds = Some(match self {
                    Self::Envoy => Joins::No,
                    Self::Agentgateway => Joins::Yes,
                });
            }
            (_, Expr::Call(call)) => {
                as_member(call);
                if call.func_name == MILLISECONDS {
                    below_a_second(call);
                }
            }
            _ => {}
        });
        adds
    }

    /// Functions that there are beside the common ones.
    pub(super) fn functions(self) -> &'static [&'static str] {
        match self {
            Self::Envoy => &[],
            Self::Agentgateway => &["string"],
        }
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

/// Whether it is the step of a comprehension that makes a list.
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

fn rename(select: &mut SelectExpr) {
    if let Expr::Ident(root) = &select.operand.expr {
        let known = AGENTGATEWAY
            .iter()
            .find(|(of, name, _)| of == root && *name == select.field);
        if let Some((_, _, ours)) = known {
            select.field = (*ours).into();
        }
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
