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
    as_: As,
}

/// The way in which a node is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum As {
    Value,
    /// A message in a `google.protobuf.Any` or a `TypedStruct`: these keys, which are none of its fields, are skipped.
    Without(&'static [&'static str]),
    /// The node's own number, for [`Located`](super::located::Located).
    Number,
}

impl<'r, 'd> NodeDeserializer<'r, 'd> {
    pub(super) fn new(reader: &'r Reader<'d>, node: NodeId) -> Self {
        Self {
            reader,
            node,
            as_: As::Value,
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
            as_: As::Without(skipped),
        }
    }

    fn kind(&self) -> &'d Kind {
        self.reader.document().kind(self.node)
    }

    /// Entries of a mapping whose keys are data, or fields of a message.
    fn entries(&self, keys: Keys) -> Result<Entries<'r, 'd>, Fault> {
        match self.kind() {
            Kind::Mapping(entries) => Ok(Entries {
                of: *self,
                entries: entries.iter(),
                keys,
                value: None,
            }),
            other => Err(expected("a mapping", other).or_at(self.node)),
        }
    }

    /// Entries of a [`Located`](super::located::Located).
    fn located(self) -> Entries<'r, 'd> {
        Entries {
            of: self,
            entries: [].iter(),
            keys: Keys::Node,
            value: None,
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
                if self.as_ == As::Number {
                    return visitor.visit_u64(self.node.0.into());
                }
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
            Kind::Mapping(_) => visitor.visit_map(self.entries(Keys::Data)?),
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
        // One type of access for all: each further one would mean the code of every message once more.
        let entries = if name == LOCATED {
            self.located()
        } else {
            #[cfg(test)]
            super::seen::note(name, fields);
            self.entries(Keys::Fields {
                name,
                fields,
                seen: Vec::new(),
            })?
        };
        let result = visitor.visit_map(entries);
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

/// The entries of a mapping, one after the other.
struct Entries<'r, 'd> {
    of: NodeDeserializer<'r, 'd>,
    entries: std::slice::Iter<'d, (NodeId, NodeId)>,
    keys: Keys,
    /// The value of the key that was given last.
    value: Option<NodeDeserializer<'r, 'd>>,
}

/// The meaning of the keys.
enum Keys {
    /// Any text.
    Data,
    /// Fields of the message `name`, each of them once.
    Fields {
        name: &'static str,
        fields: &'static [&'static str],
        seen: Vec<&'static str>,
    },
    /// Not of a mapping: the node's number comes first, then its value.
    Node,
    Value,
    Done,
}

impl<'d> Entries<'_, 'd> {
    /// The next key and its node. Its value is kept.
    fn next(&mut self) -> Result<Option<(&'d str, NodeId)>, Fault> {
        match self.keys {
            Keys::Node => {
                self.keys = Keys::Value;
                let as_ = As::Number;
                self.value = Some(NodeDeserializer { as_, ..self.of });
                return Ok(Some(("node", self.of.node)));
            }
            Keys::Value => {
                self.keys = Keys::Done;
                self.value = Some(self.of);
                return Ok(Some(("value", self.of.node)));
            }
            Keys::Done => return Ok(None),
            Keys::Data | Keys::Fields { .. } => {}
        }
        let reader = self.of.reader;
        let document = reader.document();
        for &(key, value) in self.entries.by_ref() {
            let written = document.text(key);
            if let As::Without(skipped) = self.of.as_
                && skipped.contains(&written)
            {
                continue;
            }
            let mut text = written;
            if let Keys::Fields { name, fields, seen } = &mut self.keys {
                if matches!(document.kind(value), Kind::Null) {
                    continue;
                }
                let field = fields.iter().find(|field| is_field(field, written));
                let Some(&field) = field else {
                    reader.skip(name, (key, value), fields)?;
                    continue;
                };
                if seen.contains(&field) {
                    let fault: Fault = serde::de::Error::duplicate_field(field);
                    return Err(fault.or_at(key));
                }
                seen.push(field);
                text = field;
            }
            self.value = Some(NodeDeserializer::new(reader, value));
            return Ok(Some((text, key)));
        }
        Ok(None)
    }
}

impl<'de, 'd: 'de> MapAccess<'de> for Entries<'_, 'd> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some((text, key)) = self.next()? else {
            return Ok(None);
        };
        let text: StrDeserializer<'_, Fault> = text.into_deserializer();
        seed.deserialize(text)
            .map(Some)
            .map_err(|fault| fault.or_at(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        match self.value.take() {
            Some(value) => seed
                .deserialize(value)
                .map_err(|fault| fault.or_at(value.node)),
            None => Err(Fault::new("value asked for before its key")),
        }
    }
}
