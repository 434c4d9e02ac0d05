//! The differences on purpose that random scenarios meet, each as narrow as its entry in
//! `docs/differences-from-envoy.md`: the scenarios in which it shows, and the places of an observation where it may.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::conformance::compare::{Difference, matches};
use crate::conformance::scenario::Scenario;
use crate::support::client::ClientScript;
use crate::support::processor::{Action, Answer, Answers, ProcessorScript, SetField, Step};
use crate::support::script::{Field, Payload, Protocol, split_line};
use crate::support::upstream::{ResetAt, ResponseFraming, UpstreamScript};

/// A difference on purpose.
#[derive(Debug)]
pub struct Known {
    /// The anchor of its entry.
    pub anchor: &'static str,
    /// The scenarios in which it shows.
    pub shows_in: fn(&Scenario) -> bool,
    /// The places where it shows, as in `compare.skip`.
    pub places: &'static [&'static str],
}

/// A direction of an exchange.
#[derive(Debug, Clone, Copy)]
enum Side {
    Request,
    Response,
}

/// All of them.
pub const KNOWN: [Known; 30] = [
    Known {
        anchor: "interim-responses",
        shows_in: |s| upstream(s, |u| u.informational.iter().any(|info| info.status != 100)),
        places: &["client/*/informational"],
    },
    Known {
        anchor: "expect-continue",
        shows_in: |s| client(s, |c| has_field(&c.headers, "expect")),
        places: &["client/*/informational"],
    },
    Known {
        anchor: "expect-continue",
        shows_in: |s| client(s, |c| has_field(&c.headers, "expect")),
        places: &[
            "processor/*/request/*/attributes/*/response.code",
            "processor/*/request/*/attributes/*/response.grpc_status",
        ],
    },
    Known {
        anchor: "expect-continue",
        shows_in: |s| {
            // Of a client that leaves, the log shows the 100.
            client(s, |c| {
                has_field(&c.headers, "expect") && (c.half_open || c.cancel.is_some())
            })
        },
        places: &["log"],
    },
    Known {
        anchor: "empty-frames",
        shows_in: |s| {
            client(s, |c| {
                c.protocol == Protocol::Http2 && c.trailers.is_some() && c.body.size() == 0
            }) || upstream(s, |u| {
                let empty = u.echo || u.body.size() == 0;
                u.protocol == Protocol::Http2 && u.trailers.is_some() && empty
            })
        },
        places: &["processor", "counters"],
    },
    Known {
        anchor: "no-content",
        shows_in: |s| action(s, makes_bodyless),
        places: &[
            "client/*/head/content-length",
            "client/*/head/transfer-encoding",
            "client/*/body",
            "processor/*/response/*/eos",
        ],
    },
    Known {
        anchor: "head-framing",
        shows_in: |s| client(s, |c| c.method == "HEAD"),
        places: &[
            "client/*/head/content-length",
            "client/*/head/transfer-encoding",
            "client/*/body",
        ],
    },
    Known {
        anchor: "head-framing",
        shows_in: |s| client(s, |c| c.method == "HEAD") && action(s, |a| a.local.is_some()),
        places: &["counters", "log"],
    },
    Known {
        anchor: "te-is-of-one-hop",
        shows_in: |s| {
            client(s, |c| has_field(&c.headers, "te"))
                && upstream(s, |u| u.protocol == Protocol::Http1)
        },
        places: &["upstream/*/head/connection", "upstream/*/head/te"],
    },
    Known {
        anchor: "pseudo-headers-of-the-other-direction",
        shows_in: |s| {
            let status = |name: &str, _: &[u8]| name == ":status";
            heads_set(&s.spec.processor, Side::Request, &status)
        },
        places: &["*"],
    },
    Known {
        anchor: "pseudo-headers-of-the-other-direction",
        shows_in: |s| {
            let foreign = |name: &str, _: &[u8]| name.starts_with(':') && name != ":status";
            heads_set(&s.spec.processor, Side::Response, &foreign)
        },
        places: &[
            "processor/*/response/*/headers/:authority",
            "processor/*/response/*/headers/:method",
            "processor/*/response/*/headers/:path",
            "processor/*/response/*/headers/:scheme",
            "processor/*/response/*/headers/host",
        ],
    },
    Known {
        anchor: "trailer-fields",
        shows_in: |s| action(s, |a| sets(a, |name, _| NOT_IN_TRAILERS.contains(&name))),
        places: &[
            "*/*/trailers/content-type",
            "*/*/trailers/cookie",
            "*/*/trailers/host",
            "*/*/trailers/set-cookie",
        ],
    },
    Known {
        anchor: "unasked-101",
        shows_in: |s| upstream(s, |u| u.status == 101) && !client(s, asks_for_upgrade),
        places: &["*"],
    },
    Known {
        anchor: "lost-processor-connections",
        shows_in: |s| {
            !s.spec.more_filters.is_empty() && mentions_word(&s.source["processor"], "abort")
        },
        places: &["processor", "counters", "client", "log"],
    },
    Known {
        anchor: "status-of-local-replies",
        shows_in: |s| s.source.to_string().contains("%RESPONSE_CODE%\"}"),
        places: &[
            "client/*/head/x-vhost",
            "processor/*/response/*/headers/x-vhost",
        ],
    },
    Known {
        anchor: "connection-close",
        shows_in: |s| s.spec.limits.listener.is_some(),
        places: &["client/*/head/connection"],
    },
    Known {
        anchor: "connection-close",
        shows_in: |s| {
            let answers = ["direct_response", "redirect"];
            answers.iter().any(|action| mentions(&s.source, action))
                && client(s, |c| c.protocol == Protocol::Http1 && has_content(c))
        },
        places: &["client/*/head/connection"],
    },
    Known {
        anchor: "announced-length",
        shows_in: |s| {
            let other = |name: &str, value: &[u8]| {
                let own = |length: usize| length.to_string().as_bytes() != value;
                name == "content-length" && client(s, |c| own(c.body.size()))
            };
            heads_set(&s.spec.processor, Side::Request, &other)
        },
        places: &["*"],
    },
    Known {
        anchor: "announced-length",
        shows_in: |s| {
            let other = |name: &str, value: &[u8]| {
                let own = |length: usize| length.to_string().as_bytes() != value;
                name == "content-length" && upstream(s, |u| own(u.body.size()))
            };
            heads_set(&s.spec.processor, Side::Response, &other)
        },
        places: &["client", "log", "processor/*/response", "counters"],
    },
    Known {
        anchor: "last-piece",
        shows_in: |s| {
            client(s, |c| {
                c.protocol == Protocol::Http2
                    && has_field(&c.headers, "content-length")
                    && (c.half_open || c.cancel.is_some())
            })
        },
        places: &["*"],
    },
    Known {
        anchor: "last-piece",
        shows_in: |s| {
            upstream(s, |u| {
                let cut = u.reset == Some(ResetAt::AfterBody);
                cut && (has_field(&u.headers, "content-length")
                    || u.framing == ResponseFraming::Length)
            })
        },
        places: &["client", "log", "processor/*/response", "counters"],
    },
    Known {
        anchor: "reset-no-content",
        shows_in: |s| {
            upstream(s, |u| {
                u.reset.is_some() && (u.status == 204 || u.status == 304)
            })
        },
        places: &["client/*/end", "log"],
    },
    Known {
        anchor: "unfinished-bodies",
        shows_in: |s| {
            mentions_word(&s.source, "FULL_DUPLEX_STREAMED")
                && mentions_word(&s.source["processor"], "close")
                && mentions(&s.source["processor"], "stream")
        },
        places: &["client", "upstream", "processor", "counters", "log"],
    },
    Known {
        anchor: "http-service-failures",
        shows_in: |s| mentions(&s.source, "http_service"),
        places: &["client", "upstream", "counters", "log"],
    },
    Known {
        anchor: "answers-ahead",
        shows_in: |s| {
            let of_requests = |script: &ProcessorScript| {
                [&script.request_body, &script.request_trailers]
                    .into_iter()
                    .any(|answers| !matches!(answers, Answers::List(list) if list.is_empty()))
            };
            let script = &s.spec.processor;
            !s.spec.more_filters.is_empty()
                && client(s, has_content)
                && (of_requests(script) || script.streams.iter().any(of_requests))
        },
        places: &["processor/*/response", "counters"],
    },
    Known {
        anchor: "replies-at-once",
        shows_in: |s| {
            let script = &s.source["processor"];
            !s.spec.more_filters.is_empty() && acts_at_once(script)
        },
        places: &["processor", "counters"],
    },
    Known {
        anchor: "code-of-a-streamed-response",
        shows_in: |s| !s.spec.more_filters.is_empty() && action(s, |a| a.local.is_some()),
        places: &["processor/*/response/*/attributes/*/response.code"],
    },
    Known {
        anchor: "retried-bodies",
        shows_in: |s| mentions(&s.source, "retry_policy") && client(s, |c| c.trailers.is_some()),
        places: &["upstream/*/body", "upstream/*/trailers"],
    },
    Known {
        anchor: "tunnel-end",
        shows_in: |s| upstream(s, |u| u.status == 101) && s.source.to_string().contains("STREAMED"),
        places: &["processor", "counters"],
    },
    Known {
        anchor: "refused-heads",
        shows_in: |s| {
            s.spec.hcm.as_ref().is_some_and(|hcm| {
                mentions(hcm, "max_headers_count") || mentions(hcm, "max_request_headers_kb")
            }) && client(s, |c| c.protocol == Protocol::Http2)
        },
        places: &["client/*", "log"],
    },
];

/// Takes away what the list explains: the anchors that were of use, and what is left.
#[must_use]
pub fn explain(
    scenario: &Scenario,
    mut found: Vec<Difference>,
) -> (BTreeSet<&'static str>, Vec<Difference>) {
    let mut used = BTreeSet::new();
    for known in KNOWN.iter().filter(|known| (known.shows_in)(scenario)) {
        found.retain(|difference| {
            let explained = known
                .places
                .iter()
                .any(|place| matches(place, &difference.path));
            if explained {
                used.insert(known.anchor);
            }
            !explained
        });
    }
    (used, found)
}

fn client(scenario: &Scenario, is: impl Fn(&ClientScript) -> bool) -> bool {
    scenario.clients.iter().any(is)
}

fn upstream(scenario: &Scenario, is: impl Fn(&UpstreamScript) -> bool) -> bool {
    scenario.upstreams.values().any(is)
}

/// Tells whether some step of the processors is like that.
fn action(scenario: &Scenario, is: fn(&Action) -> bool) -> bool {
    script_has(&scenario.spec.processor, is)
}

fn script_has(script: &ProcessorScript, is: fn(&Action) -> bool) -> bool {
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
fn steps(answers: &Answers) -> impl Iterator<Item = &Action> {
    let answers = match answers {
        Answers::Always { always } => std::slice::from_ref(always),
        Answers::List(list) => list,
    };
    answers.iter().flat_map(actions)
}

fn actions(answer: &Answer) -> impl Iterator<Item = &Action> {
    answer.steps().iter().filter_map(|step| match step {
        Step::Action(action) => Some(&**action),
        Step::Word(_) => None,
    })
}

/// Tells whether a request has a body or trailers.
fn has_content(client: &ClientScript) -> bool {
    !client.body.parts().is_empty() || client.trailers.is_some() || client.half_open
}

/// Tells whether a request asks for another protocol (RFC 9110 §7.8).
fn asks_for_upgrade(client: &ClientScript) -> bool {
    has_field(&client.headers, "upgrade") && has_field(&client.headers, "connection")
}

/// Tells whether a processor sends several replies without a pause between them.
fn acts_at_once(script: &Value) -> bool {
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

fn has_field(fields: &[Field], name: &str) -> bool {
    fields.iter().any(|field| field.pair().0 == name)
}

/// Tells whether it makes a response one that has no body.
fn makes_bodyless(action: &Action) -> bool {
    let immediate = action.immediate.as_ref().and_then(|i| i.status);
    immediate.is_some_and(|status| status == 204 || status == 304)
        || sets(action, |name, value| {
            name == ":status" && (value == b"204" || value == b"304")
        })
}

/// Names of random scenarios that no trailer section holds.
const NOT_IN_TRAILERS: [&str; 4] = ["content-type", "cookie", "host", "set-cookie"];

/// Tells whether a reply sets such a field.
fn sets(action: &Action, is: impl Fn(&str, &[u8]) -> bool) -> bool {
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
fn heads_set(script: &ProcessorScript, side: Side, is: &dyn Fn(&str, &[u8]) -> bool) -> bool {
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
fn mentions_word(script: &Value, word: &str) -> bool {
    match script {
        Value::String(text) => text == word,
        Value::Array(items) => items.iter().any(|item| mentions_word(item, word)),
        Value::Object(map) => map.values().any(|item| mentions_word(item, word)),
        _ => false,
    }
}

/// Tells whether a key is there, however deep.
fn mentions(value: &Value, key: &str) -> bool {
    match value {
        Value::Object(map) => map.contains_key(key) || map.values().any(|item| mentions(item, key)),
        Value::Array(items) => items.iter().any(|item| mentions(item, key)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_anchor_has_its_entry() {
        let document = include_str!("../../../docs/differences-from-envoy.md");
        for known in &KNOWN {
            let heading = format!("<a id=\"{}\"></a>", known.anchor);
            assert!(document.contains(&heading), "{}", known.anchor);
        }
    }
}
