//! The way to a collector of traces: through its cluster, as any request.

use std::{fmt, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};

/// An answer of a collector.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// Headers, and trailers among them.
    pub headers: HeaderMap,
    /// The content.
    pub body: Bytes,
}

/// An answer to come, or the reason why there is none.
type Answering = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>>;

type Sender = dyn Fn(Request<Bytes>, Duration) -> Answering + Send + Sync;

/// Sends requests to the cluster of a collector. They run on a thread of the gateway, so that any executor may wait for them.
#[derive(Clone)]
pub struct Collector(Arc<Sender>);

impl Collector {
    pub(crate) fn new(
        send: impl Fn(Request<Bytes>, Duration) -> Answering + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(send))
    }

    /// Sends a request, which may take no longer than `limit`.
    ///
    /// # Errors
    /// The text says why there is no answer.
    pub async fn send(&self, request: Request<Bytes>, limit: Duration) -> Result<Answer, String> {
        (self.0)(request, limit).await
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}
