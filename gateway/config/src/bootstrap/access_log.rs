//! Access logs: to a file, standard output or standard error.

use std::{path::PathBuf, sync::Arc};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    any::unsupported,
    cluster::TypedExtensionConfig,
    data::DataSource,
    fraction::FractionalPercent,
    matcher::HeaderMatcher,
    template,
    value::{Enum, ProtoEnum, Whatever},
};
use crate::{
    document::{Fault, Located, NodeId, Reader, Subtree},
    snapshot::{
        AccessLog as Model, Comparison, FormatOperator, Fraction, LogFilter, LogFormat, LogSink,
        Operator, Template, response_flag,
    },
};

const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
const STDOUT: &str = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
const STDERR: &str = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog";

/// `envoy.config.accesslog.v3.AccessLog`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AccessLog {
    filter: Option<Located<AccessLogFilter>>,
    typed_config: Option<Subtree>,
}

/// `envoy.config.accesslog.v3.AccessLogFilter`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AccessLogFilter {
    status_code_filter: Option<ComparisonOf>,
    duration_filter: Option<ComparisonOf>,
    not_health_check_filter: Option<Whatever>,
    traceable_filter: Option<Whatever>,
    runtime_filter: Option<RuntimeFilter>,
    and_filter: Option<FilterList>,
    or_filter: Option<FilterList>,
    header_filter: Option<HeaderFilter>,
    response_flag_filter: Option<ResponseFlagFilter>,
    grpc_status_filter: Option<GrpcStatusFilter>,
}

/// `StatusCodeFilter` and `DurationFilter`.
#[derive(Debug, Deserialize)]
struct ComparisonOf {
    comparison: ComparisonFilter,
}

/// `envoy.config.accesslog.v3.ComparisonFilter`.
#[derive(Debug, Deserialize)]
struct ComparisonFilter {
    #[serde(default)]
    op: Enum<Operator>,
    value: RuntimeUInt32,
}

/// `envoy.config.core.v3.RuntimeUInt32`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeUInt32 {
    default_value: u32,
}

/// `envoy.config.accesslog.v3.RuntimeFilter`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeFilter {
    percent_sampled: Option<FractionalPercent>,
}

/// `AndFilter` and `OrFilter`.
#[derive(Debug, Deserialize)]
struct FilterList {
    filters: Vec<Located<AccessLogFilter>>,
}

/// `envoy.config.accesslog.v3.HeaderFilter`.
#[derive(Debug, Deserialize)]
struct HeaderFilter {
    header: Located<HeaderMatcher>,
}

/// `envoy.config.accesslog.v3.ResponseFlagFilter`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResponseFlagFilter {
    flags: Vec<Located<String>>,
}

/// `envoy.config.accesslog.v3.GrpcStatusFilter`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GrpcStatusFilter {
    statuses: Vec<Enum<GrpcStatus>>,
    exclude: bool,
}

impl ProtoEnum for Operator {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("EQ", 0, Ok(Self::Equal)),
        ("GE", 1, Ok(Self::AtLeast)),
        ("LE", 2, Ok(Self::AtMost)),
        ("NE", 3, Ok(Self::Other)),
    ];
}

#[derive(Clone, Copy, Debug, Default)]
struct GrpcStatus(u64);

impl ProtoEnum for GrpcStatus {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("OK", 0, Ok(Self(0))),
        ("CANCELED", 1, Ok(Self(1))),
        ("UNKNOWN", 2, Ok(Self(2))),
        ("INVALID_ARGUMENT", 3, Ok(Self(3))),
        ("DEADLINE_EXCEEDED", 4, Ok(Self(4))),
        ("NOT_FOUND", 5, Ok(Self(5))),
        ("ALREADY_EXISTS", 6, Ok(Self(6))),
        ("PERMISSION_DENIED", 7, Ok(Self(7))),
        ("RESOURCE_EXHAUSTED", 8, Ok(Self(8))),
        ("FAILED_PRECONDITION", 9, Ok(Self(9))),
        ("ABORTED", 10, Ok(Self(10))),
        ("OUT_OF_RANGE", 11, Ok(Self(11))),
        ("UNIMPLEMENTED", 12, Ok(Self(12))),
        ("INTERNAL", 13, Ok(Self(13))),
        ("UNAVAILABLE", 14, Ok(Self(14))),
        ("DATA_LOSS", 15, Ok(Self(15))),
        ("UNAUTHENTICATED", 16, Ok(Self(16))),
    ];
}

impl Located<AccessLogFilter> {
    fn build(&self) -> Result<LogFilter, Fault> {
        let AccessLogFilter {
            status_code_filter,
            duration_filter,
            not_health_check_filter,
            traceable_filter,
            runtime_filter,
            and_filter,
            or_filter,
            header_filter,
            response_flag_filter,
            grpc_status_filter,
        } = &self.value;
        let mut found = Vec::new();
        found.extend(
            status_code_filter
                .as_ref()
                .map(|by| LogFilter::Status(by.build())),
        );
        found.extend(
            duration_filter
                .as_ref()
                .map(|by| LogFilter::Duration(by.build())),
        );
        found.extend(not_health_check_filter.as_ref().map(|_| LogFilter::Any));
        if traceable_filter.is_some() {
            return Err(Fault::at(self.node, "traceable_filter is not supported"));
        }
        found.extend(runtime_filter.as_ref().map(|filter| {
            let share = filter.percent_sampled.as_ref();
            LogFilter::Fraction(share.map_or(Fraction::NONE, FractionalPercent::build))
        }));
        if let Some(list) = and_filter {
            found.push(LogFilter::And(list.build()?));
        }
        if let Some(list) = or_filter {
            found.push(LogFilter::Or(list.build()?));
        }
        if let Some(filter) = header_filter {
            found.push(LogFilter::Header(Arc::new(filter.header.build()?)));
        }
        if let Some(filter) = response_flag_filter {
            let mut bits = 0;
            for flag in &filter.flags {
                bits |= response_flag(&flag.value).ok_or_else(|| {
                    Fault::at(flag.node, format!("{:?} is no response flag", flag.value))
                })?;
            }
            found.push(LogFilter::Flags(bits));
        }
        found.extend(grpc_status_filter.as_ref().map(|filter| LogFilter::Grpc {
            statuses: filter.statuses.iter().map(|status| status.0.0).collect(),
            exclude: filter.exclude,
        }));
        match (found.pop(), found.is_empty()) {
            (Some(filter), true) => Ok(filter),
            _ => Err(Fault::at(
                self.node,
                "one and only one filter has to be set",
            )),
        }
    }
}

impl ComparisonOf {
    fn build(&self) -> Comparison {
        Comparison {
            operator: self.comparison.op.0,
            value: self.comparison.value.default_value.into(),
        }
    }
}

impl FilterList {
    fn build(&self) -> Result<Vec<LogFilter>, Fault> {
        self.filters
            .iter()
            .map(Located::<AccessLogFilter>::build)
            .collect()
    }
}

/// `envoy.extensions.access_loggers.file.v3.FileAccessLog`.
#[derive(Debug, Deserialize)]
struct FileAccessLog {
    path: Located<String>,
    format: Option<String>,
    json_format: Option<Map<String, Value>>,
    typed_json_format: Option<Map<String, Value>>,
    log_format: Option<Located<SubstitutionFormatString>>,
}

/// `envoy.extensions.access_loggers.stream.v3.StdoutAccessLog` and `StderrAccessLog`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamAccessLog {
    log_format: Option<Located<SubstitutionFormatString>>,
}

/// `envoy.config.core.v3.SubstitutionFormatString`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SubstitutionFormatString {
    text_format: Option<String>,
    text_format_source: Option<Located<DataSource>>,
    json_format: Option<Map<String, Value>>,
    omit_empty_values: bool,
    formatters: Vec<TypedExtensionConfig>,
}

/// Formatters whose operators are known without them.
const FORMATTERS: &[&str] = &[
    "envoy.extensions.formatter.metadata.v3.Metadata",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
];

fn omits(format: Option<&Located<SubstitutionFormatString>>) -> bool {
    format.is_some_and(|format| format.value.omit_empty_values)
}

impl Located<AccessLog> {
    pub(super) fn build(&self, reader: &Reader<'_>) -> Result<Model, Fault> {
        let Some(tree) = &self.value.typed_config else {
            return Err(Fault::at(self.node, "missing field \"typed_config\""));
        };
        let node = tree.node;
        let mut log = match reader.type_of(node)? {
            FILE => reader
                .read_typed::<Located<FileAccessLog>>(node)?
                .build(reader)?,
            name @ (STDOUT | STDERR) => {
                let log: StreamAccessLog = reader.read_typed(node)?;
                Model {
                    sink: match name {
                        STDOUT => LogSink::Stdout,
                        _ => LogSink::Stderr,
                    },
                    format: match &log.log_format {
                        Some(format) => format.build(reader, node)?,
                        None => LogFormat::default(),
                    },
                    filter: None,
                    omit_empty: omits(log.log_format.as_ref()),
                }
            }
            other => return Err(unsupported(node, other, &[FILE, STDOUT, STDERR])),
        };
        if let Some(filter) = &self.value.filter {
            log.filter = Some(filter.build()?);
        }
        let shown = log
            .format
            .templates()
            .into_iter()
            .flat_map(Template::substitutions);
        for substitution in shown {
            if let FormatOperator::Absent(name) = substitution.operator {
                reader.note(node, format!("%{name}% has no value in this gateway"));
            }
        }
        Ok(log)
    }
}

impl Located<FileAccessLog> {
    fn build(&self, reader: &Reader<'_>) -> Result<Model, Fault> {
        let log = &self.value;
        let format = match (
            &log.format,
            &log.json_format,
            &log.typed_json_format,
            &log.log_format,
        ) {
            (None, None, None, None) => LogFormat::default(),
            (Some(text), None, None, None) if text.is_empty() => LogFormat::default(),
            (Some(text), None, None, None) => text_format(text, self.node)?,
            (None, Some(map), None, None) | (None, None, Some(map), None) => {
                json_format(map, self.node)?
            }
            (None, None, None, Some(format)) => format.build(reader, self.node)?,
            _ => {
                return Err(Fault::at(
                    self.node,
                    "only one of format, json_format, typed_json_format and log_format may be set",
                ));
            }
        };
        let sink = match log.path.value.as_str() {
            "" => return Err(Fault::at(log.path.node, "may not be empty")),
            "/dev/stdout" => LogSink::Stdout,
            "/dev/stderr" => LogSink::Stderr,
            path => LogSink::File(PathBuf::from(path)),
        };
        Ok(Model {
            sink,
            format,
            filter: None,
            omit_empty: omits(log.log_format.as_ref()),
        })
    }
}

fn text_format(text: &str, node: NodeId) -> Result<LogFormat, Fault> {
    let template = template::text(text).map_err(|reason| Fault::at(node, reason))?;
    Ok(LogFormat::Text(template))
}

fn json_format(map: &Map<String, Value>, node: NodeId) -> Result<LogFormat, Fault> {
    let template = template::json(&map.clone().into());
    let template = template.map_err(|reason| Fault::at(node, reason))?;
    Ok(LogFormat::Json(template))
}

impl Located<SubstitutionFormatString> {
    /// `log` is where operators that are not known are told of.
    fn build(&self, reader: &Reader<'_>, log: NodeId) -> Result<LogFormat, Fault> {
        let format = &self.value;
        for formatter in &format.formatters {
            let node = formatter.typed_config.node;
            let name = reader.type_of(node)?;
            if !FORMATTERS.contains(&name) {
                return Err(unsupported(node, name, FORMATTERS));
            }
        }
        match (
            &format.text_format,
            &format.text_format_source,
            &format.json_format,
        ) {
            (Some(text), None, None) => text_format(text, log),
            (None, Some(source), None) => {
                let text = String::from_utf8(source.load(reader)?)
                    .map_err(|_| Fault::at(source.node, "the format is not UTF-8"))?;
                text_format(&text, log)
            }
            (None, None, Some(map)) => json_format(map, log),
            _ => Err(Fault::at(
                self.node,
                "one and only one of text_format_source, text_format and json_format has to be set",
            )),
        }
    }
}
