//! `Listener` and its filter chains, each with its one connection manager.

use std::sync::Arc;

use extproc_client::host::Metadata as MetadataModel;
use serde::Deserialize;

use super::{
    access_log::{AccessLog, LogType},
    address::Address,
    any::{Metadata, unsupported},
    manager::HttpConnectionManager,
    root::Loaded,
    value::{Time, Whatever},
};
use crate::{
    document::{Fault, Located, Subtree},
    snapshot::{
        ChainMatch, FilterChain as ChainModel, HANDSHAKE_TIMEOUT, Listener as Model,
        TransportProtocol,
    },
};

const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

/// Filters that only find out what a connection speaks, which the gateway does by itself.
const INSPECTORS: &[&str] = &[
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
];

/// The filter that finds out where a redirected connection was to go.
const ORIGINAL_DST: &str = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";

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
    listener_filters: Vec<Located<ListenerFilter>>,
    bind_to_port: Option<Located<bool>>,
    #[serde(default)]
    use_original_dst: bool,
    #[serde(default)]
    access_log: Vec<Located<AccessLog>>,
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
    filter_chain_match: Option<Located<FilterChainMatch>>,
    filters: Vec<Located<NetworkFilter>>,
    transport_socket: Option<Located<TransportSocket>>,
    transport_socket_connect_timeout: Option<Time>,
}

/// `envoy.config.listener.v3.FilterChainMatch`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FilterChainMatch {
    destination_port: Option<u16>,
    server_names: Vec<Located<String>>,
    transport_protocol: Option<Located<String>>,
    application_protocols: Vec<String>,
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
        let mut original_dst = listener.use_original_dst;
        for filter in &listener.listener_filters {
            let Some(tree) = &filter.value.typed_config else {
                return Err(Fault::at(filter.node, "missing field \"typed_config\""));
            };
            let name = reader.type_of(tree.node)?;
            match name {
                ORIGINAL_DST => original_dst = true,
                name if INSPECTORS.contains(&name) => {}
                name => {
                    let known = [INSPECTORS, &[ORIGINAL_DST]].concat();
                    return Err(unsupported(tree.node, name, &known));
                }
            }
            let _: Whatever = reader.read_typed(tree.node)?;
        }
        if listener.filter_chains.is_empty() && listener.default_filter_chain.is_none() {
            return Err(Fault::at(self.node, "filter_chains may not be empty"));
        }
        let metadata = listener.metadata.build(reader)?;
        let logs = listener.access_log.iter();
        let logs: Result<Vec<_>, Fault> =
            logs.map(|log| log.build(LogType::NotSet, reader)).collect();
        let access_log = logs?;
        let mut chains: Vec<ChainModel> = Vec::with_capacity(listener.filter_chains.len());
        for chain in &listener.filter_chains {
            let built = chain.build(loaded, &metadata)?;
            if chains.iter().any(|other| other.matches == built.matches) {
                return Err(Fault::at(
                    chain.node,
                    "another filter chain has the same filter_chain_match",
                ));
            }
            chains.push(built);
        }
        let default_chain = listener
            .default_filter_chain
            .as_ref()
            .map(|chain| chain.build(loaded, &metadata))
            .transpose()?;
        let additional = listener
            .additional_addresses
            .iter()
            .map(|more| &more.address);
        std::iter::once(&listener.address)
            .chain(additional)
            .map(|address| {
                let ipv4_compat = address.ipv4_compat();
                let address = address.to_listen()?;
                Ok(Model {
                    name: match listener.name.as_str() {
                        "" => address.to_string(),
                        name => name.to_owned(),
                    },
                    address,
                    ipv4_compat,
                    original_dst,
                    access_log: access_log.clone(),
                    buffer_limit: listener
                        .per_connection_buffer_limit_bytes
                        .unwrap_or(DEFAULT_BUFFER_LIMIT) as usize,
                    chains: chains.clone(),
                    default_chain: default_chain.clone(),
                })
            })
            .collect()
    }
}

impl Located<FilterChain> {
    fn build(&self, loaded: &Loaded<'_>, metadata: &MetadataModel) -> Result<ChainModel, Fault> {
        let reader = loaded.reader;
        let chain = &self.value;
        let manager: Located<HttpConnectionManager> = match chain.filters.as_slice() {
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
                    self.node,
                    format!("filters has to hold one {MANAGER} and nothing else"),
                ));
            }
        };
        let tls = match &chain.transport_socket {
            Some(socket) => socket.downstream(reader, &loaded.secrets)?.map(Arc::new),
            None => None,
        };
        Ok(ChainModel {
            name: chain.name.clone(),
            matches: match &chain.filter_chain_match {
                Some(matches) => matches.value.build()?,
                None => ChainMatch::default(),
            },
            tls,
            handshake_timeout: chain
                .transport_socket_connect_timeout
                .and_then(Time::limit)
                .unwrap_or(HANDSHAKE_TIMEOUT),
            http: Arc::new(manager.build(loaded, &chain.name, metadata)?),
        })
    }
}

impl FilterChainMatch {
    fn build(&self) -> Result<ChainMatch, Fault> {
        let mut server_names = Vec::with_capacity(self.server_names.len());
        for name in &self.server_names {
            let text = name.value.to_ascii_lowercase();
            let inner = text.strip_prefix("*.").unwrap_or(&text);
            if inner.is_empty() || inner.contains('*') {
                return Err(Fault::at(
                    name.node,
                    format!("{text:?} is no server name: expected a name or *.suffix"),
                ));
            }
            server_names.push(text);
        }
        let transport_protocol = match &self.transport_protocol {
            None => None,
            Some(name) => match name.value.as_str() {
                "" => None,
                "tls" => Some(TransportProtocol::Tls),
                "raw_buffer" => Some(TransportProtocol::RawBuffer),
                other => {
                    return Err(Fault::at(
                        name.node,
                        format!("unknown transport protocol {other:?}, expected tls or raw_buffer"),
                    ));
                }
            },
        };
        Ok(ChainMatch {
            destination_port: self.destination_port,
            server_names,
            transport_protocol,
            application_protocols: self.application_protocols.clone(),
        })
    }
}
