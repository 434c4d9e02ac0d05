//! OTLP in both forms, over the gateway's own connections to the collector.

use std::{fmt, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use gateway_config::snapshot::{TraceExporter, TraceProtocol};
use gateway_proxy::trace::{Answer, Collector};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header,
    uri::PathAndQuery,
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};

/// The method of OTLP/gRPC.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The time that a request may take where neither configuration nor environment say it.
const LIMIT: Duration = Duration::from_secs(10);

/// An exporter to `to`, through `collector`.
///
/// # Errors
/// The environment's settings are wrong.
pub(crate) fn exporter(to: &TraceExporter, collector: Collector) -> Result<SpanExporter, String> {
    let limit = to.timeout.or_else(|| {
        [
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
            "OTEL_EXPORTER_OTLP_TIMEOUT",
        ]
        .iter()
        .find_map(|name| std::env::var(name).ok()?.parse().ok())
        .map(Duration::from_millis)
    });
    let limit = limit.unwrap_or(LIMIT);
    let client = Client {
        collector,
        protocol: to.protocol,
        headers: to.headers.clone(),
        of_environment: to.headers_from_environment,
        limit,
    };
    // gRPC carries the same message in a frame; `Client` adds it.
    SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(to.uri.to_string())
        .with_timeout(limit)
        .build()
        .map_err(|error| error.to_string())
}

/// Sends what the exporter makes.
struct Client {
    collector: Collector,
    protocol: TraceProtocol,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// `OTEL_EXPORTER_OTLP_HEADERS` are for this collector. The exporter adds them to every request.
    of_environment: bool,
    limit: Duration,
}

impl fmt::Debug for Client {
    /// Headers may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        if !self.of_environment {
            *request.headers_mut() = own_headers(request.headers());
        }
        let mut request = match self.protocol {
            TraceProtocol::Http => request,
            TraceProtocol::Grpc => call(request)?,
        };
        for (name, value) in &self.headers {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        let answer = self.collector.send(request, self.limit).await?;
        Ok(match self.protocol {
            TraceProtocol::Http => {
                let mut response = Response::new(answer.body);
                *response.status_mut() = answer.status;
                *response.headers_mut() = answer.headers;
                response
            }
            TraceProtocol::Grpc => {
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = called(&answer);
                response
            }
        })
    }
}

/// Headers of a request without those that the exporter has from the environment.
fn own_headers(headers: &HeaderMap) -> HeaderMap {
    let own = [
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::USER_AGENT,
    ];
    own.into_iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())))
        .collect()
}

/// The same message as a call of gRPC.
fn call(request: Request<Bytes>) -> Result<Request<Bytes>, HttpError> {
    let (mut parts, message) = request.into_parts();
    let mut uri = parts.uri.into_parts();
    uri.path_and_query = Some(PathAndQuery::from_static(EXPORT));
    parts.uri = Uri::from_parts(uri)?;
    let headers = &mut parts.headers;
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len())?);
    framed.extend_from_slice(&message);
    Ok(Request::from_parts(parts, framed.freeze()))
}

/// The outcome of a call as a status of OTLP/HTTP, by which the exporter knows whether to send again.
fn called(answer: &Answer) -> StatusCode {
    const OK: &str = "0";
    /// `CANCELLED`, `DEADLINE_EXCEEDED`, `ABORTED`, `OUT_OF_RANGE`, `UNAVAILABLE` and `DATA_LOSS`, as the specification has it.
    const AGAIN: &[&str] = &["1", "4", "10", "11", "14", "15"];
    if answer.status != StatusCode::OK {
        return answer.status;
    }
    let status = answer.headers.get("grpc-status");
    match status.and_then(|status| status.to_str().ok()) {
        Some(OK) => StatusCode::OK,
        Some(code) if AGAIN.contains(&code) => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_environment_are_for_its_collector_alone() {
        let mut headers = HeaderMap::new();
        for name in ["content-type", "authorization", "x-api-key", "user-agent"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        let own = own_headers(&headers);
        let mut own: Vec<_> = own.keys().map(HeaderName::as_str).collect();
        own.sort_unstable();
        assert_eq!(own, ["content-type", "user-agent"]);
    }
}
