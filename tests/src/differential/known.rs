//! The differences on purpose that random scenarios meet, each as narrow as its entry in
//! `docs/differences-from-envoy.md`: the scenarios in which it shows, and the places of an observation where it may.

use std::collections::BTreeSet;

use serde_json::Value;

use super::generate::WRONG_WIRE_TYPE;
use crate::conformance::compare::{Difference, matches};
use crate::conformance::scenario::Scenario;
use crate::support::client::ClientScript;
use crate::support::processor::{Action, Answer, Answers, ProcessorScript, SetField, Step, Word};
use crate::support::script::{Body, Field, Part, Payload, Protocol, split_line};
use crate::support::upstream::{ResetAt, ResponseFraming, UpstreamScript, Wait};

/// A difference on purpose.
#[derive(Debug)]
pub struct Known {
    /// The anchor of its entry.
    pub anchor: &'static str,
    /// The scenarios in which it shows.
    pub shows_in: fn(&Scenario) -> bool,
    /// The places where it shows, as in `compare.skip`. Behind a place, `: want A, got B` may say how, where `*` is any text.
    pub places: &'static [&'static str],
}

/// A direction of an exchange.
#[derive(Debug, Clone, Copy)]
enum Side {
    Request,
    Response,
}

impl Side {
    fn body_mode(self) -> &'static str {
        match self {
            Self::Request => "request_body_mode",
            Self::Response => "response_body_mode",
        }
    }

    fn trailer_mode(self) -> &'static str {
        match self {
            Self::Request => "request_trailer_mode",
            Self::Response => "response_trailer_mode",
        }
    }

    fn header_mode(self) -> &'static str {
        match self {
            Self::Request => "request_header_mode",
            Self::Response => "response_header_mode",
        }
    }
}

/// All of them.
pub const KNOWN: &[Known] = &[
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
        shows_in: |s| client(s, |c| has_field(&c.headers, "expect")),
        // Of a client that leaves, the log shows the 100.
        places: &["log: want \"100 *\", got \"0 *\""],
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
        anchor: "empty-frames",
        shows_in: |s| {
            let trailers =
                client(s, |c| c.trailers.is_some()) || upstream(s, |u| u.trailers.is_some());
            !s.spec.more_filters.is_empty() && trailers && action(s, empties_a_body)
        },
        places: &["processor", "counters"],
    },
    Known {
        anchor: "empty-frames",
        // Of a handshake that was declined, too.
        shows_in: |s| client(s, asks_for_upgrade),
        places: &[
            "processor/*/request/*: want {\"kind\":\"request_body\",\"body\":\"\",\"eos\":false*, got nothing",
            "counters",
        ],
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
            // Over HTTP/2 a client does not take what Envoy sends.
            "client/*/end: want \"reset PROTOCOL_ERROR\", got \"complete\"",
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
        shows_in: |s| {
            let answers = |u: &UpstreamScript| has_field(&u.headers, "upgrade");
            upstream(s, |u| {
                u.status == 101 && !(answers(u) && client(s, asks_for_upgrade))
            })
        },
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
            "processor/*/response/*/attributes/*/response.total_size",
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
        anchor: "connection-close",
        // The response is complete before the request is.
        shows_in: |s| {
            client(s, |c| c.protocol == Protocol::Http1 && has_content(c))
                && upstream(s, |u| u.wait != Wait::Body)
        },
        places: &["client/*/head/connection: want nothing, got \"close\""],
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
        anchor: "announced-length",
        // The length that came stays, and the processor makes another body.
        shows_in: |s| {
            mentions(&s.source, "allow_content_length_header")
                && action(s, |a| {
                    let replies = [&a.reply, &a.request_body, &a.response_body];
                    replies.into_iter().flatten().any(|common| {
                        common.stream.is_some()
                            || common.body.is_some()
                            || common.clear_body.is_some()
                    })
                })
        },
        places: &["*"],
    },
    Known {
        anchor: "announced-length",
        shows_in: |s| {
            action(s, |a| {
                let local = a.local.as_ref().filter(|local| local.eos);
                let headers = local.and_then(|local| local.headers.as_ref());
                headers.is_some_and(|headers| has_field(headers, "content-length"))
            })
        },
        places: &["client", "log", "counters"],
    },
    Known {
        anchor: "last-piece",
        shows_in: |s| {
            let ends_apart = |c: &ClientScript| c.separate_end || ends_with_pause(&c.body);
            client(s, |c| {
                c.protocol == Protocol::Http2
                    && has_field(&c.headers, "content-length")
                    && (c.half_open || c.cancel.is_some() || c.trailers.is_some() || ends_apart(c))
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
        anchor: "last-piece",
        shows_in: |s| {
            client(s, |c| c.protocol == Protocol::Http1)
                && upstream(s, |u| {
                    u.protocol == Protocol::Http2
                        && has_field(&u.headers, "content-length")
                        && (u.separate_end || u.trailers.is_some() || ends_with_pause(&u.body))
                })
        },
        // The client has its response and leaves before the upstream ends it.
        places: &[
            "log: want \"* downstream_remote_disconnect DC\", got \"* via_upstream -\"",
            "processor/*/response/*: want nothing, *",
            "counters",
        ],
    },
    Known {
        anchor: "cuts",
        shows_in: |s| client(s, |c| c.protocol == Protocol::Http1 && c.cancel.is_some()),
        places: &["client/*/end: want \"cancelled\", got \"cut\""],
    },
    Known {
        anchor: "shared-buffers",
        shows_in: |s| gathers_beside_a_held_head(s, Side::Request),
        places: &["processor", "upstream", "client", "counters", "log"],
    },
    Known {
        anchor: "shared-buffers",
        shows_in: |s| gathers_beside_a_held_head(s, Side::Response),
        places: &["processor/*/response", "client", "counters", "log"],
    },
    Known {
        anchor: "shared-buffers",
        // More than its limit came before the filter did.
        shows_in: |s| {
            let limit = s.spec.limits.listener.unwrap_or(u32::MAX) as usize;
            !s.spec.more_filters.is_empty()
                && has_mode(s, |mode| mode["request_body_mode"] == "BUFFERED")
                && client(s, |c| {
                    c.protocol == Protocol::Http1 && c.body.size() > limit
                })
        },
        places: &["*"],
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
        anchor: "reset-no-content",
        shows_in: |s| {
            client(s, |c| c.method == "HEAD") && upstream(s, |u| u.protocol == Protocol::Http2)
        },
        places: &["log: want \"* downstream_remote_disconnect DC\", got \"* via_upstream -\""],
    },
    Known {
        anchor: "unfinished-bodies",
        shows_in: |s| {
            has_mode(s, |mode| {
                [Side::Request, Side::Response]
                    .iter()
                    .any(|side| mode[side.body_mode()] == "FULL_DUPLEX_STREAMED")
            }) && scripts(&s.spec.processor).any(closes_behind_a_body)
        },
        places: &["client", "upstream", "processor", "counters", "log"],
    },
    Known {
        anchor: "http-service-failures",
        // What is no answer of its own: an override asks for bodies or trailers, which an HTTP service has no answers to.
        shows_in: |s| {
            mentions(&s.source, "http_service")
                && mentions(&s.source, "overrides")
                && has_mode(s, |mode| {
                    mode.as_object().into_iter().flatten().any(|(name, value)| {
                        let asks = name.ends_with("body_mode") && value != "NONE";
                        asks || name.ends_with("trailer_mode") && value == "SEND"
                    })
                })
        },
        places: &["client", "upstream", "counters", "log"],
    },
    Known {
        anchor: "replies-at-once",
        shows_in: |s| {
            let script = &s.source["processor"];
            // What is said when the stream opens comes together with the reply to the first message.
            !s.spec.more_filters.is_empty() && (acts_at_once(script) || mentions(script, "open"))
        },
        places: &["processor", "counters", "client", "log"],
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
        anchor: "hop-by-hop-fields-set",
        shows_in: |s| {
            let of_a_hop = |name: &str, _: &[u8]| name == "connection" || name == "keep-alive";
            heads_set(&s.spec.processor, Side::Request, &of_a_hop)
                || heads_set(&s.spec.processor, Side::Response, &of_a_hop)
        },
        // Over HTTP/2 they make a message malformed.
        places: &["*"],
    },
    Known {
        anchor: "unusable-values",
        shows_in: |s| {
            let unusable = |name: &str, value: &[u8]| match name {
                ":path" => !value.starts_with(b"/"),
                ":authority" | "host" => value.is_empty(),
                _ => false,
            };
            heads_set(&s.spec.processor, Side::Request, &unusable)
        },
        places: &["*"],
    },
    Known {
        anchor: "fragment",
        shows_in: |s| client(s, |c| c.path.contains('#')),
        places: &["*"],
    },
    Known {
        anchor: "unconfirmed-length",
        shows_in: |s| {
            let announces_none = |field: &Field| {
                let (name, value) = field.pair();
                name == "content-length" && value == b"0"
            };
            client(s, |c| {
                c.protocol == Protocol::Http2 && c.headers.iter().any(announces_none)
            }) && upstream(s, |u| u.protocol == Protocol::Http1)
        },
        places: &[
            "upstream/*/head/content-length",
            "upstream/*/head/transfer-encoding",
        ],
    },
    Known {
        anchor: "low-version",
        shows_in: |s| client(s, |c| c.version == "1.0"),
        places: &["*"],
    },
    Known {
        anchor: "filters-off-on-a-route",
        shows_in: |s| {
            mentions_word(&s.source["routes"], FILTER_CONFIG) && clears_the_route(&s.source)
        },
        places: &["*"],
    },
    Known {
        anchor: "limits-of-a-new-route",
        shows_in: |s| mentions(&s.source["routes"], "idle_timeout") && clears_the_route(&s.source),
        places: &["*"],
    },
    Known {
        anchor: "malformed-messages",
        shows_in: |s| mentions_word(&s.source["processor"], WRONG_WIRE_TYPE),
        places: &["*"],
    },
    Known {
        anchor: "after-the-end",
        shows_in: |s| {
            let side = |side: Side, trailers: bool| {
                trailers
                    && has_mode(s, |mode| {
                        mode[side.body_mode()] == "FULL_DUPLEX_STREAMED"
                            && mode[side.trailer_mode()] != "SEND"
                    })
            };
            side(Side::Request, client(s, |c| c.trailers.is_some()))
                || side(Side::Response, upstream(s, |u| u.trailers.is_some()))
        },
        places: &["*"],
    },
    Known {
        anchor: "told-the-end",
        shows_in: |s| {
            let duplex =
                |side: Side| has_mode(s, |mode| mode[side.body_mode()] == "FULL_DUPLEX_STREAMED");
            let ends = |script: &ProcessorScript| {
                let request = |a: &Action| a.request_trailers.is_some();
                let response = |a: &Action| a.response_trailers.is_some();
                duplex(Side::Request) && steps(&script.request_body).any(request)
                    || duplex(Side::Response) && steps(&script.response_body).any(response)
            };
            scripts(&s.spec.processor).any(ends)
        },
        places: &["*"],
    },
    Known {
        anchor: "tunnel-end",
        shows_in: |s| upstream(s, |u| u.status == 101),
        places: &["log: want \"101 downstream_remote_disconnect DC\", *"],
    },
    Known {
        anchor: "late-overrides",
        shows_in: |s| {
            let overridden = mentions(&s.source["processor"], "mode_override");
            let routes = [
                &s.source["per_route"],
                &s.source["per_vhost"],
                &s.source["per_route_config"],
                &s.source["routes"],
                &s.source["more_filters"],
            ];
            let duplex = |part: &&Value| mentions_word(part, "FULL_DUPLEX_STREAMED");
            overridden && client(s, has_content) && routes.iter().any(duplex)
        },
        places: &["*"],
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

/// Differences on purpose that no random scenario meets, and the reason.
pub const NOT_GENERATED: &[(&str, &str)] = &[
    (
        "going-down",
        "a run ends before its proxy is told to go down",
    ),
    ("server-names", "the scenario format has no certificates"),
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
            let explained = known.places.iter().any(|place| shows(place, difference));
            if explained {
                used.insert(known.anchor);
            }
            !explained
        });
    }
    (used, found)
}

/// Tells whether a difference is of this place, and of this kind if the place says so.
fn shows(place: &str, difference: &Difference) -> bool {
    let Some((path, kind)) = place.split_once(": ") else {
        return matches(place, &difference.path);
    };
    let text = format!("want {}, got {}", difference.want, difference.got);
    matches(path, &difference.path) && is_like(&text, kind)
}

/// Tells whether a text is like the pattern, in which `*` is any text.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return text == pattern;
    };
    let Some(text) = text.strip_prefix(first) else {
        return false;
    };
    text.char_indices()
        .map(|(at, _)| &text[at..])
        .chain([""])
        .any(|text| is_like(text, rest))
}

fn client(scenario: &Scenario, is: impl Fn(&ClientScript) -> bool) -> bool {
    scenario.clients.iter().any(is)
}

fn upstream(scenario: &Scenario, is: impl Fn(&UpstreamScript) -> bool) -> bool {
    scenario.upstreams.values().any(is)
}

/// The type of a configuration that says of a filter only whether it is on.
const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

/// Tells whether a route may be selected again.
fn clears_the_route(source: &Value) -> bool {
    mentions(&source["processor"], "clear_route_cache") || mentions_word(source, "CLEAR")
}

/// Tells whether a body ends apart from its last bytes.
fn ends_with_pause(body: &Body) -> bool {
    matches!(body.parts().last(), Some(Part::Pause { .. }))
}

/// Tells whether a processing mode is like that, wherever it is set.
fn has_mode(scenario: &Scenario, is: impl Fn(&Value) -> bool) -> bool {
    modes(&scenario.source).into_iter().any(is)
}

fn modes(value: &Value) -> Vec<&Value> {
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
fn gathers_beside_a_held_head(scenario: &Scenario, side: Side) -> bool {
    !scenario.spec.more_filters.is_empty()
        && has_mode(scenario, |mode| {
            let body = mode[side.body_mode()].as_str().unwrap_or("NONE");
            body != "NONE" && mode[side.header_mode()] == "SKIP"
        })
}

/// The script and those for single streams.
fn scripts(script: &ProcessorScript) -> impl Iterator<Item = &ProcessorScript> {
    std::iter::once(script).chain(&script.streams)
}

/// Tells whether a processor closes its stream where it was given a body.
fn closes_behind_a_body(script: &ProcessorScript) -> bool {
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
    answers.all().iter().flat_map(actions)
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

/// Tells whether a reply takes all bytes out of a body, of which the next filter gets a piece without any.
fn empties_a_body(action: &Action) -> bool {
    let replies = [&action.reply, &action.request_body, &action.response_body];
    replies.into_iter().flatten().any(|common| {
        let bodies = common.body.iter().chain(&common.stream);
        common.clear_body == Some(true) || bodies.into_iter().any(|body| body.bytes().is_empty())
    })
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
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_entry_with_scenarios_is_here() -> anyhow::Result<()> {
        let listed: BTreeMap<String, Vec<String>> =
            serde_saphyr::from_str(include_str!("../../differences.yaml"))?;
        let known = KNOWN.iter().map(|known| known.anchor);
        let known: BTreeSet<&str> = known.chain(NOT_GENERATED.iter().map(|n| n.0)).collect();
        let missing: Vec<_> = listed
            .keys()
            .filter(|a| !known.contains(a.as_str()))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        Ok(())
    }

    #[test]
    fn a_place_may_say_how() {
        let is_like = |pattern| is_like("want \"100 via DC\", got \"0 via DC\"", pattern);
        assert!(is_like("want \"100 *\", got \"0 *\""));
        assert!(is_like("*"));
        assert!(!is_like("want \"100 *\", got \"1 *\""));
        assert!(!is_like("want \"100 *\", got"));
    }

    #[test]
    fn every_anchor_has_its_entry() {
        let document = include_str!("../../../docs/differences-from-envoy.md");
        for known in KNOWN {
            let heading = format!("<a id=\"{}\"></a>", known.anchor);
            assert!(document.contains(&heading), "{}", known.anchor);
        }
    }
}
