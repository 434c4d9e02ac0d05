//! `Listener`, with its one filter chain and its one connection manager.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    address::Address,
    any::{Metadata, unsupported},
    bootstrap::Loaded,
    manager::HttpConnectionManager,
    value::Whatever,
};
use crate::config::{
    document::{Fault, Located, Subtree},
    snapshot::{ChainMatch, FilterChain as ChainModel, HANDSHAKE_TIMEOUT, Listener as Model},
};

const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";

/// Filters that only find out what a connection speaks, which the gateway does by itself.
const INSPECTORS: &[&str] = &[
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
];

/// `per_connection_buffer_limit_bytes`.
pub(super) const DEFAULT_BUFFER_LIMIT: u32 = 1024 * 1024;

/// `envoy.config.listener.v3.Listener`.
#[derive(Debug, Deserialize)]
pub(super) struct Listener {
    #[serde(default)]
    name: String,
    address: Located<Address>,
    #[serde(default)]
    additional_addresses: Vec<AdditionalAddress>,
    #[serde(default)]
    filter_chains: Vec<Located<FilterChain>>,
    default_filter_chain: Option<Located<FilterChain>>,
    per_connection_buffer_limit_bytes: Option<u32>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    listener_filters: Vec<ListenerFilter>,
    bind_to_port: Option<Located<bool>>,
}

/// `envoy.config.listener.v3.AdditionalAddress`.
#[derive(Debug, Deserialize)]
struct AdditionalAddress {
    address: Located<Address>,
}

/// `envoy.config.listener.v3.FilterChain`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FilterChain {
    name: String,
    filters: Vec<Located<NetworkFilter>>,
    transport_socket: Option<TransportSocket>,
}

/// `envoy.config.listener.v3.Filter`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "NetworkFilter")]
struct NetworkFilter {
    name: String,
    typed_config: Option<Subtree>,
}

/// `envoy.config.listener.v3.ListenerFilter`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListenerFilter {
    typed_config: Option<Subtree>,
}

/// `envoy.config.core.v3.TransportSocket`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TransportSocket {
    pub(super) typed_config: Option<Subtree>,
}

impl Located<Listener> {
    /// The listener, once for each of its addresses.
    pub(super) fn build(&self, loaded: &Loaded<'_>) -> Result<Vec<Model>, Fault> {
        let listener = &self.value;
        let reader = loaded.reader;
        if let Some(Located { node, value: false }) = listener.bind_to_port {
            return Err(Fault::at(
                node,
                "a listener without a port is not supported",
            ));
        }
        for filter in &listener.listener_filters {
            if let Some(tree) = &filter.typed_config {
                let name = reader.type_of(tree.node)?;
                if !INSPECTORS.contains(&name) {
                    return Err(unsupported(tree.node, name, INSPECTORS));
                }
                let _: Whatever = reader.read_typed(tree.node)?;
            }
        }
        let chain = match (
            listener.filter_chains.as_slice(),
            &listener.default_filter_chain,
        ) {
            ([chain], None) => chain,
            ([], Some(chain)) => chain,
            ([], None) => return Err(Fault::at(self.node, "filter_chains may not be empty")),
            ([_, second, ..], _) | ([second], Some(_)) => {
                return Err(Fault::at(
                    second.node,
                    "more than one filter chain is not supported",
                ));
            }
        };
        if let Some(tree) = chain
            .value
            .transport_socket
            .as_ref()
            .and_then(|socket| socket.typed_config.as_ref())
        {
            match reader.type_of(tree.node)? {
                RAW_BUFFER => {}
                TLS => {
                    return Err(Fault::at(tree.node, "TLS on listeners is not supported"));
                }
                other => return Err(unsupported(tree.node, other, &[RAW_BUFFER])),
            }
        }
        let metadata = listener.metadata.build(reader)?;
        let manager: Located<HttpConnectionManager> = match chain.value.filters.as_slice() {
            [filter] => {
                let Some(tree) = &filter.value.typed_config else {
                    return Err(Fault::at(filter.node, "missing field \"typed_config\""));
                };
                match reader.type_of(tree.node)? {
                    MANAGER => reader.read_typed(tree.node)?,
                    other => return Err(unsupported(tree.node, other, &[MANAGER])),
                }
            }
            _ => {
                return Err(Fault::at(
                    chain.node,
                    format!("filters has to hold one {MANAGER} and nothing else"),
                ));
            }
        };
        let http = Arc::new(manager.build(loaded, &chain.value.name, &metadata)?);
        let chain = ChainModel {
            name: chain.value.name.clone(),
            matches: ChainMatch::default(),
            tls: None,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            http,
        };
        let additional = listener
            .additional_addresses
            .iter()
            .map(|more| &more.address);
        std::iter::once(&listener.address)
            .chain(additional)
            .map(|address| {
                let address = address.to_listen()?;
                Ok(Model {
                    name: match listener.name.as_str() {
                        "" => address.to_string(),
                        name => name.to_owned(),
                    },
                    address,
                    buffer_limit: listener
                        .per_connection_buffer_limit_bytes
                        .unwrap_or(DEFAULT_BUFFER_LIMIT) as usize,
                    chains: vec![chain.clone()],
                    default_chain: None,
                })
            })
            .collect()
    }
}
