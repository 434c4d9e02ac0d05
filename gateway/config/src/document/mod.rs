//! YAML and JSON text as a tree that remembers where everything stood.
//!
//! A [`Document`] is an arena of nodes; each knows its line, its column and its parent, so that any
//! later finding can name file, line, column and path. [`Reader`] turns nodes into typed values
//! (serde) and decides over fields that a type does not have.
//!
//! JSON is read as YAML, of which it is a part. Plain scalars follow the core schema of YAML 1.2:
//! only `true` and `false` are booleans, so `yes`, `on` and `y` are strings. Anchors and aliases
//! work, within a budget; merge keys (`<<`) do not. As in Envoy, a key tagged `!ignore` is skipped,
//! with its value: a place to keep anchors.

mod de;
mod fault;
mod located;
mod parse;
mod reader;
mod scalar;
#[cfg(test)]
pub(crate) mod seen;

use std::{fmt::Write, sync::Arc};

use super::Error;

pub(crate) use self::{
    fault::Fault,
    located::{Located, Subtree},
    reader::{Reader, Treatment, is_field},
};

/// A node of a [`Document`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

/// One file: one or several documents.
#[derive(Debug)]
pub(crate) struct Document {
    name: Arc<str>,
    nodes: Vec<Node>,
    roots: Vec<NodeId>,
}

#[derive(Clone, Debug)]
struct Node {
    kind: Kind,
    line: u32,
    column: u32,
    parent: Option<NodeId>,
    step: Step,
}

/// Relation of a node to its parent.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A document of its own.
    Root,
    /// A key of a mapping.
    Key,
    /// The value under this key.
    Value(NodeId),
    /// An item of a sequence.
    Item(u32),
}

/// Content of a node.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Null,
    Bool(bool),
    Unsigned(u64),
    Negative(i64),
    /// The number, and how it was written.
    Float(f64, Box<str>),
    Text(Box<str>),
    Sequence(Vec<NodeId>),
    Mapping(Vec<(NodeId, NodeId)>),
}

// Manifests are looked through before they are read.
#[cfg(feature = "manifests")]
impl Document {
    /// The documents of the file.
    pub(crate) fn roots(&self) -> &[NodeId] {
        &self.roots
    }

    /// The value of a field; `None` if there is none, or the node is no mapping.
    pub(crate) fn field(&self, node: NodeId, name: &str) -> Option<NodeId> {
        let Kind::Mapping(entries) = self.kind(node) else {
            return None;
        };
        let entry = entries.iter().find(|(key, _)| self.text(*key) == name);
        entry.map(|(_, value)| *value)
    }

    /// The items of a sequence; nothing for anything else.
    pub(crate) fn items(&self, node: NodeId) -> &[NodeId] {
        match self.kind(node) {
            Kind::Sequence(items) => items,
            _ => &[],
        }
    }

    /// The text of a string.
    pub(crate) fn string(&self, node: NodeId) -> Option<&str> {
        match self.kind(node) {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Tells whether there is nothing.
    pub(crate) fn is_null(&self, node: NodeId) -> bool {
        matches!(self.kind(node), Kind::Null)
    }
}

impl Document {
    /// Reads `text`; `name` is what errors call it.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, Error> {
        parse::document(name, text)
    }

    /// The one document of the file.
    pub(crate) fn single(&self) -> Result<NodeId, Error> {
        match self.roots.as_slice() {
            [root] => Ok(*root),
            [] => Err(Error::whole(&*self.name, "the file is empty")),
            [_, second, ..] => Err(self.error(Fault::at(*second, "only one document is expected"))),
        }
    }

    /// Gives a finding its place.
    pub(crate) fn error(&self, fault: Fault) -> Error {
        match fault.node() {
            Some(node) => Error::at(
                &*self.name,
                self.position(node),
                self.path(node),
                fault.message(),
            ),
            None => Error::whole(&*self.name, fault.message()),
        }
    }

    /// Line and column, counted from 1.
    fn position(&self, node: NodeId) -> (u32, u32) {
        self.node(node)
            .map_or((1, 1), |node| (node.line, node.column))
    }

    /// `a.b[0]`; names with other characters than letters, digits, `_` and `-` as `a["b.c"]`. The
    /// path of a key is that of its mapping.
    fn path(&self, node: NodeId) -> String {
        let mut steps = Vec::new();
        let mut next = Some(node);
        while let Some(node) = next.and_then(|node| self.node(node)) {
            steps.push(node.step);
            next = node.parent;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root | Step::Key => {}
                Step::Item(index) => _ = write!(path, "[{index}]"),
                Step::Value(key) => {
                    let key = self.text(key);
                    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    if key.is_empty() || !key.chars().all(plain) {
                        _ = write!(path, "[{key:?}]");
                    } else if path.is_empty() {
                        path.push_str(key);
                    } else {
                        _ = write!(path, ".{key}");
                    }
                }
            }
        }
        path
    }

    fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node.0 as usize)
    }

    fn kind(&self, node: NodeId) -> &Kind {
        self.node(node).map_or(&Kind::Null, |node| &node.kind)
    }

    /// The text of a string; empty for anything else.
    fn text(&self, node: NodeId) -> &str {
        match self.kind(node) {
            Kind::Text(text) => text,
            _ => "",
        }
    }
}

#[cfg(test)]
mod tests;
