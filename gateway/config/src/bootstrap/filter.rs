//! `HttpFilter`: the filters of a connection manager.

use std::{sync::Arc, time::Duration};

use extproc_client::{
    FilterConfig,
    config::{MetadataEntry, Service},
};
use serde::Deserialize;

use super::{
    any::{StructValue, any, unsupported},
    compression::{COMPRESSOR, DECOMPRESSOR},
    cors::Cors,
    header::HeaderMutation as Mutation,
    matched::{COMPOSITE, WITH_MATCHER},
    matcher::HeaderMatcher,
    per_filter::Place,
    small_filters::{BUFFER, LOCAL_RATE_LIMIT},
    value::Whatever,
};
use crate::{
    document::{Fault, Located, NodeId, Reader, Subtree},
    snapshot::{Filter, FilterKind, FormatOperator, HeaderChange, SetMetadata},
};

const EXT_PROC: &str = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor";
const CORS: &str = "envoy.extensions.filters.http.cors.v3.Cors";
const HEADER_MUTATION: &str = "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation";
const HEALTH_CHECK: &str = "envoy.extensions.filters.http.health_check.v3.HealthCheck";
const GRPC_WEB: &str = "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
const CODEC: &str = "envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const GRPC_STATS: &str = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
const FAULT: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";
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

/// `envoy.extensions.filters.http.grpc_web.v3.GrpcWeb`.
#[derive(Debug, Deserialize)]
struct GrpcWeb {}

/// `envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec`.
#[derive(Debug, Deserialize)]
struct UpstreamCodec {}

/// `envoy.extensions.filters.http.fault.v3.HTTPFault`, which may ask for no fault.
#[derive(Debug, Deserialize)]
#[serde(rename = "HTTPFault")]
struct HttpFault {}

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

    /// Reads the configuration of the last filter, which has no field that matters.
    fn read_last(self, reader: &Reader<'_>, node: NodeId) -> Result<(), Fault> {
        match self {
            Self::ConnectionManager => {
                let Router {} = reader.read_typed(node)?;
            }
            Self::Cluster => {
                let UpstreamCodec {} = reader.read_typed(node)?;
            }
        }
        Ok(())
    }

    /// All types.
    fn types(self) -> &'static [&'static str] {
        match self {
            Self::ConnectionManager => &[
                EXT_PROC,
                CORS,
                GRPC_WEB,
                HEADER_MUTATION,
                HEALTH_CHECK,
                SET_METADATA,
                BUFFER,
                LOCAL_RATE_LIMIT,
                COMPRESSOR,
                DECOMPRESSOR,
                WITH_MATCHER,
                COMPOSITE,
                ROUTER,
            ],
            Self::Cluster => &[EXT_PROC, HEADER_MUTATION, WITH_MATCHER, COMPOSITE, CODEC],
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

/// Things that a filter is made with.
pub(super) struct Making<'a, 'd> {
    pub(super) reader: &'a Reader<'d>,
    pub(super) owner: Owner,
    pub(super) graceful_close: Option<Duration>,
    /// The filter's name.
    pub(super) name: &'a str,
    pub(super) place: Place<'a>,
}

/// All filters before the router, or a cluster's codec, which has to be there and has to be the last.
pub(super) fn chain(
    reader: &Reader<'_>,
    owner: Owner,
    filters: &Located<Vec<Located<HttpFilter>>>,
    graceful_close: Option<Duration>,
) -> Result<Vec<Filter>, Fault> {
    let mut chain: Vec<Filter> = Vec::with_capacity(filters.value.len());
    let mut has_last = false;
    let mut is_whole = true;
    for filter in &filters.value {
        if has_last {
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
        if found == owner.last() {
            owner.read_last(reader, node)?;
            if filter.value.disabled {
                return Err(Fault::at(
                    filter.node,
                    format!("the {} may not be disabled", owner.last_name()),
                ));
            }
            has_last = true;
            continue;
        }
        if has_no_effect(reader, node)? {
            continue;
        }
        if filter.value.is_optional && !owner.types().contains(&found) {
            reader.note(
                node,
                format!("optional filter of unsupported type {found} left out"),
            );
            continue;
        }
        let making = Making {
            reader,
            owner,
            graceful_close,
            name: &filter.value.name,
            place: Place::Chain,
        };
        match making.kind(node) {
            Ok(kind) => chain.push(Filter {
                name: filter.value.name.clone(),
                disabled: filter.value.disabled,
                kind,
            }),
            Err(fault) => {
                reader.refuse(fault)?;
                // It may stand in place of the last one.
                is_whole = false;
            }
        }
    }
    match has_last || !is_whole {
        true => Ok(chain),
        false => Err(Fault::at(
            filters.node,
            format!(
                "the last filter has to be the {} ({})",
                owner.last_name(),
                owner.last()
            ),
        )),
    }
}

/// Filters of Envoy that stay out, by the folder of their package: what a processor in their place would do.
pub(super) const FOR_PROCESSORS: &[(&str, &str)] = &[
    ("api_key_auth", "checks the key"),
    ("basic_auth", "checks the password"),
    ("dynamic_modules", "does what the module does"),
    (
        "ext_authz",
        "lets a request pass, or answers it with an immediate response",
    ),
    ("golang", "does what the plugin does"),
    ("jwt_authn", "verifies the token"),
    ("lua", "does what the script does"),
    ("oauth2", "redirects to the server that signs in"),
    ("ratelimit", "asks the rate limit service"),
    ("rbac", "applies the policies"),
    ("wasm", "does what the module does"),
];

impl Making<'_, '_> {
    /// The refusal of a filter that is not known here.
    fn refusal(&self, node: NodeId, found: &str) -> Fault {
        let package = found.strip_prefix("envoy.extensions.filters.http.");
        let folder = package.and_then(|rest| rest.split('.').next());
        let entry = FOR_PROCESSORS
            .iter()
            .find(|(known, _)| Some(*known) == folder);
        match entry {
            Some((_, does)) => Fault::at(
                node,
                format!(
                    "{found} is not supported here; an ext_proc filter in its place can ask a processor that {does}"
                ),
            ),
            None => unsupported(node, found, self.owner.types()),
        }
    }

    /// The filter that the message at `node` configures.
    pub(super) fn kind(&self, node: NodeId) -> Result<FilterKind, Fault> {
        let reader = self.reader;
        let found = reader.type_of(node)?;
        let is_known = self.owner.types().contains(&found) && found != self.owner.last();
        Ok(match found {
            other if !is_known => return Err(self.refusal(node, other)),
            EXT_PROC => {
                let config: FilterConfig = reader.read_typed(node)?;
                if let Service::Grpc(service) = config.service() {
                    check_metadata(reader, node, &service.initial_metadata)?;
                }
                FilterKind::ExtProc(Arc::new(config.with_graceful_close(self.graceful_close)))
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
            GRPC_WEB => {
                let GrpcWeb {} = reader.read_typed(node)?;
                FilterKind::GrpcWeb
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
            BUFFER => self.buffer(node)?,
            LOCAL_RATE_LIMIT => self.local_rate_limit(node)?,
            COMPRESSOR => self.compressor(node)?,
            DECOMPRESSOR => self.decompressor(node)?,
            WITH_MATCHER => self.with_matcher(node)?,
            COMPOSITE => self.plain_composite(node)?,
            _ => {
                let config: SetMetadataConfig = reader.read_typed(node)?;
                FilterKind::SetMetadata(config.build(reader)?)
            }
        })
    }
}

/// Refuses operators in the metadata of calls that Envoy does not have, and tells of others without a value there.
pub(super) fn check_metadata(
    reader: &Reader<'_>,
    node: NodeId,
    entries: &[MetadataEntry],
) -> Result<(), Fault> {
    for entry in entries {
        for name in entry.operators_without_value() {
            let of = format!("initial_metadata {:?}: %{name}%", entry.key);
            match FormatOperator::exists(name) {
                true => reader.note(node, format!("{of} has no value there in this gateway")),
                false => return Err(Fault::at(node, format!("{of} is an unknown operator"))),
            }
        }
    }
    Ok(())
}

/// Reads a filter that may stand in a chain without effect.
fn has_no_effect(reader: &Reader<'_>, node: NodeId) -> Result<bool, Fault> {
    match reader.type_of(node)? {
        GRPC_STATS => {
            let _: Whatever = reader.read_typed(node)?;
            reader.note(node, "calls of gRPC are not counted");
            Ok(true)
        }
        FAULT => {
            let HttpFault {} = reader.read_typed(node)?;
            Ok(true)
        }
        _ => Ok(false),
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
