//! Consistent hashing: `hash_policy`, and the policies `ring_hash` and `maglev`.

use http::HeaderValue;
use serde::Deserialize;

use super::value::{Enum, ProtoEnum, Time};
use crate::{
    document::{Fault, Located, NodeId},
    snapshot::{HashBy, HashCookie, HashPolicy as Model, HashTable, Hashing},
};

/// `envoy.config.route.v3.RouteAction.HashPolicy`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HashPolicy {
    header: Option<HashHeader>,
    cookie: Option<Cookie>,
    connection_properties: Option<ConnectionProperties>,
    query_parameter: Option<QueryParameter>,
    terminal: bool,
}

#[derive(Debug, Deserialize)]
struct HashHeader {
    header_name: Located<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename = "HashCookie")]
struct Cookie {
    name: Located<String>,
    ttl: Option<Time>,
    #[serde(default)]
    path: String,
    #[serde(default)]
    attributes: Vec<CookieAttribute>,
}

#[derive(Debug, Deserialize)]
struct CookieAttribute {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConnectionProperties {
    source_ip: bool,
}

#[derive(Debug, Deserialize)]
struct QueryParameter {
    name: Located<String>,
}

/// `Cluster.RingHashLbConfig`, and `envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RingHash {
    hash_function: Enum<HashFunction>,
    minimum_ring_size: Option<u64>,
    maximum_ring_size: Option<u64>,
    use_hostname_for_hashing: bool,
    consistent_hashing_lb_config: ConsistentHashing,
}

/// `Cluster.MaglevLbConfig`, and `envoy.extensions.load_balancing_policies.maglev.v3.Maglev`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Maglev {
    table_size: Option<u64>,
    consistent_hashing_lb_config: ConsistentHashing,
}

/// `ConsistentHashingLbConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConsistentHashing {
    pub(super) use_hostname_for_hashing: bool,
    hash_policy: Vec<Located<HashPolicy>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct HashFunction;

impl ProtoEnum for HashFunction {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("XX_HASH", 0, Ok(Self)),
        ("DEFAULT_HASH", 0, Ok(Self)),
        (
            "MURMUR_HASH_2",
            1,
            Err("hashing by MURMUR_HASH_2 is not supported"),
        ),
    ];
}

/// Reads a list of policies.
pub(super) fn policies(list: &[Located<HashPolicy>]) -> Result<Vec<Model>, Fault> {
    list.iter()
        .filter_map(|policy| policy.build().transpose())
        .collect()
}

impl Located<HashPolicy> {
    /// `None` for `source_ip: false`, which asks for nothing.
    fn build(&self) -> Result<Option<Model>, Fault> {
        let HashPolicy {
            header,
            cookie,
            connection_properties,
            query_parameter,
            terminal,
        } = &self.value;
        let mut found = Vec::new();
        if let Some(header) = header {
            let name = named(&header.header_name)?;
            found.push(Some(HashBy::Header(name.to_ascii_lowercase())));
        }
        if let Some(cookie) = cookie {
            found.push(Some(HashBy::Cookie(cookie.build()?)));
        }
        if let Some(properties) = connection_properties {
            found.push(properties.source_ip.then_some(HashBy::SourceIp));
        }
        if let Some(parameter) = query_parameter {
            found.push(Some(HashBy::Query(named(&parameter.name)?.to_owned())));
        }
        match (found.pop(), found.is_empty()) {
            (Some(by), true) => Ok(by.map(|by| Model {
                by,
                terminal: *terminal,
            })),
            _ => Err(Fault::at(
                self.node,
                "one and only one of header, cookie, connection_properties and query_parameter has to be set",
            )),
        }
    }
}

fn named(name: &Located<String>) -> Result<&str, Fault> {
    match name.value.as_str() {
        "" => Err(Fault::at(name.node, "may not be empty")),
        name => Ok(name),
    }
}

impl Cookie {
    fn build(&self) -> Result<HashCookie, Fault> {
        let name = named(&self.name)?.to_owned();
        let given =
            match self.ttl {
                None => None,
                Some(ttl) => {
                    let mut given = String::new();
                    match ttl.0.as_secs() {
                        0 => {}
                        seconds => given.push_str(&format!("; Max-Age={seconds}")),
                    }
                    if !self.path.is_empty() {
                        given.push_str("; Path=");
                        given.push_str(&self.path);
                    }
                    for CookieAttribute { name, value } in &self.attributes {
                        given.push_str("; ");
                        given.push_str(name);
                        if !value.is_empty() {
                            given.push('=');
                            given.push_str(value);
                        }
                    }
                    given.push_str("; HttpOnly");
                    let given = HeaderValue::try_from(given);
                    Some(given.map_err(|_| {
                        Fault::at(self.name.node, "is no cookie with these attributes")
                    })?)
                }
            };
        Ok(HashCookie { name, given })
    }
}

impl RingHash {
    /// `node` is where errors are; `common` is what the cluster says beside it.
    pub(super) fn build(
        &self,
        node: NodeId,
        common: Option<&ConsistentHashing>,
    ) -> Result<Hashing, Fault> {
        let least = self.minimum_ring_size.unwrap_or(1024);
        let most = self.maximum_ring_size.unwrap_or(HashTable::MOST_PLACES);
        if least > most || most > HashTable::MOST_PLACES || least == 0 {
            return Err(Fault::at(
                node,
                "minimum_ring_size has to be at least 1, and maximum_ring_size no less than it and at most 8388608",
            ));
        }
        let HashFunction = self.hash_function.0;
        let common = common.unwrap_or(&self.consistent_hashing_lb_config);
        Ok(Hashing {
            table: HashTable::Ring { least, most },
            by_hostname: self.use_hostname_for_hashing || common.use_hostname_for_hashing,
            policy: common.policies()?,
        })
    }
}

impl Maglev {
    /// As [`RingHash::build`].
    pub(super) fn build(
        &self,
        node: NodeId,
        common: Option<&ConsistentHashing>,
    ) -> Result<Hashing, Fault> {
        /// The most that Envoy takes.
        const MOST: u64 = 5_000_011;
        let common = common.unwrap_or(&self.consistent_hashing_lb_config);
        let table = match self.table_size {
            None => HashTable::MAGLEV,
            Some(size) if size <= MOST && is_prime(size) => HashTable::Maglev(size),
            Some(_) => {
                return Err(Fault::at(
                    node,
                    "table_size has to be a prime, at most 5000011",
                ));
            }
        };
        Ok(Hashing {
            table,
            by_hostname: common.use_hostname_for_hashing,
            policy: common.policies()?,
        })
    }
}

impl ConsistentHashing {
    /// The policies of the load balancer itself, which sees nothing but headers.
    fn policies(&self) -> Result<Vec<Model>, Fault> {
        for policy in &self.hash_policy {
            let HashPolicy { header, cookie, .. } = &policy.value;
            if header.is_none() && cookie.as_ref().is_none_or(|cookie| cookie.ttl.is_some()) {
                return Err(Fault::at(
                    policy.node,
                    "only header, and cookie without ttl, are supported here",
                ));
            }
        }
        policies(&self.hash_policy)
    }
}

fn is_prime(number: u64) -> bool {
    let divides = |by: u64| number.is_multiple_of(by);
    number >= 2
        && (2..)
            .take_while(|by| by * by <= number)
            .all(|by| !divides(by))
}
