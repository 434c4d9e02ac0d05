//! Consistent hashing: what of a request is hashed, and where the hash leads.

use http::HeaderValue;

/// `RouteAction.HashPolicy`: one part of a request that its hash is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashPolicy {
    /// The part.
    pub by: HashBy,
    /// The policies behind this one count only while there is no hash.
    pub terminal: bool,
}

/// A part of a request that is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashBy {
    /// The values of a header, or of a pseudo-header.
    Header(String),
    /// The value of a cookie.
    Cookie(HashCookie),
    /// The address of the client, without its port.
    SourceIp,
    /// The first value of a query parameter.
    Query(String),
}

/// `RouteAction.HashPolicy.Cookie`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// The attributes of the cookie that a client without one is given, such as `; Max-Age=60; HttpOnly`; unset if it is
    /// given none.
    pub given: Option<HeaderValue>,
}

/// The policies `ring_hash` and `maglev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// The table in which a hash finds its endpoint.
    pub table: HashTable,
    /// `use_hostname_for_hashing`: endpoints are placed by their host names, and not by their addresses.
    pub by_hostname: bool,
    /// `hash_policy` of the policy itself, in place of the route's; empty without one.
    pub policy: Vec<HashPolicy>,
}

/// The table of a [`Hashing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTable {
    /// A ring with at least and at most so many places.
    Ring {
        /// `minimum_ring_size`. Default 1024.
        least: u64,
        /// `maximum_ring_size`. Default 8,388,608.
        most: u64,
    },
    /// A Maglev table of so many places, which is a prime. Default 65,537.
    Maglev(u64),
}

impl HashTable {
    /// Envoy's ring.
    pub const RING: Self = Self::Ring {
        least: 1024,
        most: Self::MOST_PLACES,
    };

    /// Envoy's Maglev table.
    pub const MAGLEV: Self = Self::Maglev(65_537);

    /// Most places of a ring.
    pub const MOST_PLACES: u64 = 8 * 1024 * 1024;
}
