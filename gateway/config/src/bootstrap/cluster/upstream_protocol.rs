//! Protocol towards the endpoints of a cluster, by its own fields or by an extension.

use serde::Deserialize;

use super::Cluster;
use crate::{
    bootstrap::{
        any::unsupported,
        filter::HttpFilter,
        protocol::{Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions},
        value::ProtoEnum,
    },
    document::{Fault, Located, NodeId, Reader},
    snapshot::{UpstreamProtocol, UpstreamTls},
};

const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ProtocolSelection {
    #[default]
    Configured,
    Downstream,
}

impl ProtoEnum for ProtocolSelection {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("USE_CONFIGURED_PROTOCOL", 0, Ok(Self::Configured)),
        ("USE_DOWNSTREAM_PROTOCOL", 1, Ok(Self::Downstream)),
    ];
}

/// `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "UpstreamProtocolOptions")]
struct UpstreamProtocolOptions {
    common_http_protocol_options: HttpProtocolOptions,
    upstream_http_protocol_options: Option<UpstreamHttpProtocolOptions>,
    explicit_http_config: Option<Located<ExplicitHttpConfig>>,
    use_downstream_protocol_config: Option<UseDownstreamHttpConfig>,
    auto_config: Option<AutoHttpConfig>,
    http_filters: Option<Located<Vec<Located<HttpFilter>>>>,
}

/// `envoy.config.core.v3.UpstreamHttpProtocolOptions`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct UpstreamHttpProtocolOptions {
    auto_sni: Option<Located<bool>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExplicitHttpConfig {
    http_protocol_options: Option<Http1ProtocolOptions>,
    http2_protocol_options: Option<Http2ProtocolOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct UseDownstreamHttpConfig {
    http_protocol_options: Http1ProtocolOptions,
    http2_protocol_options: Http2ProtocolOptions,
}

/// `envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AutoHttpConfig {
    http_protocol_options: Http1ProtocolOptions,
    http2_protocol_options: Http2ProtocolOptions,
}

/// Protocol of a cluster, from whichever field it was set in.
#[derive(Debug, Default)]
pub(super) struct Spoken {
    pub(super) protocol: UpstreamProtocol,
    pub(super) common: HttpProtocolOptions,
    pub(super) http1: Http1ProtocolOptions,
    pub(super) http2: Http2ProtocolOptions,
    pub(super) upstream: UpstreamHttpProtocolOptions,
    pub(super) filters: Option<Located<Vec<Located<HttpFilter>>>>,
}

impl Cluster {
    pub(super) fn spoken(&mut self, reader: &Reader<'_>, node: NodeId) -> Result<Spoken, Fault> {
        let mut options = None;
        for (name, tree) in &self.typed_extension_protocol_options {
            match reader.type_of(tree.node)? {
                PROTOCOL_OPTIONS if name == PROTOCOL_OPTIONS => options = Some(tree.node),
                PROTOCOL_OPTIONS => {
                    return Err(Fault::at(
                        tree.node,
                        format!("has to stand under the name {PROTOCOL_OPTIONS}"),
                    ));
                }
                other => return Err(unsupported(tree.node, other, &[PROTOCOL_OPTIONS])),
            }
        }
        if let Some(node) = options {
            return reader
                .read_typed::<Located<UpstreamProtocolOptions>>(node)?
                .spoken();
        }
        // The deprecated fields of the cluster itself.
        if self.http_protocol_options.is_some()
            && self.http2_protocol_options.is_some()
            && self.protocol_selection.0 == ProtocolSelection::Configured
        {
            return Err(Fault::at(
                node,
                "only one of http_protocol_options and http2_protocol_options may be set",
            ));
        }
        Ok(Spoken {
            protocol: match (self.protocol_selection.0, &self.http2_protocol_options) {
                (ProtocolSelection::Downstream, _) => UpstreamProtocol::Downstream,
                (_, Some(_)) => UpstreamProtocol::Http2,
                (_, None) => UpstreamProtocol::Http1,
            },
            common: self.common_http_protocol_options.take().unwrap_or_default(),
            http1: self.http_protocol_options.take().unwrap_or_default(),
            http2: self.http2_protocol_options.take().unwrap_or_default(),
            upstream: self
                .upstream_http_protocol_options
                .take()
                .unwrap_or_default(),
            filters: None,
        })
    }
}

impl UpstreamHttpProtocolOptions {
    /// TLS settings with `auto_sni`. Connections here are of an endpoint, not of a name that a client chooses, so that
    /// it is the endpoint's name that can be asked for.
    pub(super) fn named(
        &self,
        tls: Option<UpstreamTls>,
        reader: &Reader<'_>,
    ) -> Option<UpstreamTls> {
        let mut tls = tls?;
        if let Some(auto) = self.auto_sni.as_ref().filter(|auto| auto.value) {
            reader.note(
                auto.node,
                "the server name is sni, or else the endpoint's host name, not that of the request",
            );
            tls.endpoint_name |= tls.sni.is_none();
        }
        Some(tls)
    }
}

impl Located<UpstreamProtocolOptions> {
    fn spoken(self) -> Result<Spoken, Fault> {
        let UpstreamProtocolOptions {
            common_http_protocol_options: common,
            upstream_http_protocol_options: upstream,
            explicit_http_config,
            use_downstream_protocol_config,
            auto_config,
            http_filters,
        } = self.value;
        let upstream = upstream.unwrap_or_default();
        match (
            explicit_http_config,
            use_downstream_protocol_config,
            auto_config,
        ) {
            (Some(explicit), None, None) => {
                let node = explicit.node;
                let ExplicitHttpConfig {
                    http_protocol_options,
                    http2_protocol_options,
                } = explicit.value;
                match (http_protocol_options, http2_protocol_options) {
                    (Some(http1), None) => Ok(Spoken {
                        protocol: UpstreamProtocol::Http1,
                        common,
                        http1,
                        upstream,
                        filters: http_filters,
                        ..Spoken::default()
                    }),
                    (None, Some(http2)) => Ok(Spoken {
                        protocol: UpstreamProtocol::Http2,
                        common,
                        http2,
                        upstream,
                        filters: http_filters,
                        ..Spoken::default()
                    }),
                    _ => Err(Fault::at(
                        node,
                        "one and only one of http_protocol_options and http2_protocol_options has \
                         to be set",
                    )),
                }
            }
            (None, None, Some(auto)) => Ok(Spoken {
                protocol: UpstreamProtocol::Auto,
                common,
                http1: auto.http_protocol_options,
                http2: auto.http2_protocol_options,
                upstream,
                filters: http_filters,
            }),
            (None, Some(downstream), None) => Ok(Spoken {
                protocol: UpstreamProtocol::Downstream,
                common,
                http1: downstream.http_protocol_options,
                http2: downstream.http2_protocol_options,
                upstream,
                filters: http_filters,
            }),
            _ => Err(Fault::at(
                self.node,
                "one and only one of explicit_http_config, use_downstream_protocol_config and \
                 auto_config has to be set",
            )),
        }
    }
}
