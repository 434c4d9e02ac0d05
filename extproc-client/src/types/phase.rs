//! Parts of an exchange, and what replies do to them.

/// One of the two directions of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// From the client to the upstream.
    Request,
    /// From the upstream to the client.
    Response,
}

/// The part of an exchange that a message belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Request headers.
    RequestHeaders,
    /// Request body.
    RequestBody,
    /// Request trailers.
    RequestTrailers,
    /// Response headers.
    ResponseHeaders,
    /// Response body.
    ResponseBody,
    /// Response trailers.
    ResponseTrailers,
}

/// What a reply did to the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Nothing changed.
    None,
    /// A mutation was applied.
    Applied,
    /// A mutation was refused as invalid.
    Invalid,
    /// A mutation was refused by a size limit.
    TooLarge,
    /// A mutation was refused by `mutation_rules`.
    Refused,
}
