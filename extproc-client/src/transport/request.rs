//! The HTTP/2 request that begins a call.

#[cfg(feature = "pool")]
use std::sync::Arc;
use std::sync::OnceLock;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::{Call, Close};
#[cfg(feature = "pool")]
use crate::types::buffers::BufferAccount;
use crate::{
    config::{GrpcTarget, Service},
    wire::METHOD,
};

const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const USER_AGENT: &str = concat!("extproc-client/", env!("CARGO_PKG_VERSION"));

/// Headers that HTTP/2 forbids or that the call sets itself.
const RESERVED: [HeaderName; 6] = [
    header::CONNECTION,
    header::HOST,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];

/// All that the request needs, kept so that it can be made again for a retry.
#[derive(Clone, Debug)]
pub(super) struct Outline {
    uri: Uri,
    pub(super) metadata: HeaderMap,
    dress: Dress,
    /// Largest reply accepted, in bytes; the transport's own limit if unset.
    pub(super) limit: Option<usize>,
    /// Account of what has come and was not asked for.
    #[cfg(feature = "pool")]
    pub(super) buffers: Option<Arc<dyn BufferAccount>>,
}

/// Set of headers that a call gets beside its metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dress {
    /// `x-envoy-internal` and `x-forwarded-for`.
    Envoy,
    /// None.
    Plain,
    /// `user-agent`, as a gRPC library sends.
    Library,
}

/// The last name that was made a URI. One transport nearly always calls one name.
pub(super) type Known = OnceLock<(String, Uri)>;

impl Outline {
    /// `authority` takes the place of a target's own address (not of a cluster's name).
    pub(super) fn new(
        call: Call<'_>,
        authority: Option<&str>,
        known: &Known,
    ) -> Result<Self, Close> {
        let Service::Grpc(service) = call.service else {
            return Err(Close::status(
                13,
                "http_service is configured, the transport speaks gRPC",
            ));
        };
        let (name, dress, limit) = match &service.target {
            GrpcTarget::Cluster {
                name,
                authority,
                skip_envoy_headers,
                max_receive_message_length,
            } => (
                if authority.is_empty() {
                    name
                } else {
                    authority
                }
                .as_str(),
                if *skip_envoy_headers {
                    Dress::Plain
                } else {
                    Dress::Envoy
                },
                max_receive_message_length
                    .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            ),
            GrpcTarget::Uri { target } => (
                authority.unwrap_or_else(|| host(target)),
                Dress::Library,
                None,
            ),
        };
        let (known_name, uri) = known.get_or_init(|| (name.to_owned(), uri(name)));
        Ok(Self {
            uri: if known_name == name {
                uri.clone()
            } else {
                self::uri(name)
            },
            metadata: call.metadata,
            dress,
            limit,
            #[cfg(feature = "pool")]
            buffers: call.buffers,
        })
    }

    /// The request, without a body. `own_address` is what `x-forwarded-for` says.
    pub(super) fn build(&self, own_address: Option<&HeaderValue>) -> Request<()> {
        let mut headers = HeaderMap::with_capacity(self.metadata.len() + 4);
        for (name, value) in &self.metadata {
            if !RESERVED.contains(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/grpc"),
        );
        match self.dress {
            Dress::Envoy => {
                headers.insert(INTERNAL, HeaderValue::from_static("true"));
                if let Some(address) = own_address {
                    headers.insert(FORWARDED_FOR, address.clone());
                }
            }
            Dress::Plain => {}
            Dress::Library => {
                headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
            }
        }
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        request
    }
}

/// The authority in a `target_uri`, as gRPC has it: of several addresses the first, and of a socket `localhost`.
fn host(target: &str) -> &str {
    if target.starts_with("unix:") {
        return "localhost";
    }
    let rest = match target.split_once(":///") {
        Some((_, rest)) => rest,
        None => target.split_once("://").map_or(target, |(_, rest)| rest),
    };
    let schemes = ["dns:", "ipv4:", "ipv6:"];
    let rest = schemes
        .iter()
        .find_map(|scheme| rest.strip_prefix(scheme))
        .unwrap_or(rest);
    rest.split(['/', ',']).next().unwrap_or(rest)
}

/// The URI of the method at `name`. Cluster names are freer than authorities: what an authority
/// cannot hold becomes `_`.
fn uri(name: &str) -> Uri {
    let authority = Authority::from_maybe_shared(Bytes::copy_from_slice(name.as_bytes()))
        .or_else(|_| {
            let plain: String = name
                .chars()
                .map(|c| match c {
                    'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '.' => c,
                    _ => '_',
                })
                .collect();
            Authority::from_maybe_shared(plain)
        })
        .unwrap_or_else(|_| Authority::from_static("processor"));
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query = Some(PathAndQuery::from_static(METHOD));
    Uri::from_parts(parts).unwrap_or_else(|_| Uri::from_static(METHOD))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GrpcService;

    fn request(service: GrpcService, metadata: &[(&'static str, &'static str)]) -> Request<()> {
        let service = Service::Grpc(service);
        let metadata = metadata
            .iter()
            .map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap()))
            .collect();
        let call = Call {
            service: &service,
            metadata,
            buffers: None,
        };
        Outline::new(call, None, &Known::new())
            .unwrap()
            .build(Some(&HeaderValue::from_static("10.0.0.1")))
    }

    #[test]
    fn cluster() {
        let request = request(
            GrpcService::cluster("processor"),
            &[("x-a", "1"), ("te", "gzip"), ("connection", "close")],
        );
        assert_eq!(
            request.uri(),
            &format!("http://processor{METHOD}").parse::<Uri>().unwrap()
        );
        let headers = request.headers();
        assert_eq!(headers.len(), 5);
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["x-a"], "1");
        assert_eq!(headers["x-envoy-internal"], "true");
        assert_eq!(headers["x-forwarded-for"], "10.0.0.1");
    }

    #[test]
    fn address() {
        for target in [
            "127.0.0.1:80",
            "http://127.0.0.1:80/",
            "dns:///127.0.0.1:80",
        ] {
            let request = request(GrpcService::uri(target), &[]);
            assert_eq!(
                request.uri().authority().unwrap(),
                "127.0.0.1:80",
                "{target}"
            );
            assert!(!request.headers().contains_key("x-envoy-internal"));
        }
    }

    #[test]
    fn odd_cluster_names() {
        for (name, authority) in [
            ("outbound|80||a.b", "outbound_80__a.b"),
            ("a b", "a_b"),
            ("", "processor"),
        ] {
            assert_eq!(uri(name).authority().unwrap(), authority, "{name:?}");
        }
    }
}
