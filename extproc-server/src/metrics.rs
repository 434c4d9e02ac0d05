//! The counters as Prometheus metrics, and a small HTTP server for them.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet, time};
use tracing::{debug, info, warn};

use crate::stats::{Phase, Stats};

/// The content type of the Prometheus text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long accepting rests after it failed: for lack of file handles, mostly.
const REST: Duration = Duration::from_millis(100);

/// Serves `GET /metrics` until it is dropped; goes beside [`Server::serve`](crate::Server::serve).
pub async fn serve_metrics(listener: TcpListener, stats: Arc<Stats>) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "serving metrics");
    }
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection for metrics");
                time::sleep(REST).await;
                continue;
            }
        };
        let stats = stats.clone();
        let service = service_fn(move |request| {
            let response = respond(&request, &stats);
            async move { Ok::<_, Infallible>(response) }
        });
        // The timer ends connections that send no request.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection for metrics failed");
            }
        });
    }
}

fn respond(request: &Request<Incoming>, stats: &Stats) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, render(stats)),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, "only /metrics is here\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(TEXT);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// The counters in the Prometheus text format.
pub(crate) fn render(stats: &Stats) -> String {
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
