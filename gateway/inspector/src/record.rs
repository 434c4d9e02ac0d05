//! The transcript of one exchange.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::{FilterConfig, ProcessingMode, http};
use serde::{Serialize, Serializer};
use serde_json::{Value, json, value::RawValue};

use crate::{printed, redact::Secrets};

/// A header. JSON has it as `[name, value]`, and as `[name, value, base64]` where the value is no UTF-8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) value: String,
    /// The bytes of a value that is no UTF-8.
    pub(crate) raw: Option<Box<[u8]>>,
}

impl Field {
    pub(crate) fn text(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            value: value.into(),
            raw: None,
        }
    }

    /// The value as it came.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.raw.as_deref().unwrap_or(self.value.as_bytes())
    }

    /// Bytes of its texts.
    pub(crate) fn len(&self) -> usize {
        let raw = self.raw.as_ref().map_or(0, |raw| raw.len() + ALLOCATION);
        self.name.len() + self.value.len() + raw
    }
}

impl Serialize for Field {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.raw {
            None => (&self.name, &self.value).serialize(serializer),
            Some(raw) => (&self.name, &self.value, STANDARD.encode(raw)).serialize(serializer),
        }
    }
}

/// Facts of the connection on which a gateway took the request.
#[derive(Debug, Serialize)]
pub(crate) struct Entrance {
    /// Address of the gateway.
    pub(crate) address: SocketAddr,
    pub(crate) protocol: &'static str,
    /// The server name that the client asked for in its TLS handshake, which may be empty; absent without TLS.
    pub(crate) tls: Option<String>,
}

/// One exchange with all its processors, the one nearest to the client first.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    pub(crate) id: u64,
    /// Number of its last change.
    pub(crate) version: u64,
    /// Milliseconds since 1970.
    pub(crate) time: u64,
    pub(crate) client: String,
    /// Absent without a gateway, in a program that has the layer for itself.
    pub(crate) entrance: Option<Entrance>,
    pub(crate) method: String,
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) route: String,
    pub(crate) status: Option<u16>,
    /// Microseconds from the first event to the last.
    pub(crate) total_us: u64,
    pub(crate) done: bool,
    pub(crate) processors: Vec<Processor>,
    /// Attempts at an upstream that were followed by others.
    pub(crate) attempts: Vec<Attempt>,
    /// Values that are taken out of whatever comes, until nothing more can.
    #[serde(skip)]
    pub(crate) secrets: Secrets,
    /// Bytes of them that are in `size`.
    #[serde(skip)]
    pub(crate) secret_bytes: usize,
    #[serde(skip)]
    pub(crate) start: Instant,
    /// Bytes that it takes, by estimate.
    #[serde(skip)]
    pub(crate) size: usize,
}

/// An attempt at an upstream that was followed by another.
#[derive(Debug, Serialize)]
pub(crate) struct Attempt {
    /// Microseconds from the beginning of the exchange to its end.
    pub(crate) at_us: u64,
    pub(crate) text: String,
}

/// The part of one filter.
#[derive(Debug, Serialize)]
pub(crate) struct Processor {
    /// Number of the filter's part in the exchange.
    #[serde(skip)]
    pub(crate) part: u64,
    pub(crate) filter: String,
    pub(crate) config: Value,
    /// The processing mode that holds, overrides included.
    pub(crate) mode: ProcessingMode,
    pub(crate) phases: [State; 6],
    /// Messages of each phase without a reply.
    #[serde(skip)]
    pub(crate) unanswered: [u32; 6],
    pub(crate) sent: u32,
    pub(crate) received: u32,
    /// Microseconds in which a reply was awaited.
    pub(crate) wait_us: u64,
    pub(crate) latencies_us: Vec<(usize, u64)>,
    pub(crate) flags: Vec<&'static str>,
    /// The last thing that may turn out to be the cause of a failure, in words.
    #[serde(skip)]
    pub(crate) cause: Option<(Kind, String)>,
    /// Headers whose changes were refused; as many as are worth naming.
    #[serde(skip)]
    pub(crate) refused: Vec<String>,
    /// The last reply.
    #[serde(skip)]
    pub(crate) reply: Option<LastReply>,
    /// The failure in words, if there was one.
    pub(crate) verdict: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) reused: Option<bool>,
    pub(crate) attempts: u32,
    /// The gRPC status with which the side stream failed, and its message.
    #[serde(skip)]
    pub(crate) ended_with: Option<(i32, String)>,
    /// The end of the side stream in words.
    pub(crate) closed: Option<String>,
    pub(crate) request: Passage,
    pub(crate) response: Passage,
    pub(crate) entries: Vec<Entry>,
    /// Entries that there was no room for.
    pub(crate) omitted: u64,
    pub(crate) done: bool,
    /// ProtoJSON of the filter without its service.
    #[serde(serialize_with = "settings_json")]
    pub(crate) settings: Arc<FilterConfig>,
}

fn settings_json<S: Serializer>(settings: &FilterConfig, serializer: S) -> Result<S::Ok, S::Error> {
    settings.settings_json().serialize(serializer)
}

/// Facts of a reply, for what is told of it next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastReply {
    /// The member that says what it answers.
    pub(crate) answers: Option<&'static str>,
    /// It has a new body.
    pub(crate) replaces_body: bool,
}

/// One direction of a message before and after a filter.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Passage {
    pub(crate) before: Message,
    pub(crate) after: Message,
}

/// A message as far as it was seen.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Message {
    /// Request line or status, and headers; absent if the head did not come by.
    pub(crate) head: Option<Vec<Field>>,
    pub(crate) bytes: u64,
    /// Sizes of the pieces in which the body came.
    pub(crate) pieces: Vec<u64>,
    /// The beginning of the body, as base64.
    pub(crate) body: String,
    pub(crate) trailers: Option<Vec<Field>>,
    pub(crate) end: bool,
}

/// State of a phase, for the strip of six.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    #[default]
    NotSent,
    Waiting,
    Unchanged,
    Changed,
    Refused,
    Answered,
    TimedOut,
    Failed,
    FailedOpen,
}

/// Something that happened.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    /// Microseconds since the exchange began.
    pub(crate) at_us: u64,
    pub(crate) kind: Kind,
    pub(crate) phase: Option<&'static str>,
    pub(crate) text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_us: Option<u64>,
}

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// From the client.
    RequestIn,
    /// To the upstream.
    RequestOut,
    /// From the upstream.
    ResponseIn,
    /// To the client.
    ResponseOut,
    /// To the processor.
    Sent,
    /// From the processor.
    Reply,
    Header,
    Refused,
    Mode,
    Stream,
    Timeout,
    Failure,
    Note,
}

impl Record {
    pub(crate) fn new(id: u64, head: &http::request::Parts) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            id,
            version: 0,
            time: now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX)),
            client: String::new(),
            entrance: None,
            method: head.method.to_string(),
            authority: String::new(),
            path: String::new(),
            route: String::new(),
            status: None,
            total_us: 0,
            done: false,
            processors: Vec::new(),
            attempts: Vec::new(),
            secrets: Secrets::default(),
            secret_bytes: 0,
            start: Instant::now(),
            size: size_of::<Self>() + ALLOCATION * 8,
        }
    }

    /// Returns whether something went wrong.
    pub(crate) fn has_problem(&self) -> bool {
        self.processors.iter().any(|p| {
            p.verdict.is_some()
                || p.flags
                    .iter()
                    .any(|flag| !matches!(*flag, "answered" | "mode"))
        })
    }

    /// True when nothing more comes: the end of a side stream may follow that of its exchange.
    pub(crate) fn is_over(&self) -> bool {
        let mut all = self.processors.iter();
        self.done && all.all(|p| p.closed.is_some() || p.sent == 0)
    }

    /// One line of the list.
    pub(crate) fn summary(&self) -> Value {
        let processors: Vec<Value> = self
            .processors
            .iter()
            .map(|p| {
                json!({
                    "filter": p.filter,
                    "phases": p.phases,
                    "sent": p.sent,
                    "received": p.received,
                    "wait_us": p.wait_us,
                    "latencies_us": p.latencies_us,
                    "flags": p.flags,
                    "verdict": p.verdict,
                })
            })
            .collect();
        let first = self.processors.first();
        json!({
            "id": self.id,
            "version": self.version,
            "time": self.time,
            "method": self.method,
            "authority": self.authority,
            "path": self.path,
            "route": self.route,
            "status": self.status,
            "total_us": self.total_us,
            "request_bytes": first.map_or(0, |p| p.request.before.bytes),
            "response_bytes": first.map_or(0, |p| p.response.after.bytes),
            "done": self.done,
            "problem": self.has_problem(),
            "processors": processors,
        })
    }

    /// For a terminal. What comes from peers stays in its line.
    pub(crate) fn text(&self) -> String {
        use std::fmt::Write as _;
        let status = self
            .status
            .map_or_else(|| "-".to_owned(), |status| status.to_string());
        let mut out = format!(
            "#{} {} {}{} -> {status} in {} ms\n",
            self.id,
            printed::line(&self.method),
            printed::line(&self.authority),
            printed::line(&self.path),
            millis(self.total_us)
        );
        for attempt in &self.attempts {
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "  {:>9} ms upstream <-     {}",
                millis(attempt.at_us),
                printed::line(&attempt.text)
            );
        }
        for p in &self.processors {
            let _ = writeln!(out, "  {}", printed::line(&p.filter));
            for entry in &p.entries {
                let latency = entry
                    .latency_us
                    .map(|us| format!(" (waited {} ms)", millis(us)))
                    .unwrap_or_default();
                let sign = match entry.kind {
                    Kind::RequestIn => "client -> ",
                    Kind::RequestOut => "-> upstream",
                    Kind::ResponseIn => "upstream <-",
                    Kind::ResponseOut => "<- client",
                    Kind::Sent => "  -> processor",
                    Kind::Reply => "  <- processor",
                    Kind::Refused | Kind::Failure | Kind::Timeout => "  !!",
                    _ => "  ..",
                };
                let at = millis(entry.at_us);
                let text = printed::line(&entry.text);
                let _ = writeln!(out, "  {at:>9} ms {sign:<15} {text}{latency}");
            }
            if p.omitted > 0 {
                let _ = writeln!(out, "  and {} more that are not kept", p.omitted);
            }
            if let Some(verdict) = &p.verdict {
                let _ = writeln!(out, "  verdict: {}", printed::line(verdict));
            }
        }
        out
    }

    /// The whole as JSON, in one line.
    pub(crate) fn json(&self) -> String {
        printed::json(serde_json::to_string(self).unwrap_or_default())
    }
}

/// Bytes that an allocation takes beside those that were asked for.
pub(crate) const ALLOCATION: usize = 16;

fn millis(us: u64) -> String {
    format!("{}.{:03}", us / 1000, us % 1000)
}

impl Processor {
    pub(crate) fn flag(&mut self, flag: &'static str) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }

    /// The phase that was sent last and is not answered.
    pub(crate) fn waiting(&mut self) -> Option<&mut State> {
        self.phases
            .iter_mut()
            .rev()
            .find(|state| **state == State::Waiting)
    }
}
