//! Access logs: one line per exchange, written by a thread of its own.
//!
//! A worker formats the line and hands it over without waiting. If the sink is so slow that the queue
//! is full, lines are dropped and counted (`http.<stat_prefix>.access_log_dropped`).

use std::{
    fs::OpenOptions,
    io::{self, Write},
    sync::Arc,
    thread,
};

use extproc_client::config::Effort;

use crate::{
    config::snapshot::{AccessLog, JsonTemplate, LogFilter, LogFormat, LogSink},
    exchange::operators::{self, Scope},
    http::headers::head_field,
    route,
    route::is_drawn,
    telemetry::writer::Lines,
};

/// One configured log.
#[derive(Debug)]
pub(crate) struct Logger {
    format: LogFormat,
    filter: Option<LogFilter>,
    omit_empty: bool,
    sink: Lines,
}

/// Sinks that are open, one writer thread for each. A sink stays open from one configuration to the
/// next.
#[derive(Debug, Default)]
pub(crate) struct Sinks {
    open: Vec<Open>,
    /// The number of them that were open before the configuration that is being built.
    before: usize,
    writers: Vec<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Open {
    sink: LogSink,
    lines: Lines,
    /// The configuration that is being built uses it.
    used: bool,
}

impl Sinks {
    /// The writer threads. They end, everything written, when the last logger is dropped.
    pub(crate) fn into_writers(self) -> Vec<thread::JoinHandle<()>> {
        self.writers
    }

    /// Begins a new configuration.
    pub(crate) fn begin(&mut self) {
        for open in &mut self.open {
            open.used = false;
        }
        self.before = self.open.len();
    }

    /// Lets go of what was opened since: nothing becomes of the configuration.
    pub(crate) fn abandon(&mut self) {
        self.open.truncate(self.before);
    }

    /// Lets go of what the configuration did not ask for. A sink closes with its last logger.
    pub(crate) fn sweep(&mut self) {
        self.open.retain(|open| open.used);
        self.writers.retain(|writer| !writer.is_finished());
    }

    /// Opens what `log` needs.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or no thread can be had.
    pub(crate) fn logger(&mut self, log: &AccessLog) -> io::Result<Arc<Logger>> {
        let known = self.open.iter_mut().find(|open| open.sink == log.sink);
        let sink = match known {
            Some(open) => {
                open.used = true;
                open.lines.clone()
            }
            None => {
                let (lines, writer) = Lines::new("access-log", open(&log.sink)?)?;
                self.writers.push(writer);
                self.open.push(Open {
                    sink: log.sink.clone(),
                    lines: lines.clone(),
                    used: true,
                });
                lines
            }
        };
        Ok(Arc::new(Logger {
            format: log.format.clone(),
            filter: log.filter.clone(),
            omit_empty: log.omit_empty,
            sink,
        }))
    }
}

fn open(sink: &LogSink) -> io::Result<Box<dyn Write + Send>> {
    Ok(match sink {
        LogSink::Stdout => Box::new(io::stdout()),
        LogSink::Stderr => Box::new(io::stderr()),
        LogSink::File(path) => Box::new(
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?,
        ),
    })
}

/// Writes an exchange's line to all logs of its listener.
pub(super) fn log(scope: &Scope<'_>) {
    let exchange = scope.exchange;
    let mut effort = Effort::default();
    for logger in &exchange.listener.logs {
        let wanted = logger
            .filter
            .as_ref()
            .is_none_or(|filter| passes(filter, scope, &mut effort));
        if wanted && !logger.sink.send(logger.line(scope).into_bytes()) {
            exchange.listener.stats.access_log_dropped.add();
        }
    }
}

/// Tells whether an exchange is to be logged.
fn passes(filter: &LogFilter, scope: &Scope<'_>, effort: &mut Effort) -> bool {
    let reply = scope.reply;
    match filter {
        LogFilter::And(all) => all.iter().all(|filter| passes(filter, scope, effort)),
        LogFilter::Or(some) => some.iter().any(|filter| passes(filter, scope, effort)),
        LogFilter::Status(wanted) => {
            wanted.holds(reply.status.map_or(0, |status| status.as_u16().into()))
        }
        LogFilter::Duration(wanted) => {
            let took = scope.exchange.start.elapsed().as_millis();
            wanted.holds(u64::try_from(took).unwrap_or(u64::MAX))
        }
        LogFilter::Fraction(share) => is_drawn(*share),
        LogFilter::Header(matcher) => {
            let value = scope
                .head
                .and_then(|head| head_field(&head.method, &head.uri, &head.headers, &matcher.name));
            route::field_matches(matcher, value, effort)
        }
        LogFilter::Flags(0) => reply.flags != 0,
        LogFilter::Flags(bits) => reply.flags & bits != 0,
        LogFilter::Grpc { statuses, exclude } => {
            let status = operators::grpc_status(scope);
            let named = status.is_some_and(|status| statuses.contains(&status));
            named != *exclude
        }
        LogFilter::Any => true,
    }
}

impl Logger {
    fn line(&self, scope: &Scope<'_>) -> String {
        match &self.format {
            LogFormat::Text(template) => {
                let mut line = String::with_capacity(256);
                scope.render(template, if self.omit_empty { "" } else { "-" }, &mut line);
                line
            }
            LogFormat::Json(template) => {
                let mut line = json(template, scope, self.omit_empty).to_string();
                line.push('\n');
                line
            }
        }
    }
}

fn json(template: &JsonTemplate, scope: &Scope<'_>, omit_empty: bool) -> serde_json::Value {
    match template {
        JsonTemplate::Text(template) => scope.json(template),
        JsonTemplate::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), json(value, scope, omit_empty)))
            .filter(|(_, value)| !(omit_empty && value.is_null()))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        JsonTemplate::List(items) => items
            .iter()
            .map(|item| json(item, scope, omit_empty))
            .collect::<Vec<_>>()
            .into(),
        JsonTemplate::Value(value) => value.clone(),
    }
}
