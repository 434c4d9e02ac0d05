//! The counters in the text format of Prometheus.

use std::fmt::Write as _;

use super::Stats;
use crate::types::Phase;

/// The counters in the Prometheus text format.
pub(super) fn render(stats: &Stats) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "# HELP extproc_{name} {help}\n# TYPE extproc_{name} {kind}"
        );
        for (labels, value) in samples {
            let _ = writeln!(text, "extproc_{name}{labels} {value}");
        }
    };
    let plain = |value| [(String::new(), value)];
    family(
        "exchanges_total",
        "counter",
        "Exchanges begun.",
        &plain(stats.exchanges()),
    );
    family(
        "open_exchanges",
        "gauge",
        "Exchanges that have not ended.",
        &plain(stats.open_exchanges()),
    );
    family(
        "messages_total",
        "counter",
        "Messages received, by phase.",
        &Phase::ALL.map(|phase| (format!("{{phase=\"{phase}\"}}"), stats.messages(phase))),
    );
    family(
        "immediate_responses_total",
        "counter",
        "Immediate responses sent.",
        &plain(stats.immediate_responses()),
    );
    family(
        "unexpected_messages_total",
        "counter",
        "Messages out of the order of the protocol.",
        &plain(stats.unexpected_messages()),
    );
    let failures = [
        ("error", stats.handler_errors()),
        ("panic", stats.handler_panics()),
        ("deadline", stats.missed_deadlines()),
        ("invalid_reply", stats.invalid_replies()),
        ("refused_modes", stats.refused_modes()),
        ("unknown_message", stats.unknown_messages()),
    ];
    family(
        "failures_total",
        "counter",
        "Handlers that failed, and exchanges that could not be handled, by kind.",
        &failures.map(|(kind, value)| (format!("{{kind=\"{kind}\"}}"), value)),
    );
    text
}
