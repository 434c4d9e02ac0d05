//! Causes of failures, in words that name what has to be changed.

use extproc_client::{
    BodyMode, ProcessingMode, SendMode,
    observer::{FailureRow, Phase},
    transport::Close,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    record::{Kind, Processor, State},
    redact::Redactor,
};

/// A reply that fits no message: what it answers, why that is out of place, and what a reply is awaited to.
pub(super) fn misfit(p: &Processor, detail: &str) -> String {
    let waits = waits(p);
    let Some(answered) = p.reply.and_then(|reply| reply.answers) else {
        return format!("the reply answers nothing; {waits}");
    };
    let Some(phase) = Phase::ALL
        .into_iter()
        .find(|phase| phase.name() == answered)
    else {
        return format!("the processor sent {answered} out of place ({detail}); {waits}");
    };
    let sent = p.phases[phase.index()] != State::NotSent;
    let (field, mode) = setting(&p.mode, phase);
    let why = match (sent, mode) {
        (false, Some(off)) => format!("which was not sent to it, as {field} is {off}"),
        (false, None) => "which was not sent to it".to_owned(),
        (true, _) if p.unanswered[phase.index()] == 0 => {
            "which had its answer already, or needs none".to_owned()
        }
        (true, _) => match form(&p.mode, phase) {
            Some(form) => format!("but {form}"),
            None => format!("in a form that does not fit ({detail})"),
        },
    };
    format!("the processor answered {answered}, {why}; {waits}")
}

/// Tells whether an entry of this kind may be the cause of a failure.
pub(super) fn explains(kind: Kind, row: FailureRow) -> bool {
    match row {
        FailureRow::Stream | FailureRow::HttpService | FailureRow::Spurious => {
            kind == Kind::Failure
        }
        FailureRow::Timeout => kind == Kind::Timeout,
        FailureRow::Mutation => kind == Kind::Refused,
        _ => false,
    }
}

/// The messages that a reply is awaited to.
fn waits(p: &Processor) -> String {
    let waiting: Vec<_> = Phase::ALL
        .into_iter()
        .filter(|phase| p.unanswered[phase.index()] > 0)
        .map(Phase::name)
        .collect();
    match waiting.as_slice() {
        [] => "no message waits for an answer".into(),
        [one] => format!("{one} waits for an answer"),
        all => format!("{} wait for an answer", all.join(" and ")),
    }
}

/// The field of the processing mode that says if a phase is sent, and its value if that is no.
fn setting(mode: &ProcessingMode, phase: Phase) -> (String, Option<String>) {
    let headers = |mode: SendMode| (mode == SendMode::Skip).then(|| word(mode));
    let trailers = |mode: SendMode| (mode != SendMode::Send).then(|| word(mode));
    let body = |mode: BodyMode| (mode == BodyMode::None).then(|| word(mode));
    let off = match phase {
        Phase::RequestHeaders => headers(mode.request_header_mode),
        Phase::RequestBody => body(mode.request_body_mode),
        Phase::RequestTrailers => trailers(mode.request_trailer_mode),
        Phase::ResponseHeaders => headers(mode.response_header_mode),
        Phase::ResponseBody => body(mode.response_body_mode),
        Phase::ResponseTrailers => trailers(mode.response_trailer_mode),
        _ => None,
    };
    let field = phase
        .name()
        .replace("headers", "header")
        .replace("trailers", "trailer");
    (format!("{field}_mode"), off)
}

/// The form that a body mode wants of a reply.
fn form(mode: &ProcessingMode, phase: Phase) -> Option<String> {
    let of = match phase {
        Phase::RequestBody => mode.request_body_mode,
        Phase::ResponseBody => mode.response_body_mode,
        _ => return None,
    };
    let wants = match of {
        BodyMode::FullDuplexStreamed | BodyMode::Grpc => "takes streamed_response alone",
        _ => "takes no streamed_response",
    };
    Some(format!("{}_mode {} {wants}", phase.name(), word(of)))
}

/// A mode by its name in the configuration.
fn word(mode: impl Serialize) -> String {
    json!(mode).as_str().unwrap_or_default().to_owned()
}

/// The end of a side stream, with the name of its status.
pub(super) fn ended(close: &Close, redactor: &mut Redactor<'_>) -> String {
    let mut text = format!("gRPC status {}", close.code());
    if let Some(name) = usize::try_from(close.code())
        .ok()
        .and_then(|code| STATUS.get(code))
    {
        text = format!("{text} ({name})");
    }
    for more in [close.cause(), close.message(), close.details()] {
        if !more.is_empty() {
            text = format!("{text}: {}", redactor.words(more));
        }
    }
    text
}

/// Names of gRPC statuses, by their number.
const STATUS: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The member of a reply that says what it answers.
pub(crate) fn answered(reply: &Value) -> Option<&'static str> {
    let phases = Phase::ALL.into_iter().map(Phase::name);
    phases
        .chain([
            "immediate_response",
            "streamed_immediate_response",
            "override_message_timeout",
            "mode_override",
        ])
        .find(|name| reply.get(name).is_some())
}
