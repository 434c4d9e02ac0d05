//! Differences in what processors see and do.

use serde_json::Value;

use super::Known;
use super::scenario::{
    FILTER_CONFIG, Side, action, acts_at_once, clears_the_route, client, closes_behind_a_body,
    gathers_beside_a_held_head, has_content, has_mode, mentions, mentions_word, modes, scripts,
    steps, upstream,
};
use crate::differential::generate::WRONG_WIRE_TYPE;
use crate::support::client::ClientScript;
use crate::support::processor::{Action, ProcessorScript};
use crate::support::script::Protocol;
use crate::support::upstream::UpstreamScript;

pub(super) const KNOWN: &[Known] = &[
    Known {
        anchor: "lost-processor-connections",
        shows_in: |s| {
            !s.spec.more_filters.is_empty() && mentions_word(&s.source["processor"], "abort")
        },
        signs: &[
            "counters/ext_proc.*streams_failed: want *, got nothing",
            "counters/ext_proc.*streams_failed: want 2, got 1",
            // Of a chain of three.
            "counters/ext_proc.*streams_failed: want 3, got *",
        ],
        places: &["*"],
    },
    Known {
        anchor: "lost-processor-connections",
        // Its streams fail in another order.
        shows_in: |s| {
            !s.spec.more_filters.is_empty() && mentions_word(&s.source["processor"], "abort")
        },
        signs: &["log: want \"*{connection_termination}*, got \"*{connection_termination}*"],
        places: &["client", "processor/*/response", "counters", "log"],
    },
    Known {
        anchor: "lost-processor-connections",
        // A processor that leaves has seen the end of another stream, or not.
        shows_in: |s| {
            !s.spec.more_filters.is_empty() && mentions_word(&s.source["processor"], "abort")
        },
        signs: &[],
        places: &["processor/*/ended"],
    },
    Known {
        anchor: "unreachable-observers",
        shows_in: |s| {
            let processor = &s.spec.processor;
            mentions(&s.source, "observability_mode")
                && (processor.absent || processor.refuse)
                && upstream(s, |u| u.absent || u.refuse)
        },
        signs: &["client/*/head/:status: want \"500\", got \"503\""],
        places: &["client", "counters", "log"],
    },
    Known {
        anchor: "unread-requests",
        shows_in: |s| {
            let asks = ["request.size", "request.total_size"];
            let asks = asks.iter().any(|name| mentions_word(&s.source, name));
            asks && upstream(s, |u| u.absent || u.refuse) && client(s, has_content)
        },
        signs: &[],
        places: &[
            "processor/*/response/*/attributes/*/request.size",
            "processor/*/response/*/attributes/*/request.total_size",
        ],
    },
    Known {
        anchor: "shared-buffers",
        shows_in: |s| gathers_beside_a_held_head(s, Side::Request),
        signs: &["upstream/*/body", "processor/*/request/*/body"],
        places: &["processor", "upstream", "client", "counters", "log"],
    },
    Known {
        anchor: "shared-buffers",
        shows_in: |s| gathers_beside_a_held_head(s, Side::Response),
        signs: &[
            "client/*/body",
            "processor/*/response/*/body",
            "client/*/end: want \"timed out\", got *",
        ],
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
        signs: &[
            "client/*/head/:status: want *, got \"413\"",
            "client/*/end: want \"timed out\", got *",
        ],
        places: &["*"],
    },
    Known {
        anchor: "shared-buffers",
        // The same of a response.
        shows_in: |s| {
            let limit = s.spec.limits.listener.unwrap_or(u32::MAX) as usize;
            !s.spec.more_filters.is_empty()
                && has_mode(s, |mode| mode["response_body_mode"] == "BUFFERED")
                && upstream(s, |u| {
                    u.protocol == Protocol::Http1 && u.body.size() > limit
                })
        },
        signs: &["log: want \"* via_upstream -\", got \"500 response_payload_too_large -\""],
        places: &["client", "processor/*/response", "counters", "log"],
    },
    Known {
        anchor: "shared-buffers",
        // Nobody looks whether the body that a filter behind gave fits the limit of this one.
        shows_in: |s| {
            !s.spec.more_filters.is_empty()
                && has_mode(s, |mode| mode["response_body_mode"] == "BUFFERED")
                && action(s, |a| a.reply.as_ref().is_some_and(|common| common.replace))
        },
        signs: &["log: want \"* via_upstream -\", got \"500 response_payload_too_large -\""],
        places: &["client", "processor/*/response", "counters", "log"],
    },
    Known {
        anchor: "shared-buffers",
        // Trailers go on with the head.
        shows_in: |s| {
            let duplex =
                |side: Side| has_mode(s, |mode| mode[side.body_mode()] == "FULL_DUPLEX_STREAMED");
            let request = duplex(Side::Request) && client(s, |c| c.trailers.is_some());
            let response = duplex(Side::Response) && upstream(s, |u| u.trailers.is_some());
            !s.spec.more_filters.is_empty() && (request || response)
        },
        signs: &["client/*/trailers", "upstream/*/trailers"],
        places: &["client/*/trailers", "upstream/*/trailers", "counters"],
    },
    Known {
        anchor: "shared-buffers",
        // The same where the processor does not answer for its trailers: here they wait for it.
        shows_in: |s| {
            !s.spec.more_filters.is_empty()
                && has_mode(s, |mode| {
                    mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"
                })
                && client(s, |c| c.trailers.is_some())
        },
        signs: &["upstream/*/trailers: want {*, got nothing"],
        places: &[
            "client",
            "upstream",
            "processor/*/response",
            "counters",
            "log",
        ],
    },
    Known {
        anchor: "shared-buffers",
        // The filter whose head they went on with is not shown them.
        shows_in: |s| {
            !s.spec.more_filters.is_empty()
                && has_mode(s, |mode| {
                    mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"
                })
                && client(s, |c| c.trailers.is_some())
        },
        signs: &[],
        places: &["processor/*/request/*: want nothing, got {\"kind\":\"request_trailers\"*"],
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
        // Envoy waits for ever.
        signs: &["client/*/end: want \"timed out\", got *"],
        places: &["client", "upstream", "processor", "counters", "log"],
    },
    Known {
        anchor: "chunk-boundaries",
        shows_in: |s| {
            let large = |size: usize| size > 64 * 1024;
            scripts(&s.spec.processor).any(closes_behind_a_body)
                && (client(s, |c| large(c.body.size())) || upstream(s, |u| large(u.body.size())))
        },
        signs: &["processor/*/*/*/eos: want true, got false"],
        places: &["processor/*/*/*/body", "processor/*/*/*/eos", "counters"],
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
        signs: &[],
        places: &["client", "upstream", "counters", "log"],
    },
    Known {
        anchor: "http-service-failures",
        // A body of the route's own answer.
        shows_in: |s| mentions(&s.source, "http_service") && mentions(&s.source, "direct_response"),
        signs: &["client/*/end: want \"timed out\", got \"complete\""],
        places: &["client", "counters", "log"],
    },
    Known {
        anchor: "replies-at-once",
        shows_in: |s| {
            let script = &s.source["processor"];
            // What is said when the stream opens comes together with the reply to the first message.
            !s.spec.more_filters.is_empty() && (acts_at_once(script) || mentions(script, "open"))
        },
        // Another filter's processor is told more, or less, or the exchange fails in one of the two alone.
        signs: &[
            "processor/*: want nothing, got {*",
            "processor/*: want {*, got nothing",
            "processor/*/response/*: want nothing, got {*",
            "counters/ext_proc.*streams_failed",
        ],
        places: &["processor", "counters", "client", "log"],
    },
    Known {
        anchor: "replies-at-once",
        // The reply to the headers and that to the first piece of a full duplex body, both of which the processor has.
        shows_in: |s| {
            !s.spec.more_filters.is_empty()
                && has_mode(s, |mode| {
                    mode["response_body_mode"] == "FULL_DUPLEX_STREAMED"
                })
                && action(s, |a| a.immediate.is_some())
        },
        signs: &[],
        places: &["processor/*/response/*: want nothing, got {\"kind\":\"response_headers\"*"],
    },
    Known {
        anchor: "code-of-a-streamed-response",
        shows_in: |s| !s.spec.more_filters.is_empty() && action(s, |a| a.local.is_some()),
        signs: &[],
        places: &["processor/*/response/*/attributes/*/response.code"],
    },
    Known {
        anchor: "filters-off-on-a-route",
        shows_in: |s| {
            mentions_word(&s.source["routes"], FILTER_CONFIG) && clears_the_route(&s.source)
        },
        signs: &[
            "counters/ext_proc.*streams_started",
            "processor/*: want nothing, got {*",
            "processor/*: want {*, got nothing",
        ],
        places: &["*"],
    },
    Known {
        anchor: "limits-of-a-new-route",
        shows_in: |s| mentions(&s.source["routes"], "idle_timeout") && clears_the_route(&s.source),
        signs: &[
            "log: want *idle_timeout*, got *",
            "log: want *, got *idle_timeout*",
        ],
        places: &["*"],
    },
    Known {
        anchor: "malformed-messages",
        shows_in: |s| mentions_word(&s.source["processor"], WRONG_WIRE_TYPE),
        // Both fail, and count it elsewhere.
        signs: &["counters/ext_proc.*spurious_msgs_received: want *, got nothing"],
        places: &["counters", "log"],
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
        signs: &[
            "upstream/*: want {*, got nothing",
            "upstream/*/head/:method: want \"0\", got *",
        ],
        places: &["*"],
    },
    Known {
        anchor: "after-the-end",
        // Failing open behind the end.
        shows_in: |s| {
            mentions(&s.source, "failure_mode_allow") && client(s, |c| c.trailers.is_some())
        },
        signs: &[],
        places: &["upstream/*: want {*\":method\":\"0\"*, got nothing"],
    },
    Known {
        anchor: "after-the-end",
        // Trailers that went on with another filter's head go on again when they are answered.
        shows_in: |s| {
            !s.spec.more_filters.is_empty()
                && has_mode(s, |mode| {
                    mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"
                })
                && client(s, |c| c.trailers.is_some())
        },
        signs: &[
            "upstream/*: want {*\":method\":\"0\"*, got nothing",
            "upstream/*/head/:method: want \"0\", got *",
        ],
        places: &["*"],
    },
    Known {
        anchor: "unwanted-connections",
        shows_in: |s| {
            // The reply that lets the head go on, and the one to the piece that came with it.
            let duplex = has_mode(s, |mode| {
                mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"
            });
            let script = &s.source["processor"];
            // What is said when the stream opens comes together with the reply to the first message.
            s.clients.len() > 1
                && (acts_at_once(script)
                    || mentions(script, "open")
                    || duplex && mentions(script, "replace"))
        },
        signs: &[],
        places: &[
            "upstream/*: want {*\"body\":\"\",\"end\":\"complete\"*, got nothing",
            // The request has not ended when it fails.
            "upstream/*: want {*\"body\":\"\",\"end\":\"cut\"*, got nothing",
        ],
    },
    Known {
        anchor: "size-of-a-mapped-copy",
        shows_in: |s| {
            mentions(&s.source, "processing_request_modifier")
                && mentions(&s.source, "observability_mode")
        },
        signs: &[],
        places: &["processor/*/*/*/attributes/*/my.size: want 0, got *"],
    },
    Known {
        anchor: "local-responses",
        shows_in: |s| {
            has_mode(s, |mode| {
                mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"
            }) && action(s, |a| a.local.is_some())
        },
        signs: &[],
        places: &["upstream/*: want {*, got nothing"],
    },
    Known {
        anchor: "local-responses",
        // Envoy leaves the client waiting for the rest.
        shows_in: |s| action(s, |a| a.local.is_some()),
        signs: &["log: want *, got \"* ext_proc_local_response_not_completed -\""],
        places: &["client/*/end: want \"timed out\", got *", "log"],
    },
    Known {
        anchor: "local-responses",
        // Where there is a response already.
        shows_in: |s| {
            let late = |script: &ProcessorScript| {
                let kinds = [
                    &script.response_headers,
                    &script.response_body,
                    &script.response_trailers,
                ];
                let mut actions = kinds.into_iter().flat_map(steps);
                actions.any(|action| action.local.is_some())
            };
            has_mode(s, |mode| {
                mode["response_body_mode"] == "FULL_DUPLEX_STREAMED"
            }) && mentions(&s.source, "failure_mode_allow")
                && scripts(&s.spec.processor).any(late)
        },
        signs: &["counters/ext_proc.*failure_mode_allowed: want *, got nothing"],
        places: &["client", "processor/*/response", "counters", "log"],
    },
    Known {
        anchor: "skipped-partial-bodies",
        shows_in: |s| {
            let limited = s.spec.limits.listener.is_some() || s.spec.limits.cluster.is_some();
            limited
                && has_mode(s, |mode| {
                    mode["response_body_mode"] == "BUFFERED_PARTIAL"
                        && mode["response_header_mode"] == "SKIP"
                })
        },
        signs: &["client/*/end: want \"timed out\", got \"complete\""],
        places: &["client", "counters", "log"],
    },
    Known {
        anchor: "refused-streams",
        shows_in: |s| {
            let limited = mentions(&s.source["processor"], "max_streams");
            limited && !s.spec.more_filters.is_empty()
        },
        signs: &["counters/ext_proc.*streams_failed: want *, got nothing"],
        places: &["*"],
    },
    Known {
        anchor: "one-stream",
        shows_in: |s| {
            let answers = ["direct_response", "redirect"];
            let answers = answers.iter().any(|action| mentions(&s.source, action));
            answers && mentions(&s.source, "failure_mode_allow")
        },
        signs: &["counters/ext_proc.*streams_started: want *, got *"],
        places: &[
            "processor/*: want {*, got nothing",
            "counters/ext_proc.*streams_started",
            "counters/ext_proc.*streams_closed",
            "counters/ext_proc.*stream_msgs_*",
        ],
    },
    Known {
        anchor: "observed-bodies",
        shows_in: |s| {
            !s.spec.more_filters.is_empty()
                && mentions(&s.source, "observability_mode")
                && has_mode(s, |mode| mode["request_body_mode"] == "BUFFERED")
                && client(s, |c| c.trailers.is_some())
        },
        signs: &["client/*/end: want \"timed out\", got *"],
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
        signs: &["client/*/end: want \"timed out\", got *"],
        places: &["*"],
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
        signs: &[
            "counters/ext_proc.*spurious_msgs_received: want *, got nothing",
            // Envoy loses the body.
            "upstream/*: want {*\"body\":\"\"*, got nothing",
        ],
        places: &["*"],
    },
    Known {
        anchor: "late-overrides",
        // Trailers are all that follows a head.
        shows_in: |s| {
            let duplex = |name: &str| {
                modes(&s.source["processor"])
                    .iter()
                    .any(|mode| mode[name] == "FULL_DUPLEX_STREAMED")
            };
            let asked = |c: &ClientScript| c.trailers.is_some() && c.body.size() == 0;
            let answered = |u: &UpstreamScript| u.trailers.is_some() && u.body.size() == 0;
            duplex(Side::Request.body_mode()) && client(s, asked)
                || duplex(Side::Response.body_mode()) && upstream(s, answered)
        },
        signs: &["client/*/end: want \"timed out\", got *"],
        places: &["client", "processor", "counters", "log", "upstream"],
    },
    Known {
        anchor: "attributes-of-a-rewritten-head",
        shows_in: |s| {
            let rewrites = [
                "prefix_rewrite",
                "host_rewrite_literal",
                "request_headers_to_add",
            ];
            rewrites.iter().any(|name| mentions(&s.source, name))
                && mentions(&s.source, "request_attributes")
                && has_mode(s, |mode| mode[Side::Request.header_mode()] == "SKIP")
        },
        signs: &[],
        places: &["processor/*/request/*/attributes/*/request.*"],
    },
];
