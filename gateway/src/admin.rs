//! The admin server: `/stats`, `/stats/prometheus`, `/ready`, `/server_info`.
//!
//! For operators, on an address of their own. No part of the data path.

use std::{convert::Infallible, fmt::Write as _, io, sync::Arc, thread, time::Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use regex::Regex;
use tokio::{net::TcpListener, runtime, sync::watch};

use crate::metrics::{Kind, Metrics, Sample};

/// What the admin server tells.
#[derive(Debug)]
pub(crate) struct Admin {
    metrics: Arc<Metrics>,
    concurrency: usize,
    draining: watch::Receiver<bool>,
    start: Instant,
}

impl Admin {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        concurrency: usize,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            metrics,
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
    let listener = TcpListener::from_std(socket)?;
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "admin server cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&admin, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "admin connection ended");
            }
        });
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
    show: fn(&[Sample]) -> String,
    reply: impl FnOnce(StatusCode, &'static str, String) -> R,
) -> R {
    const TEXT: &str = "text/plain; charset=UTF-8";
    let filter = match query.filter.as_deref().map(Regex::new).transpose() {
        Ok(filter) => filter,
        Err(error) => {
            return reply(StatusCode::BAD_REQUEST, TEXT, format!("filter: {error}\n"));
        }
    };
    let mut samples = admin.metrics.samples();
    samples.retain(|sample| {
        filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(&sample.name))
            && (!query.used_only || sample.value > 0)
    });
    reply(StatusCode::OK, TEXT, show(&samples))
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

/// `name: value`, one a line.
fn plain(samples: &[Sample]) -> String {
    let mut text = String::new();
    for sample in samples {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}: {}", sample.name, sample.value);
    }
    text
}

/// Prometheus text format 0.0.4, in Envoy's names.
fn prometheus(samples: &[Sample]) -> String {
    let mut families: std::collections::BTreeMap<String, Vec<&Sample>> = Default::default();
    for sample in samples {
        let family: String = sample
            .family
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        families
            .entry(format!("envoy_{family}"))
            .or_default()
            .push(sample);
    }
    let mut text = String::new();
    for (family, samples) in families {
        let kind = match samples.first().map(|sample| sample.kind) {
            Some(Kind::Gauge) => "gauge",
            Some(Kind::Counter) | None => "counter",
        };
        let _ = writeln!(text, "# TYPE {family} {kind}");
        for sample in samples {
            let (label, value) = &sample.label;
            let value = value.replace('\\', "\\\\").replace('"', "\\\"");
            let _ = writeln!(text, "{family}{{{label}=\"{value}\"}} {}", sample.value);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_formats() {
        let metrics = Metrics::default();
        metrics.http("ingress").downstream_rq_total.add();
        metrics.ext_proc("ingress", "first");
        let samples = metrics.samples();
        let text = plain(&samples);
        assert!(text.contains("http.ingress.downstream_rq_total: 1\n"));
        assert!(text.contains("http.ingress.ext_proc.first.streams_started: 0\n"));
        let text = prometheus(&samples);
        assert!(text.contains(
            "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"ingress\"} 1\n"
        ));
        assert!(text.contains("# TYPE envoy_http_downstream_rq_active gauge\n"));
    }

    #[test]
    fn queries() {
        let query = Query::parse("usedonly&filter=ext%5Fproc.*");
        assert!(query.used_only);
        assert_eq!(query.filter.as_deref(), Some("ext_proc.*"));
    }
}
