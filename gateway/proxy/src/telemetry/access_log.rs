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
    config::snapshot::{AccessLog, LogFilter, LogFormat, LogSink},
    exchange::{log_filter::passes, operators::Scope},
    telemetry::{stats::HttpStats, writer::Lines},
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

/// Writes a line to all of `logs` that want it. Those that were too slow to take it are counted.
pub(crate) fn log(logs: &[Arc<Logger>], scope: &Scope<'_>, stats: Option<&HttpStats>) {
    let mut effort = Effort::default();
    for logger in logs {
        let wanted = logger
            .filter
            .as_ref()
            .is_none_or(|filter| passes(filter, scope, &mut effort));
        let line = || scope.line(&logger.format, logger.omit_empty);
        let sent = !wanted || logger.sink.send(line().into_bytes());
        if let Some(stats) = stats.filter(|_| !sent) {
            stats.access_log_dropped.add();
        }
    }
}
