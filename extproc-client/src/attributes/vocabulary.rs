//! Names of attributes in other languages than Envoy's.

use cel::{
    IdedExpr,
    common::ast::{EntryExpr, Expr},
};

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
    /// Gives the attributes of an expression the names that they have here.
    pub(super) fn translate(self, expression: &mut IdedExpr) {
        if self == Self::Agentgateway {
            rename(expression);
        }
    }
}

fn rename(expression: &mut IdedExpr) {
    match &mut expression.expr {
        Expr::Select(select) => {
            if let Expr::Ident(root) = &select.operand.expr {
                let known = AGENTGATEWAY
                    .iter()
                    .find(|(of, name, _)| of == root && *name == select.field);
                if let Some((_, _, ours)) = known {
                    select.field = (*ours).into();
                }
            }
            rename(&mut select.operand);
        }
        Expr::Call(call) => {
            call.target.iter_mut().for_each(|e| rename(e));
            call.args.iter_mut().for_each(rename);
        }
        Expr::List(list) => list.elements.iter_mut().for_each(rename),
        Expr::Map(map) => {
            for entry in &mut map.entries {
                if let EntryExpr::MapEntry(entry) = &mut entry.expr {
                    rename(&mut entry.key);
                    rename(&mut entry.value);
                }
            }
        }
        Expr::Comprehension(comprehension) => {
            rename(&mut comprehension.iter_range);
            rename(&mut comprehension.accu_init);
            rename(&mut comprehension.loop_cond);
            rename(&mut comprehension.loop_step);
            rename(&mut comprehension.result);
        }
        _ => {}
    }
}
