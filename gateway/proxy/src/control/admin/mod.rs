//! The admin server: `/stats`, `/stats/prometheus`, `/ready`, `/server_info`.
//!
//! For operators, on an address of their own. No part of the data path: it has a thread and a number of connections of its
//! own. When there are too many, the one that was silent longest makes room, so that a probe is always answered.

mod stats;

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::watch,
    task::{AbortHandle, yield_now},
    time::sleep,
};

use crate::{
    limits::{overload::Overload, throttle::Throttle},
    telemetry::stats::{Metrics, Sample, TimeSample},
};

/// The longest silence of a connection: no request came, or its answer was not taken.
const SILENCE: Duration = Duration::from_secs(60);

/// What the admin server tells.
#[derive(Debug)]
pub(crate) struct Admin {
    metrics: Arc<Metrics>,
    overload: Arc<Overload>,
    concurrency: usize,
    draining: watch::Receiver<bool>,
    start: Instant,
}

impl Admin {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        overload: Arc<Overload>,
        concurrency: usize,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            metrics,
            overload,
            concurrency,
            draining,
            start: Instant::now(),
        }
    }
}

/// Starts the admin server's thread. It ends when `stop` changes.
///
/// # Errors
/// No thread or no runtime can be had.
pub(crate) fn start(
    socket: std::net::TcpListener,
    admin: Admin,
    mut stop: watch::Receiver<bool>,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async move {
            tokio::select! {
                result = serve(socket, Arc::new(admin)) => {
                    if let Err(error) = result {
                        tracing::error!(%error, "admin server ended");
                    }
                }
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    })
}

async fn serve(socket: std::net::TcpListener, admin: Arc<Admin>) -> io::Result<()> {
    /// Waiting time after an error such as "too many open files".
    const PAUSE: Duration = Duration::from_millis(50);
    let listener = TcpListener::from_std(socket)?;
    let failures = Throttle::new();
    let mut open: Vec<Open> = Vec::new();
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(suppressed) = failures.pass() {
                    tracing::warn!(%error, suppressed, "admin server cannot accept");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.task.is_finished());
        if open.len() >= admin.overload.admin_connections() {
            let_go(&mut open);
        }
        let heard = Arc::<Heard>::default();
        let task = tokio::spawn(connection(stream, admin.clone(), heard.clone()));
        open.push(Open {
            task: task.abort_handle(),
            heard,
        });
        // What it has sent already is answered before another one can take its place.
        yield_now().await;
    }
}

/// A connection of the admin server.
struct Open {
    task: AbortHandle,
    heard: Arc<Heard>,
}

/// When the last request of a connection came, or the connection itself.
struct Heard(Mutex<Instant>);

impl Default for Heard {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Heard {
    fn last(&self) -> Instant {
        // Only assignments run under the lock.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until nothing came for [`SILENCE`].
    async fn silence(&self) {
        loop {
            let Some(left) = SILENCE.checked_sub(self.last().elapsed()) else {
                return;
            };
            sleep(left).await;
        }
    }
}

/// Ends the connection that was silent longest.
fn let_go(open: &mut Vec<Open>) {
    let silent = open
        .iter()
        .enumerate()
        .min_by_key(|(_, connection)| connection.heard.last());
    if let Some((at, _)) = silent {
        open.swap_remove(at).task.abort();
    }
}

async fn connection(stream: TcpStream, admin: Arc<Admin>, heard: Arc<Heard>) {
    let _counted = admin.overload.admin_connection();
    let service = service_fn(|request| {
        heard.now();
        let response = answer(&admin, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "admin connection ended");
            }
        }
        () = heard.silence() => {}
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=UTF-8";
    let reply = |status, kind: &'static str, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new());
    }
    let query = Query::parse(request.uri().query().unwrap_or_default());
    match request.uri().path() {
        // Load balancers send nothing more to one that goes down (as Envoy's).
        "/ready" if *admin.draining.borrow() => {
            reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "DRAINING\n".into())
        }
        "/ready" => reply(StatusCode::OK, TEXT, "LIVE\n".into()),
        "/stats" if query.format == "prometheus" => {
            numbers(admin, &query, stats::prometheus, reply)
        }
        "/stats" => numbers(admin, &query, stats::plain, reply),
        "/stats/prometheus" => numbers(admin, &query, stats::prometheus, reply),
        "/server_info" => {
            let info = serde_json::json!({
                "version": env!("CARGO_PKG_VERSION"),
                "state": if *admin.draining.borrow() { "DRAINING" } else { "LIVE" },
                "uptime_current_epoch": format!("{}s", admin.start.elapsed().as_secs()),
                "command_line_options": {"concurrency": admin.concurrency},
            });
            reply(StatusCode::OK, "application/json", format!("{info:#}\n"))
        }
        "/" => reply(
            StatusCode::OK,
            TEXT,
            "/ready\n/server_info\n/stats\n/stats/prometheus\n".into(),
        ),
        _ => reply(StatusCode::NOT_FOUND, TEXT, "no such page; see /\n".into()),
    }
}

fn numbers<R>(
    admin: &Admin,
    query: &Query,
    show: fn(&[Sample], &[TimeSample]) -> String,
    reply: impl FnOnce(StatusCode, &'static str, String) -> R,
) -> R {
    const TEXT: &str = "text/plain; charset=UTF-8";
    let filter = match query.filter.as_deref().map(stats::pattern).transpose() {
        Ok(filter) => filter,
        Err(error) => {
            return reply(StatusCode::BAD_REQUEST, TEXT, format!("filter: {error}\n"));
        }
    };
    let is_asked = |name: &str, count: u64| {
        let filter = filter.as_ref();
        filter.is_none_or(|filter| filter.is_match(name)) && (!query.used_only || count > 0)
    };
    let mut samples = admin.metrics.samples();
    samples.retain(|sample| is_asked(&sample.name, sample.value));
    let mut times = admin.metrics.times();
    times.retain(|sample| is_asked(&sample.name, sample.times.count));
    reply(StatusCode::OK, TEXT, show(&samples, &times))
}

#[derive(Default)]
struct Query {
    filter: Option<String>,
    used_only: bool,
    format: String,
}

impl Query {
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy();
            match name {
                "filter" => parsed.filter = Some(value.into_owned()),
                "usedonly" => parsed.used_only = true,
                "format" => parsed.format = value.into_owned(),
                _ => {}
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let query = Query::parse("usedonly&filter=ext%5Fproc.*");
        assert!(query.used_only);
        assert_eq!(query.filter.as_deref(), Some("ext_proc.*"));
    }
}
