//! Makes scenarios: everything that the scenario format can say, in proportions that let most exchanges get far.
//!
//! A scenario depends on seed and index alone. What it does at random places is limited in two ways, so that Envoy does the
//! same twice: answers that change pieces of a body only where those are far enough apart to stay pieces, and
//! waits that are either much shorter or much longer than the timeouts beside them. Left out is what Envoy 1.40 does not
//! implement (body mode GRPC, `request_drain`).

mod client;
mod filter;
mod processor;
mod routing;
mod upstream;
mod wide;

pub(super) use processor::WRONG_WIRE_TYPE;

use serde_json::{Map, Value, json};

use super::random::Random;
use crate::conformance::scenario::{self, Scenario};

/// The group of generated scenarios.
pub const GROUP: &str = "random";

/// Milliseconds between pieces that arrive one after the other, whatever else goes on.
const APART: u64 = 60;

/// Facts that parts of a scenario have to know of each other.
#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    /// ext_proc filters.
    filters: usize,
    /// The processor may leave a message without a reply, so a timeout has to come.
    unanswered: bool,
    /// Pieces of the request body come one by one, so answers may differ from piece to piece.
    request_apart: bool,
    /// The same of the response body.
    response_apart: bool,
    /// Some body mode is FULL_DUPLEX_STREAMED.
    duplex: bool,
    /// The processor is an HTTP service.
    over_http: bool,
    /// Modes may be changed by replies.
    overrides: bool,
    /// There is a route `/alt` to another cluster.
    alternative: bool,
    /// A side stream is closed some time after its exchange.
    deferred: bool,
    /// Buffer limits are small.
    limited: bool,
}

/// The scenario with this index, as it would stand in a file.
#[must_use]
pub fn source(seed: u64, index: u64) -> Value {
    make(seed, index, false)
}

/// The same with more of what the format can say: another scenario, at times.
#[must_use]
pub fn wide(seed: u64, index: u64) -> Value {
    make(seed, index, true)
}

fn make(seed: u64, index: u64, wide: bool) -> Value {
    let random = &mut Random::of(seed, index);
    let mut plan = Plan {
        filters: random.weighted(&[(78, 1), (18, 2), (4, 3)]),
        unanswered: random.chance(10),
        request_apart: random.chance(60),
        response_apart: random.chance(60),
        overrides: random.chance(15),
        alternative: random.chance(12),
        limited: random.chance(12),
        over_http: random.chance(3),
        ..Plan::default()
    };
    if plan.over_http {
        plan.filters = 1;
    }
    let mut out = Map::new();
    out.insert("name".into(), format!("{seed}-{index}").into());
    // Directions of a side stream are compared each for itself: a reply and the upstream's answer to what it let go cross.
    out.insert("compare".into(), json!({"split": true}));
    out.insert("limit".into(), 2000.into());
    let log = "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%";
    out.insert("log".into(), log.into());
    filter::add(random, &mut plan, &mut out);
    routing::add(random, plan, &mut out);
    client::add(random, plan, &mut out);
    upstream::add(random, plan, &mut out);
    processor::add(random, plan, &mut out);
    if wide {
        wide::add(seed, index, plan, &mut out);
        wide::around(seed, index, plan, &mut out);
    }
    let streams = Value::Object(out.clone()).to_string().contains("STREAMED");
    if streams && (plan.filters > 1 || plan.unanswered || plan.limited) {
        // Their numbers go by how bodies are cut, and it does not show which filter's message, or whether one that was answered.
        let mut skip = out["compare"]["skip"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for prefix in ["", "one.", "two."] {
            for way in ["sent", "received"] {
                skip.push(format!("counters/ext_proc.{prefix}stream_msgs_{way}").into());
            }
        }
        out["compare"]["skip"] = skip.into();
    }
    if plan.deferred {
        // Longer than `deferred_close_timeout`.
        out.insert("settle".into(), 600.into());
    }
    Value::Object(out)
}

/// The scenario with this index, ready to run.
///
/// # Errors
/// When the format does not know what was generated.
pub fn scenario(seed: u64, index: u64) -> anyhow::Result<Scenario> {
    scenario::build(GROUP, source(seed, index))
}

/// A body: with `apart` in pieces that come one by one, each small enough to be read at once; otherwise in whatever pieces.
fn body(random: &mut Random, apart: bool, limited: bool, words: [&str; 3]) -> Value {
    let large: &[usize] = match (limited, apart) {
        (true, _) => &[900, 1000, 1001, 1100, 3000],
        (false, true) => &[1000, 3000],
        (false, false) => &[1000, 16_384, 20_000, 70_000, 200_000],
    };
    if random.chance(if limited { 60 } else { 12 }) {
        return json!({"size": random.pick(large)});
    }
    if random.chance(30) {
        return words[0].into();
    }
    let mut parts: Vec<Value> = Vec::new();
    // Envoy ends HTTP/2 connections at two empty frames in a row.
    let empty = random.chance(10);
    if empty {
        parts.push(json!(""));
    }
    for word in &words[..1 + random.below(3)] {
        if apart && (!parts.is_empty() || random.chance(20)) {
            parts.push(json!({"pause": APART + 20 * random.below(3) as u64}));
        }
        let part = match random.below(12) {
            0 => json!({"size": random.pick(large)}),
            _ => json!(word),
        };
        parts.push(part);
    }
    if apart && random.chance(25) {
        parts.push(json!({"pause": APART}));
    }
    parts.into()
}

/// Some of the items, in their order.
fn some<T: Clone>(random: &mut Random, items: &[T], percent: usize) -> Vec<T> {
    items
        .iter()
        .filter(|_| random.chance(percent))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_scenario_depends_on_seed_and_index_alone() {
        for index in 0..50 {
            assert_eq!(source(3, index), source(3, index));
        }
        let different: BTreeSet<String> = (0..200)
            .map(|index| {
                let mut source = source(3, index);
                source["name"] = Value::Null;
                source.to_string()
            })
            .collect();
        assert_eq!(different.len(), 200);
    }

    #[test]
    fn the_format_knows_all_that_is_generated() -> anyhow::Result<()> {
        for index in 0..3000 {
            scenario(1, index)?;
            scenario::build(GROUP, wide(1, index))?;
        }
        Ok(())
    }

    #[test]
    fn more_is_said_where_that_is_asked_for() {
        let text: String = (0..1000).map(|index| wide(2, index).to_string()).collect();
        let words = [
            "typed_dynamic_metadata",
            "keep_empty",
            "ADD_IF_ABSENT",
            "OVERWRITE_IF_EXISTS",
            "APPEND_IF_EXISTS_OR_ADD",
            "local_reply_config",
            "max_request_bytes",
            "connection: close",
        ];
        let missing = words
            .iter()
            .filter(|word| !text.contains(&format!("\"{word}\"")));
        assert_eq!(missing.count(), 0);
        assert!((0..100).any(|index| wide(2, index) == source(2, index)));
    }

    /// Every word of the format that a random scenario may use is used by some.
    #[test]
    fn nothing_is_left_out() {
        let text: String = (0..3000)
            .map(|index| source(2, index).to_string())
            .collect();
        let words = [
            // body modes, header and trailer modes
            "NONE",
            "STREAMED",
            "BUFFERED",
            "BUFFERED_PARTIAL",
            "FULL_DUPLEX_STREAMED",
            "SKIP",
            "SEND",
            // the filter
            "failure_mode_allow",
            "message_timeout",
            "max_message_timeout",
            "allow_mode_override",
            "allowed_override_modes",
            "mutation_rules",
            "forward_rules",
            "disable_immediate_response",
            "status_on_error",
            "route_cache_action",
            "disable_clear_route_cache",
            "observability_mode",
            "deferred_close_timeout",
            "send_body_without_waiting_for_header_response",
            "request_attributes",
            "response_attributes",
            "metadata_options",
            "stat_prefix",
            "allow_content_length_header",
            "processing_request_modifier",
            "http_service",
            "initial_metadata",
            "max_receive_message_length",
            // chains, routes, limits
            "more_filters",
            "filters_before",
            "filters_after",
            "filter_disabled",
            "per_route",
            "per_vhost",
            "per_route_config",
            "routes",
            "direct_response",
            "redirect",
            "prefix_rewrite",
            "retry_policy",
            "request_headers_to_add",
            "limits",
            "max_headers_count",
            "upgrade_configs",
            "proxy_100_continue",
            // clients
            "clients",
            "repeat",
            "parallel",
            "h1",
            "h2",
            "pause",
            "size",
            "grpc",
            "trailers",
            "framing",
            "expect_continue",
            "after_head",
            "cancel",
            "half_open",
            "separate_end",
            "upgrade_send",
            "HEAD",
            // upstreams
            "informational",
            "wait",
            "delay",
            "echo",
            "before-head",
            "after-head",
            "after-body",
            "reset_code",
            "silent",
            "absent",
            "refuse",
            "close",
            "bodies",
            "raw",
            "no_marker",
            // processors
            "always",
            "open",
            "streams",
            "after",
            "sleep",
            "silence",
            "continue",
            "abort",
            "goaway",
            "error",
            "http",
            "garbage",
            "reply",
            "immediate",
            "local",
            "replace",
            "clear_body",
            "stream",
            "eos",
            "clear_route_cache",
            "empty_body_mutation",
            "set_many",
            "remove",
            "append",
            "mode_override",
            "dynamic_metadata",
            "override_message_timeout",
            "empty",
            "max_streams",
            "details",
        ];
        let missing: Vec<_> = words
            .iter()
            .filter(|word| !text.contains(&format!("\"{word}\"")))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
