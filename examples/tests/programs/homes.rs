//! One processor, three homes: the same type and the same expectations, wherever it runs.
//!
//! 1. a gRPC server behind a proxy, 2. in the process of a layer, without a socket, 3. around applications and clients.

use std::net::SocketAddr;

use anyhow::{Context as _, ensure};
use examples::signer::Signer;
use extproc_client::{
    ExtProcLayer, FilterConfig, ProcessingMode, SendMode,
    config::{GrpcService, Service},
    transport::GrpcTransport,
};
use extproc_sdk::ProcessorService;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use serde_json::json;
use tests::{
    provision,
    support::{peers::Peer, wait},
};
use tokio::process::Command;
use tonic::{Code, metadata::MetadataMap, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::ServiceExt as _;

use crate::{
    client::{self, whole},
    proxy::{Kind, Setup, example},
    upstream,
};

/// Client and SDK, which do not know each other, name the phases alike.
pub(crate) async fn phases() -> anyhow::Result<()> {
    let client = extproc_client::observer::Phase::ALL.map(|phase| phase.name());
    let sdk = extproc_sdk::Phase::ALL.map(|phase| phase.name());
    ensure!(client == sdk, "{client:?}, {sdk:?}");
    Ok(())
}

/// Outcome of a request, in any home.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// It was let through.
    passed: bool,
    /// The service behind found it signed.
    signed: bool,
    /// Value that the processor wrote into the head of the response.
    header: Option<String>,
    /// The same of its trailers.
    trailer: Option<String>,
}

/// The same for every home: an ordinary request is signed, and its response marked; a forged one does not pass.
fn check(plain: &Seen, forged: &Seen, with_trailers: bool) -> anyhow::Result<()> {
    let demo = Some("demo".to_owned());
    let expected = Seen {
        passed: true,
        signed: true,
        header: demo.clone(),
        trailer: demo.filter(|_| with_trailers),
    };
    ensure!(*plain == expected, "an ordinary request: {plain:?}");
    ensure!(*forged == Seen::default(), "a forged request: {forged:?}");
    Ok(())
}

const FORGED: (&str, &str) = ("signature", "sig1=:Zm9yZ2Vk:");

fn request(forged: bool) -> http::request::Builder {
    let request = Request::get("/");
    if forged {
        return request.header(FORGED.0, FORGED.1);
    }
    request
}

fn seen(status: u16, headers: &HeaderMap, body: &[u8], trailers: &HeaderMap) -> Seen {
    let text = |fields: &HeaderMap, name: &str| Some(fields.get(name)?.to_str().ok()?.to_owned());
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    Seen {
        passed: status != 403,
        signed: json["signed"] == true,
        header: text(headers, "x-signed-by"),
        trailer: text(trailers, "x-signed-to-the-end"),
    }
}

fn with_trailers() -> anyhow::Result<FilterConfig> {
    let config = FilterConfig::builder(Service::Grpc(GrpcService::cluster("in-process")))
        .processing_mode(ProcessingMode {
            response_trailer_mode: SendMode::Send,
            ..ProcessingMode::default()
        })
        .build()?;
    Ok(config)
}

pub(crate) async fn server(kind: Kind) -> anyhow::Result<()> {
    let processor = example("signer", &[]).await?;
    let filter = json!({"processing_mode": {"response_trailer_mode": "SEND"}});
    let setup = Setup::new(&processor, upstream::start("only").await?, filter);
    let proxy = setup.start(kind).await?;
    let ask = async |forged| {
        let answer = client::ask(proxy.address, request(forged), "/signed", whole("")).await?;
        let status = answer.status.as_u16();
        anyhow::Ok(seen(
            status,
            &answer.headers,
            &answer.body,
            &answer.trailers,
        ))
    };
    check(&ask(false).await?, &ask(true).await?, true)
}

/// No socket anywhere: the layer around a service, the processor behind the layer.
pub(crate) async fn in_process() -> anyhow::Result<()> {
    let processor = GrpcTransport::new(ProcessorService::new(Signer::demo()));
    let app = upstream::app("only").layer(ExtProcLayer::new(with_trailers()?, processor));
    let ask = async |forged| {
        let request = request(forged)
            .uri("http://shop.test/signed")
            .body(axum::body::Body::empty())?;
        let (head, body) = app.clone().oneshot(request).await?.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = head.status.as_u16();
        anyhow::Ok(seen(status, &head.headers, &body.to_bytes(), &trailers))
    };
    check(&ask(false).await?, &ask(true).await?, true)
}

/// The example program; its responses have no trailers.
pub(crate) async fn axum() -> anyhow::Result<()> {
    let app = example("axum", &[]).await?;
    let ask = async |forged| {
        let answer = client::ask(app.address, request(forged), "/prices", whole("")).await?;
        let status = answer.status.as_u16();
        anyhow::Ok(seen(
            status,
            &answer.headers,
            &answer.body,
            &answer.trailers,
        ))
    };
    check(&ask(false).await?, &ask(true).await?, false)
}

/// The example program. A service that answers says that the call was signed.
pub(crate) async fn tonic() -> anyhow::Result<()> {
    let server = example("tonic", &[]).await?;
    let channel = Channel::from_shared(server.url())?.connect().await?;
    let text = |fields: &MetadataMap, name: &str| Some(fields.get(name)?.to_str().ok()?.to_owned());
    let ask = async |forged| {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        if forged {
            request.metadata_mut().insert(FORGED.0, FORGED.1.parse()?);
        }
        let (passed, signed, metadata) =
            match HealthClient::new(channel.clone()).check(request).await {
                Ok(reply) => (true, true, reply.metadata().clone()),
                Err(status) => {
                    let passed = status.code() != Code::PermissionDenied;
                    (passed, false, status.metadata().clone())
                }
            };
        anyhow::Ok(Seen {
            passed,
            signed,
            header: text(&metadata, "x-signed-by"),
            // tonic gives out the trailers of a unary call along with its headers.
            trailer: text(&metadata, "x-signed-to-the-end"),
        })
    };
    check(&ask(false).await?, &ask(true).await?, true)
}

/// A user's own observer is told the same in each home: what stands in the log of each example, numbers and times aside.
pub(crate) async fn observers() -> anyhow::Result<()> {
    let head = [
        "sent RequestHeaders",
        "reply",
        "Set signature-input",
        "Set signature",
    ];
    let rest = [
        "Applied",
        "sent ResponseHeaders",
        "reply",
        "Set x-signed-by",
        "Applied",
    ];
    let trailers = [
        "sent ResponseTrailers",
        "reply",
        "Set x-signed-to-the-end",
        "Applied",
    ];
    let forged = [
        "sent RequestHeaders",
        "reply",
        "Applied",
        "over: 1/1 changed=1 answered",
    ];
    let passed = |trailers: &[&'static str], over: &'static str| {
        [&head, &rest[..], trailers, &[over]].concat()
    };
    let short = passed(&[], "over: 2/2 changed=2");
    let long = passed(&trailers, "over: 3/3 changed=3");

    let app = example("observer", &[]).await?;
    for is_forged in [false, true] {
        client::ask(app.address, request(is_forged), "/prices", whole("")).await?;
    }
    told(&app, &[&short, &forged]).await?;

    let server = example("tonic", &[]).await?;
    let channel = Channel::from_shared(server.url())?.connect().await?;
    for is_forged in [false, true] {
        let mut request = tonic::Request::new(HealthCheckRequest::default());
        if is_forged {
            request.metadata_mut().insert(FORGED.0, FORGED.1.parse()?);
        }
        // A forged call is refused.
        let _ = HealthClient::new(channel.clone()).check(request).await;
    }
    told(&server, &[&long, &forged]).await?;

    let upstream = upstream::start("only").await?;
    for (is_forged, expected) in [(false, &long[..]), (true, &forged)] {
        let output = call(upstream, is_forged).await?;
        let lines = lines_of(&String::from_utf8(output.stderr)?);
        ensure!(lines == [expected], "{lines:?}");
    }
    Ok(())
}

/// Waits until the observer of a program has told just this of its exchanges, one after the other.
async fn told(program: &Peer, expected: &[&[&str]]) -> anyhow::Result<()> {
    wait::until("the lines of the observer", wait::LONG, async || {
        let lines = lines_of(&program.process.log());
        ensure!(lines == expected, "{lines:?}");
        Ok(())
    })
    .await
}

/// The lines of an observer by exchange, without messages and times.
fn lines_of(log: &str) -> Vec<Vec<String>> {
    let mut exchanges: Vec<(&str, Vec<String>)> = Vec::new();
    for line in log.lines() {
        let Some((id, line)) = line.split_once(' ') else {
            continue;
        };
        if id.parse::<u64>().is_err() {
            continue;
        }
        let shown = match line.split_once(": ") {
            Some((word, _)) if word != "over" => word,
            _ => line.split(" after ").next().unwrap_or(line),
        };
        match exchanges.last_mut() {
            Some((last, lines)) if *last == id => lines.push(shown.into()),
            _ => exchanges.push((id, vec![shown.into()])),
        }
    }
    exchanges.into_iter().map(|(_, lines)| lines).collect()
}

/// The example program, on its way out to an upstream.
async fn call(upstream: SocketAddr, forged: bool) -> anyhow::Result<std::process::Output> {
    let mut command = Command::new(provision::workspace_example("hyper_client")?);
    command.args(["--http2", &format!("http://{upstream}/signed")]);
    if forged {
        command.args(["--header", &format!("{}: {}", FORGED.0, FORGED.1)]);
    }
    let output = command.output().await?;
    ensure!(output.status.success(), "{output:?}");
    Ok(output)
}

/// The example program.
pub(crate) async fn hyper_client() -> anyhow::Result<()> {
    let upstream = upstream::start("only").await?;
    let ask = async |forged| {
        let output = call(upstream, forged).await?;
        let text = String::from_utf8(output.stdout)?;
        let (head, rest) = text.split_once("\n\n").context("no body")?;
        let (body, trailers) = rest.split_once('\n').context("no end of the body")?;
        let field = |block: &str, name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.strip_prefix(": "))
                .map(str::to_owned)
        };
        anyhow::Ok(Seen {
            passed: !head.starts_with("403"),
            signed: body.contains(r#""signed":true"#),
            header: field(head, "x-signed-by"),
            trailer: field(trailers, "x-signed-to-the-end"),
        })
    };
    check(&ask(false).await?, &ask(true).await?, true)
}
