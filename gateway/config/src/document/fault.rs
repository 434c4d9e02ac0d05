//! Findings inside a document.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::NodeId;

/// Something wrong at a node. Whoever makes one without a node leaves it to the nearest reader that
/// has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    node: Option<NodeId>,
    message: String,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            node: None,
            message: message.into(),
        }
    }

    pub(crate) fn at(node: NodeId, message: impl Into<String>) -> Self {
        Self {
            node: Some(node),
            message: message.into(),
        }
    }

    /// With this node unless there is one.
    pub(crate) fn or_at(mut self, node: NodeId) -> Self {
        self.node.get_or_insert(node);
        self
    }

    /// With more of the place in front of the message.
    #[cfg(feature = "manifests")]
    pub(crate) fn within(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    pub(crate) fn node(&self) -> Option<NodeId> {
        self.node
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!(
            "expected {}, found {}",
            wanted(expected),
            given(found)
        ))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!(
            "unknown value {variant:?}, expected {}",
            one_of(expected)
        ))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!(
            "unknown field {field:?}, expected {}",
            one_of(expected)
        ))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("missing field {field:?}"))
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("field {field:?} is given twice"))
    }
}

/// Names the expected value in words of the file rather than of Rust.
fn wanted(expected: &dyn Expected) -> String {
    let text = expected.to_string();
    match text.as_str() {
        "u8" => "an integer from 0 to 255".into(),
        "u16" => "an integer from 0 to 65535".into(),
        "u32" => "an integer from 0 to 4294967295".into(),
        "u64" | "usize" => "a non-negative integer".into(),
        "i8" | "i16" | "i32" | "i64" => "an integer".into(),
        "f32" | "f64" => "a number".into(),
        "a map" => "a mapping".into(),
        text if text.starts_with("struct ") => "a mapping".into(),
        _ => text,
    }
}

fn given(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Str(text) => format!("{text:?}"),
        Unexpected::Unit | Unexpected::Option => "null".into(),
        Unexpected::Seq => "a sequence".into(),
        Unexpected::Map => "a mapping".into(),
        other => other.to_string(),
    }
}

/// Names joined for a message; spellings in camel case are left out.
fn one_of(names: &[&str]) -> String {
    let is_camel = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.contains(|c: char| c.is_ascii_uppercase())
    };
    let names: Vec<&str> = names
        .iter()
        .copied()
        .filter(|name| !is_camel(name))
        .collect();
    match names.as_slice() {
        [] => "nothing".into(),
        [one] => (*one).into(),
        many => format!("one of {}", many.join(", ")),
    }
}
