//! Questions about scenarios.

use serde_json::Value;

use crate::conformance::scenario::Scenario;
use crate::support::client::ClientScript;
use crate::support::processor::{Action, Answer, Answers, ProcessorScript, SetField, Step, Word};
use crate::support::script::{Body, Field, Part, Payload, split_line};
use crate::support::upstream::UpstreamScript;

/// A direction of an exchange.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Request,
    Response,
}

impl Side {
    pub(super) fn body_mode(self) -> &'static str {
        match self {
            Self::Request => "request_body_mode",
            Self::Response => "response_body_mode",
        }
    }

    pub(super) fn trailer_mode(self) -> &'static str {
        match self {
            Self::Request => "request_trailer_mode",
            Self::Response => "response_trailer_mode",
        }
    }

    pub(super) fn header_mode(self) -> &'static str {
        match self {
            Self::Request => "request_header_mode",
            Self::Response => "response_header_mode",
        }
    }
}

pub(super) fn client(scenario: &Scenario, is: impl Fn(&ClientScript) -> bool) -> bool {
    scenario.clients.iter().any(is)
}

pub(super) fn upstream(scenario: &Scenario, is: impl Fn(&UpstreamScript) -> bool) -> bool {
    scenario.upstreams.values().any(is)
}

/// The type of a configuration that says of a filter only whether it is on.
pub(super) const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

/// Tells whether a route may be selected again.
pub(super) fn clears_the_route(source: &Value) -> bool {
    mentions(&source["processor"], "clear_route_cache") || mentions_word(source, "CLEAR")
}

/// Tells whether a body ends apart from its last bytes.
pub(super) fn ends_with_pause(body: &Body) -> bool {
    matches!(body.parts().last(), Some(Part::Pause { .. }))
}

/// Tells whether a body has a part without a byte.
pub(super) fn has_empty_part(body: &Body) -> bool {
    let parts = body.parts();
    parts
        .iter()
        .any(|part| part.data().is_some_and(|data| data.is_empty()))
}

/// Tells whether a processing mode is like that, wherever it is set.
pub(super) fn has_mode(scenario: &Scenario, is: impl Fn(&Value) -> bool) -> bool {
    modes(&scenario.source).into_iter().any(is)
}

pub(super) fn modes(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, item)| match name.as_str() {
                "processing_mode" | "mode_override" => vec![item],
                _ => modes(item),
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(modes).collect(),
        _ => Vec::new(),
    }
}

/// Tells whether a filter has a body whose head went on without it, while another filter may hold that.
pub(super) fn gathers_beside_a_held_head(scenario: &Scenario, side: Side) -> bool {
    !scenario.spec.more_filters.is_empty()
        && has_mode(scenario, |mode| {
            let body = mode[side.body_mode()].as_str().unwrap_or("NONE");
            body != "NONE" && mode[side.header_mode()] == "SKIP"
        })
}

/// The script and those for single streams.
pub(super) fn scripts(script: &ProcessorScript) -> impl Iterator<Item = &ProcessorScript> {
    std::iter::once(script).chain(&script.streams)
}

/// Tells whether a processor closes its stream where it was given a body.
pub(super) fn closes_behind_a_body(script: &ProcessorScript) -> bool {
    let closes = |answer: &Answer| {
        let mut steps = answer.steps().iter();
        steps.any(|step| matches!(step, Step::Word(Word::Close)))
    };
    let answers = [
        &script.request_body,
        &script.request_trailers,
        &script.response_headers,
        &script.response_body,
        &script.response_trailers,
    ];
    answers
        .into_iter()
        .flat_map(Answers::all)
        .chain(&script.after)
        .any(closes)
}

/// Tells whether some step of the processors is like that.
pub(super) fn action(scenario: &Scenario, is: fn(&Action) -> bool) -> bool {
    script_has(&scenario.spec.processor, is)
}

pub(super) fn script_has(script: &ProcessorScript, is: fn(&Action) -> bool) -> bool {
    let of_kinds = [
        &script.request_headers,
        &script.request_body,
        &script.request_trailers,
        &script.response_headers,
        &script.response_body,
        &script.response_trailers,
    ];
    let others = std::iter::once(&script.open).chain(&script.after);
    of_kinds.into_iter().flat_map(steps).any(is)
        || others.flat_map(actions).any(is)
        || script.streams.iter().any(|script| script_has(script, is))
}

/// The steps with parameters of the answers to one kind of message.
pub(super) fn steps(answers: &Answers) -> impl Iterator<Item = &Action> {
    answers.all().iter().flat_map(actions)
}

pub(super) fn actions(answer: &Answer) -> impl Iterator<Item = &Action> {
    answer.steps().iter().filter_map(|step| match step {
        Step::Action(action) => Some(&**action),
        Step::Word(_) => None,
    })
}

/// Tells whether a request has a body or trailers.
pub(super) fn has_content(client: &ClientScript) -> bool {
    !client.body.parts().is_empty() || client.trailers.is_some() || client.half_open
}

/// Tells whether a request asks for another protocol (RFC 9110 §7.8).
pub(super) fn asks_for_upgrade(client: &ClientScript) -> bool {
    has_field(&client.headers, "upgrade") && has_field(&client.headers, "connection")
}

/// Tells whether a processor sends several replies without a pause between them.
pub(super) fn acts_at_once(script: &Value) -> bool {
    match script {
        Value::Array(steps) => {
            let acts = |step: &Value| step.get("sleep").is_none();
            steps.iter().any(|step| match step {
                // A list in a list is what is done with one message.
                Value::Array(steps) => steps.windows(2).any(|two| two.iter().all(acts)),
                step => acts_at_once(step),
            })
        }
        Value::Object(map) => map.values().any(acts_at_once),
        _ => false,
    }
}

pub(in super::super) fn has_field(fields: &[Field], name: &str) -> bool {
    fields.iter().any(|field| field.pair().0 == name)
}

/// Tells whether a reply takes all bytes out of a body, of which the next filter gets a piece without any.
pub(super) fn empties_a_body(action: &Action) -> bool {
    let replies = [&action.reply, &action.request_body, &action.response_body];
    replies.into_iter().flatten().any(|common| {
        let bodies = common.body.iter().chain(&common.stream);
        common.clear_body == Some(true) || bodies.into_iter().any(|body| body.bytes().is_empty())
    })
}

/// Tells whether it makes a response one that has no body.
pub(super) fn makes_bodyless(action: &Action) -> bool {
    let immediate = action.immediate.as_ref().and_then(|i| i.status);
    immediate.is_some_and(|status| status == 204 || status == 304)
        || sets(action, |name, value| {
            name == ":status" && (value == b"204" || value == b"304")
        })
}

/// Names of random scenarios that no trailer section holds.
pub(super) const NOT_IN_TRAILERS: [&str; 4] = ["content-type", "cookie", "host", "set-cookie"];

/// Tells whether a reply sets such a field.
pub(super) fn sets(action: &Action, is: impl Fn(&str, &[u8]) -> bool) -> bool {
    let replies = [
        &action.reply,
        &action.request_headers,
        &action.request_body,
        &action.request_trailers,
        &action.response_headers,
        &action.response_body,
        &action.response_trailers,
    ];
    let immediate = action.immediate.iter().flat_map(|i| &i.set);
    let fields = replies.into_iter().flatten().flat_map(|common| &common.set);
    fields.chain(immediate).any(|field| match field {
        SetField::Line(line) => {
            let (name, value) = split_line(line);
            is(name, value.as_bytes())
        }
        SetField::Full(full) => {
            let value = full.value.as_ref().map(Payload::bytes).unwrap_or_default();
            is(&full.name, &value)
        }
    })
}

/// Tells whether a reply to headers of this side sets such a field.
pub(super) fn heads_set(
    script: &ProcessorScript,
    side: Side,
    is: &dyn Fn(&str, &[u8]) -> bool,
) -> bool {
    let heads = match side {
        Side::Request => &script.request_headers,
        Side::Response => &script.response_headers,
    };
    steps(heads).any(|action| sets(action, is))
        || script
            .streams
            .iter()
            .any(|script| heads_set(script, side, is))
}

/// Tells whether this text stands somewhere as a value.
pub(super) fn mentions_word(script: &Value, word: &str) -> bool {
    match script {
        Value::String(text) => text == word,
        Value::Array(items) => items.iter().any(|item| mentions_word(item, word)),
        Value::Object(map) => map.values().any(|item| mentions_word(item, word)),
        _ => false,
    }
}

/// Tells whether a key is there, however deep.
pub(in super::super) fn mentions(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.contains_key(key) || map.values().any(|item| mentions(item, key)),
        Value::Array(items) => items.iter().any(|item| mentions(item, key)),
        _ => false,
    }
}
