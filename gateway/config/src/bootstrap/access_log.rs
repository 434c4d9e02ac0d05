//! Access logs: to a file, standard output or standard error.

use std::{path::PathBuf, sync::Arc};

use extproc_client::attributes::Expression;
use http::HeaderValue;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    any::unsupported,
    cluster::TypedExtensionConfig,
    data::DataSource,
    fraction::FractionalPercent,
    matcher::HeaderMatcher,
    template,
    value::{Enum, FieldValue, ProtoEnum, Whatever},
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

/// A filter of logs.
const EXPRESSION: &str = "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter";

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
pub(super) struct AccessLogFilter {
    status_code_filter: Option<ComparisonOf>,
    duration_filter: Option<ComparisonOf>,
    not_health_check_filter: Option<Whatever>,
    runtime_filter: Option<RuntimeFilter>,
    and_filter: Option<FilterList>,
    or_filter: Option<FilterList>,
    header_filter: Option<HeaderFilter>,
    response_flag_filter: Option<ResponseFlagFilter>,
    grpc_status_filter: Option<GrpcStatusFilter>,
    log_type_filter: Option<LogTypeFilter>,
    extension_filter: Option<ExtensionFilter>,
}

/// `envoy.config.accesslog.v3.ExtensionFilter`.
#[derive(Debug, Deserialize)]
struct ExtensionFilter {
    typed_config: Subtree,
}

/// `envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter`.
#[derive(Debug, Deserialize)]
struct ExpressionFilter {
    expression: Located<String>,
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

/// `envoy.config.accesslog.v3.LogTypeFilter`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LogTypeFilter {
    types: Vec<Enum<LogType>>,
    exclude: bool,
}

/// `envoy.data.accesslog.v3.AccessLogType`, as far as there are such lines here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LogType {
    /// A local reply that is chosen, or the line at the end of a connection.
    #[default]
    NotSet,
    /// The line at the end of an exchange.
    DownstreamEnd,
    /// Lines that are not written here.
    Other,
}

impl ProtoEnum for LogType {
    const VALUES: &'static [(&'static str, i64, Result<Self, &'static str>)] = &[
        ("NotSet", 0, Ok(Self::NotSet)),
        ("TcpUpstreamConnected", 1, Ok(Self::Other)),
        ("TcpPeriodic", 2, Ok(Self::Other)),
        ("TcpConnectionEnd", 3, Ok(Self::Other)),
        ("DownstreamStart", 4, Ok(Self::Other)),
        ("DownstreamPeriodic", 5, Ok(Self::Other)),
        ("DownstreamEnd", 6, Ok(Self::DownstreamEnd)),
        ("UpstreamPoolReady", 7, Ok(Self::Other)),
        ("UpstreamPeriodic", 8, Ok(Self::Other)),
        ("UpstreamEnd", 9, Ok(Self::Other)),
        (
            "DownstreamTunnelSuccessfullyEstablished",
            10,
            Ok(Self::Other),
        ),
        ("UdpTunnelUpstreamConnected", 11, Ok(Self::Other)),
        ("UdpPeriodic", 12, Ok(Self::Other)),
        ("UdpSessionEnd", 13, Ok(Self::Other)),
    ];
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
    /// `kind` is what the lines are that it chooses among.
    pub(super) fn build(&self, kind: LogType, reader: &Reader<'_>) -> Result<LogFilter, Fault> {
        let AccessLogFilter {
            status_code_filter,
            duration_filter,
            not_health_check_filter,
            runtime_filter,
            and_filter,
            or_filter,
            header_filter,
            response_flag_filter,
            grpc_status_filter,
            log_type_filter,
            extension_filter,
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
        found.extend(runtime_filter.as_ref().map(|filter| {
            let share = filter.percent_sampled.as_ref();
            LogFilter::Fraction(share.map_or(Fraction::NONE, FractionalPercent::build))
        }));
        if let Some(list) = and_filter {
            found.push(LogFilter::And(list.build(kind, reader)?));
        }
        if let Some(list) = or_filter {
            found.push(LogFilter::Or(list.build(kind, reader)?));
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
        found.extend(log_type_filter.as_ref().map(|filter| filter.build(kind)));
        if let Some(filter) = extension_filter {
            found.push(filter.build(reader)?);
        }
        match (found.pop(), found.is_empty()) {
            (Some(filter), true) => Ok(filter),
            _ => Err(Fault::at(
                self.node,
                "one and only one filter has to be set",
            )),
        }
    }
}

impl LogTypeFilter {
    fn build(&self, kind: LogType) -> LogFilter {
        let named = self.types.iter().any(|named| named.0 == kind);
        match named != self.exclude {
            true => LogFilter::Any,
            false => LogFilter::Fraction(Fraction::NONE),
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
    fn build(&self, kind: LogType, reader: &Reader<'_>) -> Result<Vec<LogFilter>, Fault> {
        let filters = self.filters.iter();
        filters.map(|filter| filter.build(kind, reader)).collect()
    }
}

impl ExtensionFilter {
    fn build(&self, reader: &Reader<'_>) -> Result<LogFilter, Fault> {
        let node = self.typed_config.node;
        match reader.type_of(node)? {
            EXPRESSION => {
                let filter: ExpressionFilter = reader.read_typed(node)?;
                let expression = Expression::compile(&filter.expression.value);
                let expression = expression
                    .map_err(|error| Fault::at(filter.expression.node, error.to_string()))?;
                Ok(LogFilter::Cel(Arc::new(expression)))
            }
            other => Err(unsupported(node, other, &[EXPRESSION])),
        }
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
pub(super) struct SubstitutionFormatString {
    text_format: Option<String>,
    text_format_source: Option<Located<DataSource>>,
    json_format: Option<Map<String, Value>>,
    pub(super) omit_empty_values: bool,
    content_type: Option<FieldValue>,
    formatters: Vec<TypedExtensionConfig>,
}

/// Formatters whose operators are known without them.
const FORMATTERS: &[&str] = &[
    "envoy.extensions.formatter.cel.v3.Cel",
    "envoy.extensions.formatter.metadata.v3.Metadata",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
];

fn omits(format: Option<&Located<SubstitutionFormatString>>) -> bool {
    format.is_some_and(|format| format.value.omit_empty_values)
}

impl Located<AccessLog> {
    /// `kind` is what the lines are.
    pub(super) fn build(&self, kind: LogType, reader: &Reader<'_>) -> Result<Model, Fault> {
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
            log.filter = Some(filter.build(kind, reader)?);
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
    // As in Envoy, members come in the order of their names.
    let mut sorted = Value::from(map.clone());
    sorted.sort_all_objects();
    let template = template::json(&sorted);
    let template = template.map_err(|reason| Fault::at(node, reason))?;
    Ok(LogFormat::Json(template))
}

impl SubstitutionFormatString {
    /// The type of a body of this form.
    pub(super) fn content_type(&self) -> HeaderValue {
        match &self.content_type {
            Some(FieldValue(value)) if !value.is_empty() => value.clone(),
            _ if self.json_format.is_some() => HeaderValue::from_static("application/json"),
            _ => HeaderValue::from_static("text/plain"),
        }
    }
}

impl Located<SubstitutionFormatString> {
    /// `log` is where operators that are not known are told of.
    pub(super) fn build(&self, reader: &Reader<'_>, log: NodeId) -> Result<LogFormat, Fault> {
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
