//! Exchanges that the inspector gives away are played again: the command in a real shell, the test in Rust compiled and run, the
//! scenario by the conformance runner. What they have in them is hostile, and each form gives the same exchange.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use serde_json::{Value, json};
use tests::conformance::bootstrap::{self, Ports};
use tests::conformance::compare::differences;
use tests::conformance::normalise::observation;
use tests::conformance::run::{self, Proxy, Target};
use tests::conformance::scenario::{self, Scenario};
use tests::provision::{self, Missing};
use tests::support::activity::Activity;
use tests::support::client::{self, ClientScript, Response};
use tests::support::exchange::{Fields, Received};
use tests::support::peers::{self, Peer};
use tests::support::ports;
use tests::support::process::Process;
use tests::support::upstream::Upstream;
use tests::support::wait;
use tokio::net::TcpListener;

/// A file that a shell would write if it took a value for its own.
const CANARY: &str = "took-it-for-its-own";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let trials = vec![
        trial("takeaway/curl", || go(curl())),
        trial("takeaway/fake-proxy", || go(fake_proxy())),
        trial("takeaway/scenario", || go(scenarios())),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str, test: fn() -> anyhow::Result<()>) -> Trial {
    Trial::ignorable_test(name, move || match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) => missing.completion(),
            None => Err(Failed::from(format!("{error:#}"))),
        },
    })
}

fn go(test: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(test)
}

/// Requests of clients. A character stands for its byte, up to U+00FF.
fn cases() -> Vec<(&'static str, Value)> {
    let all = r#"it's "$(touch took-it-for-its-own)" `touch took-it-for-its-own` \n \ %s %d !! ; | & > x < y # *"#;
    vec![
        (
            "plain",
            json!({"path": "/a?b=c%20d", "headers": [
                "user-agent: curl/8", r#"instructions: {"addHeaders":{"x-a":"1","x-quoted":"it's \"b\\\""},"removeHeaders":["x-b"]}"#,
                "x-b: gone",
            ]}),
        ),
        (
            "hostile",
            json!({
                "authority": "shop.test", "method": "REPORT",
                "path": "/a/./../b/%2e%2e/$(touch%20x)'{a,b}?x[1]='&y=$(touch+took-it-for-its-own)`&-d@/etc/passwd",
                "headers": [
                    format!("x-all: {all}"),
                    "x-bytes: caf\u{e9} \u{ff}\u{80} '%s\\101$(touch took-it-for-its-own)",
                    // U+202E, and a tab.
                    "x-turned: a\u{e2}\u{80}\u{ae}b\tc!!",
                    "x-file: @/etc/passwd", "x-option: -o took-it-for-its-own", "x-empty: ", "-x: -- -n",
                    "x-twice: 1", "x-twice: 2", "accept: text/*",
                    // U+00FC.
                    "instructions: {\"addHeaders\":{\"x-a\":\"$(touch took-it-for-its-own) \u{c3}\u{bc}\"}}",
                ],
            }),
        ),
        (
            "text",
            json!({"method": "POST", "framing": "length", "body": format!("@{all}"), "headers": [
                "content-type: text/plain", r#"instructions: {"setBody":"new 'body'\n$(x)"}"#,
            ]}),
        ),
        (
            "bytes",
            json!({"method": "PUT", "framing": "length", "body": format!("-{all}\r\n\0\u{ff}\u{1b}[31m%\n\n")}),
        ),
        (
            "chunks",
            json!({"method": "POST", "body": ["one\n", "two"], "headers": ["content-type: text/plain"]}),
        ),
        (
            "empty",
            json!({"method": "POST", "headers": ["content-length: 0"]}),
        ),
        ("head", json!({"method": "HEAD", "path": "/h"})),
        (
            "answered",
            json!({"headers": [r#"instructions: {"respond":{"status":403,"body":"no","headers":{"x-why":"'because'"}}}"#]}),
        ),
        (
            "http2",
            json!({"protocol": "h2", "method": "POST", "path": "/../2?[a]", "body": ["one", "two"], "headers": [
                "x-bytes: \u{e9}'", r#"instructions: {"addHeaders":{"x-a":"2"}}"#,
            ]}),
        ),
    ]
}

/// A gateway with its inspector, the sample processor and an upstream that counts.
struct Stage {
    processor: Peer,
    upstream: Upstream,
    gateway: Process,
    ports: Ports,
    inspector: u16,
    directory: PathBuf,
    activity: Arc<Activity>,
}

impl Stage {
    async fn set(name: &str) -> anyhow::Result<Self> {
        let directory = provision::target_directory().join("takeaway").join(name);
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory)?;
        let activity = Arc::<Activity>::default();
        let processor = peers::sample_processor().await?;
        let stage = stage()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let script = stage.upstreams["upstream"].clone();
        let upstream = Upstream::start(listener, "upstream", script, Arc::clone(&activity));
        let ports = Ports {
            listener: ports::free()?,
            admin: ports::free()?,
            processor: processor.address.port(),
            upstreams: [("upstream".to_owned(), port)].into(),
        };
        let config = directory.join("bootstrap.yaml");
        std::fs::write(&config, bootstrap::text(&stage, &ports, ""))?;
        let inspector = ports::free()?;
        let program = provision::workspace_binary("gateway", "gateway")?;
        let arguments = [
            "--config".to_owned(),
            config.display().to_string(),
            "--concurrency=1".into(),
            format!("--inspect=127.0.0.1:{inspector}"),
            "--inspect-bodies=65536".into(),
        ];
        let gateway = Process::spawn(program, arguments, &directory.join("log"))?
            .listening(([127, 0, 0, 1], ports.listener).into(), wait::LONG)
            .await?;
        Ok(Self {
            processor,
            upstream,
            gateway,
            ports,
            inspector,
            directory,
            activity,
        })
    }

    async fn send(&self, request: &Value) -> anyhow::Result<Response> {
        let script: ClientScript = serde_json::from_value(request.clone())?;
        let address = ([127, 0, 0, 1], self.ports.listener).into();
        Ok(client::run(&script, address, &self.activity, Duration::from_secs(20)).await)
    }

    async fn ask(&self, path: &str) -> anyhow::Result<String> {
        let script = ClientScript {
            path: path.into(),
            authority: Some("localhost".into()),
            ..ClientScript::default()
        };
        let address = ([127, 0, 0, 1], self.inspector).into();
        let response = client::run(&script, address, &self.activity, wait::LONG).await;
        let status = response.received.field(":status");
        ensure!(status.as_deref() == Some("200"), "{path}: {status:?}");
        Ok(String::from_utf8(response.received.body())?)
    }

    /// The number of the last exchange, once it is over.
    async fn last(&self, count: usize) -> anyhow::Result<u64> {
        wait::until("the record", wait::LONG, async || {
            let list: Value = serde_json::from_str(&self.ask("/exchanges").await?)?;
            let all = list["exchanges"].as_array().context("a list")?;
            ensure!(
                all.len() == count && all.iter().all(|x| x["done"] == true),
                "{list}"
            );
            let ids = all.iter().filter_map(|x| x["id"].as_u64());
            ids.max().context("a number")
        })
        .await
    }

    async fn end(mut self) {
        self.gateway.kill().await;
        drop(self.processor);
    }
}

/// The configuration and the upstream of all exchanges.
fn stage() -> anyhow::Result<Scenario> {
    let modes = json!({
        "request_body_mode": "BUFFERED", "response_body_mode": "BUFFERED",
    });
    scenario::build(
        "takeaway",
        json!({
            "name": "stage",
            "filter": {"processing_mode": modes},
            "upstream": {
                "status": 201, "body": "it's the\n\u{ff} answer", "headers": [
                    "x-from: \u{e9}", "content-type: text/plain",
                    r#"instructions: {"addHeaders":{"x-c":"3"},"removeHeaders":["x-from"]}"#,
                ],
            },
        }),
    )
}

/// Returns the request that an upstream got, without the fields that a gateway adds of itself.
fn asked(received: &Received) -> (Fields, Vec<u8>) {
    let added = |name: &str| name.starts_with("x-forwarded-") || name == "x-request-id";
    let mut fields: Fields = received.head.clone().unwrap_or_default();
    fields.retain(|(name, _)| !added(name));
    fields
        .iter_mut()
        .for_each(|(name, _)| name.make_ascii_lowercase());
    // Lines of one name keep their order.
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    (fields, received.body())
}

/// In the shell that scripts of a system have, and in bash where there is one.
async fn curl() -> anyhow::Result<()> {
    let stage = Stage::set("curl").await?;
    let mut count = 0;
    for (name, request) in cases() {
        let before = stage.upstream.arrived().len();
        let first = stage.send(&request).await?;
        count += 1;
        let id = stage.last(count).await?;
        let command = stage.ask(&format!("/exchanges/{id}?format=curl")).await?;
        let arrived = stage.upstream.arrived();
        let want: Vec<_> = arrived[before..]
            .iter()
            .map(|a| asked(&a.received))
            .collect();
        let status = first.received.field(":status");
        let (reached, expected) = match name {
            "answered" => (0, "403"),
            _ => (1, "201"),
        };
        ensure!(
            want.len() == reached && status.as_deref() == Some(expected),
            "{name}: {first:?}"
        );
        for shell in ["sh", "bash"] {
            let before = stage.upstream.arrived().len();
            let run = Command::new(shell)
                .args(["-c", &command])
                .current_dir(&stage.directory)
                .stdin(Stdio::null())
                .output();
            let output = match run {
                Err(_) if shell == "bash" => continue,
                output => output.context(shell)?,
            };
            let told = String::from_utf8_lossy(&output.stdout).into_owned();
            let context = format!(
                "{name}, {shell}:\n{command}\n{told}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            ensure!(output.status.success(), "{context}");
            let arrived = stage.upstream.arrived();
            let got: Vec<_> = arrived[before..]
                .iter()
                .map(|a| asked(&a.received))
                .collect();
            ensure!(got == want, "{context}\nwant {want:?}\ngot  {got:?}");
            let status = first.received.field(":status").unwrap_or_default();
            let line = told.lines().next().unwrap_or_default();
            ensure!(line.contains(&format!(" {status}")), "{context}");
            if name != "head" {
                ensure!(output.stdout.ends_with(&first.received.body()), "{context}");
            }
            ensure!(!stage.directory.join(CANARY).exists(), "{context}");
            count += 1;
            stage.last(count).await?;
        }
    }
    stage.end().await;
    Ok(())
}

/// All in one file, played to the processor that they were recorded of.
async fn fake_proxy() -> anyhow::Result<()> {
    let stage = Stage::set("fake-proxy").await?;
    let mut file = String::new();
    let cases = cases();
    for (count, (name, request)) in cases.iter().enumerate() {
        stage.send(request).await?;
        let id = stage.last(count + 1).await?;
        let form = stage
            .ask(&format!("/exchanges/{id}?format=fake-proxy"))
            .await?;
        ensure!(form.contains("assert"), "{name} expects nothing:\n{form}");
        file += &format!(
            "mod {name} {{\n{form}\n#[tokio::test]\nasync fn passes() {{\n    \
             exchange_{id}(extproc_server::Instructions).await.unwrap();\n}}\n}}\n"
        );
    }
    stage.end().await;
    let path = provision::target_directory().join("takeaway/taken.rs");
    std::fs::write(&path, file)?;
    let told = provision::workspace_test("examples", "taken", "taken", ("EXTPROC_TAKEN", &path))?;
    ensure!(
        told.contains(&format!("{} passed; 0 failed", cases.len())),
        "{told}"
    );
    Ok(())
}

/// By our gateway and by Envoy: what client and upstream see is what was recorded, and both proxies do the same.
async fn scenarios() -> anyhow::Result<()> {
    let gateway = Target::gateway(&provision::workspace_binary("gateway", "gateway")?);
    let stage = Stage::set("scenario").await?;
    for (count, (name, request)) in cases().iter().enumerate() {
        let before = stage.upstream.arrived().len();
        let first = stage.send(request).await?;
        let id = stage.last(count + 1).await?;
        let form = stage
            .ask(&format!("/exchanges/{id}?format=scenario"))
            .await?;
        let path = stage.directory.join(format!("{name}.yaml"));
        std::fs::write(&path, &form)?;
        let group = scenario::read(&path).with_context(|| form.clone())?;
        let scenario = group.scenarios.first().context("a scenario")?;
        let again = run::run(scenario, &gateway, &stage.directory, None).await?;
        ensure!(again.proxy == Proxy::Ran, "{name}: {}", again.output);
        let arrived = stage.upstream.arrived();
        let want: Vec<_> = arrived[before..]
            .iter()
            .map(|a| asked(&a.received))
            .collect();
        let got: Vec<_> = again.upstream.iter().map(|a| asked(&a.received)).collect();
        ensure!(got == want, "{name}:\n{form}\nwant {want:?}\ngot  {got:?}");
        let got = again.clients.first().context("a response")?;
        let seen = |response: &Response| {
            let status = response.received.field(":status");
            (status, response.received.body())
        };
        ensure!(
            seen(got) == seen(&first),
            "{name}:\n{form}\n{got:?}\n{first:?}"
        );
        // The framing of HEAD is a deliberate difference.
        if *name != "head"
            && let Ok(envoy) = provision::envoy()
        {
            let theirs = run::run(scenario, &Target::envoy(&envoy), &stage.directory, None).await?;
            let found = differences(
                &observation(scenario, &theirs),
                &observation(scenario, &again),
                &scenario.spec.compare.skip,
            );
            ensure!(found.is_empty(), "{name}:\n{form}\n{found:?}");
        }
    }
    stage.end().await;
    Ok(())
}
