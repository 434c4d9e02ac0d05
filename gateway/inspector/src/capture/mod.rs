//! Writes down what an observer is told.

mod parts;
mod replies;
mod scribe;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use extproc_client::{
    config::{GrpcTarget, Service},
    http::request,
    observer::{Event, HttpPart, Observer, Watched},
};
use serde_json::{Value, json};

use self::scribe::Scribe;
use crate::{
    Settings,
    record::{Passage, Processor, Record, State},
    redact::without_userinfo,
    ring::{Ring, lock},
};

/// Bytes of a text that is kept, such as a path or a message of gRPC.
const TEXT: usize = 2048;

/// Keeps transcripts of exchanges. An observer for any number of layers.
#[derive(Debug)]
pub struct Inspector {
    pub(crate) settings: Settings,
    pub(crate) ring: Ring,
}

impl Inspector {
    /// Keeps as much as the settings say.
    pub fn new(settings: Settings) -> Self {
        Self {
            ring: Ring::new(settings.exchanges, settings.bytes),
            settings,
        }
    }

    /// Whether an exchange that begins with this head is to be recorded.
    fn wants(&self, id: u64, line: &str) -> bool {
        let sampled = id.is_multiple_of(self.settings.one_in.max(1));
        let matches = |only: &String| line.contains(only.as_str());
        sampled && self.settings.only.as_ref().is_none_or(matches)
    }

    /// The record of this exchange, made if the exchange begins here.
    fn begin(&self, exchange: &Watched<'_>, head: &request::Parts) {
        let redaction = &self.settings.redaction;
        let authority = head
            .uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| head.headers.get("host").and_then(|host| host.to_str().ok()))
            .unwrap_or_default();
        let authority = short(without_userinfo(authority));
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = short(&redaction.url(path));
        let shared = match self.ring.get(exchange.id) {
            Some(shared) => shared,
            None if self.wants(exchange.id, &format!("{} {authority} {path}", head.method)) => {
                let mut record = Record::new(exchange.id, head);
                record.authority = authority;
                record.path = path;
                let source = exchange.context.facts.source;
                record.client = source.map(|source| source.to_string()).unwrap_or_default();
                if let Some(host) = &exchange.context.host {
                    let facts = host.route_facts();
                    record.route = match facts.route_name.is_empty() {
                        true => facts.virtual_host_name.clone(),
                        false => facts.route_name.clone(),
                    };
                }
                self.ring.insert(record)
            }
            None => {
                self.ring.skipped.fetch_add(1, Ordering::Relaxed);
                return;
            }
        };
        /// Bytes of a processor without entries.
        const PROCESSOR: usize = 1024;
        let mut record = lock(&shared);
        if record.size == 0 {
            return;
        }
        record.size += PROCESSOR;
        self.ring.add(PROCESSOR);
        record.done = false;
        record.processors.push(Processor {
            filter: exchange.filter.to_owned(),
            config: config(exchange),
            phases: [State::NotSent; 6],
            sent: 0,
            received: 0,
            wait_us: 0,
            latencies_us: Vec::new(),
            flags: Vec::new(),
            verdict: None,
            endpoint: None,
            reused: None,
            attempts: 0,
            closed: None,
            request: Passage::default(),
            response: Passage::default(),
            entries: Vec::new(),
            omitted: 0,
            done: false,
            settings: exchange.config.clone(),
        });
    }
}

impl Observer for Inspector {
    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        if let Event::Arrived {
            part: HttpPart::Request(head),
            ..
        } = event
        {
            self.begin(exchange, head);
        }
        let Some(shared) = self.ring.get(exchange.id) else {
            return;
        };
        {
            let mut guard = lock(&shared);
            let record = &mut *guard;
            // One that made room meanwhile.
            if record.size == 0 {
                return;
            }
            let at = micros(record.start.elapsed());
            record.total_us = at;
            // A filter's name may stand in a chain twice; the later one is the inner one until it is done.
            let of_filter = |p: &&mut Processor| p.filter == exchange.filter;
            let mut all = record.processors.iter_mut().filter(of_filter);
            let Some(processor) = all.next_back() else {
                return;
            };
            let mut scribe = Scribe {
                settings: &self.settings,
                processor,
                at,
                size: 0,
                status: None,
                route: None,
                changed: false,
            };
            scribe.write(exchange, event);
            let (size, changed) = (scribe.size, scribe.changed);
            let (status, route) = (scribe.status, scribe.route);
            record.status = status.or(record.status);
            if let Some(route) = route {
                record.route = route;
            }
            record.size += size;
            record.done = record.processors.iter().all(|processor| processor.done);
            self.ring.add(size);
            if changed {
                self.ring.changed(record);
            }
        }
        self.ring.make_room();
    }
}

/// The configuration as far as it explains what happens.
fn config(exchange: &Watched<'_>) -> Value {
    let config = exchange.config;
    let target = match config.service() {
        Service::Grpc(service) => match &service.target {
            GrpcTarget::Cluster { name, .. } => format!("cluster {name}"),
            GrpcTarget::Uri { target } => target.clone(),
            _ => String::new(),
        },
        Service::Http(service) => service.uri.to_string(),
        _ => String::new(),
    };
    json!({
        "processor": target,
        "processing_mode": config.processing_mode(),
        "message_timeout_us": micros(config.message_timeout()),
        "failure_mode_allow": config.failure_mode_allow(),
        "observability_mode": config.observability_mode(),
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// No more of a text than is worth keeping.
fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// An inspector that keeps one exchange, for a replay.
pub(crate) fn of_one(settings: &Settings) -> Arc<Inspector> {
    Arc::new(Inspector::new(Settings {
        exchanges: 1,
        one_in: 1,
        only: None,
        ..settings.clone()
    }))
}
