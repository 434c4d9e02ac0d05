//! The documented flow with real parts: real curl, both httpbins, a real Envoy, a processor of somebody else.
//!
//! Parts that cannot be provisioned make their tests *ignored* with the reason; with `EXTPROC_PEERS=require` they fail.

#[path = "flow/processors/mod.rs"]
mod processors;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::Arguments;
use serde_json::{Value, json};
use tests::provision;
use tests::support::curl::{Answer, curl};
use tests::support::peers::{self, Peer};
use tests::support::ports;
use tests::support::process::Process;
use tests::support::trial::flow;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

/// The header line of the guide.
const INSTRUCTIONS: &str = r#"instructions: {"addHeaders":{"extproc":"true"}}"#;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let trials = vec![
        flow("guide/go-httpbin", guide_with_go_httpbin()),
        flow("guide/python-httpbin", guide_with_python_httpbin()),
        flow("guide/embedded-httpbin", guide_with_embedded_httpbin()),
        flow("guide/behind-envoy", guide_behind_envoy()),
        flow(
            "guide/example-bootstrap-in-both",
            example_bootstrap_in_both(),
        ),
        flow("guide/instructions", every_instruction()),
        flow("processors/python-sdk", third_party_processor()),
        flow(
            "processors/body-based-router",
            processors::body_based_router(),
        ),
        flow("processors/endpoint-picker", processors::endpoint_picker()),
        flow("processors/datadog-callout", processors::datadog_callout()),
        flow("httpbin-parity", httpbin_parity()),
        flow("first-hour/processor-down", processor_down()),
        flow("first-hour/upstream-down", upstream_down()),
        flow("first-hour/bad-flag", bad_flag()),
        flow("first-hour/bad-yaml", bad_yaml()),
        flow("first-hour/check", check_only()),
        flow("first-hour/port-in-use", port_in_use()),
        flow("first-hour/sigterm", sigterm()),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

// The documented flow.

async fn guide_with_go_httpbin() -> anyhow::Result<()> {
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let answer = guide_through_gateway(&httpbin).await?;
    go_httpbin_form(&answer)
}

async fn guide_with_embedded_httpbin() -> anyhow::Result<()> {
    let httpbin = peers::embedded_httpbin().await?;
    let answer = guide_through_gateway(&httpbin).await?;
    go_httpbin_form(&answer)
}

async fn guide_with_python_httpbin() -> anyhow::Result<()> {
    let httpbin = peers::python_httpbin(&provision::httpbin()?).await?;
    let answer = guide_through_gateway(&httpbin).await?;
    let headers = &answer.json()?["headers"];
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(headers["Extproc"] == "true", "{headers}");
    ensure!(headers["Host"] == "www.example.com", "{headers}");
    Ok(())
}

async fn guide_through_gateway(httpbin: &Peer) -> anyhow::Result<Answer> {
    let processor = peers::sample_processor().await?;
    let gateway = peers::gateway(&httpbin.url(), &processor.url()).await?;
    guide_line(gateway.address).await
}

/// The curl line of the guide, with another port.
async fn guide_line(gateway: SocketAddr) -> anyhow::Result<Answer> {
    let url = format!("http://localhost:{}/headers", gateway.port());
    let arguments = [
        "-4",
        &url,
        "-H",
        "host: www.example.com",
        "-H",
        INSTRUCTIONS,
    ];
    curl(&arguments).await
}

/// Checks an answer of go-httpbin: canonical names, values in lists.
fn go_httpbin_form(answer: &Answer) -> anyhow::Result<()> {
    let headers = &answer.json()?["headers"];
    ensure!(answer.status == 200, "{answer:?}");
    ensure!(headers["Extproc"] == json!(["true"]), "{headers}");
    ensure!(headers["Host"] == json!(["www.example.com"]), "{headers}");
    let instructions = json!([r#"{"addHeaders":{"extproc":"true"}}"#]);
    ensure!(headers["Instructions"] == instructions, "{headers}");
    Ok(())
}

async fn guide_behind_envoy() -> anyhow::Result<()> {
    let envoy = provision::envoy()?;
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let processor = peers::sample_processor().await?;
    let gateway = peers::gateway(&httpbin.url(), &processor.url()).await?;
    let ours = guide_line(gateway.address).await?;
    let envoy = envoy_in_place(&envoy, processor.address, httpbin.address).await?;
    let theirs = guide_line(envoy.address).await?;
    go_httpbin_form(&theirs)?;
    same_for_the_user(&theirs, &ours)
}

/// The same status, and the same body but for fields that Envoy adds to upstream requests and a gateway started
/// with flags does not.
fn same_for_the_user(envoy: &Answer, gateway: &Answer) -> anyhow::Result<()> {
    ensure!(
        envoy.status == gateway.status,
        "status {} with Envoy, {} with the gateway",
        envoy.status,
        gateway.status
    );
    let plain = |answer: &Answer| -> Value {
        let Ok(mut json) = answer.json() else {
            return answer.text().into();
        };
        if let Some(headers) = json.get_mut("headers").and_then(Value::as_object_mut) {
            let added = ["X-Request-Id", "X-Forwarded-Proto"];
            headers
                .retain(|name, _| !name.starts_with("X-Envoy-") && !added.contains(&name.as_str()));
        }
        json
    };
    let (theirs, ours) = (plain(envoy), plain(gateway));
    ensure!(theirs == ours, "Envoy: {theirs}\ngateway: {ours}");
    Ok(())
}

/// A real Envoy with the example bootstrap, on other ports.
async fn envoy_in_place(
    program: &Path,
    processor: SocketAddr,
    upstream: SocketAddr,
) -> anyhow::Result<Peer> {
    let config = moved_bootstrap("envoy", processor, upstream)?;
    let listener = config.listener;
    let file = config.file.display().to_string();
    let log = peers::log_file("envoy", listener.port());
    let arguments = [
        "-c",
        &file,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "warn",
    ];
    let process = Process::spawn(program, arguments, &log)?;
    Ok(Peer {
        address: listener,
        process: process.listening(listener, Duration::from_secs(30)).await?,
    })
}

struct Moved {
    listener: SocketAddr,
    file: PathBuf,
}

/// `examples/envoy.yaml` with other ports and nothing else changed.
fn moved_bootstrap(
    name: &str,
    processor: SocketAddr,
    upstream: SocketAddr,
) -> anyhow::Result<Moved> {
    let port = ports::free()?;
    let listener = SocketAddr::from(([127, 0, 0, 1], port));
    let mut text = std::fs::read_to_string(example_bootstrap())?;
    for (from, to) in [
        ("port_value: 9901", ports::free()?),
        ("port_value: 8080", port),
        ("port_value: 8000", upstream.port()),
        ("port_value: 18080", processor.port()),
    ] {
        ensure!(text.contains(from), "no {from} in the example");
        text = text.replace(from, &format!("port_value: {to}"));
    }
    let file = peers::log_file(name, port).with_extension("yaml");
    std::fs::create_dir_all(file.parent().context("no directory")?)?;
    std::fs::write(&file, text)?;
    Ok(Moved { listener, file })
}

fn example_bootstrap() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/envoy.yaml")
}

async fn example_bootstrap_in_both() -> anyhow::Result<()> {
    let envoy = provision::envoy()?;
    let gateway = provision::workspace_binary("gateway", "gateway")?;
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let processor = peers::sample_processor().await?;
    // Envoy says what it thinks of the file as it is, then both run it with free ports.
    let log = peers::log_file("envoy-validate", 0);
    let arguments = ["--mode", "validate", "-c", example_bootstrap()];
    let mut validation = Process::spawn(&envoy, arguments, &log)?;
    let status = validation.wait(Duration::from_secs(30)).await?;
    ensure!(status.success(), "{}", validation.log_tail(2000));
    let mut check = run_gateway(&["--config", example_bootstrap(), "--check"])?;
    let status = check.wait(Duration::from_secs(10)).await?;
    ensure!(status.success(), "{}", check.log());

    let theirs = envoy_in_place(&envoy, processor.address, httpbin.address).await?;
    let theirs = guide_line(theirs.address).await?;
    let moved = moved_bootstrap("gateway", processor.address, httpbin.address)?;
    let file = moved.file.display().to_string();
    let log = peers::log_file("gateway-config", moved.listener.port());
    let process = Process::spawn(&gateway, ["--config", &file], &log)?;
    let _gateway = process
        .listening(moved.listener, Duration::from_secs(10))
        .await?;
    let ours = guide_line(moved.listener).await?;
    go_httpbin_form(&ours)?;
    same_for_the_user(&theirs, &ours)
}

async fn every_instruction() -> anyhow::Result<()> {
    let httpbin = peers::embedded_httpbin().await?;
    let processor = peers::sample_processor().await?;
    let gateway = peers::gateway(&httpbin.url(), &processor.url()).await?;
    let url = |path: &str| format!("{}{path}", gateway.url());

    let remove = r#"instructions: {"removeHeaders":["x-secret"]}"#;
    let answer = curl(&[&url("/headers"), "-H", "x-secret: 1", "-H", remove]).await?;
    ensure!(
        answer.json()?["headers"].get("X-Secret").is_none(),
        "{answer:?}"
    );

    let respond = r#"instructions: {"respond":{"status":403,"body":"no entry"}}"#;
    let answer = curl(&[&url("/headers"), "-H", respond]).await?;
    ensure!(
        (answer.status, answer.text().as_str()) == (403, "no entry"),
        "{answer:?}"
    );

    // instructions in a response header: go-httpbin's /response-headers sends what the query says
    let query =
        "/response-headers?instructions=%7B%22addHeaders%22%3A%7B%22x-added%22%3A%22yes%22%7D%7D";
    let answer = curl(&[&url(query)]).await?;
    ensure!(answer.header("x-added") == Some("yes"), "{answer:?}");

    let answer = curl(&[&url("/headers"), "-H", "instructions: {not json"]).await?;
    ensure!(answer.status == 400, "{answer:?}");
    ensure!(
        answer.text().contains("addHeaders"),
        "no example in {answer:?}"
    );
    Ok(())
}

// Interoperability.

async fn third_party_processor() -> anyhow::Result<()> {
    let envoy = provision::envoy()?;
    let part = provision::third_party_processor()?;
    let httpbin = peers::go_httpbin(provision::go_httpbin()?).await?;
    let processor = peers::third_party_processor(&part).await?;
    let gateway = peers::gateway(&httpbin.url(), &processor.url()).await?;
    let envoy = envoy_in_place(&envoy, processor.address, httpbin.address).await?;
    for (path, more) in [
        ("/headers", &["-H", "x-remove-me: 1"][..]),
        ("/refused/x", &[]),
        ("/status/404", &[]),
        ("/post", &["-d", "some=body"]),
    ] {
        let ask = async |peer: &Peer| {
            let url = format!("{}{path}", peer.url());
            let mut arguments = vec![url.as_str(), "-H", "host: same.local"];
            arguments.extend(more);
            curl(&arguments).await
        };
        let theirs = ask(&envoy).await?;
        let ours = ask(&gateway).await?;
        same_for_the_user(&theirs, &ours).with_context(|| path.to_owned())?;
        let marks = |answer: &Answer| answer.header("x-peer-response").map(str::to_owned);
        ensure!(
            marks(&theirs) == marks(&ours),
            "{path}: {theirs:?} {ours:?}"
        );
    }
    let answer = curl(&[&format!("{}/headers", gateway.url())]).await?;
    let headers = &answer.json()?["headers"];
    ensure!(
        headers["X-Peer-Request"] == json!(["/headers"]),
        "{headers}"
    );
    Ok(())
}

/// The embedded httpbin answers as go-httpbin does on what the tests and the documents use.
async fn httpbin_parity() -> anyhow::Result<()> {
    let real = peers::go_httpbin(provision::go_httpbin()?).await?;
    let ours = peers::embedded_httpbin().await?;
    let calls: &[(&str, &[&str])] = &[
        ("/headers", &["-H", "x-a: 1", "-H", "x-a: 2"]),
        ("/get?a=1&a=2&b=%20", &[]),
        ("/post", &["-d", "a=1&b=2"]),
        (
            "/post",
            &["-H", "content-type: application/json", "-d", r#"{"a":1}"#],
        ),
        (
            "/put",
            &["-X", "PUT", "-d", "plain", "-H", "content-type: text/plain"],
        ),
        ("/patch", &["-X", "PATCH", "-d", "x=y"]),
        ("/delete", &["-X", "DELETE"]),
        ("/anything/deep/path?q=1", &[]),
        ("/status/201", &[]),
        ("/status/404", &[]),
        ("/status/503", &[]),
        ("/response-headers?x-one=1&x-two=2", &[]),
        ("/bytes/16?seed=1", &[]),
        ("/stream/2", &[]),
        ("/delay/0.01", &[]),
        ("/redirect/1", &[]),
        ("/user-agent", &["-A", "agent/1"]),
        ("/ip", &[]),
        ("/get", &["-X", "POST"]),
        ("/no-such-path", &[]),
        ("/status/abc", &[]),
    ];
    let mut different = Vec::new();
    for (path, more) in calls {
        let ask = async |peer: &Peer| {
            let url = format!("{}{path}", peer.url());
            let mut arguments = vec![url.as_str(), "-H", "host: same.local"];
            arguments.extend(*more);
            curl(&arguments).await
        };
        let (want, got) = (ask(&real).await?, ask(&ours).await?);
        let shape = |answer: &Answer| {
            // the wording of an error is each one's own
            let body = if answer.status >= 400 {
                json!(answer.body.is_empty())
            } else if path.starts_with("/bytes") {
                json!(answer.body.len())
            } else if path.starts_with("/stream") {
                json!(answer.text().lines().count())
            } else {
                answer
                    .json()
                    .map_or_else(|_| answer.text().trim().into(), without_addresses)
            };
            json!({
                "status": answer.status,
                "content-type": answer.header("content-type"),
                "location": answer.header("location"),
                "x-one": answer.header("x-one"),
                "body": body,
            })
        };
        if shape(&want) != shape(&got) {
            let more = more.join(" ");
            different.push(format!(
                "{path} {more}\n  {}\n  {}",
                shape(&want),
                shape(&got)
            ));
        }
    }
    ensure!(different.is_empty(), "{}", different.join("\n"));
    Ok(())
}

fn without_addresses(mut json: Value) -> Value {
    if let Some(map) = json.as_object_mut() {
        for key in ["origin", "url"] {
            if let Some(value) = map.get_mut(key) {
                *value = value.is_string().into();
            }
        }
    }
    json
}

// Errors of the first hour.

async fn processor_down() -> anyhow::Result<()> {
    let httpbin = peers::embedded_httpbin().await?;
    let nobody = format!("http://127.0.0.1:{}", ports::free()?);
    let gateway = peers::gateway(&httpbin.url(), &nobody).await?;
    let answer = curl(&[&format!("{}/headers", gateway.url())]).await?;
    ensure!(answer.status == 500, "{answer:?}");
    let address = nobody.trim_start_matches("http://");
    gateway.process.logs(&[address, "refused"]).await
}

async fn upstream_down() -> anyhow::Result<()> {
    let processor = peers::sample_processor().await?;
    let nobody = format!("http://127.0.0.1:{}", ports::free()?);
    let gateway = peers::gateway(&nobody, &processor.url()).await?;
    let answer = curl(&[&format!("{}/headers", gateway.url())]).await?;
    ensure!(answer.status == 503, "{answer:?}");
    gateway.process.logs(&["refused"]).await
}

fn run_gateway(arguments: &[&str]) -> anyhow::Result<Process> {
    let program = provision::workspace_binary("gateway", "gateway")?;
    let log = peers::log_file("gateway-once", ports::free()?);
    Process::spawn(program, arguments, &log)
}

async fn bad_flag() -> anyhow::Result<()> {
    let mut process = run_gateway(&["--lisen", "127.0.0.1:0"])?;
    let status = process.wait(Duration::from_secs(10)).await?;
    let log = process.log();
    ensure!(!status.success(), "{log}");
    ensure!(log.contains("--lisen") && log.contains("--listen"), "{log}");
    Ok(())
}

async fn bad_yaml() -> anyhow::Result<()> {
    let text = std::fs::read_to_string(example_bootstrap())?;
    let (line, bad) = text
        .lines()
        .enumerate()
        .find(|(_, line)| line.contains("message_timeout:"))
        .context("no message_timeout in the example")?;
    for (name, new, words) in [
        (
            "unknown-field",
            "mesage_timeout: 0.2s",
            &["mesage_timeout", "typed_config"][..],
        ),
        (
            "bad-value",
            "message_timeout: soon",
            &["message_timeout", "soon"],
        ),
    ] {
        let indent = " ".repeat(bad.len() - bad.trim_start().len());
        let changed = text.replace(bad, &format!("{indent}{new}"));
        let file = peers::log_file(name, ports::free()?).with_extension("yaml");
        std::fs::create_dir_all(file.parent().context("no directory")?)?;
        std::fs::write(&file, changed)?;
        let shown = file.display().to_string();
        let mut process = run_gateway(&["--config", &shown])?;
        let status = process.wait(Duration::from_secs(10)).await?;
        let log = process.log();
        ensure!(status.code() == Some(1), "{name}: {status}: {log}");
        let place = format!("{shown}:{}", line + 1);
        ensure!(log.contains(&place), "{name}: no {place} in {log}");
        for word in words {
            ensure!(log.contains(word), "{name}: no {word} in {log}");
        }
    }
    Ok(())
}

async fn check_only() -> anyhow::Result<()> {
    let mut process = run_gateway(&["--config", example_bootstrap(), "--check"])?;
    let status = process.wait(Duration::from_secs(10)).await?;
    ensure!(status.success(), "{}", process.log());
    Ok(())
}

async fn port_in_use() -> anyhow::Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let upstream = "http://127.0.0.1:1";
    let mut process = run_gateway(&[
        "--listen",
        &address,
        "--upstream",
        upstream,
        "--ext-proc",
        upstream,
    ])?;
    let status = process.wait(Duration::from_secs(10)).await?;
    let log = process.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains(&address), "no {address} in {log}");
    ensure!(log.to_lowercase().contains("in use"), "{log}");
    Ok(())
}

async fn sigterm() -> anyhow::Result<()> {
    let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let processor = peers::sample_processor().await?;
    let address = format!("http://{}", upstream.local_addr()?);
    let mut gateway = peers::gateway(&address, &processor.url()).await?;
    let url = format!("{}/", gateway.url());
    let slow = tokio::spawn(async move { curl(&[&url]).await });
    // The request is in flight, with the upstream.
    let (socket, _) = timeout(Duration::from_secs(10), upstream.accept()).await??;
    let mut socket = BufReader::new(socket);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        ensure!(socket.read_line(&mut line).await? > 0, "half a request");
    }
    let id = gateway.process.id().context("it has ended")?.to_string();
    let kill = tokio::process::Command::new("kill")
        .args(["-TERM", &id])
        .status()
        .await?;
    ensure!(kill.success(), "kill {id}");
    // It goes down: nobody gets in any more.
    gateway.process.refusing(gateway.address).await?;
    let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    socket.write_all(response).await?;
    let answer = slow.await??;
    ensure!(
        answer.status == 200,
        "the request in flight got {}",
        answer.status
    );
    let status = gateway.process.wait(Duration::from_secs(10)).await?;
    ensure!(status.success(), "{status}: {}", gateway.process.log());
    Ok(())
}
