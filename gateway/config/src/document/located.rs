//! Values that remember their node.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess},
};

use super::NodeId;

/// The name under which a [`Located`] asks its deserializer for the node. Only
/// [`Reader`](super::Reader) knows it.
pub(super) const LOCATED: &str = "\u{0}located";

/// A value with the node it was read from, so that a later check can say where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<T> {
    pub(crate) node: NodeId,
    pub(crate) value: T,
}

/// A part of a document that is read later, when its type is known.
pub(crate) type Subtree = Located<IgnoredAny>;

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Located<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of a document")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let missing = || de::Error::missing_field("node");
                let (IgnoredAny, node) = map.next_entry()?.ok_or_else(missing)?;
                let (IgnoredAny, value) = map.next_entry()?.ok_or_else(missing)?;
                Ok(Located {
                    node: NodeId(node),
                    value,
                })
            }
        }

        deserializer.deserialize_struct(LOCATED, &["node", "value"], Visitor(PhantomData))
    }
}
