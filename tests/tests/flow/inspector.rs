//! The inspector beside a real gateway: a person with a failing processor finds the cause in the terminal and on the page.

#[path = "../../../gateway/inspector/tests/common/browser.rs"]
#[allow(dead_code, reason = "shared with the tests of the page itself")]
mod browser;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::conformance::compare::differences;
use tests::conformance::normalise::observation;
use tests::conformance::run::{Target, run};
use tests::conformance::scenario;
use tests::provision::{self, Missing};
use tests::support::curl::curl;
use tests::support::peers::{self, Peer};
use tests::support::ports;
use tests::support::process::Process;
use tests::support::processor::{Processor, StreamRecord};
use tests::support::rig::Setup;
use tests::support::upstream::{Upstream, UpstreamScript};
use tokio::net::TcpListener;
use tokio::process::Command;

use self::browser::Browser;

/// A processor in trouble, and the words that name the cause.
struct Case {
    filter: &'static str,
    processor: Value,
    request: &'static [&'static str],
    words: &'static [&'static str],
}

/// It answers a message that waits for nothing.
pub(super) async fn wrong_phase() -> anyhow::Result<()> {
    let case = Case {
        filter: "",
        processor: json!({"request_headers": [{"response_headers": {}}]}),
        request: &[],
        words: &[
            "the processor answered response_headers, which was not sent to it; request_headers waits for an answer",
            "failure_mode_allow is not set, so the client gets 500",
        ],
    };
    case.check(None).await
}

/// It asks for a header that the rules do not allow, where that is an error.
pub(super) async fn mutation_refused() -> anyhow::Result<()> {
    let set = json!({"request_headers": [{"reply": {"set": ["x-fine: 1", "x-envoy-tenant: 1"]}}]});
    const RULE: &str =
        "set x-envoy-tenant: 1: refused, x-envoy headers need mutation_rules.allow_envoy";
    let passed_over = Case {
        filter: "",
        processor: set.clone(),
        request: &[],
        words: &[RULE],
    };
    passed_over.check(None).await?;
    let an_error = Case {
        filter: "mutation_rules: {disallow_is_error: true}\nfailure_mode_allow: true",
        processor: set,
        request: &[],
        words: &[
            "a header mutation was refused as a whole: set x-envoy-tenant: 1",
            "x-envoy headers need mutation_rules.allow_envoy",
            "failure_mode_allow does not cover this failure, so the client gets 500",
        ],
    };
    an_error.check(None).await
}

/// It says nothing.
pub(super) async fn no_answer_in_time() -> anyhow::Result<()> {
    let case = Case {
        filter: "message_timeout: 0.05s",
        processor: json!({"request_headers": ["silence"]}),
        request: &[],
        words: &[
            "no reply came within message_timeout: no reply to request_headers in time (message_timeout is 50ms)",
            "failure_mode_allow is not set, so the client gets 504",
        ],
    };
    case.check(None).await
}

/// It is in another mode than the filter.
pub(super) async fn wrong_mode() -> anyhow::Result<()> {
    let not_allowed = Case {
        filter: "",
        processor: json!({"request_headers": [
            {"reply": {}, "mode_override": {"request_body_mode": "BUFFERED"}},
        ]}),
        request: &[],
        words: &["mode_override ignored: allow_mode_override is not set"],
    };
    not_allowed.check(None).await?;
    let not_sent = Case {
        filter: "",
        processor: json!({"request_headers": [{"request_body": {"body": "new"}}]}),
        request: &["-d", "old"],
        words: &[
            "the processor answered request_body, which was not sent to it, as request_body_mode is NONE",
        ],
    };
    not_sent.check(None).await?;
    let form = Case {
        filter: "processing_mode: {request_body_mode: FULL_DUPLEX_STREAMED, request_trailer_mode: SEND}",
        processor: json!({"request_body": [{"request_body": {"body": "new"}}]}),
        request: &["-d", "old"],
        words: &["request_body_mode FULL_DUPLEX_STREAMED takes streamed_response alone"],
    };
    form.check(None).await
}

/// One side speaks TLS and the other does not, or the certificate is nobody's.
pub(super) async fn bad_tls() -> anyhow::Result<()> {
    let case = |words: &'static [&'static str]| Case {
        filter: "message_timeout: 5s",
        processor: json!({}),
        request: &[],
        words,
    };
    case(&[
        "gRPC status 14 (UNAVAILABLE)",
        "the processor does not speak TLS",
    ])
    .check(Some(&Tls {
        gateway: true,
        processor: false,
    }))
    .await?;
    case(&["gRPC status 14 (UNAVAILABLE)", "the processor speaks TLS"])
        .check(Some(&Tls {
            gateway: false,
            processor: true,
        }))
        .await?;
    case(&[
        "gRPC status 14 (UNAVAILABLE)",
        "invalid peer certificate: UnknownIssuer",
    ])
    .check(Some(&Tls {
        gateway: true,
        processor: true,
    }))
    .await
}

/// Who speaks TLS.
struct Tls {
    gateway: bool,
    processor: bool,
}

impl Case {
    /// Makes one request, and looks for the words in the transcript and on the page.
    async fn check(&self, tls: Option<&Tls>) -> anyhow::Result<()> {
        let upstream = TcpListener::bind("127.0.0.1:0").await?;
        let mut setup = Setup {
            upstream: Some(upstream.local_addr()?),
            filter: self.filter.into(),
            ..Setup::default()
        };
        let _upstream = Upstream::start(
            upstream,
            "upstream",
            UpstreamScript::default(),
            Arc::default(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let plain = listener.local_addr()?;
        let script = serde_json::from_value(self.processor.clone())?;
        let _processor = Processor::start(listener, script, Arc::default());
        let with_tls = match tls {
            Some(Tls {
                processor: true, ..
            }) => Some(tls_processor().await?),
            _ => None,
        };
        setup.processor = Some(with_tls.as_ref().map_or(plain, |peer| peer.address));
        let (gateway, inspector) = inspected(&setup, tls.is_some_and(|tls| tls.gateway)).await?;

        let transcript = traced(inspector, &gateway, self.request).await?;
        for words in self.words {
            ensure!(transcript.contains(words), "{words}\n{transcript}");
        }
        let page = Browser::open().await;
        let mut page = page.ok_or_else(|| Missing("no Chromium in PATH".into()))?;
        page.go(&format!("http://{inspector}/")).await;
        page.wait("document.querySelector('.row.problem')").await;
        page.value("document.querySelector('.row.problem').click()")
            .await;
        page.wait("document.querySelector('#detail .verdict')")
            .await;
        let seen = page
            .value("[...document.querySelectorAll('#detail .verdict')].map((v) => v.textContent).join('\\n')")
            .await;
        let seen = seen.as_str().unwrap_or_default();
        for words in self.words {
            ensure!(seen.contains(words), "{words}\n{seen}");
        }
        Ok(())
    }
}

/// An exchange that was taken away as a scenario plays the same again, to the gateway and to Envoy, and so does its curl.
pub(super) async fn taken_away() -> anyhow::Result<()> {
    let envoy = provision::envoy()?;
    let upstream = TcpListener::bind("127.0.0.1:0").await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let setup = Setup {
        upstream: Some(upstream.local_addr()?),
        processor: Some(listener.local_addr()?),
        filter: "processing_mode: {request_body_mode: BUFFERED, response_body_mode: STREAMED}"
            .into(),
        ..Setup::default()
    };
    let answer = json!({"status": 201, "headers": ["x-one: 1"], "body": ["first", "second"], "no_marker": true});
    let answer = serde_json::from_value(answer)?;
    let _upstream = Upstream::start(upstream, "upstream", answer, Arc::default());
    let script = json!({
        "request_headers": [{"reply": {"set": ["x-user: 7"], "remove": ["x-gone"]}}],
        "request_body": [{"reply": {"body": "NEW"}}],
        "response_headers": [{"reply": {"set": [{"name": "x-one", "value": "2", "action": "APPEND_IF_EXISTS_OR_ADD"}]}}],
        "response_body": {"always": {"reply": {"body": "part"}}},
    });
    let script = serde_json::from_value(script)?;
    let processor = Processor::start(listener, script, Arc::default());
    let (gateway, inspector) = inspected(&setup, false).await?;
    let url = format!("{}/taken?a=b", gateway.url());
    let recorded = curl(&[&url, "-d", "old", "-H", "x-gone: 1"]).await?;
    ensure!(recorded.status == 201, "{recorded:?}");

    let list = curl(&[&format!("http://{inspector}/exchanges")])
        .await?
        .json()?;
    let id = &list["exchanges"][0]["id"];
    let taken = async |format: &str| {
        let url = format!("http://{inspector}/exchanges/{id}?format={format}");
        anyhow::Ok(curl(&[&url]).await?.text())
    };
    let log = peers::log_file("taken", gateway.address.port());
    let directory = log.parent().context("no directory")?;
    let file = log.with_extension("scenario.yaml");
    std::fs::write(&file, taken("scenario").await?)?;
    let group = scenario::read(&file)?;
    let [scenario] = group.scenarios.as_slice() else {
        anyhow::bail!("not one scenario: {group:?}");
    };
    let mut seen = Vec::new();
    for target in [Target::under_test()?, Target::envoy(&envoy)] {
        let run = run(scenario, &target, directory, None).await?;
        let [client] = run.clients.as_slice() else {
            anyhow::bail!("not one answer: {run:?}");
        };
        let body: Vec<u8> = client.received.chunks.concat();
        ensure!(
            body == recorded.body,
            "{}: {body:?}, not {recorded:?}",
            target.name
        );
        let said = |streams: &[StreamRecord]| -> Vec<Value> {
            let messages = streams.iter().flat_map(|stream| &stream.messages);
            messages.map(|message| message["kind"].clone()).collect()
        };
        let (again, before) = (said(&run.processor), said(&processor.streams()));
        ensure!(
            again == before,
            "{}: {again:?}, not {before:?}",
            target.name
        );
        seen.push(observation(scenario, &run));
    }
    let differ = differences(&seen[1], &seen[0], &[]);
    ensure!(differ.is_empty(), "{differ:?}");

    let command = taken("curl").await?;
    let output = Command::new("sh").args(["-c", &command]).output().await?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        said.contains(" 201 ") && said.ends_with(&recorded.text()),
        "{command}\n{said}"
    );
    Ok(())
}

/// Two filters of one name, and an upstream that is asked twice: each processor and the first attempt are on the page.
pub(super) async fn chain() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let nobody = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
    let setup = Setup {
        upstream: Some(nobody),
        processor: Some(listener.local_addr()?),
        route: "retry_policy: {retry_on: connect-failure, num_retries: 1}".into(),
        ..Setup::default()
    };
    let _processor = Processor::start(listener, serde_json::from_value(json!({}))?, Arc::default());
    let router = "          - name: router\n";
    let second = format!(
        "          - name: ext_proc
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {{envoy_grpc: {{cluster_name: processor}}}}
{router}"
    );
    let (gateway, inspector) = inspected_so(&setup, |text| text.replace(router, &second)).await?;
    let transcript = traced(inspector, &gateway, &[]).await?;
    let attempt = format!("attempt 1 at {nobody}: ");
    ensure!(transcript.contains(&attempt), "{attempt}\n{transcript}");
    ensure!(
        transcript.contains("Connection refused, and another follows"),
        "{transcript}"
    );

    let list = curl(&[&format!("http://{inspector}/exchanges")])
        .await?
        .json()?;
    let processors = list["exchanges"][0]["processors"].as_array();
    let received = processors.into_iter().flatten().map(|p| &p["received"]);
    ensure!(received.eq([&json!(2), &json!(2)]), "{list}");

    let page = Browser::open().await;
    let mut page = page.ok_or_else(|| Missing("no Chromium in PATH".into()))?;
    page.go(&format!("http://{inspector}/")).await;
    page.wait("document.querySelector('.row')").await;
    page.value("document.querySelector('.row').click()").await;
    // Downstream, gateway, two processors, upstream.
    page.wait("document.querySelectorAll('#detail svg .life').length === 5")
        .await;
    page.wait("document.querySelector('#detail svg .attempt')")
        .await;
    let replies = page
        .value("document.querySelectorAll('#detail svg line.reply').length")
        .await;
    ensure!(replies == 4, "{replies} replies are drawn");
    Ok(())
}

/// The sample processor with a certificate that nothing here trusts.
async fn tls_processor() -> anyhow::Result<Peer> {
    let program = provision::workspace_binary("extproc-server", "extproc-server")?;
    let file = |name: &str| format!("{}/../gateway/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (cert, key) = (file("a.pem"), file("a.key"));
    let arguments = |at: SocketAddr| {
        let listen = at.to_string();
        let words = ["--listen", &listen, "--tls-cert", &cert, "--tls-key", &key];
        words.map(str::to_owned).to_vec()
    };
    peers::start("extproc-server-tls", program, arguments, &[]).await
}

/// A gateway with its inspector, with TLS to the processor if `tls`.
async fn inspected(setup: &Setup, tls: bool) -> anyhow::Result<(Peer, SocketAddr)> {
    let authority = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../gateway/tests/tls/client.pem"
    );
    let cluster = "  - name: processor\n";
    let socket = format!(
        "{cluster}    transport_socket:
      name: tls
      typed_config:
        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context: {{validation_context: {{trusted_ca: {{filename: {authority}}}}}}}
"
    );
    inspected_so(setup, |text| match tls {
        true => text.replace(cluster, &socket),
        false => text,
    })
    .await
}

/// The same with a bootstrap that `change` has changed.
async fn inspected_so(
    setup: &Setup,
    change: impl FnOnce(String) -> String,
) -> anyhow::Result<(Peer, SocketAddr)> {
    let listen = ports::free()?;
    let inspector = SocketAddr::from(([127, 0, 0, 1], ports::free()?));
    let text = change(setup.yaml(listen, ports::free()?));
    let log = peers::log_file("inspected", listen);
    let config = log.with_extension("yaml");
    std::fs::create_dir_all(config.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(&config, text)?;
    let program = provision::workspace_binary("gateway", "gateway")?;
    let (config, inspect) = (config.display().to_string(), inspector.to_string());
    let words = [
        "--config",
        &config,
        "--inspect",
        &inspect,
        "--inspect-bodies",
        "1024",
    ];
    let process = Process::spawn(program, words, &log)?;
    let address = SocketAddr::from(([127, 0, 0, 1], listen));
    let process = process.listening(address, Duration::from_secs(30)).await?;
    Ok((Peer { address, process }, inspector))
}

/// The transcript that `gateway trace -- curl` prints of one request.
async fn traced(inspector: SocketAddr, gateway: &Peer, request: &[&str]) -> anyhow::Result<String> {
    let program = provision::workspace_binary("gateway", "gateway")?;
    let output = Command::new(program)
        .args(["trace", "--inspector", &inspector.to_string(), "--"])
        .args([
            "curl",
            "-s",
            "-o",
            "/dev/null",
            &format!("{}/one", gateway.url()),
        ])
        .args(request)
        .stderr(Stdio::inherit())
        .output()
        .await?;
    String::from_utf8(output.stdout).context("the transcript is no text")
}
