//! Datadog's callout with its WAF, in Go and C++.

use std::net::SocketAddr;

use anyhow::ensure;
use tests::provision;
use tests::support::peers::{self, Peer};
use tests::support::ports;

use super::both::{Bodies, Bootstrap, Both};
use super::{JSON, only_live};

/// As its documentation configures it: header modes alone, and a processor that asks for bodies by `mode_override`, answers
/// some messages by ending the stream, and blocks with immediate responses.
pub(in super::super) async fn datadog_callout() -> anyhow::Result<()> {
    only_live()?;
    let envoy = provision::envoy()?;
    let part = provision::datadog_callout()?;
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    for rules in [None, Some("user_rules.json")] {
        let processor = start(&part, rules).await?;
        let bootstrap = Bootstrap::of_peers("datadog-callout")?
            .port("10002", httpbin.address.port())
            .port("10003", processor.address.port());
        let both = Both::start(&envoy, &bootstrap).await?;
        // Trace contexts are made anew for every request.
        let both = both.with_random(&[
            "Traceparent",
            "Tracestate",
            "X-Datadog-Parent-Id",
            "X-Datadog-Tags",
            "X-Datadog-Trace-Id",
        ]);
        let scanner = ["/anything", "-A", "dd-test-scanner-log-block"];
        let header = [
            "/etag/match-response-header",
            "-H",
            "if-none-match: \"match-response-header\"",
        ];
        let query = ["/anything?q=match-request-query"];
        let requests: [&[&str]; 15] = [
            &["/headers"],
            &scanner,
            &[&scanner[..], &["-H", "accept: text/html"]].concat(),
            &[&scanner[..], &["-H", JSON, "-d", "{}"]].concat(),
            &["/anything", "-H", "x-forwarded-for: 1.2.3.4"],
            &["/anything", "-d", "plain=1"],
            &["/anything", "-H", JSON, "-d", r#"{"a": 1}"#],
            &["/anything", "-H", JSON, "-d", r#"{"a": "$globals"}"#],
            &query,
            &["/anything?q=$globals"],
            &["/anything", "-b", "a=jdfoSDGFkivRG_234"],
            &header,
            &["/response-headers?test=match-response-header"],
            &["/status/404"],
            &["/status/204"],
        ];
        both.ask_all(&requests).await?;
        both.same_counters(Bodies::Streamed).await?;
        let mut statuses = Vec::new();
        for request in [&scanner[..], &query, &header] {
            statuses.push(both.ask(request).await?.status);
        }
        let expected = match rules {
            None => [403, 200, 304],
            Some(_) => [403, 418, 418],
        };
        ensure!(statuses == expected, "{rules:?}: {statuses:?}");
    }
    Ok(())
}

async fn start(part: &provision::DatadogCallout, rules: Option<&str>) -> anyhow::Result<Peer> {
    let address = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
    let port = address.port().to_string();
    let health = ports::free()?.to_string();
    let rules = rules.map(|name| part.rules(name).display().to_string());
    let mut env = vec![
        ("DD_SERVICE_EXTENSION_HOST", "127.0.0.1"),
        ("DD_SERVICE_EXTENSION_PORT", &port),
        ("DD_SERVICE_EXTENSION_HEALTHCHECK_PORT", &health),
        ("DD_APPSEC_BODY_PARSING_SIZE_LIMIT", "10000000"),
        // Time enough on a busy machine; what takes longer is let through.
        ("DD_APPSEC_WAF_TIMEOUT", "5s"),
        // There is no agent to speak to.
        ("DD_INSTRUMENTATION_TELEMETRY_ENABLED", "false"),
        ("DD_REMOTE_CONFIGURATION_ENABLED", "false"),
        ("DD_TRACE_STARTUP_LOGS", "false"),
    ];
    if let Some(rules) = &rules {
        env.push(("DD_APPSEC_RULES", rules));
    }
    peers::start_in(&part.folder, address, &part.program, &[], &env).await
}
