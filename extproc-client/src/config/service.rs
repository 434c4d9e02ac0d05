//! The address of the processor, and the form of a call to it.

use std::time::Duration;

use super::{ConfigError, RetryPolicy, TargetAddress};

/// The service that processes: gRPC or JSON over HTTP.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Service {
    /// `grpc_service`.
    Grpc(GrpcService),
    /// `http_service`.
    Http(HttpService),
}

/// `envoy.config.core.v3.GrpcService`.
#[derive(Clone, Debug, PartialEq)]
pub struct GrpcService {
    /// Address of the callee.
    pub target: GrpcTarget,
    /// Metadata of the call; values may hold `%REQ(name)%`.
    pub initial_metadata: Vec<MetadataEntry>,
    /// When a call is made again; never if unset. As in Envoy, a `google_grpc` service has none.
    pub retry: Option<RetryPolicy>,
}

/// Address of the callee of a gRPC call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GrpcTarget {
    /// `envoy_grpc`: a named cluster of the host program.
    Cluster {
        /// The cluster's name.
        name: String,
        /// `:authority`; the cluster's name if empty.
        authority: String,
        /// Leave out `x-envoy-internal` and `x-forwarded-for`.
        skip_envoy_headers: bool,
        /// Largest message accepted, in bytes; no limit if unset.
        max_receive_message_length: Option<u32>,
    },
    /// `google_grpc`: an address.
    Uri {
        /// In gRPC's name syntax, see [`TargetAddress`].
        target: String,
    },
}

/// One entry of `initial_metadata`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataEntry {
    /// The key as it was written. Only entries whose keys are written alike replace each other when configurations are merged;
    /// of those that differ in case alone, the last one with a value is sent.
    pub key: String,
    /// The value, with its substitutions.
    pub(crate) value: Template,
}

/// `envoy.extensions.filters.http.ext_proc.v3.ExtProcHttpService`.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpService {
    /// URI that messages are posted to; its path and query are used as they are.
    pub uri: http::Uri,
    /// The cluster that carries the request.
    pub cluster: String,
    /// Longest wait for the whole answer.
    pub timeout: Duration,
    /// Set in each request, each in place of what was there under its name: as in Envoy 1.40,
    /// `append_action` has no effect. Operators (`%..%`) of the values have no request to speak of
    /// and are `-`.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
}

impl Service {
    /// The rules for one service, the same for every way to make it.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::Grpc(service) => service.check(),
            Self::Http(service) if service.uri.authority().is_none() => Err(ConfigError::new(
                "http_service.http_service.http_uri.uri",
                "has to name a host",
            )),
            Self::Http(_) => Ok(()),
        }
    }
}

impl GrpcService {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (field, destination) = match &self.target {
            GrpcTarget::Cluster { name, .. } => ("grpc_service.envoy_grpc.cluster_name", name),
            GrpcTarget::Uri { target } => ("grpc_service.google_grpc.target_uri", target),
        };
        if destination.is_empty() {
            return Err(ConfigError::new(field, "has to be set"));
        }
        if let GrpcTarget::Uri { target } = &self.target {
            TargetAddress::parse(target).map_err(|reason| ConfigError::new(field, reason))?;
        }
        self.initial_metadata
            .iter()
            .try_for_each(|entry| entry.check("grpc_service.initial_metadata"))
    }

    /// A service in a cluster, with nothing special.
    pub fn cluster(name: impl Into<String>) -> Self {
        Self {
            target: GrpcTarget::Cluster {
                name: name.into(),
                authority: String::new(),
                skip_envoy_headers: false,
                max_receive_message_length: None,
            },
            initial_metadata: Vec::new(),
            retry: None,
        }
    }

    /// A service at an address.
    pub fn uri(target: impl Into<String>) -> Self {
        Self {
            target: GrpcTarget::Uri {
                target: target.into(),
            },
            initial_metadata: Vec::new(),
            retry: None,
        }
    }

    /// The name to show for this service: cluster or target.
    pub fn destination(&self) -> &str {
        match &self.target {
            GrpcTarget::Cluster { name, .. } => name,
            GrpcTarget::Uri { target } => target,
        }
    }
}

impl MetadataEntry {
    /// An entry; `value` may hold `%REQ(name)%` and `%REQ(name?other):length%`. A key that is no header name, or a line break
    /// or NUL in the value, is refused by the configuration that it goes into; in the overrides of a route, such an entry is
    /// left out of the call.
    pub fn new(key: impl AsRef<str>, value: &str) -> Self {
        Self {
            key: key.as_ref().to_owned(),
            value: Template::parse(value),
        }
    }

    /// Names of the operators in the value that have none here.
    pub fn operators_without_value(&self) -> impl Iterator<Item = &str> {
        self.value.0.iter().filter_map(|piece| match piece {
            Piece::Nothing(operator) => operator.split(['(', ':']).next(),
            Piece::Text(_) | Piece::Request { .. } => None,
        })
    }

    pub(super) fn check(&self, field: &'static str) -> Result<(), ConfigError> {
        if http::HeaderName::from_bytes(self.key.as_bytes()).is_err() {
            let message = format!("{:?} is not a header name", self.key);
            return Err(ConfigError::new(field, message));
        }
        let breaks =
            |piece: &Piece| matches!(piece, Piece::Text(text) if text.contains(['\0', '\r', '\n']));
        if self.value.0.iter().any(breaks) {
            let message = format!("the value of {:?} holds a line break or NUL", self.key);
            return Err(ConfigError::new(field, message));
        }
        Ok(())
    }
}

/// A value with `%REQ(..)%` substitutions; other operators have no value here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Request {
        name: String,
        otherwise: Option<String>,
        limit: usize,
    },
    /// An operator without a value here, as it was written.
    Nothing(String),
}

impl Template {
    pub(crate) fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut plain = String::new();
        while let Some(at) = rest.find('%') {
            let (before, after) = rest.split_at(at);
            plain.push_str(before);
            let after = &after[1..];
            if let Some(after) = after.strip_prefix('%') {
                plain.push('%');
                rest = after;
                continue;
            }
            let Some(end) = after.find('%') else {
                plain.push('%');
                rest = after;
                continue;
            };
            let (operator, after) = (&after[..end], &after[end + 1..]);
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(
                operator_piece(operator).unwrap_or_else(|| Piece::Nothing(operator.to_owned())),
            );
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Self(pieces)
    }

    /// The value where there is no request: every operator is `-`.
    pub(crate) fn without_request(&self) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Request { .. } | Piece::Nothing(_) => "-".to_owned(),
        };
        self.0.iter().map(piece).collect()
    }

    /// The value for a request with these headers; a repeated header gives its first value.
    pub(crate) fn expand(&self, lookup: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Nothing(_) => {}
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Request {
                    name,
                    otherwise,
                    limit,
                } => {
                    let value = lookup(name).or_else(|| otherwise.as_deref().and_then(&lookup));
                    if let Some(value) = value {
                        out.extend(value.iter().take(*limit));
                    }
                }
            }
        }
        out
    }
}

fn operator_piece(operator: &str) -> Option<Piece> {
    let inner = operator.strip_prefix("REQ(")?;
    let (names, limit) = match inner.rsplit_once(')') {
        Some((names, "")) => (names, usize::MAX),
        Some((names, limit)) => (names, limit.strip_prefix(':')?.parse().ok()?),
        None => return None,
    };
    let (name, otherwise) = match names.split_once('?') {
        Some((name, otherwise)) => (name, Some(otherwise.to_ascii_lowercase())),
        None => (names, None),
    };
    Some(Piece::Request {
        name: name.to_ascii_lowercase(),
        otherwise,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let expand = |text: &str| {
            let value = Template::parse(text).expand(|name| match name {
                "x-a" => Some(b"value".to_vec()),
                _ => None,
            });
            String::from_utf8(value).unwrap()
        };
        assert_eq!(expand("plain"), "plain");
        assert_eq!(expand("a%REQ(X-A)%b"), "avalueb");
        assert_eq!(expand("%REQ(x-none)%"), "");
        assert_eq!(expand("%REQ(x-none?x-a):3%"), "val");
        assert_eq!(expand("100%%"), "100%");
        assert_eq!(expand("50%"), "50%");
        assert_eq!(expand("a%PROTOCOL%b"), "ab");
        let bare = |text| Template::parse(text).without_request();
        assert_eq!(bare("p=%REQ(:path)%, %PROTOCOL%, 100%%"), "p=-, -, 100%");
    }
}
