//! The attributes by name.

use std::{
    borrow::Cow,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, StatusCode, Version, header};

use super::{Encoded, Headers, View, print, text, vocabulary};
use crate::{
    context::{facts::UpstreamInfo, outcome::Outcome},
    metadata::Metadata,
    wire::{
        encode::Fields,
        fields::{authority, scheme},
    },
};

/// A value.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Bool(bool),
    Number(f64),
    Text(Cow<'a, str>),
    Time(SystemTime),
    Duration(Duration),
    #[cfg_attr(
        not(feature = "cel"),
        expect(dead_code, reason = "prints the same whichever it is")
    )]
    Headers(Headers),
    /// A message, which prints as text.
    Metadata(Cow<'a, Metadata>),
    Node(&'a serde_json::Value),
    Null,
    /// A map whose content does not matter.
    Map,
    /// A list, a map or null that is kept.
    #[cfg(feature = "cel")]
    Data(prost_types::Value),
}

impl<'a> Item<'a> {
    /// The value as it is sent.
    pub(super) fn encoded(self) -> Encoded<'a> {
        Encoded::Text(match self {
            Self::Bool(value) => return Encoded::Bool(value),
            Self::Number(value) => return Encoded::Number(value),
            Self::Text(text) => text,
            Self::Time(time) => print::time(time.into()).into(),
            Self::Duration(duration) => {
                print::duration(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)).into()
            }
            Self::Metadata(metadata) => text::metadata(&metadata).into(),
            Self::Node(node) => text::node(node).into(),
            Self::Null => Cow::Borrowed("NULL"),
            Self::Headers(_) | Self::Map => Cow::Borrowed(print::MAP),
            #[cfg(feature = "cel")]
            Self::Data(value) => return Encoded::Data(value),
        })
    }
}

/// The names that an expression may begin with.
pub(super) const ROOTS: &[&str] = &[
    "request",
    "response",
    "source",
    "destination",
    "connection",
    "upstream",
    "xds",
    "metadata",
    "filter_state",
    "upstream_filter_state",
];

impl<'a> View<'a> {
    /// The value of `root.field`, or of `root` alone.
    pub(super) fn lookup(&'a self, root: &str, field: Option<&str>) -> Option<Item<'a>> {
        let Some(field) = field else {
            return match root {
                "metadata" => Some(Item::Metadata(Cow::Owned(self.metadata.snapshot()))),
                "upstream_filter_state" => self
                    .upstream
                    .and_then(|upstream| upstream.address)
                    .map(|_| Item::Map),
                root => ROOTS.contains(&root).then_some(Item::Map),
            };
        };
        match root {
            "request" => self.request(field),
            "response" => self.response(field),
            "source" => address(self.facts.source, field),
            "destination" => address(self.facts.destination, field),
            "connection" => self.connection(field),
            "upstream" => self.upstream(field),
            "xds" => self.xds(field),
            "metadata" => match field {
                "filter_metadata" | "typed_filter_metadata" => Some(Item::Map),
                _ => None,
            },
            _ => None,
        }
    }

    /// A header's value; repeated ones are joined by commas. Pseudo-headers have their names.
    pub(super) fn header(&self, headers: Headers, name: &str) -> Option<Cow<'a, str>> {
        match headers {
            Headers::Request => {
                let request = self.request?;
                match name {
                    ":path" => request.uri.path_and_query().map(|p| p.as_str().into()),
                    ":method" => Some(request.method.as_str().into()),
                    ":scheme" => Some(scheme(request).into()),
                    ":authority" | "host" => authority(request).map(String::from_utf8_lossy),
                    name => joined(&request.headers, name),
                }
            }
            Headers::Response => {
                let response = self.response.filter(|_| self.response_head_sent)?;
                match name {
                    ":status" => Some(response.status.as_str().to_owned().into()),
                    name => joined(&response.headers, name),
                }
            }
            Headers::ResponseTrailers => joined(self.response_trailers?, name),
        }
    }

    /// Every header as name and value.
    pub(super) fn each_header(&self, headers: Headers, mut f: impl FnMut(&[u8], &[u8])) {
        match headers {
            Headers::Request => self.request.iter().for_each(|parts| parts.each(&mut f)),
            Headers::Response => self
                .response
                .iter()
                .filter(|_| self.response_head_sent)
                .for_each(|parts| parts.each(&mut f)),
            Headers::ResponseTrailers => {
                self.response_trailers
                    .iter()
                    .for_each(|map| map.each(&mut f));
            }
        }
    }

    fn bytes(&self, headers: Headers) -> u64 {
        let mut bytes = 0;
        self.each_header(headers, |name, value| {
            bytes += (name.len() + value.len()) as u64;
        });
        bytes
    }

    fn request(&'a self, field: &str) -> Option<Item<'a>> {
        let path = || {
            let request = self.request?;
            request.uri.path_and_query().map(|path| path.as_str())
        };
        let header = |name| self.header(Headers::Request, name);
        Some(Item::Text(match field {
            "path" => path()?.into(),
            "url_path" => {
                let path = path()?;
                path.split('?').next().unwrap_or(path).into()
            }
            "query" => path()?
                .split_once('?')
                .map_or("", |(_, query)| query)
                .into(),
            vocabulary::URI => self.request?.uri.to_string().into(),
            "host" => header(":authority")?,
            "scheme" => scheme(self.request?).into(),
            "method" => self.request?.method.as_str().into(),
            "referer" => header("referer")?,
            "useragent" => header("user-agent")?,
            "id" => header("x-request-id")?,
            "protocol" => self.protocol()?.into(),
            "time" => return self.facts.start.map(Item::Time),
            "duration" => return self.duration.map(Item::Duration),
            "headers" => return Some(Item::Headers(Headers::Request)),
            "headers_bytes" => return Some(count(self.bytes(Headers::Request))),
            "size" => {
                let declared = self
                    .request
                    .and_then(|request| request.headers.get(header::CONTENT_LENGTH))
                    .and_then(|value| value.to_str().ok())
                    .and_then(|value| value.parse().ok());
                return Some(count(declared.unwrap_or(self.request_size)));
            }
            "total_size" => {
                return Some(count(self.request_size + self.bytes(Headers::Request)));
            }
            _ => return None,
        }))
    }

    fn protocol(&self) -> Option<&'static str> {
        let own = || self.request.map(|request| request.version);
        let version = self.facts.version.or_else(own)?;
        match version {
            Version::HTTP_10 => Some("HTTP/1.0"),
            Version::HTTP_11 => Some("HTTP/1.1"),
            Version::HTTP_2 => Some("HTTP/2"),
            Version::HTTP_3 => Some("HTTP/3"),
            _ => None,
        }
    }

    fn response(&'a self, field: &str) -> Option<Item<'a>> {
        Some(match field {
            "code" => count(self.code()?.as_u16().into()),
            "code_details" => {
                let response = self.response?;
                match Outcome::of_head(response).details.as_deref() {
                    Some(details) => Item::Text(details.into()),
                    None => {
                        self.upstream.filter(|upstream| upstream.responded())?;
                        Item::Text("via_upstream".into())
                    }
                }
            }
            "flags" => count(
                self.response
                    .map_or(0, |response| Outcome::of_head(response).flags.0),
            ),
            "grpc_status" => Item::Number(self.grpc_status()?),
            "headers" => Item::Headers(Headers::Response),
            "trailers" => Item::Headers(Headers::ResponseTrailers),
            "size" => count(self.response_size),
            "backend_latency" => Item::Duration(self.backend_latency?),
            "headers_bytes" => count(self.bytes(Headers::Response)),
            "total_size" => count(
                self.response_size
                    + self.bytes(Headers::Response)
                    + self.bytes(Headers::ResponseTrailers),
            ),
            _ => return None,
        })
    }

    /// From trailers, headers, or the HTTP status, in this order.
    fn grpc_status(&self) -> Option<f64> {
        let response = self.response?;
        let given = [self.response_trailers, Some(&response.headers)]
            .into_iter()
            .flatten()
            .find_map(|map| map.get("grpc-status"))
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse::<u32>().ok());
        match given {
            Some(status) => Some(status.into()),
            None => Some(crate::text::grpc::grpc_code(self.code()?).into()),
        }
    }

    /// The code that the response came with, whatever filters have made of it.
    fn code(&self) -> Option<StatusCode> {
        let response = self.response?;
        let local = Outcome::of_head(response).local;
        let first = local.or_else(|| self.upstream.and_then(|upstream| upstream.status));
        Some(first.unwrap_or(response.status))
    }

    fn connection(&'a self, field: &str) -> Option<Item<'a>> {
        let facts = self.facts;
        Some(match field {
            "id" => count(facts.connection_id),
            "mtls" | "peer_certificate_valid" => Item::Bool(facts.mtls),
            "requested_server_name" => Item::Text(facts.requested_server_name.as_str().into()),
            "tls_version" => Item::Text(facts.tls_version.as_deref()?.into()),
            _ => {
                let (what, whose) = field.strip_suffix("_certificate").map_or_else(
                    || (field, "peer"),
                    |name| name.rsplit_once('_').unwrap_or((name, "")),
                );
                let certificate = match whose {
                    "peer" => facts.peer_certificate.as_ref()?,
                    "local" => facts.local_certificate.as_ref()?,
                    _ => return None,
                };
                Item::Text(Cow::Borrowed(match what {
                    "subject" => &certificate.subject,
                    "uri_san" => certificate.uris.first()?,
                    "dns_san" => certificate.dns_names.first()?,
                    "sha256_peer_certificate_digest" => &certificate.digest,
                    _ => return None,
                }))
            }
        })
    }

    /// Without a response there is no upstream yet, unless its endpoint was chosen before; a response made locally has none.
    fn chosen(&self) -> Option<&'a UpstreamInfo> {
        self.upstream
            .filter(|_| self.response.is_some())
            .or(self.endpoint)
    }

    fn upstream(&'a self, field: &str) -> Option<Item<'a>> {
        let upstream = self.chosen();
        let reached = || upstream.filter(|upstream| upstream.address.is_some());
        Some(match field {
            "num_endpoints" => {
                let route = &*self.route;
                (!route.cluster_name.is_empty()).then(|| count(route.endpoints))?
            }
            "request_attempt_count" => {
                count(upstream.map_or(self.attempts, |upstream| upstream.attempts))
            }
            "address" | "port" => address(reached()?.address, field)?,
            "local_address" => Item::Text(reached()?.local_address?.to_string().into()),
            "cx_pool_ready_duration" => Item::Duration(reached()?.pool_ready?),
            "transport_failure_reason" => {
                let tried = upstream.filter(|upstream| upstream.pool_ready.is_some())?;
                Item::Text(tried.transport_failure_reason.as_str().into())
            }
            "locality" => reached().map(|_| Item::Text("".into()))?,
            _ => return None,
        })
    }

    fn xds(&'a self, field: &str) -> Option<Item<'a>> {
        let route = &*self.route;
        let of_cluster = |item| (!route.cluster_name.is_empty()).then_some(item);
        let of_route = |item| route.is_selected().then_some(item);
        let metadata = |metadata| Item::Metadata(Cow::Borrowed(metadata));
        let reached = || self.chosen().filter(|upstream| upstream.address.is_some());
        Some(match field {
            "cluster_name" => of_cluster(Item::Text(route.cluster_name.as_str().into()))?,
            "cluster_metadata" => of_cluster(metadata(&route.cluster_metadata))?,
            "route_name" => of_route(Item::Text(route.route_name.as_str().into()))?,
            "route_metadata" => of_route(metadata(&route.route_metadata))?,
            "virtual_host_name" => of_route(Item::Text(route.virtual_host_name.as_str().into()))?,
            "virtual_host_metadata" => of_route(metadata(&route.virtual_host_metadata))?,
            "filter_chain_name" => Item::Text(route.filter_chain_name.as_str().into()),
            "listener_metadata" => metadata(&route.listener_metadata),
            "listener_direction" => Item::Number(0.0),
            "node" => Item::Node(&route.node),
            "upstream_host_metadata" => match &reached()?.host_metadata {
                Some(of_host) => metadata(of_host),
                None => Item::Null,
            },
            "upstream_host_locality_metadata" => reached().map(|_| Item::Null)?,
            _ => return None,
        })
    }
}

fn joined<'a>(map: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let mut values = map.get_all(name).iter();
    let first = String::from_utf8_lossy(values.next()?.as_bytes());
    Some(values.fold(first, |mut all, value| {
        let all_owned = all.to_mut();
        all_owned.push(',');
        all_owned.push_str(&String::from_utf8_lossy(value.as_bytes()));
        all
    }))
}

fn address<'a>(address: Option<SocketAddr>, field: &str) -> Option<Item<'a>> {
    let address = address?;
    match field {
        "address" => Some(Item::Text(address.to_string().into())),
        vocabulary::IP => Some(Item::Text(address.ip().to_string().into())),
        "port" => Some(count(address.port().into())),
        _ => None,
    }
}

/// A count as the double that protobuf's JSON-like values have.
fn count<'a>(value: u64) -> Item<'a> {
    // Exact up to 2^53, which no count reaches.
    Item::Number(value as f64)
}
