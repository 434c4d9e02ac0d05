//! HTTP/2 towards endpoints: connections that carry as many streams as the peer allows.

mod pool;
mod request;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use extproc_client::host::HeaderLimits;
use h2::{Reason, client};
use h2_guard::{Resets, Traffic};

pub(crate) use self::pool::Http2Pool;
use super::{error::Failure, queue::Wakes};
use crate::{config::snapshot::Cluster, http::h2::backlog::Queued};

/// Streams after which a connection gets no more: their numbers end (RFC 9113 §5.1.1).
const MOST_STREAMS_EVER: u32 = (1 << 30) - 4096;

#[derive(Clone, Debug)]
struct Connection {
    sender: client::SendRequest<Queued>,
    local: Option<SocketAddr>,
    shared: Arc<Shared>,
    born: Instant,
    requests: u32,
}

/// State that the streams of a connection share.
#[derive(Debug)]
pub(super) struct Shared {
    traffic: Arc<Traffic>,
    /// Limits of what comes from the endpoint, trailers among it.
    limits: HeaderLimits,
    resets: Resets,
    /// Streams that there are.
    streams: AtomicUsize,
    /// A stream was answered.
    answered: AtomicBool,
}

/// A stream, as long as its connection counts it.
#[derive(Debug)]
pub(super) struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Self(shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Count of bytes heard on a connection when a request was sent on it.
pub(crate) struct Witness {
    traffic: Arc<Traffic>,
    heard: u64,
}

/// A connection for one request.
pub(crate) struct Lease {
    connection: Connection,
    counted: Counted,
    wakes: Wakes,
    reused: bool,
}

/// A stream in the number of those of its connection. Who waits for one is told when it is given back.
#[expect(dead_code, reason = "held, and given back in this order when dropped")]
pub(crate) struct Slot {
    counted: Counted,
    wakes: Wakes,
}

impl Connection {
    /// Returns whether the cluster allows another request on it.
    fn may_go_on(&self, cluster: &Cluster) -> bool {
        let old = cluster.max_connection_duration;
        let max = cluster.max_requests_per_connection;
        !self.shared.resets.are_many(self.requests)
            && self.requests < max.map_or(MOST_STREAMS_EVER, |max| max.get().min(MOST_STREAMS_EVER))
            && old.is_none_or(|old| self.born.elapsed() < old)
    }
}

impl Lease {
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.connection.local
    }

    pub(super) fn reused(&self) -> bool {
        self.reused
    }

    pub(super) fn witness(&self) -> Witness {
        let traffic = &self.connection.shared.traffic;
        Witness {
            traffic: traffic.clone(),
            heard: traffic.heard(),
        }
    }
}

/// Meaning of an error before the response.
fn failure(error: &h2::Error) -> Failure {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => Failure::Reset { refused: true },
        _ if error.is_io() || error.is_go_away() => Failure::Terminated,
        Some(_) if error.is_remote() => Failure::Reset { refused: false },
        Some(_) => Failure::Protocol,
        None => Failure::Terminated,
    }
}
