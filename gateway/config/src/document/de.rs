//! serde over the nodes of a document.

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
        value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    Fault, Kind, NodeId,
    located::LOCATED,
    reader::{Reader, is_field},
};

/// A node as a deserializer. Every error that leaves it has a node.
#[derive(Clone, Copy)]
pub(super) struct NodeDeserializer<'r, 'd> {
    reader: &'r Reader<'d>,
    node: NodeId,
    /// Keys that are no fields of the message.
    skipped: &'static [&'static str],
}

impl<'r, 'd> NodeDeserializer<'r, 'd> {
    pub(super) fn new(reader: &'r Reader<'d>, node: NodeId) -> Self {
        Self {
            reader,
            node,
            skipped: &[],
        }
    }

    pub(super) fn without(
        reader: &'r Reader<'d>,
        node: NodeId,
        skipped: &'static [&'static str],
    ) -> Self {
        Self {
            reader,
            node,
            skipped,
        }
    }

    fn kind(&self) -> &'d Kind {
        self.reader.document().kind(self.node)
    }

    fn entries(&self) -> Result<Entries<'r, 'd>, Fault> {
        match self.kind() {
            Kind::Mapping(entries) => Ok(Entries {
                reader: self.reader,
                entries: entries.iter(),
                skipped: self.skipped,
                value: None,
            }),
            other => Err(expected("a mapping", other).or_at(self.node)),
        }
    }
}

fn expected(what: &'static str, found: &Kind) -> Fault {
    serde::de::Error::invalid_type(describe(found), &what)
}

fn describe(kind: &Kind) -> Unexpected<'_> {
    match kind {
        Kind::Null => Unexpected::Unit,
        Kind::Bool(value) => Unexpected::Bool(*value),
        Kind::Unsigned(value) => Unexpected::Unsigned(*value),
        Kind::Negative(value) => Unexpected::Signed(*value),
        Kind::Float(value, _) => Unexpected::Float(*value),
        Kind::Text(text) => Unexpected::Str(text),
        Kind::Sequence(_) => Unexpected::Seq,
        Kind::Mapping(_) => Unexpected::Map,
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(
            // ProtoJSON takes integers in quotes and with a zero fraction, too.
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
                const EXACT: f64 = 9_007_199_254_740_992.0;
                let result = match self.kind() {
                    Kind::Text(text) => match (text.parse::<u64>(), text.parse::<i64>()) {
                        (Ok(number), _) => visitor.visit_u64(number),
                        (_, Ok(number)) => visitor.visit_i64(number),
                        _ => visitor.visit_borrowed_str(text),
                    },
                    Kind::Float(number, _) if number.fract() == 0.0 && number.abs() <= EXACT => {
                        visitor.visit_i64(*number as i64)
                    }
                    _ => return self.deserialize_any(visitor),
                };
                result.map_err(|fault: Fault| fault.or_at(self.node))
            }
        )*
    };
}

macro_rules! strings {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
                match self.kind() {
                    // Envoy's reader knows no fractions, so that `1.10` is a string there.
                    Kind::Float(_, text) => visitor.visit_borrowed_str(text),
                    kind @ (Kind::Bool(_) | Kind::Unsigned(_) | Kind::Negative(_)) => {
                        let fault = expected("a string", kind);
                        Err(Fault::at(
                            self.node,
                            format!("{}; put it in quotes", fault.message()),
                        ))
                    }
                    _ => return self.deserialize_any(visitor),
                }
                .map_err(|fault: Fault| fault.or_at(self.node))
            }
        )*
    };
}

impl<'de, 'd: 'de> Deserializer<'de> for NodeDeserializer<'_, 'd> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind() {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(*value),
            Kind::Unsigned(value) => visitor.visit_u64(*value),
            Kind::Negative(value) => visitor.visit_i64(*value),
            Kind::Float(value, _) => visitor.visit_f64(*value),
            Kind::Text(text) => visitor.visit_borrowed_str(text),
            Kind::Sequence(items) => visitor.visit_seq(Items {
                reader: self.reader,
                items: items.iter(),
            }),
            Kind::Mapping(_) => visitor.visit_map(self.entries()?),
        }
        .map_err(|fault| fault.or_at(self.node))
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    strings! { deserialize_str deserialize_string }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind() {
            Kind::Text(text) => match text.parse() {
                Ok(number) => visitor.visit_f64(number),
                Err(_) => visitor.visit_borrowed_str(text),
            }
            .map_err(|fault: Fault| fault.or_at(self.node)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.kind() {
            Kind::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|fault| fault.or_at(self.node))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|fault| fault.or_at(self.node))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = if name == LOCATED {
            visitor.visit_map(LocatedAccess {
                inner: self,
                state: LocatedState::Node,
            })
        } else {
            #[cfg(test)]
            super::seen::note(name, fields);
            visitor.visit_map(Fields {
                entries: self.entries()?,
                name,
                fields,
                seen: Vec::new(),
            })
        };
        result.map_err(|fault| fault.or_at(self.node))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.kind() {
            Kind::Text(text) => {
                let text: StrDeserializer<'_, Fault> = (**text).into_deserializer();
                visitor.visit_enum(text)
            }
            other => Err(expected("a string", other)),
        }
        .map_err(|fault| fault.or_at(self.node))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i128 u128 char bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct Items<'r, 'd> {
    reader: &'r Reader<'d>,
    items: std::slice::Iter<'d, NodeId>,
}

impl<'de, 'd: 'de> SeqAccess<'de> for Items<'_, 'd> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        self.items
            .next()
            .map(|&item| {
                seed.deserialize(NodeDeserializer::new(self.reader, item))
                    .map_err(|fault| fault.or_at(item))
            })
            .transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// A mapping whose keys are data.
struct Entries<'r, 'd> {
    reader: &'r Reader<'d>,
    entries: std::slice::Iter<'d, (NodeId, NodeId)>,
    skipped: &'static [&'static str],
    value: Option<NodeId>,
}

impl<'d> Entries<'_, 'd> {
    fn next(&mut self) -> Option<(NodeId, NodeId)> {
        let document = self.reader.document();
        self.entries
            .by_ref()
            .copied()
            .find(|(key, _)| !self.skipped.contains(&document.text(*key)))
    }

    fn key_text(&self, key: NodeId) -> StrDeserializer<'d, Fault> {
        self.reader.document().text(key).into_deserializer()
    }
}

impl<'de, 'd: 'de> MapAccess<'de> for Entries<'_, 'd> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some((key, value)) = self.next() else {
            return Ok(None);
        };
        self.value = Some(value);
        seed.deserialize(self.key_text(key))
            .map(Some)
            .map_err(|fault| fault.or_at(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        match self.value.take() {
            Some(value) => seed
                .deserialize(NodeDeserializer::new(self.reader, value))
                .map_err(|fault| fault.or_at(value)),
            None => Err(Fault::new("value asked for before its key")),
        }
    }
}

/// A mapping whose keys are fields of the message `name`.
struct Fields<'r, 'd> {
    entries: Entries<'r, 'd>,
    name: &'static str,
    fields: &'static [&'static str],
    seen: Vec<&'static str>,
}

impl<'de, 'd: 'de> MapAccess<'de> for Fields<'_, 'd> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let reader = self.entries.reader;
        let document = reader.document();
        while let Some((key, value)) = self.entries.next() {
            if matches!(document.kind(value), Kind::Null) {
                continue;
            }
            let written = document.text(key);
            let field = self.fields.iter().find(|field| is_field(field, written));
            let Some(&field) = field else {
                reader.skip(self.name, (key, value), self.fields)?;
                continue;
            };
            if self.seen.contains(&field) {
                let fault: Fault = serde::de::Error::duplicate_field(field);
                return Err(fault.or_at(key));
            }
            self.seen.push(field);
            self.entries.value = Some(value);
            let name: StrDeserializer<'_, Fault> = field.into_deserializer();
            return seed
                .deserialize(name)
                .map(Some)
                .map_err(|fault| fault.or_at(key));
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        self.entries.next_value_seed(seed)
    }
}

/// Hands out the node's number, then the value.
struct LocatedAccess<'r, 'd> {
    inner: NodeDeserializer<'r, 'd>,
    state: LocatedState,
}

enum LocatedState {
    Node,
    Value,
    Done,
}

impl<'de, 'd: 'de> MapAccess<'de> for LocatedAccess<'_, 'd> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let name = match self.state {
            LocatedState::Node => "node",
            LocatedState::Value => "value",
            LocatedState::Done => return Ok(None),
        };
        let name: StrDeserializer<'_, Fault> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        match std::mem::replace(&mut self.state, LocatedState::Done) {
            LocatedState::Node => {
                self.state = LocatedState::Value;
                seed.deserialize(self.inner.node.0.into_deserializer())
            }
            _ => seed.deserialize(self.inner),
        }
    }
}
