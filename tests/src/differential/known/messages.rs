//! Differences in messages on the wire.

use serde_json::Value;

use super::Known;
use super::scenario::{
    NOT_IN_TRAILERS, Side, action, asks_for_upgrade, client, empties_a_body, ends_with_pause,
    has_content, has_empty_part, has_field, has_mode, heads_set, makes_bodyless, mentions, sets,
    upstream,
};
use crate::support::processor::Action;
use crate::support::script::{Field, Protocol};
use crate::support::upstream::{ResetAt, UpstreamScript, Wait};

/// Details of the gateway where a body has not the length that its head announces.
const LENGTH_DIFFERS: &[&str] = &[
    "log: want *, got \"* mismatch_between_content_length_and_the_length_of_the_body *\"",
    "client/*/end: want \"timed out\", got *",
    "client/*/end: want \"complete\", got \"cut\"",
    "client/*/end: want *, got \"reset *\"",
    // Who looks refuses what Envoy sends.
    "client/*/end: want \"reset PROTOCOL_ERROR\", got *",
    "upstream/*/end: want \"complete\", got \"cut\"",
    "upstream/*/end: want *, got \"reset *\"",
];

pub(super) const KNOWN: &[Known] = &[
    Known {
        anchor: "interim-responses",
        shows_in: |s| {
            let hcm = s.spec.hcm.as_ref();
            hcm.is_some_and(|hcm| hcm["proxy_100_continue"] == true)
                && upstream(s, |u| !u.informational.is_empty())
        },
        signs: &[],
        places: &["client/*/informational"],
    },
    Known {
        anchor: "expect-continue",
        shows_in: |s| client(s, |c| has_field(&c.headers, "expect")),
        signs: &[],
        places: &["client/*/informational"],
    },
    Known {
        anchor: "expect-continue",
        shows_in: |s| client(s, |c| has_field(&c.headers, "expect")),
        signs: &[],
        places: &[
            "processor/*/request/*/attributes/*/response.code",
            "processor/*/request/*/attributes/*/response.grpc_status",
            // In the JSON of an HTTP service.
            "upstream/*/body/attributes/*/response.code",
            "upstream/*/body/attributes/*/response.grpc_status",
        ],
    },
    Known {
        anchor: "expect-continue",
        shows_in: |s| client(s, |c| has_field(&c.headers, "expect")),
        signs: &[],
        // Of a client that leaves, the log shows the 100.
        places: &["log: want \"100 *\", got \"0 *\""],
    },
    Known {
        anchor: "expect-continue",
        // A body that was not asked for may still come.
        shows_in: |s| {
            client(s, |c| {
                c.protocol == Protocol::Http1 && has_field(&c.headers, "expect")
            })
        },
        signs: &[],
        places: &["client/*/head/connection: want nothing, got \"close\""],
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
        signs: &[],
        places: &["processor", "counters"],
    },
    Known {
        anchor: "empty-frames",
        shows_in: |s| {
            let trailers =
                client(s, |c| c.trailers.is_some()) || upstream(s, |u| u.trailers.is_some());
            !s.spec.more_filters.is_empty() && trailers && action(s, empties_a_body)
        },
        signs: &[],
        places: &["processor", "counters"],
    },
    Known {
        anchor: "empty-frames",
        // Filters that hold a message give one before its trailers, too.
        shows_in: |s| {
            let trailers =
                client(s, |c| c.trailers.is_some()) || upstream(s, |u| u.trailers.is_some());
            !s.spec.more_filters.is_empty() && trailers
        },
        signs: &[],
        places: &[
            "processor/*/request/*: want {\"kind\":\"request_body\",\"body\":\"\",\"eos\":false*, got nothing",
            "processor/*/response/*: want {\"kind\":\"response_body\",\"body\":\"\",\"eos\":false*, got nothing",
        ],
    },
    Known {
        anchor: "empty-frames",
        // What is said to it, or not, counts.
        shows_in: |s| {
            let trailers =
                client(s, |c| c.trailers.is_some()) || upstream(s, |u| u.trailers.is_some());
            !s.spec.more_filters.is_empty() && trailers && action(s, empties_a_body)
        },
        signs: &[
            "processor/*/request/*: want {\"kind\":\"request_body\",\"body\":\"\",\"eos\":false*, got nothing",
            "processor/*/request/*/kind: want \"request_body\", got \"request_trailers\"",
            "processor/*/response/*: want {\"kind\":\"response_body\",\"body\":\"\",\"eos\":false*, got nothing",
            "processor/*/response/*/kind: want \"response_body\", got \"response_trailers\"",
        ],
        places: &["client", "upstream", "log"],
    },
    Known {
        anchor: "empty-frames",
        // Of a handshake that was declined, too.
        shows_in: |s| client(s, asks_for_upgrade),
        signs: &[],
        places: &[
            "processor/*/request/*: want {\"kind\":\"request_body\",\"body\":\"\",\"eos\":false*, got nothing",
            "counters",
        ],
    },
    Known {
        anchor: "empty-frames",
        // A message that breaks off behind one.
        shows_in: |s| {
            client(s, |c| {
                c.protocol == Protocol::Http2 && has_empty_part(&c.body)
            }) || upstream(s, |u| {
                u.protocol == Protocol::Http2 && has_empty_part(&u.body)
            })
        },
        signs: &[
            "processor/*/request/*: want {\"kind\":\"request_body\",\"body\":\"\",\"eos\":false*, got nothing",
            "processor/*/response/*: want {\"kind\":\"response_body\",\"body\":\"\",\"eos\":false*, got nothing",
        ],
        places: &["processor", "counters"],
    },
    Known {
        anchor: "no-content",
        shows_in: |s| action(s, makes_bodyless),
        signs: &[],
        places: &[
            "client/*/head/content-length",
            "client/*/head/transfer-encoding",
            "client/*/body",
            "client/*/trailers",
            "processor/*/response/*/eos",
            // Another filter is shown the body that goes nowhere.
            "processor/*/response/*: want {\"kind\":\"response_body\",*, got nothing",
            // The client has its response and leaves before the upstream ends it.
            "log: want \"* downstream_remote_disconnect DC\", got \"* via_upstream -\"",
        ],
    },
    Known {
        anchor: "no-content",
        // A processor gives such a response a body.
        shows_in: |s| {
            let replaces = |a: &Action| {
                let head = [&a.reply, &a.response_headers];
                head.into_iter().flatten().any(|common| common.replace)
            };
            upstream(s, |u| u.status == 204 || u.status == 304)
                && client(s, |c| c.protocol == Protocol::Http2)
                && action(s, replaces)
        },
        signs: &[],
        places: &["client/*/body: want *, got \"\""],
    },
    Known {
        anchor: "no-content",
        // Of another filter's immediate response all is seen that goes nowhere.
        shows_in: |s| !s.spec.more_filters.is_empty() && action(s, makes_bodyless),
        signs: &["processor/*: want {*\"kind\":\"response_body\"*, got nothing"],
        places: &[
            "processor/*: want {*\"kind\":\"response_body\"*, got nothing",
            "counters",
            "log",
        ],
    },
    Known {
        anchor: "head-framing",
        shows_in: |s| client(s, |c| c.method == "HEAD"),
        signs: &[],
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
        signs: &[],
        places: &["counters", "log"],
    },
    Known {
        anchor: "te-is-of-one-hop",
        shows_in: |s| {
            client(s, |c| has_field(&c.headers, "te"))
                && upstream(s, |u| u.protocol == Protocol::Http1)
        },
        signs: &[],
        places: &["upstream/*/head/connection", "upstream/*/head/te"],
    },
    Known {
        anchor: "pseudo-headers-of-the-other-direction",
        shows_in: |s| {
            let status = |name: &str, _: &[u8]| name == ":status";
            heads_set(&s.spec.processor, Side::Request, &status)
        },
        signs: &[
            "processor/*/*/*/headers/:status: want *, got nothing",
            "upstream/*/head/:status",
            "upstream/*: want nothing, got {*",
        ],
        places: &["*"],
    },
    Known {
        anchor: "pseudo-headers-of-the-other-direction",
        shows_in: |s| {
            let foreign = |name: &str, _: &[u8]| name.starts_with(':') && name != ":status";
            heads_set(&s.spec.processor, Side::Response, &foreign)
        },
        signs: &[],
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
        signs: &[],
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
        signs: &[
            "client/*/head/:status: want *, got \"502\"",
            "client/*/head: want nothing, got {\":status\":\"502\"*",
        ],
        places: &["*"],
    },
    Known {
        anchor: "status-of-local-replies",
        shows_in: |s| s.source.to_string().contains("%RESPONSE_CODE%\"}"),
        signs: &[],
        places: &[
            "client/*/head/x-vhost",
            "processor/*/response/*/headers/x-vhost",
            // In the JSON of an HTTP service.
            "upstream/*/body/response_headers/headers/headers/*/raw_value: want \"MA==\", got *",
            "processor/*/response/*/attributes/*/response.total_size",
        ],
    },
    Known {
        anchor: "connection-close",
        shows_in: |s| s.spec.limits.listener.is_some(),
        signs: &[],
        places: &["client/*/head/connection"],
    },
    Known {
        anchor: "connection-close",
        shows_in: |s| {
            let answers = ["direct_response", "redirect"];
            answers.iter().any(|action| mentions(&s.source, action))
                && client(s, |c| c.protocol == Protocol::Http1 && has_content(c))
        },
        signs: &[],
        places: &["client/*/head/connection"],
    },
    Known {
        anchor: "connection-close",
        // The response is complete before the request is.
        shows_in: |s| {
            client(s, |c| c.protocol == Protocol::Http1 && has_content(c))
                && upstream(s, |u| u.wait != Wait::Body || u.absent || u.refuse)
        },
        signs: &[],
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
        signs: LENGTH_DIFFERS,
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
        signs: LENGTH_DIFFERS,
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
        signs: LENGTH_DIFFERS,
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
        signs: &[
            "client/*/head/content-length: want *, got *",
            "client/*/end: want \"reset PROTOCOL_ERROR\", got *",
        ],
        places: &["client", "log", "counters"],
    },
    Known {
        anchor: "last-piece",
        shows_in: |s| {
            client(s, |c| c.protocol == Protocol::Http1)
                && upstream(s, |u| {
                    u.protocol == Protocol::Http2
                        && has_field(&u.headers, "content-length")
                        && (u.separate_end
                            || u.reset == Some(ResetAt::AfterBody)
                            || u.trailers.is_some()
                            || ends_with_pause(&u.body))
                })
        },
        // The client has its response and leaves before the upstream ends it.
        signs: &[],
        places: &[
            "log: want \"* downstream_remote_disconnect DC\", got *",
            "processor/*/response/*: want nothing, *",
            "processor/*/response/*/eos: want false, got true",
            "counters",
        ],
    },
    Known {
        anchor: "last-piece",
        // Of a request whose body passes a processor that may make it longer, on its way to HTTP/1.
        shows_in: |s| {
            let streams = |mode: &Value| {
                let body = mode[Side::Request.body_mode()].as_str().unwrap_or("NONE");
                body.ends_with("STREAMED")
            };
            mentions(&s.source, "allow_content_length_header")
                && has_mode(s, streams)
                && client(s, |c| {
                    c.protocol == Protocol::Http2
                        && has_field(&c.headers, "content-length")
                        && (c.separate_end || c.trailers.is_some() || ends_with_pause(&c.body))
                })
                && upstream(s, |u| u.protocol == Protocol::Http1)
        },
        signs: &[],
        places: &[
            "processor/*/request/*: want nothing, *",
            "processor/*/request/*/eos: want false, got true",
            "counters",
        ],
    },
    Known {
        anchor: "cuts",
        shows_in: |s| client(s, |c| c.protocol == Protocol::Http1 && c.cancel.is_some()),
        signs: &[],
        places: &["client/*/end: want \"cancelled\", got \"cut\""],
    },
    Known {
        anchor: "reset-no-content",
        // The client leaves with the head, which an upstream's stream outlives.
        shows_in: |s| {
            let bodyless = client(s, |c| c.method == "HEAD")
                || upstream(s, |u| u.status == 204 || u.status == 304);
            bodyless
                && client(s, |c| c.protocol == Protocol::Http1)
                && upstream(s, |u| u.protocol == Protocol::Http2)
        },
        signs: &[],
        places: &[
            "client/*/end: want \"cut\", got \"complete\"",
            "log: want \"* downstream_remote_disconnect DC\", got \"* via_upstream -\"",
            "log: want \"* UR\", got \"* via_upstream -\"",
        ],
    },
    Known {
        anchor: "retried-bodies",
        shows_in: |s| mentions(&s.source, "retry_policy") && client(s, |c| c.trailers.is_some()),
        signs: &[],
        places: &["upstream/*/body", "upstream/*/trailers"],
    },
    Known {
        anchor: "tunnel-end",
        shows_in: |s| {
            let shown = |mode: &Value, side: Side| {
                let body = mode[side.body_mode()].as_str().unwrap_or("NONE");
                body != "NONE"
            };
            upstream(s, |u| u.status == 101)
                && has_mode(s, |mode| {
                    shown(mode, Side::Request) || shown(mode, Side::Response)
                })
        },
        signs: &[],
        places: &["processor", "counters"],
    },
    Known {
        anchor: "hop-by-hop-fields-set",
        shows_in: |s| {
            let of_a_hop = |name: &str, _: &[u8]| name == "connection" || name == "keep-alive";
            heads_set(&s.spec.processor, Side::Request, &of_a_hop)
                || heads_set(&s.spec.processor, Side::Response, &of_a_hop)
        },
        signs: &[],
        places: &[
            "*/*/head/connection",
            "*/*/head/keep-alive",
            "processor/*/*/*/headers/connection",
            "processor/*/*/*/headers/keep-alive",
            // They count there.
            "processor/*/*/*/attributes/*/request.total_size",
        ],
    },
    Known {
        anchor: "hop-by-hop-fields-set",
        shows_in: |s| {
            let of_a_hop = |name: &str, _: &[u8]| name == "connection" || name == "keep-alive";
            heads_set(&s.spec.processor, Side::Request, &of_a_hop)
                || heads_set(&s.spec.processor, Side::Response, &of_a_hop)
        },
        // Over HTTP/2 they make a message malformed.
        signs: &[
            "upstream/*: want nothing, got {*",
            "client/*/end: want \"reset PROTOCOL_ERROR\", got *",
        ],
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
        signs: &[
            "counters/ext_proc.*rejected_header_mutations",
            "upstream/*/head/:path",
            "upstream/*/head/:authority",
            "upstream/*/head/host",
            "upstream/*: want nothing, got {*",
        ],
        places: &["*"],
    },
    Known {
        anchor: "fragment",
        shows_in: |s| client(s, |c| c.path.contains('#')),
        signs: &[
            "log: want \"400 path_normalization_failed *\", got *",
            // A processor has the refusal longer than the client waits.
            "log: want \"400 *\", got nothing",
        ],
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
        signs: &[],
        places: &[
            "upstream/*/head/content-length",
            "upstream/*/head/transfer-encoding",
        ],
    },
    Known {
        anchor: "low-version",
        shows_in: |s| client(s, |c| c.version == "1.0"),
        signs: &["log: want \"426 low_version DPE\", got *"],
        places: &["*"],
    },
    Known {
        anchor: "tunnel-end",
        // Of a handshake that was declined.
        shows_in: |s| client(s, asks_for_upgrade),
        signs: &[],
        places: &[
            "processor/*/request/*: want nothing, got {\"kind\":\"request_body\",\"body\":\"\",\"eos\":true*",
            "counters/ext_proc.*stream_msgs_*",
        ],
    },
    Known {
        anchor: "tunnel-end",
        shows_in: |s| upstream(s, |u| u.status == 101),
        signs: &[],
        places: &["log: want \"101 downstream_remote_disconnect DC\", *"],
    },
    Known {
        anchor: "refused-heads",
        shows_in: |s| {
            s.spec.hcm.as_ref().is_some_and(|hcm| {
                mentions(hcm, "max_headers_count") || mentions(hcm, "max_request_headers_kb")
            }) && client(s, |c| c.protocol == Protocol::Http2)
        },
        signs: &[],
        places: &["client/*", "log"],
    },
];
