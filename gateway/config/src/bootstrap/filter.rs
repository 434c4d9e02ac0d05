//! `HttpFilter`: the filters of a connection manager.

use std::{sync::Arc, time::Duration};

use extproc_client::FilterConfig;
use serde::Deserialize;

use super::{
    any::{StructValue, any, unsupported},
    cors::Cors,
    header::HeaderMutation as Mutation,
    matcher::HeaderMatcher,
};
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::{Filter, FilterKind, HeaderChange, SetMetadata},
};

const EXT_PROC: &str = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const HEADER_MUTATION: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const HEALTH_CHECK: &str = "envoy.extensions.filters.http.health_check.v3.HealthCheck";
const CODEC: &str = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const SET_METADATA: &str = "envoy.extensions.filters.http.set_metadata.v3.Config";

/// `envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter`.
#[derive(Debug, Deserialize)]
pub(super) struct HttpFilter {
    name: String,
    typed_config: Option<Subtree>,
    #[serde(default)]
    is_optional: bool,
    #[serde(default)]
    disabled: bool,
}

/// `envoy.extensions.filters.http.router.v3.Router`.
#[derive(Debug, Deserialize)]
struct Router {}

/// `envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec`.
#[derive(Debug, Deserialize)]
struct UpstreamCodec {}

/// Whose filters a chain has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    ConnectionManager,
    Cluster,
}

impl Owner {
    /// The type of the last filter.
    fn last(self) -> &'static str {
        match self {
            Self::ConnectionManager => ROUTER,
            Self::Cluster => CODEC,
        }
    }

    fn last_name(self) -> &'static str {
        match self {
            Self::ConnectionManager => "router",
            Self::Cluster => "upstream codec",
        }
    }

    /// All types.
    fn types(self) -> &'static [&'static str] {
        match self {
            Self::ConnectionManager => &[
                EXT_PROC,
                CORS,
                HEADER_MUTATION,
                HEALTH_CHECK,
                SET_METADATA,
                ROUTER,
            ],
            Self::Cluster => &[EXT_PROC, HEADER_MUTATION, CODEC],
        }
    }
}

/// `envoy.extensions.filters.http.header_mutation.v3.HeaderMutation`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HeaderMutation {
    mutations: Mutations,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mutations {
    request_mutations: Vec<Located<Mutation>>,
    response_mutations: Vec<Located<Mutation>>,
}

/// `envoy.extensions.filters.http.health_check.v3.HealthCheck`.
#[derive(Debug, Deserialize)]
struct HealthCheck {
    pass_through_mode: Located<bool>,
    #[serde(default)]
    headers: Vec<Located<HeaderMatcher>>,
}

/// `envoy.extensions.filters.http.set_metadata.v3.Config`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "SetMetadataConfig")]
struct SetMetadataConfig {
    metadata_namespace: String,
    value: Option<StructValue>,
    metadata: Vec<Located<SetMetadataEntry>>,
}

#[derive(Debug, Deserialize)]
struct SetMetadataEntry {
    metadata_namespace: String,
    #[serde(default)]
    allow_overwrite: bool,
    value: Option<StructValue>,
    typed_value: Option<Subtree>,
}

/// All filters before the router, or a cluster's codec, which has to be there and has to be the last.
pub(super) fn chain(
    reader: &Reader<'_>,
    owner: Owner,
    filters: &Located<Vec<Located<HttpFilter>>>,
    graceful_close: Option<Duration>,
) -> Result<Vec<Filter>, Fault> {
    let mut chain: Vec<Filter> = Vec::with_capacity(filters.value.len());
    let mut last = None;
    for filter in &filters.value {
        if last.is_some() {
            return Err(Fault::at(
                filter.node,
                format!("the {} has to be the last filter", owner.last_name()),
            ));
        }
        if filter.value.name.is_empty() {
            return Err(Fault::at(filter.node, "name may not be empty"));
        }
        let Some(tree) = &filter.value.typed_config else {
            return Err(Fault::at(filter.node, "missing field \"typed_config\""));
        };
        let node = tree.node;
        let found = reader.type_of(node)?;
        let is_known = owner.types().contains(&found);
        let kind = match found {
            ROUTER | CODEC if found == owner.last() => {
                match owner {
                    Owner::ConnectionManager => {
                        let Router {} = reader.read_typed(node)?;
                    }
                    Owner::Cluster => {
                        let UpstreamCodec {} = reader.read_typed(node)?;
                    }
                }
                if filter.value.disabled {
                    return Err(Fault::at(
                        filter.node,
                        format!("the {} may not be disabled", owner.last_name()),
                    ));
                }
                last = Some(node);
                continue;
            }
            other if !is_known && filter.value.is_optional => {
                reader.note(
                    node,
                    format!("optional filter of unsupported type {other} left out"),
                );
                continue;
            }
            other if !is_known => return Err(unsupported(node, other, owner.types())),
            EXT_PROC => {
                let config: FilterConfig = reader.read_typed(node)?;
                FilterKind::ExtProc(Arc::new(config.with_graceful_close(graceful_close)))
            }
            HEADER_MUTATION => {
                let config: HeaderMutation = reader.read_typed(node)?;
                FilterKind::HeaderMutation {
                    request: mutations(&config.mutations.request_mutations)?,
                    response: mutations(&config.mutations.response_mutations)?,
                }
            }
            CORS => {
                let Cors {} = reader.read_typed(node)?;
                FilterKind::Cors
            }
            HEALTH_CHECK => {
                let config: HealthCheck = reader.read_typed(node)?;
                if config.pass_through_mode.value {
                    return Err(Fault::at(
                        config.pass_through_mode.node,
                        "only false is supported",
                    ));
                }
                let headers = config.headers.iter().map(Located::<HeaderMatcher>::build);
                FilterKind::HealthCheck(headers.collect::<Result<_, _>>()?)
            }
            _ => {
                let config: SetMetadataConfig = reader.read_typed(node)?;
                FilterKind::SetMetadata(config.build(reader)?)
            }
        };
        chain.push(Filter {
            name: filter.value.name.clone(),
            disabled: filter.value.disabled,
            kind,
        });
    }
    match last {
        Some(_) => Ok(chain),
        None => Err(Fault::at(
            filters.node,
            format!(
                "the last filter has to be the {} ({})",
                owner.last_name(),
                owner.last()
            ),
        )),
    }
}

fn mutations(list: &[Located<Mutation>]) -> Result<Vec<HeaderChange>, Fault> {
    list.iter()
        .filter_map(|mutation| mutation.build().transpose())
        .collect()
}

impl SetMetadataConfig {
    fn build(&self, reader: &Reader<'_>) -> Result<Vec<SetMetadata>, Fault> {
        let mut entries = Vec::with_capacity(self.metadata.len() + 1);
        // The deprecated pair comes first and merges.
        if let Some(value) = &self.value {
            entries.push(SetMetadata {
                namespace: self.metadata_namespace.clone(),
                value: Some(value.build()),
                typed: None,
                allow_overwrite: true,
            });
        }
        for entry in &self.metadata {
            let SetMetadataEntry {
                metadata_namespace,
                allow_overwrite,
                value,
                typed_value,
            } = &entry.value;
            entries.push(SetMetadata {
                namespace: metadata_namespace.clone(),
                value: value.as_ref().map(StructValue::build),
                typed: typed_value
                    .as_ref()
                    .map(|tree| any(reader, tree))
                    .transpose()?,
                allow_overwrite: *allow_overwrite,
            });
        }
        Ok(entries)
    }
}
