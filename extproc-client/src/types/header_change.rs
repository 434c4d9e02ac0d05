//! One change of a header, made or refused.

use std::fmt;

/// An operation of a processor on a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Set, or add where there was none.
    Set,
    /// Add to a value that is there.
    Append,
    /// Remove.
    Remove,
}

/// One change of a header that a processor asked for.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct HeaderChange<'a> {
    /// The kind of change.
    pub operation: Operation,
    /// Name of the header, in lower case.
    pub name: &'a str,
    /// Value; empty for a removal.
    pub value: &'a [u8],
    /// Reason why the change was not made; `None` if it was.
    pub refused: Option<Refused>,
}

/// Reason why a change of a header was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// `mutation_rules.disallow_expression` matches the name.
    DisallowExpression,
    /// `mutation_rules.disallow_all` is set and `allow_expression` does not match.
    DisallowAll,
    /// `host`, `:authority`, `:scheme` and `:method` need `mutation_rules.allow_all_routing`.
    Routing,
    /// `mutation_rules.disallow_system` is set, or a value was to be added to a pseudo-header.
    System,
    /// Names that begin with `x-envoy` need `mutation_rules.allow_envoy`.
    Envoy,
    /// Pseudo-headers and `host` are never removed.
    Removal,
    /// The value is not one that this header may have.
    Value,
    /// The name or the value has a character that no header may have, or there is no name.
    Invalid,
    /// The field speaks of one connection, and the layer guards framing.
    Framing,
    /// The body may change its length, so that `content-length` is not taken.
    ContentLength,
    /// The header map would become too large.
    TooLarge,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DisallowExpression => "mutation_rules.disallow_expression matches",
            Self::DisallowAll => "mutation_rules.disallow_all is set",
            Self::Routing => "routing headers need mutation_rules.allow_all_routing",
            Self::System => {
                "mutation_rules.disallow_system is set, or a pseudo-header was appended to"
            }
            Self::Envoy => "x-envoy headers need mutation_rules.allow_envoy",
            Self::Removal => "pseudo-headers and host cannot be removed",
            Self::Value => "the value is not valid for this header",
            Self::Invalid => "invalid character in the name or value, or no name",
            Self::Framing => "the field belongs to one connection",
            Self::ContentLength => "content-length is not taken where the body may change",
            Self::TooLarge => "the headers would be larger than the limit",
        })
    }
}
