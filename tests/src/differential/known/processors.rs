//! Differences in what processors see and do.

use serde_json::Value;

use super::Known;
use super::scenario::{
    FILTER_CONFIG, Side, action, acts_at_once, clears_the_route, client, closes_behind_a_body,
    gathers_beside_a_held_head, has_content, has_mode, mentions, mentions_word, scripts, steps,
    upstream,
};
use crate::differential::generate::WRONG_WIRE_TYPE;
use crate::support::processor::{Action, ProcessorScript};
use crate::support::script::Protocol;

pub(super) const KNOWN: &[Known] = &[
    Known {
        anchor: "lost-processor-connections",
        shows_in: |s| {
            !s.spec.more_filters.is_empty() && mentions_word(&s.source["processor"], "abort")
        },
        places: &["processor", "counters", "client", "log"],
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
];
