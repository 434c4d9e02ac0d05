//! Connections that may be given out, and those who wait for one.

use std::{
    future::poll_fn,
    io,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use h2::Ping;
use h2_guard::{Frames, Resets};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
};

use super::{Connection, Counted, Lease, Shared, Witness, failure};
use crate::{
    config::snapshot::Cluster,
    http::{
        h2::{
            backlog::Queued,
            body::{SEND_BUFFER, keepalive},
            cork::Corked,
        },
        headers::header_list_size,
    },
    limits::breakers::Resource,
    upstream::{
        connect::Connected,
        error::Failure,
        http1,
        member::{Host, HostShared, Lending, On},
        queue,
    },
};

/// Time between two looks for connections that are idle or gone.
const SWEEP: Duration = Duration::from_secs(1);

/// Longest header list that `h2` hands on, in bytes, if the cluster does not allow a longer one. It resets the stream of
/// a longer one, and ends the connection at four times the length; the cluster's own limit is for a response alone.
const HEADER_LIST: u32 = 1024 * 1024;

/// Connections to one endpoint that have answered and allow no streams for now, beyond which no other is opened for that.
const MOST_SHUT: usize = 8;

/// Connections to one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Http2Pool(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    connections: Vec<Pooled>,
    /// A task looks after them.
    swept: bool,
    /// Open while somebody connects. What is sent is how that failed.
    connecting: Option<watch::Receiver<Option<io::ErrorKind>>>,
}

/// A connection that may be given out.
#[derive(Debug)]
struct Pooled {
    connection: Connection,
    /// Moves its bytes, and ends with it.
    task: AbortHandle,
    /// Since when it has no streams, as far as that was looked at.
    idle: Option<Instant>,
    /// It counts among the endpoint's connections only as long as it may be given out: requests wait for one of those.
    _counted: queue::Counted,
}

enum Turn {
    /// Others wait for a stream.
    Queue,
    Use(Connection, Counted),
    Wait(watch::Receiver<Option<io::ErrorKind>>),
    Connect(watch::Sender<Option<io::ErrorKind>>),
}

impl Pooled {
    fn streams(&self) -> usize {
        self.connection.shared.streams.load(Ordering::Relaxed)
    }

    /// Tells whether the peer and the cluster allow more streams than there are, and the peer is there.
    fn has_room(&self, cluster: &Cluster) -> bool {
        let peers = self.connection.sender.current_max_send_streams();
        let ours = cluster.http2.max_concurrent_streams as usize;
        self.streams() < peers.min(ours) && !self.connection.shared.traffic.is_doubted()
    }

    /// Tells whether the peer allows no streams at all for now.
    fn is_shut(&self) -> bool {
        self.connection.sender.current_max_send_streams() == 0
    }

    fn has_answered(&self) -> bool {
        self.connection.shared.answered.load(Ordering::Relaxed)
    }

    /// Tells whether it is to be kept. What is not has ended, or does so when its last stream has.
    fn stays(&mut self, shared: &HostShared) -> bool {
        self.idle = match self.streams() {
            1.. => None,
            0 => Some(self.idle.unwrap_or_else(Instant::now)),
        };
        let over = |since: Instant| {
            shared
                .idle_limit()
                .is_some_and(|limit| since.elapsed() >= limit)
        };
        let idle = self.idle.is_some_and(over);
        !idle && !self.task.is_finished() && self.connection.may_go_on(&shared.cluster)
    }
}

impl Http2Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Entries are pushed and removed whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether there is a connection.
    pub(in crate::upstream) fn is_open(&self) -> bool {
        let state = self.lock();
        let mut connections = state.connections.iter();
        connections.any(|pooled| !pooled.task.is_finished())
    }

    fn turn(&self, shared: &HostShared) -> Turn {
        let mut state = self.lock();
        // A connection that may take no more requests ends with the streams that it has.
        state.connections.retain_mut(|pooled| pooled.stays(shared));
        let connections = &mut state.connections;
        // To a peer that takes no streams at all for now, another connection would be one too many: `h2` keeps the
        // request until it may go. One that has answered, and then says that it takes no more on this connection, gets
        // another, up to a number.
        let free = connections
            .iter()
            .position(|pooled| pooled.has_room(&shared.cluster))
            .or_else(
                || match connections.iter().filter(|pooled| pooled.is_shut()).count() {
                    MOST_SHUT.. => connections.iter().rposition(Pooled::is_shut),
                    _ => connections
                        .iter()
                        .position(|pooled| pooled.is_shut() && !pooled.has_answered()),
                },
            );
        if let Some(pooled) = free.and_then(|at| connections.get_mut(at)) {
            pooled.idle = None;
            let connection = &mut pooled.connection;
            connection.requests = connection.requests.saturating_add(1);
            return Turn::Use(connection.clone(), Counted::new(&connection.shared));
        }
        // A channel whose sender is gone belongs to one who gave up.
        if let Some(connecting) = &state.connecting
            && connecting.has_changed().is_ok()
        {
            return Turn::Wait(connecting.clone());
        }
        let (sender, receiver) = watch::channel(None);
        state.connecting = Some(receiver);
        Turn::Connect(sender)
    }

    /// A connection with room for one more stream. Those who need one at the same time share one
    /// attempt to connect. Where TLS agrees on HTTP/1 on it, the one who made it has that connection, and `None` tells the others.
    pub(in crate::upstream) async fn lease(
        &self,
        host: &Arc<Host>,
        asked: Lending,
    ) -> Result<Option<On>, Failure> {
        let queue = host.http2_queue();
        let mut pending = None;
        let mut waiting = None;
        loop {
            if host.turned_to_http1() {
                drop(waiting);
                queue.free();
                return Ok(None);
            }
            // Nobody overtakes those who wait for a stream.
            // If the last connection has just ended, there is none to wait for.
            let behind = waiting.is_none() && !queue.is_empty() && queue.connections() > 0;
            let turn = match behind {
                true => Turn::Queue,
                false => self.turn(&host.shared),
            };
            if pending.is_none() && !matches!(turn, Turn::Use(..)) {
                pending = Some(host.shared.place(asked.priority, Resource::Pending)?);
            }
            match turn {
                Turn::Queue => host.wait(queue, &mut waiting, asked.limit).await?,
                Turn::Use(mut connection, counted) => {
                    // Whoever waits is told of the stream, too, if this request ends before it has a lease.
                    let wakes = queue.wakes();
                    if poll_fn(|cx| connection.sender.poll_ready(cx)).await.is_ok() {
                        // There may be room for the next one, too, who finds out.
                        queue.free();
                        return Ok(Some(On::Http2(Lease {
                            connection,
                            counted,
                            wakes,
                            reused: true,
                        })));
                    }
                    self.remove(&connection);
                }
                Turn::Wait(mut receiver) => {
                    // An error says that the attempt is over.
                    let _ = receiver.changed().await;
                    let failed = *receiver.borrow();
                    if let Some(kind) = failed {
                        return Err(Failure::connect(kind.into()));
                    }
                }
                Turn::Connect(sender) => {
                    let Some(place) = host.shared.connection(asked.priority, queue) else {
                        // Those who wait for this attempt look for themselves.
                        drop(sender);
                        host.wait(queue, &mut waiting, asked.limit).await?;
                        continue;
                    };
                    drop(waiting);
                    // In a box: it is rare.
                    let result = Box::pin(async {
                        let mut connected = host.connect(place, queue).await?;
                        if host.agrees_on_http1(&connected) {
                            connected.io.count_among(host.http1_queue());
                            let lease = http1::open(host, connected).await?;
                            return Ok(Some(On::Http1(lease)));
                        }
                        let counted = connected.io.counted();
                        let lease = self.adopt(host, connected, counted).await?;
                        Ok(Some(On::Http2(lease)))
                    })
                    .await;
                    if let Err(failure) = &result {
                        let kind = match failure {
                            Failure::Connect(error) => error.kind(),
                            Failure::ConnectTimeout => io::ErrorKind::TimedOut,
                            _ => io::ErrorKind::ConnectionReset,
                        };
                        let _ = sender.send(Some(kind));
                    }
                    self.lock().connecting = None;
                    queue.free();
                    return result;
                }
            }
        }
    }

    /// Begins HTTP/2 on a new connection.
    pub(in crate::upstream) async fn adopt(
        &self,
        host: &Arc<Host>,
        connected: Connected,
        of_endpoint: queue::Counted,
    ) -> Result<Lease, Failure> {
        let local = connected.io.local_addr();
        let options = &host.shared.cluster.http2;
        let limits = host.shared.cluster.response_headers;
        let shared = Arc::new(Shared {
            traffic: Arc::default(),
            limits,
            resets: Resets::default(),
            streams: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
        });
        let header_list = header_list_size(limits).max(HEADER_LIST);
        let frames = Frames::of_server(Corked::new(connected.io), shared.traffic.clone())
            .header_list(header_list);
        let (sender, mut connection) = h2_guard::client()
            .initial_window_size(options.initial_stream_window_size)
            .initial_connection_window_size(options.initial_connection_window_size)
            .max_header_list_size(header_list)
            .max_send_buffer_size(SEND_BUFFER)
            .handshake::<_, Queued>(frames)
            .await
            .map_err(|error| failure(&error))?;
        let (settled, settle) = oneshot::channel();
        let mut ping = connection.ping_pong();
        let (connect, keepalive) = (options.allow_connect, options.keepalive.map(keepalive));
        let served = shared.clone();
        let task = tokio::spawn(async move {
            let mut connection = pin!(connection);
            let io = poll_fn(|cx| {
                let over = connection.as_mut().poll(cx);
                served.traffic.turn();
                over
            });
            let watch = async {
                // Whether upgrades are possible is known from the peer's settings, which come before an answer.
                if let (true, Some(ping)) = (connect, &mut ping) {
                    let _ = settled.send(ping.ping(Ping::opaque()).await);
                }
                match keepalive {
                    Some(keepalive) => {
                        keepalive
                            .watch(ping, &served.traffic, || {
                                served.streams.load(Ordering::Relaxed) > 0
                            })
                            .await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                over = io => if let Err(error) = over {
                    tracing::debug!(%error, "upstream connection ended");
                },
                () = watch => tracing::debug!("an upstream does not answer pings"),
            }
        });
        if connect {
            let limit = host.shared.cluster.connect_timeout;
            match tokio::time::timeout(limit, settle).await {
                Ok(Ok(answer)) => answer.map_err(|error| failure(&error))?,
                Ok(Err(_)) => return Err(Failure::Terminated),
                Err(_) => return Err(Failure::ConnectTimeout),
            };
        }
        let connection = Connection {
            sender,
            local,
            shared,
            born: Instant::now(),
            requests: 1,
        };
        let counted = Counted::new(&connection.shared);
        let mut state = self.lock();
        state.connections.push(Pooled {
            connection: connection.clone(),
            task: task.abort_handle(),
            idle: None,
            _counted: of_endpoint,
        });
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(host)));
        }
        drop(state);
        Ok(Lease {
            connection,
            counted,
            wakes: host.http2_queue().wakes(),
            reused: false,
        })
    }

    fn remove(&self, gone: &Connection) {
        self.lock()
            .connections
            .retain(|known| !Arc::ptr_eq(&known.connection.shared, &gone.shared));
    }

    /// A request got no answer in time. If nothing at all was heard of the endpoint meanwhile, the connection may lead nowhere:
    /// it gets no more requests. A peer that allows no streams for now was sent none, and has nothing to say.
    pub(in crate::upstream) fn distrust(&self, witness: &Witness) {
        if witness.traffic.heard() == witness.heard {
            self.lock().connections.retain(|known| {
                let Connection { sender, shared, .. } = &known.connection;
                !Arc::ptr_eq(&shared.traffic, &witness.traffic)
                    || sender.current_max_send_streams() == 0
            });
        }
    }

    /// Lets go of connections that ended, or are idle for too long; `false` if none is left, which ends the task.
    fn sweep(&self, shared: &HostShared) -> bool {
        let mut state = self.lock();
        state.connections.retain_mut(|pooled| pooled.stays(shared));
        state.swept = !state.connections.is_empty();
        state.swept
    }
}

async fn sweep(host: Weak<Host>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(host) = host.upgrade() else { return };
        if !host.http2().sweep(&host.shared) {
            return;
        }
        // Room of which nobody is told: the peer allows more streams, or was heard of again after a silence.
        host.http2_queue().free();
    }
}
