//! The fast transport: a pool of HTTP/2 connections, straight on `h2`.
//!
//! One pool serves one set of endpoints that are as good as each other. It counts streams itself,
//! opens connections as they are needed, never uses one that is going away, and repeats a call that
//! the peer says it never processed. It is not a load balancer: which endpoint a connection goes to
//! is the [`Connector`]'s choice. Where each call is to go to an endpoint of its own, there is a pool for
//! each, and [`Balanced`] asks a [`Balance`] for one, call by call.
//!
//! A connection is served by a task on the tokio runtime that first needed it; the runtime's timer
//! has to be enabled. On a host with one
//! `current_thread` runtime per core, give each its own pool.
//!
//! ```no_run
//! use std::time::Duration;
//! use extproc_client::transport::{Pool, TcpConnector};
//!
//! let pool = Pool::builder(TcpConnector::new("127.0.0.1:18080"))
//!     .connect_timeout(Duration::from_secs(1))
//!     .build();
//! ```

mod balance;
mod budget;
mod connection;
mod connector;
mod failure;
mod retry;
mod set;
mod stream;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use http::HeaderValue;

pub use h2_guard::{Interval, Keepalive};

pub use self::{
    balance::{Balance, Balanced},
    budget::{Budget, Share},
    connector::{Connector, TcpConnector, UnixConnector},
    stream::PoolStream,
};
use self::{connection::Dial, retry::Retries, set::Set};
use super::{
    Call, Close, Transport,
    request::{Known, Outline},
};
use crate::config::Service;

/// Connections to the processors behind one name. A handle: clones share the connections.
#[derive(Clone)]
pub struct Pool {
    set: Arc<Set>,
    names: Arc<Names>,
}

struct Names {
    known: Known,
    authority: Option<String>,
}

impl Pool {
    /// A pool whose connections `connector` makes. Nothing is connected before the first call.
    pub fn builder(connector: impl Connector) -> PoolBuilder {
        PoolBuilder {
            dialer: Box::new(connector),
            settings: Settings::default(),
            authority: None,
        }
    }

    /// Number of connections that are open and in use for new calls.
    pub fn connections(&self) -> usize {
        self.set.connections()
    }

    /// Number of calls that are open on those connections.
    pub fn streams(&self) -> usize {
        self.set.streams()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("connections", &self.connections())
            .field("streams", &self.streams())
            .finish()
    }
}

impl Transport for Pool {
    type Sidestream = PoolStream;

    fn open(&self, call: Call<'_>) -> Result<PoolStream, Close> {
        self.open_balanced(call, None)
    }
}

impl Pool {
    /// Opens a call; `balance` says where repetitions of it go, if not here.
    fn open_balanced(
        &self,
        call: Call<'_>,
        balance: Option<Arc<dyn Balance>>,
    ) -> Result<PoolStream, Close> {
        let retries = match call.service {
            Service::Grpc(service) => service.retry.as_ref().map(Retries::new),
            Service::Http(_) => None,
        };
        let outline = Outline::new(call, self.names.authority.as_deref(), &self.names.known)?;
        let place = self.set.admit()?;
        let set = self.set.clone();
        Ok(PoolStream::new(set, place, outline, retries, balance))
    }
}

/// Builds a [`Pool`].
pub struct PoolBuilder {
    dialer: Box<dyn Dial>,
    settings: Settings,
    authority: Option<String>,
}

#[derive(Clone, Debug)]
struct Settings {
    connections: Option<usize>,
    max_connections: usize,
    max_streams: usize,
    max_pending: usize,
    budget: Option<Arc<dyn Budget>>,
    open_timeout: Duration,
    head_timeout: Option<Duration>,
    connect_timeout: Duration,
    idle_timeout: Option<Duration>,
    max_age: Option<Duration>,
    keepalive: Option<Keepalive>,
    max_message: usize,
    own_address: Option<HeaderValue>,
    retry_first_refusal: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: None,
            max_connections: 64,
            max_streams: 1024,
            max_pending: 1024,
            budget: None,
            open_timeout: Duration::from_secs(5),
            head_timeout: None,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Some(Duration::from_secs(3600)),
            max_age: None,
            keepalive: Some(Keepalive::default()),
            max_message: 64 * 1024 * 1024,
            own_address: None,
            retry_first_refusal: true,
        }
    }
}

impl PoolBuilder {
    /// Number of connections that calls are spread over as long as none is crowded. Default: one per
    /// worker thread of the runtime, at most 4.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.settings.connections = Some(connections.max(1));
        self
    }

    /// The most connections. Another is opened when each has more than 80 % of the streams that it
    /// may have. Default 64.
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections.max(1);
        self
    }

    /// The most streams on a connection at a time, 2047 or fewer; the peer may allow fewer. Default 1024.
    ///
    /// The receive window of a connection is that of all its streams together, so that exchanges whose clients do not read
    /// cannot close it for the others.
    #[must_use]
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.settings.max_streams = streams.clamp(1, connection::MOST_STREAMS);
        self
    }

    /// The most calls that wait for a connection or a stream; more fail at once. Default 1024.
    #[must_use]
    pub fn max_pending(mut self, calls: usize) -> Self {
        self.settings.max_pending = calls;
        self
    }

    /// A budget that this pool shares with others, beside the limits of its own. Default: none.
    #[must_use]
    pub fn budget(mut self, budget: Arc<dyn Budget>) -> Self {
        self.settings.budget = Some(budget);
        self
    }

    /// The longest wait of a call for a connection or a stream. Default 5 s.
    #[must_use]
    pub fn open_timeout(mut self, timeout: Duration) -> Self {
        self.settings.open_timeout = timeout;
        self
    }

    /// The longest wait for the response headers of a call, from when its stream was opened; the call then
    /// ends with status 4. `None`, the default: no limit but those of the caller, which has none in full duplex modes.
    #[must_use]
    pub fn head_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.settings.head_timeout = timeout;
        self
    }

    /// The longest time to connect, TLS included. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// Closes a connection that had no call for this time (noticed within twice the time).
    /// `None`: never. Default one hour.
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.settings.idle_timeout = timeout.filter(|timeout| !timeout.is_zero());
        self
    }

    /// Gives no new calls to a connection older than this, ± 10 %. Default: no limit.
    #[must_use]
    pub fn max_connection_age(mut self, age: Option<Duration>) -> Self {
        self.settings.max_age = age;
        self
    }

    /// When a connection is pinged; one that does not answer is closed. Default: when a call is open and nothing was read
    /// for 10 s, with 20 s for the answer. gRPC servers close connections that ping more often than every five
    /// minutes without a message between, unless they are told otherwise: the default does not.
    #[must_use]
    pub fn keepalive(mut self, keepalive: Option<Keepalive>) -> Self {
        self.settings.keepalive = keepalive;
        self
    }

    /// The largest reply accepted, in bytes, where the service sets no limit of its own; a larger
    /// one ends the call with status 8. Default 64 MiB.
    #[must_use]
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.settings.max_message = bytes;
        self
    }

    /// Makes a call that is refused (REFUSED_STREAM, RFC 9113 section 8.7) once more even if it
    /// was the first one on its connection. Envoy makes none again. A refusal on a connection that
    /// has carried calls is a race with the peer's limit or its end, and always repeated; one on a
    /// fresh connection may be the processor's answer. Default true.
    #[must_use]
    pub fn retry_first_refusal(mut self, retry: bool) -> Self {
        self.settings.retry_first_refusal = retry;
        self
    }

    /// Address in `x-forwarded-for`. Default: the connection's own address, if it has one.
    #[must_use]
    pub fn own_address(mut self, address: IpAddr) -> Self {
        self.settings.own_address = connection::forwarded_for(address);
        self
    }

    /// The `:authority` of calls to an address (`google_grpc`). Default: host and port of the
    /// target. Calls to a cluster take theirs from the configuration.
    #[must_use]
    pub fn authority(mut self, authority: impl Into<String>) -> Self {
        self.authority = Some(authority.into());
        self
    }

    /// The pool.
    pub fn build(self) -> Pool {
        Pool {
            set: Arc::new(Set::new(self.settings, self.dialer)),
            names: Arc::new(Names {
                known: Known::new(),
                authority: self.authority,
            }),
        }
    }
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
