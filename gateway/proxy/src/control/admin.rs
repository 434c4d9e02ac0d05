//! The admin server: `/stats`, `/stats/prometheus`, `/ready`, `/server_info`.
//!
//! For operators, on an address of their own. No part of the data path: it has a thread and a number of connections of its
//! own. When there are too many, the one that was silent longest makes room, so that a probe is always answered.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Write as _,
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
use regex::{Regex, RegexBuilder};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::watch,
    task::{AbortHandle, yield_now},
    time::sleep,
};

use crate::{
    limits::{overload::Overload, throttle::Throttle},
    telemetry::{
        histogram::{BOUNDS, Times},
        stats::{Kind, Metrics, Sample, TimeSample},
    },
};

/// The longest silence of a connection: no request came, or its answer was not taken.
const SILENCE: Duration = Duration::from_secs(60);

/// The longest pattern of a filter, in bytes.
const PATTERN: usize = 1024;

/// The largest compiled form of a pattern, in bytes.
const COMPILED: usize = 1024 * 1024;

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
        "/stats" if query.format == "prometheus" => stats(admin, &query, prometheus, reply),
        "/stats" => stats(admin, &query, plain, reply),
        "/stats/prometheus" => stats(admin, &query, prometheus, reply),
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

fn stats<R>(
    admin: &Admin,
    query: &Query,
    show: fn(&[Sample], &[TimeSample]) -> String,
    reply: impl FnOnce(StatusCode, &'static str, String) -> R,
) -> R {
    const TEXT: &str = "text/plain; charset=UTF-8";
    let filter = match query.filter.as_deref().map(pattern).transpose() {
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

/// A pattern of a size that does not keep others waiting.
fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > PATTERN {
        return Err(format!("longer than {PATTERN} bytes"));
    }
    RegexBuilder::new(text)
        .size_limit(COMPILED)
        .dfa_size_limit(COMPILED)
        .build()
        .map_err(|error| error.to_string())
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

/// `name: value`, one a line; histograms are for Prometheus alone.
fn plain(samples: &[Sample], _: &[TimeSample]) -> String {
    let mut text = String::new();
    for sample in samples {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}: {}", sample.name, sample.value);
    }
    text
}

/// Prometheus text format 0.0.4, in Envoy's names.
fn prometheus(samples: &[Sample], times: &[TimeSample]) -> String {
    let mut families: BTreeMap<String, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let family = family_name(&sample.family);
        families.entry(family).or_default().push(sample);
    }
    let mut text = String::new();
    for (family, samples) in families {
        let kind = match samples.first().map(|sample| sample.kind) {
            Some(Kind::Gauge) => "gauge",
            Some(Kind::Counter) | None => "counter",
        };
        let _ = writeln!(text, "# TYPE {family} {kind}");
        for sample in samples {
            let labels: Vec<String> = sample.labels.iter().map(label).collect();
            let _ = writeln!(text, "{family}{{{}}} {}", labels.join(","), sample.value);
        }
    }
    let mut families: BTreeMap<String, Vec<&TimeSample>> = BTreeMap::new();
    for sample in times {
        let family = family_name(&sample.family);
        families.entry(family).or_default().push(sample);
    }
    for (family, samples) in families {
        let _ = writeln!(text, "# TYPE {family} histogram");
        for sample in samples {
            let (label, times) = (labels(&sample.labels), &sample.times);
            for (bound, count) in BOUNDS.iter().zip(&times.within) {
                let _ = writeln!(text, "{family}_bucket{{{label},le=\"{bound}\"}} {count}");
            }
            let Times { count, sum, .. } = times;
            let _ = writeln!(text, "{family}_bucket{{{label},le=\"+Inf\"}} {count}");
            let _ = writeln!(text, "{family}_sum{{{label}}} {sum}");
            let _ = writeln!(text, "{family}_count{{{label}}} {count}");
        }
    }
    text
}

fn family_name(family: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("envoy_{}", family.chars().map(plain).collect::<String>())
}

fn labels(labels: &[(&'static str, String)]) -> String {
    let labels: Vec<String> = labels.iter().map(label).collect();
    labels.join(",")
}

fn label((name, value): &(&'static str, String)) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{name}=\"{}\"", value.replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::Owner;

    #[test]
    fn two_formats() {
        let metrics = Metrics::default();
        metrics.http("ingress").downstream_rq_total.add();
        metrics.ext_proc(Owner::Manager("ingress".into()), "first");
        let samples = metrics.samples();
        let text = plain(&samples, &[]);
        assert!(text.contains("http.ingress.downstream_rq_total: 1\n"));
        assert!(text.contains("http.ingress.ext_proc.first.streams_started: 0\n"));
        metrics.http("ingress").status(StatusCode::OK);
        let stats = metrics.cluster("c");
        stats.upstream_rq_time.record(Duration::from_millis(7));
        let text = prometheus(&metrics.samples(), &metrics.times());
        for line in [
            "envoy_http_downstream_rq_xx{envoy_response_code_class=\"2\",envoy_http_conn_manager_prefix=\"ingress\"} 1\n",
            "# TYPE envoy_cluster_upstream_rq_time histogram\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"0.5\"} 0\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"10\"} 1\n",
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"c\",le=\"+Inf\"} 1\n",
            "envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"c\"} 7\n",
            "envoy_http_ext_proc_first_streams_started{envoy_http_conn_manager_prefix=\"ingress\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(text.contains(
            "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"ingress\"} 1\n"
        ));
        assert!(text.contains("# TYPE envoy_http_downstream_rq_active gauge\n"));
    }

    #[test]
    fn patterns_have_a_size() {
        assert!(pattern("cluster.*(cx|rq)_active$").is_ok());
        assert!(pattern(r"\w+\.\d{1,3}").is_ok());
        for bad in [
            "(",
            r"(\w{100}){100}",
            "((a{100}){100}){100}",
            &"a".repeat(1025),
        ] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("usedonly&filter=ext%5Fproc.*");
        assert!(query.used_only);
        assert_eq!(query.filter.as_deref(), Some("ext_proc.*"));
    }
}
