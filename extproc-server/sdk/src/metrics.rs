//! A small HTTP server that shows the counters to Prometheus.

use std::{collections::VecDeque, convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinSet, yield_now},
    time,
};
use tracing::{debug, info, warn};

use crate::stats::Stats;

/// The content type of the Prometheus text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Rest after accepting failed: for lack of file handles, mostly.
const REST: Duration = Duration::from_millis(100);

/// Connections at a time. Those who read counters are few; one more takes the place of the oldest, so that whoever comes is
/// answered.
const CONNECTIONS: usize = 32;

/// The time for which a connection is used for further requests.
const LIFE: Duration = Duration::from_secs(60);

/// The time that a connection has for its last response.
const LAST: Duration = Duration::from_secs(10);

/// Serves `GET /metrics` until it is dropped; goes beside [`Server::serve`](crate::Server::serve).
///
/// It has a small number of connections, which do not count among those of the server.
pub async fn serve_metrics(listener: TcpListener, stats: Arc<Stats>) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "serving metrics");
    }
    let mut connections = JoinSet::new();
    let mut open = VecDeque::new();
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
        open.push_back(connections.spawn(serve(stream, stats.clone())));
        open.retain(|connection| !connection.is_finished());
        if open.len() > CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        // What it has sent already is answered before another one can take its place.
        yield_now().await;
    }
}

async fn serve(stream: TcpStream, stats: Arc<Stats>) {
    let service = service_fn(move |request| {
        let response = respond(&request, &stats);
        async move { Ok::<_, Infallible>(response) }
    });
    // The timer ends connections that send no request.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = match time::timeout(LIFE, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            // Whoever takes no response has had its time.
            time::timeout(LAST, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection for metrics failed");
    }
}

fn respond(request: &Request<Incoming>, stats: &Stats) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, stats.prometheus()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
        _ => (StatusCode::NOT_FOUND, "only /metrics is here\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static(TEXT);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
