//! One endpoint of a cluster, with the connections that a worker has to it.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use extproc_client::{host::Metadata, transport::Pool};

use super::{
    connect::{self, Address, Connected, Tls, To},
    error::Failure,
    http1::{self, Http1Pool},
    http2::{self, Http2Pool},
};
use crate::{
    config::snapshot::{Cluster, UpstreamProtocol},
    metrics::ClusterStats,
};

/// An endpoint.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) address: Address,
    pub(crate) hostname: String,
    pub(crate) weight: u32,
    pub(crate) metadata: Option<Arc<Metadata>>,
    pub(crate) active: AtomicUsize,
    pub(crate) shared: Arc<HostShared>,
    http1: Http1Pool,
    http2: Http2Pool,
    /// Connections for side streams, if it is a processor.
    side_streams: OnceLock<Pool>,
}

/// What all endpoints of a cluster have in common.
#[derive(Debug)]
pub(crate) struct HostShared {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) tls: Option<Tls>,
    pub(crate) stats: Arc<ClusterStats>,
}

/// A connection that can take a request now.
pub(crate) enum Lease {
    Http1(http1::Lease),
    Http2(http2::Lease),
}

impl Lease {
    /// Our address, with TCP.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Http1(lease) => lease.local(),
            Self::Http2(lease) => lease.local(),
        }
    }

    /// Whether the connection carried requests before.
    pub(crate) fn reused(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.reused(),
            Self::Http2(lease) => lease.reused(),
        }
    }
}

impl Host {
    pub(crate) fn new(
        address: Address,
        hostname: String,
        weight: u32,
        metadata: Option<Arc<Metadata>>,
        shared: Arc<HostShared>,
    ) -> Self {
        Self {
            address,
            hostname,
            weight,
            metadata,
            active: AtomicUsize::new(0),
            shared,
            http1: Http1Pool::default(),
            http2: Http2Pool::default(),
            side_streams: OnceLock::new(),
        }
    }

    /// The socket address, if it is one.
    pub(crate) fn socket(&self) -> Option<SocketAddr> {
        match self.address {
            Address::Socket(address) => Some(address),
            Address::Pipe(_) => None,
        }
    }

    /// Requests and side streams that are on their way.
    pub(crate) fn load(&self) -> usize {
        let side_streams = self.side_streams.get().map_or(0, Pool::streams);
        self.active.load(Ordering::Relaxed) + side_streams
    }

    /// The pool for side streams, which `new` makes the first time.
    pub(crate) fn side_streams(&self, new: impl FnOnce() -> Pool) -> &Pool {
        self.side_streams.get_or_init(new)
    }

    /// A connection for one more request: an idle one, or a new one. `fresh` asks for a new one.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        client_http2: bool,
        fresh: bool,
    ) -> Result<Lease, Failure> {
        let http2 = match self.shared.cluster.protocol {
            UpstreamProtocol::Http1 => false,
            UpstreamProtocol::Http2 => true,
            UpstreamProtocol::Downstream => client_http2,
        };
        if http2 {
            return self.http2.lease(self).await.map(Lease::Http2);
        }
        if !fresh && let Some(lease) = self.http1.idle(self) {
            return Ok(Lease::Http1(lease));
        }
        // In a box: it is rare, and most requests need not have room for it.
        Box::pin(async {
            let connected = self.connect().await?;
            if connected.http2 {
                return self.http2.adopt(self, connected).await.map(Lease::Http2);
            }
            http1::open(self, connected).await.map(Lease::Http1)
        })
        .await
    }

    pub(super) fn http1(&self) -> &Http1Pool {
        &self.http1
    }

    pub(super) fn http2(&self) -> &Http2Pool {
        &self.http2
    }

    /// Opens a connection, and counts and logs it if that fails.
    pub(crate) async fn connect_raw(&self) -> io::Result<Connected> {
        let stats = &self.shared.stats;
        let limit = self.shared.cluster.connect_timeout;
        let tls = self.shared.tls.as_ref();
        let to = To {
            address: &self.address,
            reach: self.shared.cluster.reach,
            name: &self.hostname,
        };
        let connected = connect::connect(to, tls, limit, stats).await;
        match &connected {
            Ok(_) => stats.upstream_cx_total.add(),
            Err(error) => {
                stats.upstream_cx_connect_fail.add();
                if error.kind() == io::ErrorKind::TimedOut {
                    stats.upstream_cx_connect_timeout.add();
                }
                tracing::warn!(
                    cluster = %self.shared.cluster.name,
                    address = %self.address,
                    %error,
                    "cannot connect to upstream"
                );
            }
        }
        connected
    }

    pub(super) async fn connect(&self) -> Result<Connected, Failure> {
        self.connect_raw().await.map_err(|error| {
            if error.kind() == io::ErrorKind::TimedOut {
                Failure::ConnectTimeout
            } else {
                Failure::Connect(error)
            }
        })
    }
}
