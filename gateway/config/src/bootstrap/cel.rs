//! `xds.type.v3.CelExpression`: an expression as text, or parsed before.

use extproc_client::attributes::Expression;
use serde::Deserialize;

use super::value::Whatever;
use crate::document::{Fault, Located, NodeId};

/// `xds.type.v3.CelExpression`. The older fields read like the newer ones.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CelExpression {
    cel_expr_string: Option<Located<String>>,
    cel_expr_parsed: Option<ParsedExpr>,
    parsed_expr: Option<ParsedExpr>,
    cel_expr_checked: Option<ParsedExpr>,
    checked_expr: Option<ParsedExpr>,
}

/// `cel.expr.ParsedExpr` and `CheckedExpr`.
#[derive(Debug, Deserialize)]
#[serde(rename = "CelParsedExpr")]
struct ParsedExpr {
    expr: Located<Expr>,
}

/// `cel.expr.Expr`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "CelExpr")]
struct Expr {
    const_expr: Option<Constant>,
    ident_expr: Option<Ident>,
    select_expr: Option<Select>,
    call_expr: Option<Call>,
    list_expr: Option<List>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "CelConstant")]
struct Constant {
    null_value: Option<Whatever>,
    bool_value: Option<bool>,
    int64_value: Option<i64>,
    uint64_value: Option<u64>,
    double_value: Option<f64>,
    string_value: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "CelIdent")]
struct Ident {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "CelSelect")]
struct Select {
    operand: Located<Box<Expr>>,
    field: String,
    #[serde(default)]
    test_only: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "CelCall")]
struct Call {
    target: Option<Located<Box<Expr>>>,
    function: String,
    #[serde(default)]
    args: Vec<Located<Expr>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "CelList")]
struct List {
    elements: Vec<Located<Expr>>,
}

/// Operators between two values, by the name of their function.
const BINARY: &[(&str, &str)] = &[
    ("_==_", "=="),
    ("_!=_", "!="),
    ("_<_", "<"),
    ("_<=_", "<="),
    ("_>_", ">"),
    ("_>=_", ">="),
    ("_&&_", "&&"),
    ("_||_", "||"),
    ("_+_", "+"),
    ("_-_", "-"),
    ("_*_", "*"),
    ("_/_", "/"),
    ("_%_", "%"),
    ("@in", "in"),
];

impl Located<CelExpression> {
    pub(super) fn build(&self) -> Result<Expression, Fault> {
        let expression = &self.value;
        let mut parsed = [
            &expression.cel_expr_parsed,
            &expression.parsed_expr,
            &expression.cel_expr_checked,
            &expression.checked_expr,
        ]
        .into_iter()
        .flatten();
        let (node, text) = match (&expression.cel_expr_string, parsed.next(), parsed.next()) {
            (Some(text), None, None) => (text.node, text.value.clone()),
            (None, Some(parsed), None) => {
                let node = parsed.expr.node;
                (node, parsed.expr.value.text(node)?)
            }
            _ => {
                return Err(Fault::at(
                    self.node,
                    "one and only one form of the expression has to be set",
                ));
            }
        };
        Expression::compile(&text).map_err(|error| Fault::at(node, error.to_string()))
    }
}

impl Expr {
    /// The expression as it would be written.
    fn text(&self, node: NodeId) -> Result<String, Fault> {
        match self {
            Self {
                const_expr: Some(constant),
                ..
            } => constant.text(node),
            Self {
                ident_expr: Some(ident),
                ..
            } => name(&ident.name, node),
            Self {
                select_expr: Some(select),
                ..
            } => {
                let operand = select.operand.value.text(select.operand.node)?;
                let field = name(&select.field, node)?;
                Ok(match select.test_only {
                    true => format!("has({operand}.{field})"),
                    false => format!("{operand}.{field}"),
                })
            }
            Self {
                call_expr: Some(call),
                ..
            } => call.text(node),
            Self {
                list_expr: Some(list),
                ..
            } => Ok(format!("[{}]", listed(&list.elements)?)),
            _ => Err(Fault::at(
                node,
                "only constants, names, fields, calls and lists are supported",
            )),
        }
    }
}

impl Constant {
    fn text(&self, node: NodeId) -> Result<String, Fault> {
        let text = match self {
            Self {
                bool_value: Some(value),
                ..
            } => value.to_string(),
            Self {
                int64_value: Some(value),
                ..
            } => format!("({value})"),
            Self {
                uint64_value: Some(value),
                ..
            } => format!("{value}u"),
            Self {
                double_value: Some(value),
                ..
            } if value.is_finite() => format!("({value:?})"),
            // Escapes of JSON are escapes of CEL.
            Self {
                string_value: Some(value),
                ..
            } => serde_json::Value::from(value.as_str()).to_string(),
            Self {
                null_value: Some(Whatever),
                ..
            } => "null".to_owned(),
            _ => return Err(Fault::at(node, "this form of a constant is not supported")),
        };
        Ok(text)
    }
}

impl Call {
    fn text(&self, node: NodeId) -> Result<String, Fault> {
        let args = self.args.iter().map(|arg| arg.value.text(arg.node));
        let args = args.collect::<Result<Vec<_>, _>>()?;
        let binary = BINARY
            .iter()
            .find(|(function, _)| *function == self.function);
        Ok(match (&self.target, binary, args.as_slice()) {
            (None, Some((_, sign)), [left, right]) => format!("({left} {sign} {right})"),
            (None, None, [value]) if self.function == "!_" => format!("(!{value})"),
            (None, None, [value]) if self.function == "-_" => format!("(-{value})"),
            (None, None, [value, index]) if self.function == "_[_]" => format!("{value}[{index}]"),
            (None, None, [condition, yes, no]) if self.function == "_?_:_" => {
                format!("({condition} ? {yes} : {no})")
            }
            (None, None, args) => format!("{}({})", name(&self.function, node)?, args.join(", ")),
            (Some(target), None, args) => {
                let target = target.value.text(target.node)?;
                format!(
                    "{target}.{}({})",
                    name(&self.function, node)?,
                    args.join(", ")
                )
            }
            _ => {
                return Err(Fault::at(
                    node,
                    format!("{:?} is not called like this", self.function),
                ));
            }
        })
    }
}

fn listed(elements: &[Located<Expr>]) -> Result<String, Fault> {
    let elements = elements.iter().map(|one| one.value.text(one.node));
    let elements = elements.collect::<Result<Vec<_>, _>>()?;
    Ok(elements.join(", "))
}

/// A name, which can be nothing else.
fn name(text: &str, node: NodeId) -> Result<String, Fault> {
    let mut all = text.chars();
    let begins = all
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    match begins && all.all(|c| c.is_ascii_alphanumeric() || c == '_') {
        true => Ok(text.to_owned()),
        false => Err(Fault::at(node, format!("{text:?} is no name"))),
    }
}
