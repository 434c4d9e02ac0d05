//! `docs/coming-from-envoy.md`, written by what reads a bootstrap: the table of fields, the messages that it takes, and the
//! refusals themselves. `EXTPROC_WRITE_DOCS=1 cargo test -p gateway-config page` writes the page.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use super::bad::error;
use crate::{
    bootstrap::{fields::FIELDS, filter::FOR_PROCESSORS},
    document::{Treatment, seen},
    parse_envoy,
};

const FULL: &str = include_str!("../testdata/full.yaml");
const MORE: &str = include_str!("../testdata/more.yaml");

/// Messages that Envoy does not have.
const OWN: &str = "{admin: {inspect: {}}, static_resources: {}}";

/// Names that messages have here because Envoy has several of one name.
const NAMES: &[(&str, &str)] = &[
    ("AssignmentPolicy", "ClusterLoadAssignment.Policy"),
    ("BufferFilter", "Buffer"),
    ("CelCall", "cel.expr.Expr.Call"),
    ("CelConstant", "cel.expr.Constant"),
    ("CelExpr", "cel.expr.Expr"),
    ("CelIdent", "cel.expr.Expr.Ident"),
    ("CelList", "cel.expr.Expr.CreateList"),
    ("CelParsedExpr", "cel.expr.ParsedExpr"),
    ("CelSelect", "cel.expr.Expr.Select"),
    ("ClusterHealthCheck", "HealthCheck of a cluster"),
    ("CollectorGrpc", "EnvoyGrpc of a collector of spans"),
    (
        "CollectorHttpService",
        "HttpService of a collector of spans",
    ),
    ("CollectorService", "GrpcService of a collector of spans"),
    ("CollectorUri", "HttpUri of a collector of spans"),
    ("Inspector", "admin.inspect, of this gateway alone"),
    ("ComparisonOf", "StatusCodeFilter, DurationFilter"),
    ("BrotliCompressor", "Brotli of a compressor"),
    (
        "CompressionLibrary",
        "compressor_library, decompressor_library",
    ),
    ("CompressorDirection", "Compressor.CommonDirectionConfig"),
    (
        "CompressorRequestDirection",
        "Compressor.RequestDirectionConfig",
    ),
    (
        "CompressorResponseDirection",
        "Compressor.ResponseDirectionConfig",
    ),
    ("DecompressionLibrary", "Gzip, Brotli of a decompressor"),
    (
        "DecompressorDirection",
        "Decompressor.CommonDirectionConfig",
    ),
    (
        "DecompressorRequestDirection",
        "Decompressor.RequestDirectionConfig",
    ),
    (
        "DecompressorResponseDirection",
        "Decompressor.ResponseDirectionConfig",
    ),
    ("GzipCompressor", "Gzip of a compressor"),
    ("EnvironmentVariableInput", "environment_variable Config"),
    ("FilterList", "AndFilter, OrFilter"),
    ("HashCookie", "HashPolicy.Cookie"),
    ("HashHeader", "HashPolicy.Header"),
    ("IpInputMatcher", "input_matchers.ip Ip"),
    ("MatchPredicate", "MatcherList.Predicate"),
    ("MetadataInputMatcher", "input_matchers.metadata Metadata"),
    ("NetworkFilter", "Filter of a FilterChain"),
    ("PlainLbPolicy", "RoundRobin, LeastRequest, Random"),
    ("RateLimitActionOf", "RateLimit.Action"),
    ("RateLimitMetaData", "RateLimit.Action.MetaData"),
    ("RateLimitMetadataKey", "MetadataKey of a RateLimit"),
    ("RateLimitPath", "MetadataKey.PathSegment of a RateLimit"),
    ("RawFilter", "ExternalProcessor"),
    ("SetMetadataConfig", "set_metadata Config"),
    ("StreamAccessLog", "StdoutAccessLog, StderrAccessLog"),
    ("SubjectAltNameStringMatcher", "StringMatcher of a SAN"),
    (
        "UpstreamProtocolOptions",
        "HttpProtocolOptions of a cluster",
    ),
];

/// Advice for what is refused: by field, or for all that is refused with these words.
const INSTEAD: &[(&str, &str)] = &[
    (
        "discovery services (xDS) are not supported",
        "write it into the file, which is followed; in a cluster, [manifests](kubernetes.md)",
    ),
    (
        "SdsSecretConfig.sds_config",
        "`secrets` of `static_resources`; files that they name are followed",
    ),
    (
        "limits of single endpoints are not supported",
        "`thresholds`, which hold for the cluster",
    ),
    (
        "there is no filter state of others",
        "`header`, which a processor may set",
    ),
    ("HTTP/3 is not supported", "HTTP/2"),
    (
        "AccessLogFilter.metadata_filter",
        "`header_filter`, or metadata in the line",
    ),
    ("Cluster.lb_subset_config", "a cluster for each subset"),
    (
        "ClusterWeight.cluster_header",
        "`cluster_header` of the route",
    ),
    (
        "FilterChainMatch.prefix_ranges",
        "a listener on each address",
    ),
    (
        "HttpConnectionManager.original_ip_detection_extensions",
        "`use_remote_address` with `xff_num_trusted_hops`",
    ),
    (
        "HttpConnectionManager.path_normalization_options",
        "`normalize_path`, `merge_slashes`",
    ),
    (
        "Mutations.query_parameter_mutations",
        "a processor that sets `:path`",
    ),
    ("RequestMirrorPolicy.cluster_header", "`cluster`"),
    (
        "RetryPolicy.retry_options_predicates",
        "the other conditions of `retry_on`",
    ),
    (
        "RouteAction.cors",
        "`CorsPolicy` in `typed_per_filter_config`",
    ),
    ("RouteAction.host_rewrite", "`host_rewrite_literal`"),
    (
        "RouteAction.internal_redirect_action",
        "`internal_redirect_policy`",
    ),
    (
        "RouteAction.max_internal_redirects",
        "`internal_redirect_policy`",
    ),
    ("RouteAction.metadata_match", "a cluster for each subset"),
    ("RouteAction.path_rewrite_policy", "`regex_rewrite`"),
    ("RouteMatch.path_match_policy", "`safe_regex`"),
    (
        "Router.upstream_http_filters",
        "`http_filters` of the cluster's `HttpProtocolOptions`",
    ),
    (
        "VirtualHost.cors",
        "`CorsPolicy` in `typed_per_filter_config`",
    ),
    ("VirtualHost.matcher", "`routes`"),
];

/// Places of an extension: the name for readers, and what has to be put where in [`BASE`] for one that nobody knows (`@`).
const PLACES: &[(&str, &str, &str)] = &[
    (
        "listener filters",
        "- name: main",
        "- name: main\n    listener_filters: [{name: a, typed_config: @}]",
    ),
    (
        "network filters",
        "\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "\"@type\": a/nobody.knows.It",
    ),
    (
        "HTTP filters",
        "- name: router",
        "- {name: a, typed_config: @}\n          - name: router",
    ),
    (
        "access loggers",
        "stat_prefix: ingress",
        "stat_prefix: ingress\n          access_log: [{name: a, typed_config: @}]",
    ),
    (
        "extension filters of access logs",
        "stat_prefix: ingress",
        "stat_prefix: ingress\n          access_log: [{name: a, filter: {extension_filter: {name: a, typed_config: @}}, typed_config: {\"@type\": a/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}}]",
    ),
    (
        "`early_header_mutation_extensions`",
        "stat_prefix: ingress",
        "stat_prefix: ingress\n          early_header_mutation_extensions: [{name: a, typed_config: @}]",
    ),
    (
        "formatters",
        "stat_prefix: ingress",
        "stat_prefix: ingress\n          access_log: [{name: a, typed_config: {\"@type\": a/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: {formatters: [{name: a, typed_config: @}]}}}]",
    ),
    (
        "tracers",
        "stat_prefix: ingress",
        "stat_prefix: ingress\n          tracing: {provider: {name: a, typed_config: @}}",
    ),
    (
        "`typed_per_filter_config`",
        "route: {cluster: upstream}",
        "route: {cluster: upstream}\n                typed_per_filter_config: {router: @}",
    ),
    (
        "predicates of redirects",
        "route: {cluster: upstream}",
        "route: {cluster: upstream, internal_redirect_policy: {predicates: [{name: a, typed_config: @}]}}",
    ),
    (
        "`retry_priority`",
        "route: {cluster: upstream}",
        "route: {cluster: upstream, retry_policy: {retry_on: 5xx, retry_priority: {name: a, typed_config: @}}}",
    ),
    (
        "`typed_extension_protocol_options`",
        "type: STATIC",
        "type: STATIC\n    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: @}",
    ),
    (
        "filters of a cluster",
        "type: STATIC",
        "type: STATIC\n    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": a/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}, http_filters: [{name: a, typed_config: @}]}}",
    ),
    (
        "transport sockets of a cluster",
        "type: STATIC",
        "type: STATIC\n    transport_socket: {name: a, typed_config: @}",
    ),
    (
        "`cluster_type`",
        "type: STATIC",
        "cluster_type: {name: a, typed_config: @}",
    ),
    (
        "`bootstrap_extensions`",
        "static_resources:",
        "bootstrap_extensions: [{name: a, typed_config: @}]\nstatic_resources:",
    ),
    (
        "load balancing policies",
        "type: STATIC",
        "type: STATIC\n    load_balancing_policy: {policies: [{typed_extension_config: {name: a, typed_config: @}}]}",
    ),
];

/// Fields by message, in the order of their names.
type Table<'a> = BTreeMap<String, Vec<&'a str>>;

fn shown(message: &str) -> &str {
    let entry = NAMES.iter().find(|(name, _)| *name == message);
    entry.map_or(message, |(_, shown)| shown)
}

/// Reads everything that there is to read, so that all messages are seen.
fn read_everything() {
    for (name, text) in [("full.yaml", FULL), ("more.yaml", MORE), ("own.yaml", OWN)] {
        let parsed = parse_envoy(name, text);
        assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
    }
}

fn fields(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn advice(message: &str, field: &str, words: &str) -> &'static str {
    let by = |key: &str| INSTEAD.iter().find(|(known, _)| *known == key);
    let found = by(&format!("{message}.{field}")).or_else(|| by(words));
    found.map_or("", |(_, advice)| advice)
}

/// Types that are taken at a place, of the refusal of another one.
fn types(from: &str, to: &str) -> Vec<String> {
    let said = error(from, &to.replace(" @", " {\"@type\": a/nobody.knows.It}"));
    let (_, types) = said.split_once("supported here: ").expect(&said);
    let first = types.lines().next().unwrap_or_default();
    first.split(", ").map(str::to_owned).collect()
}

fn page() -> String {
    read_everything();
    let taken = seen::all();
    let mut refused: BTreeMap<(String, &str, &str), Vec<&str>> = BTreeMap::new();
    let mut noted: BTreeMap<(String, &str), Vec<&str>> = BTreeMap::new();
    let mut ignored = Table::new();
    for (message, treatment, names) in FIELDS {
        let name = shown(message).to_owned();
        for field in *names {
            match treatment {
                Treatment::Ignore => ignored.entry(name.clone()).or_default().push(field),
                Treatment::Note(words) | Treatment::NotePresence(words) => {
                    noted.entry((name.clone(), words)).or_default().push(field);
                }
                Treatment::Refuse(words) | Treatment::RefusePresence(words) => {
                    let advice = advice(message, field, words);
                    let key = (name.clone(), *words, advice);
                    refused.entry(key).or_default().push(field);
                }
            }
        }
    }
    let mut out = INTRODUCTION.to_owned();
    out.push_str("\n## Extensions that are taken\n\n| where | types |\n|---|---|\n");
    for (place, at, with) in PLACES {
        let types = types(at, with);
        let types: Vec<&str> = types.iter().map(String::as_str).collect();
        _ = writeln!(out, "| {place} | {} |", fields(&types));
    }
    out.push_str(FOR_A_PROCESSOR);
    for (folder, does) in FOR_PROCESSORS {
        _ = writeln!(out, "| `{folder}` | {does} |");
    }
    out.push_str("\n## Refused\n\n| message | fields | words | instead |\n|---|---|---|---|\n");
    for ((message, words, advice), names) in &refused {
        _ = writeln!(
            out,
            "| {message} | {} | {words} | {advice} |",
            fields(names)
        );
    }
    out.push_str(
        "\n## Accepted, with a word in the log\n\n| message | fields | words |\n|---|---|---|\n",
    );
    for ((message, words), names) in &noted {
        _ = writeln!(out, "| {message} | {} | {words} |", fields(names));
    }
    out.push_str(
        "\n## Accepted, without effect and in no need of one\n\n| message | fields |\n|---|---|\n",
    );
    for (message, names) in &ignored {
        _ = writeln!(out, "| {message} | {} |", fields(names));
    }
    out.push_str("\n## Taken\n\n[configuration.md](configuration.md#supported) says what they do.\n\n| message | fields |\n|---|---|\n");
    for (message, kinds) in &taken {
        for names in kinds {
            // Of a field that has both names, this one is Envoy's.
            let is_snake = |name: &&&str| !name.contains(char::is_uppercase);
            let names: Vec<&str> = names.iter().filter(is_snake).copied().collect();
            if !names.is_empty() {
                let message = shown(message).trim_start_matches("Raw");
                _ = writeln!(out, "| {message} | {} |", fields(&names));
            }
        }
    }
    out
}

const INTRODUCTION: &str = include_str!("page.md");

const FOR_A_PROCESSOR: &str = "
Other HTTP filters are refused, but for `grpc_stats` and a `fault` that asks for none, which have no effect. For some of them, an ext_proc filter in their
place asks a processor that does the same:

| filter | the processor |
|---|---|
";

#[test]
fn the_page_is_what_the_reader_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/coming-from-envoy.md");
    let page = page();
    if std::env::var_os("EXTPROC_WRITE_DOCS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/coming-from-envoy.md is old; EXTPROC_WRITE_DOCS=1 writes it"
    );
}

/// A row for a message that nobody reads, or for a field that is taken, would be a word that is not true.
#[test]
fn every_row_is_of_a_message_that_is_read_and_of_a_field_that_is_not_taken() {
    read_everything();
    let taken = seen::all();
    let mut wrong = Vec::new();
    for (message, _, names) in FIELDS {
        let Some(kinds) = taken.get(message) else {
            wrong.push(format!("{message} is in no file"));
            continue;
        };
        for field in *names {
            if kinds.iter().all(|fields| fields.contains(field)) {
                wrong.push(format!("{message}.{field} is taken"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every message of the sources is in one of the files, so that the page has them all.
#[test]
fn every_message_of_the_sources_is_read() {
    read_everything();
    let taken = seen::all();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bootstrap");
    let mut missing = Vec::new();
    for folder in [root.clone(), root.join("cluster")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&path).unwrap();
                missing.extend(messages(&source).filter(|name| !taken.contains_key(name.as_str())));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// Names under which the structs of a source are read.
fn messages(source: &str) -> impl Iterator<Item = String> {
    source.split("#[derive(").skip(1).filter_map(|rest| {
        let (derived, rest) = rest.split_once(")]")?;
        let head = rest.split_once('{')?.0;
        let name = head.split_once("struct ")?.1.trim();
        let is_read = derived.contains("Deserialize");
        let renamed = head
            .split_once("rename = \"")
            .and_then(|(_, rest)| rest.split('"').next());
        // `WellKnown<T>` and `Empty` are no messages of Envoy's.
        let own = !name.contains('<') && name.chars().all(char::is_alphanumeric) && name != "Empty";
        (is_read && own).then(|| renamed.unwrap_or(name).to_owned())
    })
}
