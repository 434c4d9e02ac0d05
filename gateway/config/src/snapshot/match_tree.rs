//! Match trees (`xds.type.matcher.v3.Matcher`): decide by the head of a request what a filter does.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use extproc_client::{attributes::Expression, config::StringMatcher};

use super::{Filter, Fraction};

/// A match tree.
#[derive(Debug, Default)]
pub struct MatchTree {
    /// Its way to decide.
    pub kind: MatchKind,
    /// Outcome if nothing else matches.
    pub on_no_match: Option<Then>,
}

/// The two forms of a match tree.
#[derive(Debug)]
pub enum MatchKind {
    /// `matcher_list`: the first whose predicate holds.
    List(Vec<(Predicate, Then)>),
    /// `exact_match_map`.
    Exact(MatchInput, BTreeMap<String, Then>),
    /// `prefix_match_map`, the longest prefix first.
    Prefix(MatchInput, Vec<(String, Then)>),
}

impl Default for MatchKind {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// Work on a match.
#[derive(Debug)]
pub enum Then {
    /// Look further.
    Tree(Box<MatchTree>),
    /// This.
    Action(MatchAction),
}

/// Work of a filter.
#[derive(Clone, Debug)]
pub enum MatchAction {
    /// `SkipFilter`: nothing.
    Skip,
    /// Its work where nothing matches.
    Keep,
    /// `ExecuteFilterAction`: what these filters do, with so many requests.
    Execute(Arc<[Filter]>, Fraction),
}

/// Requests that a match is about.
#[derive(Debug)]
pub enum Predicate {
    /// A value is as it has to be.
    Single(MatchInput, MatchTest),
    /// One of them holds.
    Or(Vec<Self>),
    /// All of them hold.
    And(Vec<Self>),
    /// It does not hold.
    Not(Box<Self>),
}

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatchInput {
    /// `HttpRequestHeaderMatchInput`: all values of a header, joined; lower case.
    Header(String),
    /// `HttpRequestQueryParamMatchInput`.
    Query(String),
    /// `DynamicMetadataInput`: namespace and path.
    Metadata(String, Vec<String>),
    /// `SourceIPInput`.
    SourceIp,
    /// `SourcePortInput`.
    SourcePort,
    /// `DirectSourceIPInput`.
    DirectSourceIp,
    /// `DestinationIPInput`.
    DestinationIp,
    /// `DestinationPortInput`.
    DestinationPort,
    /// `ServerNameInput`.
    ServerName,
    /// The environment variable, which had this value; `None` if it was not set.
    Environment(Option<String>),
    /// `HttpAttributesCelMatchInput`.
    Attributes,
}

/// Condition of a value.
#[derive(Debug)]
pub enum MatchTest {
    /// A text.
    Text(StringMatcher),
    /// An address within one of these ranges.
    Ip(Vec<AddressRange>),
    /// Metadata.
    Value {
        /// As this.
        matcher: ValueMatcher,
        /// Not as it.
        invert: bool,
    },
    /// `CelMatcher`: true.
    Cel(Expression),
}

/// `envoy.type.matcher.v3.ValueMatcher`.
#[derive(Clone, Debug)]
pub enum ValueMatcher {
    /// Null.
    Null,
    /// This number.
    Number(f64),
    /// A number from the first one, below the second one.
    Range(f64, f64),
    /// A text.
    Text(StringMatcher),
    /// This boolean.
    Bool(bool),
    /// There is a value, or there is none.
    Present(bool),
    /// A list with such a value.
    OneOf(Box<Self>),
    /// One of them.
    Or(Vec<Self>),
}

/// `envoy.config.core.v3.CidrRange`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    /// An address in it.
    pub address: IpAddr,
    /// Leading bits that count.
    pub length: u8,
}

impl AddressRange {
    /// Returns true if the address is in the range. An IPv4 address within an IPv6 one (`::ffff:0:0/96`) is an IPv4 address.
    pub fn contains(self, address: IpAddr) -> bool {
        let (own, other, bits) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (u128::from(own.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128_u32),
            _ => return false,
        };
        let free = bits.saturating_sub(u32::from(self.length));
        (own ^ other).checked_shr(free).unwrap_or(0) == 0
    }
}

impl AddressRange {
    /// Returns the range's first address.
    pub fn first(self) -> IpAddr {
        let free = |bits: u32| bits.saturating_sub(u32::from(self.length));
        match self.address {
            IpAddr::V4(own) => {
                let mask = u32::MAX.checked_shl(free(32)).unwrap_or(0);
                Ipv4Addr::from_bits(own.to_bits() & mask).into()
            }
            IpAddr::V6(own) => {
                let mask = u128::MAX.checked_shl(free(128)).unwrap_or(0);
                Ipv6Addr::from_bits(own.to_bits() & mask).into()
            }
        }
    }
}

impl MatchTree {
    /// Calls `seen` with all filters that the tree may execute.
    pub fn each_chain<'a>(&'a self, seen: &mut dyn FnMut(&'a Arc<[Filter]>)) {
        match &self.kind {
            MatchKind::List(list) => list.iter().for_each(|(_, then)| then.each_chain(seen)),
            MatchKind::Exact(_, map) => map.values().for_each(|then| then.each_chain(seen)),
            MatchKind::Prefix(_, list) => list.iter().for_each(|(_, then)| then.each_chain(seen)),
        }
        if let Some(then) = &self.on_no_match {
            then.each_chain(seen);
        }
    }
}

impl Then {
    fn each_chain<'a>(&'a self, seen: &mut dyn FnMut(&'a Arc<[Filter]>)) {
        match self {
            Self::Tree(tree) => tree.each_chain(seen),
            Self::Action(MatchAction::Execute(filters, _)) => seen(filters),
            Self::Action(MatchAction::Skip | MatchAction::Keep) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_addresses() {
        let range = |address: &str, length| AddressRange {
            address: address.parse().unwrap(),
            length,
        };
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(range("10.1.2.3", 8).contains(address("10.200.0.1")));
        assert!(!range("10.1.2.3", 16).contains(address("10.2.2.3")));
        assert!(range("10.1.2.3", 32).contains(address("10.1.2.3")));
        assert!(range("0.0.0.0", 0).contains(address("192.0.2.1")));
        assert!(!range("0.0.0.0", 0).contains(address("::1")));
        assert!(range("::", 0).contains(address("2001:db8::1")));
        assert!(range("2001:db8::", 32).contains(address("2001:db8:1::1")));
        assert!(!range("2001:db8::", 128).contains(address("2001:db8::1")));
        assert!(range("10.0.0.0", 8).contains(address("::ffff:10.0.0.1")));
        assert!(!range("10.0.0.0", 8).contains(address("::ffff:11.0.0.1")));
        assert_eq!(range("10.1.2.3", 8).first(), address("10.0.0.0"));
        assert_eq!(range("10.1.2.3", 0).first(), address("0.0.0.0"));
        assert_eq!(range("2001:db8::1", 128).first(), address("2001:db8::1"));
    }
}
