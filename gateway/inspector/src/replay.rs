//! Plays the recorded request to another processor and records what that one says.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::{
    ExtProcLayer, RequestBody,
    bytes::Bytes,
    http::{Request, Response, StatusCode},
    transport::{Pool, TcpConnector},
};
use http_body_util::{BodyExt as _, Full};
use tokio::time::timeout;
use tower::{Layer as _, ServiceExt as _, service_fn};

use crate::{
    Settings, capture,
    record::{Field, Record},
    ring::{Shared, lock},
};

/// Longest replay.
const LIMIT: Duration = Duration::from_secs(10);

/// A request with the response of its upstream, as they were recorded before a filter.
pub(crate) struct Play {
    request: Request<Full<Bytes>>,
    response: (StatusCode, Vec<Field>, Bytes),
    layer: ExtProcLayer<Pool>,
    inspector: Arc<capture::Inspector>,
}

impl Play {
    /// The part of the processor with this number, for the one at `address`.
    ///
    /// # Errors
    /// A text that says what is missing in the record.
    pub(crate) fn new(
        record: &Record,
        processor: usize,
        address: &str,
        settings: &Settings,
    ) -> Result<Self, String> {
        let p = record
            .processors
            .get(processor)
            .ok_or("no such processor")?;
        let head = p.request.before.head.as_ref();
        let head = head.ok_or("the head of the request was not recorded")?;
        let find = |name: &str| {
            let mut fields = head.iter();
            fields
                .find(|field| field.name == name)
                .map(|field| field.value.as_str())
        };
        let mut request = Request::builder()
            .method(find(":method").unwrap_or("GET"))
            .uri(find(":uri").unwrap_or("/"));
        for field in head.iter().filter(|field| !field.name.starts_with(':')) {
            request = request.header(&field.name, field.bytes());
        }
        let body = STANDARD.decode(&p.request.before.body).unwrap_or_default();
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| format!("the recorded request cannot be made again: {error}"))?;
        let seen = p.response.before.head.clone().unwrap_or_default();
        let status = seen.iter().find(|field| field.name == ":status");
        let status = status.and_then(|field| field.value.parse().ok());
        let body = STANDARD.decode(&p.response.before.body).unwrap_or_default();
        let inspector = capture::of_one(settings);
        let pool = Pool::builder(TcpConnector::new(address))
            .connect_timeout(LIMIT)
            .build();
        Ok(Self {
            request,
            response: (status.unwrap_or(StatusCode::OK), seen, body.into()),
            layer: ExtProcLayer::new(p.settings.clone(), pool)
                .named(p.filter.as_str())
                .observer(inspector.clone()),
            inspector,
        })
    }

    /// Runs it; gives the record, if there came one.
    pub(crate) async fn run(self) -> Option<Shared> {
        let (status, fields, body) = self.response;
        let upstream = service_fn(move |request: Request<RequestBody<Full<Bytes>>>| {
            let mut response = Response::builder().status(status);
            for field in fields.iter().filter(|field| !field.name.starts_with(':')) {
                // The recorded length is not that of a body that was cut.
                if !matches!(field.name.as_str(), "content-length" | "transfer-encoding") {
                    response = response.header(&field.name, field.bytes());
                }
            }
            let response = response.body(Full::new(body.clone()));
            async move {
                // A request that is cut on its way has no other use here.
                drain(request.into_body()).await;
                Ok::<_, Infallible>(response.unwrap_or_default())
            }
        });
        let played = async {
            let response = self.layer.layer(upstream).oneshot(self.request).await;
            let Ok(response) = response;
            // The record has what came of it.
            drain(response.into_body()).await;
        };
        let ended = timeout(LIMIT, played).await;
        let record = self.inspector.ring.all().pop();
        if ended.is_err()
            && let Some(record) = &record
        {
            lock(record).done = false;
        }
        record
    }
}

/// Reads a body to its end and keeps nothing of it.
async fn drain(body: impl hyper::body::Body) {
    let mut body = pin!(body);
    while let Some(Ok(_)) = body.frame().await {}
}
