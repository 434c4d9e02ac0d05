//! Access logs: to a file, standard output or standard error.

use std::path::PathBuf;

use serde::Deserialize;

use super::{any::unsupported, data::DataSource, template};
use crate::{
    document::{Fault, Located, Reader, Subtree},
    snapshot::{AccessLog as Model, LogFormat, LogSink},
};

const FILE: &str = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
const STDOUT: &str = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
const STDERR: &str = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog";

/// `envoy.config.accesslog.v3.AccessLog`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AccessLog {
    typed_config: Option<Subtree>,
}

/// `envoy.extensions.access_loggers.file.v3.FileAccessLog`.
#[derive(Debug, Deserialize)]
struct FileAccessLog {
    path: Located<String>,
    format: Option<String>,
    json_format: Option<serde_json::Map<String, serde_json::Value>>,
    typed_json_format: Option<serde_json::Map<String, serde_json::Value>>,
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
    json_format: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Located<AccessLog> {
    pub(super) fn build(&self, reader: &Reader<'_>) -> Result<Model, Fault> {
        let Some(tree) = &self.value.typed_config else {
            return Err(Fault::at(self.node, "missing field \"typed_config\""));
        };
        let node = tree.node;
        let log = match reader.type_of(node)? {
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
                        Some(format) => format.build(reader)?,
                        None => LogFormat::Default,
                    },
                }
            }
            other => return Err(unsupported(node, other, &[FILE, STDOUT, STDERR])),
        };
        match &log.format {
            LogFormat::Default => Ok(()),
            LogFormat::Text(text) => template::check(text),
            LogFormat::Json(json) => template::check_json(json),
        }
        .map_err(|reason| Fault::at(node, reason))?;
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
            (None, None, None, None) => LogFormat::Default,
            (Some(text), None, None, None) if text.is_empty() => LogFormat::Default,
            (Some(text), None, None, None) => LogFormat::Text(text.clone()),
            (None, Some(map), None, None) | (None, None, Some(map), None) => {
                LogFormat::Json(map.clone().into())
            }
            (None, None, None, Some(format)) => format.build(reader)?,
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
        Ok(Model { sink, format })
    }
}

impl Located<SubstitutionFormatString> {
    fn build(&self, reader: &Reader<'_>) -> Result<LogFormat, Fault> {
        let format = &self.value;
        match (
            &format.text_format,
            &format.text_format_source,
            &format.json_format,
        ) {
            (Some(text), None, None) => Ok(LogFormat::Text(text.clone())),
            (None, Some(source), None) => String::from_utf8(source.load(reader)?)
                .map(LogFormat::Text)
                .map_err(|_| Fault::at(source.node, "the format is not UTF-8")),
            (None, None, Some(map)) => Ok(LogFormat::Json(map.clone().into())),
            _ => Err(Fault::at(
                self.node,
                "one and only one of text_format_source, text_format and json_format has to be set",
            )),
        }
    }
}
