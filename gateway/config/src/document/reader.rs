//! Reading typed values out of a document.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::{Document, Fault, Kind, NodeId, de::NodeDeserializer};

/// Messages that hold another one as JSON.
const STRUCTS: &[&str] = &["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"];

/// Treatment of a field that a type does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It may stand there: it has no effect here.
    Ignore,
    /// It may stand there, but what it asks for is not done; the user is told, unless it asks for
    /// nothing (`false`, `0`, an empty value).
    Note(&'static str),
    /// The same for a message whose presence counts: it asks for something however empty it is.
    NotePresence(&'static str),
    /// It may only stand there if it asks for nothing.
    Refuse(&'static str),
    /// It may not stand there, since its presence counts.
    RefusePresence(&'static str),
}

/// Fields known by name of message and field; `None` for a field that does not exist.
pub(crate) type Rules = fn(message: &str, field: &str) -> Option<Treatment>;

/// Reads parts of a [`Document`] as typed values.
///
/// Names of fields may be in snake case or in lower camel case, as in ProtoJSON; a field whose value
/// is null counts as absent. Fields that a type does not have are treated by the reader's rules and
/// refused if those do not know them; so a type needs no `deny_unknown_fields`.
pub(crate) struct Reader<'d> {
    document: &'d Document,
    rules: Rules,
    notes: RefCell<Vec<Fault>>,
    /// Fields without effect.
    ignored: RefCell<Vec<Fault>>,
    /// Faults, if they are collected rather than the end of the reading.
    refused: Option<RefCell<Refused>>,
    files: RefCell<Vec<PathBuf>>,
}

/// Faults after which a [`Reader`] goes on reading.
#[derive(Default)]
pub(crate) struct Refused {
    /// Fields that may not stand there.
    pub(crate) fields: Vec<Fault>,
    /// Anything else, which may follow from those.
    pub(crate) others: Vec<Fault>,
}

impl Refused {
    pub(crate) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.others.is_empty()
    }
}

impl<'d> Reader<'d> {
    pub(crate) fn new(document: &'d Document, rules: Rules) -> Self {
        Self {
            document,
            rules,
            notes: RefCell::default(),
            ignored: RefCell::default(),
            refused: None,
            files: RefCell::default(),
        }
    }

    /// As [`new`](Self::new), but fields that are refused do not end the reading: whoever reads asks for them with
    /// [`refused`](Self::refused).
    pub(crate) fn collecting(document: &'d Document, rules: Rules) -> Self {
        Self {
            refused: Some(RefCell::default()),
            ..Self::new(document, rules)
        }
    }

    /// Refusals so far.
    pub(crate) fn refused(&self) -> Refused {
        self.refused.as_ref().map(RefCell::take).unwrap_or_default()
    }

    /// Refuses something without which the rest can be read.
    pub(crate) fn refuse(&self, fault: Fault) -> Result<(), Fault> {
        match &self.refused {
            Some(refused) => {
                let others = &mut refused.borrow_mut().others;
                // A part that several places use is read for each of them.
                if !others.contains(&fault) {
                    others.push(fault);
                }
                Ok(())
            }
            None => Err(fault),
        }
    }

    fn refuse_field(&self, fault: Fault) -> Result<(), Fault> {
        match &self.refused {
            Some(refused) => {
                let fields = &mut refused.borrow_mut().fields;
                if !fields.contains(&fault) {
                    fields.push(fault);
                }
                Ok(())
            }
            None => Err(fault),
        }
    }

    /// The value at `node`.
    pub(crate) fn read<T: DeserializeOwned>(&self, node: NodeId) -> Result<T, Fault> {
        T::deserialize(NodeDeserializer::new(self, node)).map_err(|fault| fault.or_at(node))
    }

    /// The message at `node`, which is a `google.protobuf.Any`: its `@type` is no field of it. Of a `TypedStruct`, the message
    /// in it.
    pub(crate) fn read_typed<T: DeserializeOwned>(&self, node: NodeId) -> Result<T, Fault> {
        let in_struct = STRUCTS.contains(&self.written_type(node)?);
        let deserializer = match self.member(node, &["value"]) {
            Some(value) if in_struct => {
                self.only(node, &["@type", "type_url", "typeUrl", "value"])?;
                NodeDeserializer::new(self, value)
            }
            _ if in_struct => {
                NodeDeserializer::without(self, node, &["@type", "type_url", "typeUrl"])
            }
            _ => NodeDeserializer::without(self, node, &["@type"]),
        };
        T::deserialize(deserializer).map_err(|fault| fault.or_at(node))
    }

    /// The type of a `google.protobuf.Any`, without what stands before the last slash. Of a `TypedStruct`, the type that it
    /// stands for.
    pub(crate) fn type_of(&self, node: NodeId) -> Result<&'d str, Fault> {
        let name = self.written_type(node)?;
        if !STRUCTS.contains(&name) {
            return Ok(name);
        }
        self.name_of_type(node, &["type_url", "typeUrl"])
    }

    fn written_type(&self, node: NodeId) -> Result<&'d str, Fault> {
        match self.document.kind(node) {
            Kind::Mapping(_) => self.name_of_type(node, &["@type"]),
            _ => Err(Fault::at(node, "expected a mapping with an \"@type\"")),
        }
    }

    fn name_of_type(&self, node: NodeId, names: &[&str]) -> Result<&'d str, Fault> {
        let Some(value) = self.member(node, names) else {
            let field = names.first().copied().unwrap_or_default();
            return Err(Fault::at(node, format!("missing field {field:?}")));
        };
        match self.document.kind(value) {
            Kind::Text(url) => Ok(url.rsplit_once('/').map_or(url, |(_, name)| name)),
            _ => Err(Fault::at(value, "expected a string")),
        }
    }

    /// Refuses other keys than these.
    fn only(&self, node: NodeId, names: &'static [&'static str]) -> Result<(), Fault> {
        let Kind::Mapping(entries) = self.document.kind(node) else {
            return Ok(());
        };
        for (key, _) in entries {
            let field = self.document.text(*key);
            if !names.contains(&field) {
                let error: Fault = serde::de::Error::unknown_field(field, names);
                self.refuse_field(error.or_at(*key))?;
            }
        }
        Ok(())
    }

    /// The value under one of these keys.
    fn member(&self, node: NodeId, names: &[&str]) -> Option<NodeId> {
        let Kind::Mapping(entries) = self.document.kind(node) else {
            return None;
        };
        let mut entries = entries.iter();
        let entry = entries.find(|(key, _)| names.contains(&self.document.text(*key)));
        entry.map(|(_, value)| *value)
    }

    /// Keeps a remark for the user.
    pub(crate) fn note(&self, node: NodeId, message: impl Into<String>) {
        self.notes.borrow_mut().push(Fault::at(node, message));
    }

    /// Remembers a file that the document names and that was read.
    pub(crate) fn uses(&self, file: &Path) {
        self.files.borrow_mut().push(file.to_owned());
    }

    /// The files so far.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.files.borrow().clone()
    }

    /// The remarks so far, and after them those on fields without effect.
    pub(crate) fn into_notes(self) -> (Vec<Fault>, Vec<Fault>) {
        (self.notes.into_inner(), self.ignored.into_inner())
    }

    pub(super) fn document(&self) -> &'d Document {
        self.document
    }

    /// Tells whether a field that its type does not have may be skipped.
    pub(super) fn skip(
        &self,
        message: &str,
        (key, value): (NodeId, NodeId),
        expected: &'static [&'static str],
    ) -> Result<(), Fault> {
        let field = self.document.text(key);
        let Some(treatment) = (self.rules)(message, field) else {
            let error: Fault = serde::de::Error::unknown_field(field, expected);
            return self.refuse_field(error.or_at(key));
        };
        match treatment {
            Treatment::Ignore if !self.is_empty(value) => {
                let fault = Fault::at(value, "has no effect in this gateway, and needs none");
                self.ignored.borrow_mut().push(fault);
            }
            Treatment::Note(reason) if !self.is_empty(value) => self.note(value, reason),
            Treatment::NotePresence(reason) => self.note(value, reason),
            Treatment::Refuse(reason) if !self.is_empty(value) => {
                return self.refuse_field(Fault::at(value, reason));
            }
            Treatment::RefusePresence(reason) => {
                return self.refuse_field(Fault::at(value, reason));
            }
            _ => {}
        }
        Ok(())
    }

    /// Returns whether the value asks for nothing: `false`, 0, or something empty.
    pub(crate) fn is_empty(&self, node: NodeId) -> bool {
        match self.document.kind(node) {
            Kind::Null | Kind::Bool(false) | Kind::Unsigned(0) => true,
            Kind::Float(number, _) => *number == 0.0,
            Kind::Text(text) => text.is_empty(),
            Kind::Sequence(items) => items.is_empty(),
            Kind::Mapping(entries) => entries.is_empty(),
            Kind::Bool(true) | Kind::Unsigned(_) | Kind::Negative(_) => false,
        }
    }
}

/// Returns whether `written` is this field's name: as it is in the proto, or in lower camel case.
pub(crate) fn is_field(field: &str, written: &str) -> bool {
    if field == written {
        return true;
    }
    let mut upper = false;
    let camel = field.chars().filter_map(|c| {
        if c == '_' {
            upper = true;
            return None;
        }
        let c = if std::mem::take(&mut upper) {
            c.to_ascii_uppercase()
        } else {
            c
        };
        Some(c)
    });
    camel.eq(written.chars())
}
