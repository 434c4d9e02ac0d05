//! The state of an ext_proc filter that `%FILTER_STATE(..)%` shows: the calls of its processor, phase by phase, as Envoy's `ExtProcLoggingInfo`.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use extproc_client::observer::{Effect, Phase};
use serde_json::{Map, Value};

/// Calls of one filter in one exchange.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// By [`Phase::index`].
    phases: [Option<Answered>; Phase::ALL.len()],
    effects: [u8; Phase::ALL.len()],
    /// The number of calls of a phase that wait for an answer, and since when the last one does.
    waiting: [Option<(u32, Instant)>; Phase::ALL.len()],
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) immediate: bool,
    failed_open: bool,
    /// The stream failed while the response waited.
    lost_response: bool,
    /// gRPC status of a stream that ended while nothing waited and nothing was answered.
    before_first_call: i32,
    /// The cluster of the processor.
    pub(crate) destination: String,
}

/// Calls of a phase that ended.
#[derive(Clone, Copy, Debug)]
struct Answered {
    count: u64,
    total: Duration,
    longest: Duration,
    /// gRPC status of the last one; of headers and trailers, of the first.
    status: i32,
}

/// The fields of headers and trailers, and of bodies, behind the name of the phase.
const FIELDS: [&str; 2] = ["_latency_us", "_call_status"];
const BODY_FIELDS: [&str; 4] = [
    "_call_count",
    "_total_latency_us",
    "_max_latency_us",
    "_last_call_status",
];

impl Calls {
    /// A message that is to be answered was sent.
    pub(crate) fn sent(&mut self, phase: Phase, now: Instant) {
        let waiting = &mut self.waiting[phase.index()];
        let before = waiting.map_or(0, |(count, _)| count);
        *waiting = Some((before + 1, now));
    }

    /// A reply was accepted; `latency` is unset where it answers no call that is timed, or is a failure.
    pub(crate) fn received(&mut self, phase: Phase, latency: Option<Duration>, effect: Effect) {
        let code = match effect {
            Effect::Applied => 1,
            Effect::Invalid => 2,
            Effect::TooLarge => 3,
            // Without an error it is no failure.
            Effect::Refused if latency.is_none() => 4,
            _ => 0,
        };
        let noted = &mut self.effects[phase.index()];
        *noted = code.max(*noted);
        if matches!(code, 0 | 1) {
            let waiting = &mut self.waiting[phase.index()];
            *waiting = waiting
                .filter(|(count, _)| *count > 1)
                .map(|(count, since)| (count - 1, since));
        }
        if let Some(latency) = latency {
            self.ended(phase, latency, 0);
        }
    }

    /// Time since the call was made that a reply to this phase answers.
    pub(crate) fn waited(&self, phase: Phase, now: Instant) -> Option<Duration> {
        let (_, since) = self.waiting[phase.index()]?;
        Some(now.saturating_duration_since(since))
    }

    /// All that waits ends with this gRPC status.
    pub(crate) fn end_waiting(&mut self, status: i32, now: Instant) {
        for phases in [&Phase::ALL[..3], &Phase::ALL[3..]] {
            let mut waiting = phases
                .iter()
                .filter_map(|phase| Some((*phase, self.waiting[phase.index()].take()?.1)));
            // The first one of its direction has the place of those that were sent without waiting for it.
            let first = waiting.next();
            waiting.for_each(drop);
            if let Some((phase, since)) = first {
                self.ended(phase, now.saturating_duration_since(since), status);
            }
        }
    }

    /// The stream failed with this gRPC status.
    pub(crate) fn failed(&mut self, status: i32, now: Instant) {
        self.lost_response = self.waiting[3..].iter().any(Option::is_some);
        let idle = self.waiting.iter().all(Option::is_none);
        if idle && self.phases.iter().all(Option::is_none) {
            self.before_first_call = status;
        }
        self.end_waiting(status, now);
    }

    /// The exchange goes on without the processor. As in Envoy, not noted where its stream failed with the response.
    pub(crate) fn fail_open(&mut self) {
        self.failed_open = !self.lost_response;
    }

    fn ended(&mut self, phase: Phase, latency: Duration, status: i32) {
        let known = &mut self.phases[phase.index()];
        match known {
            None => {
                *known = Some(Answered {
                    count: 1,
                    total: latency,
                    longest: latency,
                    status,
                });
            }
            Some(answered) if is_body(phase) => {
                answered.count += 1;
                answered.total += latency;
                answered.longest = answered.longest.max(latency);
                answered.status = status;
            }
            Some(_) => {}
        }
    }

    /// The value under `key` without its name, as `:PLAIN`, `:FIELD:name` and everything else asks for.
    pub(crate) fn show(&self, form: &str) -> Option<Value> {
        match form.split_once(':').unwrap_or((form, "")) {
            ("PLAIN", _) => Some(self.plain().into()),
            ("FIELD", name) => {
                let name = name.split(':').next().unwrap_or_default();
                let value = self.fields().find(|(field, _)| field == name)?.1;
                Some(match value {
                    Value::Bool(value) => u8::from(value).to_string().into(),
                    Value::Number(value) => value.to_string().into(),
                    other => other,
                })
            }
            _ => Some(self.fields().collect::<Map<_, _>>().into()),
        }
    }

    fn plain(&self) -> String {
        let mut out = String::new();
        for (phase, answered) in Phase::ALL.iter().zip(&self.phases) {
            let Some(answered) = answered else {
                continue;
            };
            let (total, status) = (micros(answered.total), answered.status);
            let name = match phase {
                Phase::RequestHeaders => "rh",
                Phase::RequestBody => "rb",
                Phase::RequestTrailers => "rt",
                Phase::ResponseHeaders => "sh",
                Phase::ResponseBody => "sb",
                _ => "st",
            };
            let _ = match is_body(*phase) {
                true => write!(out, "{name}:{}:{total}:{status},", answered.count),
                false => write!(out, "{name}:{total}:{status},"),
            };
        }
        let _ = write!(
            out,
            "bs:{},br:{},os:{},ds:{}",
            self.bytes_sent, self.bytes_received, self.before_first_call, self.destination
        );
        out
    }

    fn fields(&self) -> impl Iterator<Item = (String, Value)> {
        let phases = Phase::ALL.iter().zip(&self.phases);
        let phases = phases.flat_map(|(phase, answered)| {
            let name = name(*phase);
            let values = answered.map(|answered| {
                let (total, status) = (micros(answered.total), answered.status.into());
                match is_body(*phase) {
                    true => BODY_FIELDS
                        .iter()
                        .zip(vec![
                            answered.count.into(),
                            total.into(),
                            micros(answered.longest).into(),
                            status,
                        ])
                        .collect::<Vec<_>>(),
                    false => FIELDS.iter().zip(vec![total.into(), status]).collect(),
                }
            });
            values
                .into_iter()
                .flatten()
                .map(move |(field, value)| (format!("{name}{field}"), value))
        });
        let effects = Phase::ALL.iter().zip(self.effects).map(|(phase, effect)| {
            let name = format!("{}_processing_effect", name(*phase));
            (name, effect.into())
        });
        let others = [
            ("bytes_sent", self.bytes_sent.into()),
            ("bytes_received", self.bytes_received.into()),
            ("failed_open", self.failed_open.into()),
            ("received_immediate_response", self.immediate.into()),
            (
                "grpc_status_before_first_call",
                self.before_first_call.into(),
            ),
            ("destination", self.destination.as_str().into()),
        ];
        let others = others
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value));
        phases.chain(effects).chain(others)
    }
}

fn is_body(phase: Phase) -> bool {
    matches!(phase, Phase::RequestBody | Phase::ResponseBody)
}

/// The phase in names of fields, which have no plural.
fn name(phase: Phase) -> &'static str {
    let name = phase.name();
    name.strip_suffix('s').unwrap_or(name)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let mut calls = Calls::default();
        let now = Instant::now();
        let took = Duration::from_micros;
        calls.received(Phase::RequestHeaders, Some(took(7)), Effect::None);
        calls.received(Phase::RequestBody, Some(took(5)), Effect::None);
        calls.received(Phase::RequestBody, Some(took(3)), Effect::Applied);
        calls.received(Phase::RequestBody, None, Effect::Applied);
        calls.sent(Phase::ResponseTrailers, now);
        calls.end_waiting(4, now + took(2));
        calls.destination = "p".into();
        assert_eq!(calls.plain(), "rh:7:0,rb:2:8:0,st:2:4,bs:0,br:0,os:0,ds:p");
        let field = |name: &str| calls.show(&format!("FIELD:{name}"));
        assert_eq!(field("request_body_max_latency_us"), Some("5".into()));
        assert_eq!(field("request_body_processing_effect"), Some("1".into()));
        assert_eq!(field("response_trailer_call_status"), Some("4".into()));
        assert_eq!(field("failed_open"), Some("0".into()));
        assert_eq!(field("destination"), Some("p".into()));
        assert_eq!(field("request_trailer_call_status"), None);
        assert_eq!(
            calls.show("").and_then(|all| Some(all.as_object()?.len())),
            Some(20)
        );
        assert_eq!(calls.show(""), calls.show("TYPED"));
    }

    #[test]
    fn failure_before_any_call() {
        let mut calls = Calls::default();
        calls.failed(14, Instant::now());
        assert_eq!(calls.plain(), "bs:0,br:0,os:14,ds:");
    }
}
