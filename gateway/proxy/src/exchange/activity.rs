//! Events of the bodies of an exchange, with their times.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use extproc_client::host::Held;
use http::HeaderMap;

use super::Exchange;
use crate::http::{
    body::{BoxError, Watch},
    headers::Nominated,
};

/// Time of an event for the access log: nanoseconds from the start of the exchange, 0 if it did not happen.
#[derive(Debug, Default)]
pub(crate) struct Moments {
    pub(super) request_end: AtomicU64,
    pub(super) response_begin: AtomicU64,
}

impl Moments {
    /// The whole request was received.
    pub(crate) fn request_end(&self) -> Option<Duration> {
        Self::read(&self.request_end)
    }

    /// The head of the upstream's response was there.
    pub(crate) fn response_begin(&self) -> Option<Duration> {
        Self::read(&self.response_begin)
    }

    fn read(moment: &AtomicU64) -> Option<Duration> {
        let nanos = moment.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

/// Counts the request's body for the exchange.
pub(crate) struct RequestWatch {
    pub(crate) exchange: Arc<Exchange>,
    /// Fields of the hop that the request came on, by its own word.
    pub(crate) nominated: Nominated,
    /// Account of its bytes that were there when the exchange began.
    #[expect(dead_code, reason = "held, and given back when dropped")]
    pub(crate) held: Held,
}

impl Watch for RequestWatch {
    fn data(&mut self, len: usize) {
        self.exchange
            .request_bytes
            .fetch_add(len as u64, Ordering::Relaxed);
        self.exchange.touch();
    }

    fn trailers(&mut self, trailers: &mut HeaderMap) {
        self.nominated.strip(trailers);
    }

    fn failed(&mut self, error: BoxError) -> BoxError {
        let reset = error
            .downcast_ref::<h2::Error>()
            .is_some_and(h2::Error::is_reset);
        self.exchange.reset.fetch_or(reset, Ordering::Relaxed);
        self.exchange.broken.store(true, Ordering::Relaxed);
        let left = !is_malformed(&*error);
        self.exchange.left.fetch_or(left, Ordering::Relaxed);
        error
    }

    fn end(&mut self, result: Result<(), &BoxError>) {
        if result.is_ok() {
            self.exchange.note_request_done();
        }
    }
}

/// Tells whether a body failed because of what was in it: its chunks, or its length. Otherwise its sender is gone.
fn is_malformed(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let kind = error.kind();
            return matches!(
                kind,
                io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
            );
        }
        next = error.source();
    }
    false
}
