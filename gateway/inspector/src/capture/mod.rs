//! Writes down what an observer is told.

mod causes;
mod parts;
mod replies;
mod scribe;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use extproc_client::{
    config::{GrpcTarget, Service},
    host::{HostFacts, Outcome},
    http::{Version, request, response},
    observer::{Event, HttpPart, Observer, Watched},
};
use serde_json::{Value, json};

pub(crate) use self::causes::answered;
use self::scribe::Scribe;
use crate::{
    Settings,
    record::{Attempt, Entrance, Passage, Processor, Record, State},
    redact::{Redactor, Secrets, without_userinfo},
    ring::{Ring, lock},
};

/// Bytes of a text that is kept, such as a path or a message of gRPC.
const TEXT: usize = 2048;

/// Most bytes that are kept of a body.
const BODY: usize = 1024 * 1024;

/// Attempts at an upstream that are kept.
const ATTEMPTS: usize = 32;

/// Keeps transcripts of exchanges. An observer for any number of layers.
#[derive(Debug)]
pub struct Inspector {
    pub(crate) settings: Settings,
    pub(crate) ring: Ring,
    /// Addresses of processors that the configuration names.
    processors: Mutex<Vec<String>>,
}

impl Inspector {
    /// Keeps as much as the settings say.
    pub fn new(mut settings: Settings) -> Self {
        settings.bodies = settings.bodies.min(BODY);
        Self {
            ring: Ring::new(settings.exchanges, settings.bytes),
            settings,
            processors: Mutex::default(),
        }
    }

    /// Names the processors, each as `HOST:PORT`, that recorded requests may be played to, in place of those named before.
    pub fn set_processors(&self, addresses: impl IntoIterator<Item = String>) {
        *lock(&self.processors) = addresses.into_iter().collect();
    }

    /// Addresses that recorded requests may be played to.
    pub(crate) fn targets(&self) -> Vec<String> {
        let mut all = lock(&self.processors).clone();
        let more = self.settings.replay.iter();
        all.extend(
            more.filter(|known| !is_one_of(&all, known))
                .cloned()
                .collect::<Vec<_>>(),
        );
        all
    }

    /// Tells whether a recorded request may be played to this address.
    pub(crate) fn may_play_to(&self, address: &str) -> bool {
        is_one_of(&self.targets(), address)
    }

    /// Returns whether an exchange that begins with this head is to be recorded.
    fn wants(&self, id: u64, line: &str) -> bool {
        let sampled = id.is_multiple_of(self.settings.one_in.max(1));
        let matches = |only: &String| line.contains(only.as_str());
        sampled && self.settings.only.as_ref().is_none_or(matches)
    }

    /// The record of this exchange, made if the exchange begins here.
    fn begin(&self, exchange: &Watched<'_>, head: &request::Parts) {
        let mut secrets = Secrets::default();
        let mut redactor = Redactor {
            names: &self.settings.redaction,
            secrets: &mut secrets,
        };
        redactor.learn_headers(&head.headers);
        let authority = head
            .uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| head.headers.get("host").and_then(|host| host.to_str().ok()))
            .unwrap_or_default();
        let authority = short(&redactor.url(without_userinfo(authority)));
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let path = short(&redactor.url(path));
        let shared = match self.ring.get(exchange.id) {
            Some(shared) => shared,
            None if self.wants(exchange.id, &format!("{} {authority} {path}", head.method)) => {
                let mut record = Record::new(exchange.id, head);
                record.authority = authority;
                record.path = path;
                record.secrets = secrets;
                let source = exchange.context.facts.source;
                record.client = source.map(|source| source.to_string()).unwrap_or_default();
                record.entrance = entrance(&exchange.context.facts);
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
        /// Bytes of a processor without entries: itself, its configuration as JSON, and 256 latencies.
        const PROCESSOR: usize = size_of::<Processor>() + 4096 + 256 * size_of::<(usize, u64)>();
        let mut record = lock(&shared);
        if record.size == 0 {
            return;
        }
        let more = PROCESSOR + 6 * TEXT;
        record.size += more;
        self.ring.add(more);
        record.done = false;
        let mut redactor = Redactor {
            names: &self.settings.redaction,
            secrets: &mut record.secrets,
        };
        let config = config(exchange, &mut redactor);
        record.processors.push(Processor {
            part: exchange.part,
            filter: exchange.filter.to_owned(),
            config,
            mode: *exchange.config.processing_mode(),
            phases: [State::NotSent; 6],
            unanswered: [0; 6],
            sent: 0,
            received: 0,
            wait_us: 0,
            latencies_us: Vec::new(),
            flags: Vec::new(),
            cause: None,
            refused: Vec::new(),
            reply: None,
            verdict: None,
            endpoint: None,
            reused: None,
            attempts: 0,
            ended_with: None,
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
            let mut all = record.processors.iter_mut();
            let Some(processor) = all.find(|p| p.part == exchange.part) else {
                return;
            };
            let mut scribe = Scribe {
                settings: &self.settings,
                redactor: Redactor {
                    names: &self.settings.redaction,
                    secrets: &mut record.secrets,
                },
                processor,
                at,
                size: 0,
                status: None,
                route: None,
                changed: false,
            };
            scribe.write(exchange, event);
            let (mut size, changed) = (scribe.size, scribe.changed);
            let (status, route) = (scribe.status, scribe.route);
            let secrets = record.secrets.size();
            let known = std::mem::replace(&mut record.secret_bytes, secrets);
            let forgotten = known.saturating_sub(secrets);
            size += secrets.saturating_sub(known);
            record.status = status.or(record.status);
            if let Some(route) = route {
                record.route = route;
            }
            if let Event::Arrived {
                part: HttpPart::Response(head),
                ..
            } = event
                && record.attempts.is_empty()
            {
                let mut redactor = Redactor {
                    names: &self.settings.redaction,
                    secrets: &mut record.secrets,
                };
                record.attempts = attempts(head, record.start, &mut redactor);
                size += record
                    .attempts
                    .iter()
                    .map(|attempt| attempt.text.len())
                    .sum::<usize>();
            }
            record.size = (record.size + size).saturating_sub(forgotten);
            record.done = record.processors.iter().all(|processor| processor.done);
            if record.is_over() {
                record.secrets = Secrets::default();
            }
            self.ring.add(size);
            self.ring.sub(forgotten);
            if changed {
                self.ring.changed(record);
            }
        }
        self.ring.make_room();
    }
}

/// Tells whether an address is among others. A name stands for itself, whatever it resolves to.
fn is_one_of(known: &[String], address: &str) -> bool {
    let same = |known: &String| match (known.parse::<SocketAddr>(), address.parse::<SocketAddr>()) {
        (Ok(known), Ok(address)) => known == address,
        _ => known.eq_ignore_ascii_case(address),
    };
    known.iter().any(same)
}

/// Facts of the connection that the request came on, if a gateway took it.
fn entrance(facts: &HostFacts) -> Option<Entrance> {
    let server_name = short(&facts.requested_server_name);
    Some(Entrance {
        address: facts.destination?,
        protocol: match facts.version {
            Some(Version::HTTP_10) => "HTTP/1.0",
            Some(Version::HTTP_2) => "HTTP/2",
            _ => "HTTP/1.1",
        },
        tls: facts.tls_version.is_some().then_some(server_name),
    })
}

/// Attempts at the upstream before the one that this is the response of.
fn attempts(head: &response::Parts, start: Instant, redactor: &mut Redactor<'_>) -> Vec<Attempt> {
    let info = Outcome::of_head(head).upstream.as_ref();
    let earlier = info.map(|info| info.earlier.as_slice()).unwrap_or_default();
    let numbered = earlier.iter().zip(1..).take(ATTEMPTS);
    numbered
        .map(|(attempt, number)| {
            let at = attempt
                .address
                .map(|at| format!(" at {at}"))
                .unwrap_or_default();
            Attempt {
                at_us: micros(attempt.ended.saturating_duration_since(start)),
                text: short(&redactor.words(&format!(
                    "attempt {number}{at}: {}, and another follows",
                    attempt.outcome
                ))),
            }
        })
        .collect()
}

/// The configuration as far as it explains what happens.
fn config(exchange: &Watched<'_>, redactor: &mut Redactor<'_>) -> Value {
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
        "processor": redactor.words(&target),
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
