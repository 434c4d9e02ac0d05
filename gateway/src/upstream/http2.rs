//! HTTP/2 towards endpoints: connections that carry as many streams as the peer allows.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::Poll,
    time::{Duration, Instant},
};

use h2::{Ping, Reason, client, ext::Protocol};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version, header, request::Parts};
use http_body::Body as _;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    connect::Connected,
    error::Failure,
    exchange::{Keep, Outbound, Sending, Sent, Unsent},
    host::{Host, HostShared, Lending},
    progress::{Progress, ProgressWatch},
    queue::Wakes,
};
use crate::{
    backlog::Queued,
    body::{Body, BoxError, Watched},
    breakers::Resource,
    config::snapshot::Cluster,
    cork::Corked,
    headers::{strip_hop_by_hop, trim_values, values_are_trimmed},
    http2::{Http2Body, SendError, send_body},
    length::{self, Exact, Mismatch},
};

/// How often it is looked whether connections are idle or gone.
const SWEEP: Duration = Duration::from_secs(1);

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
}

#[derive(Clone, Debug)]
struct Connection {
    sender: client::SendRequest<Queued>,
    local: Option<SocketAddr>,
    /// One count for each stream, beside that of the pool.
    streams: Arc<()>,
    born: Instant,
    requests: u32,
}

/// A connection for one request.
pub(crate) struct Lease {
    connection: Connection,
    wakes: Wakes,
    reused: bool,
}

/// A stream in the number of those of its connection. Who waits for one is told when it is given back.
#[expect(dead_code, reason = "held, and given back in this order when dropped")]
pub(crate) struct Slot {
    streams: Arc<()>,
    wakes: Wakes,
}

enum Turn {
    /// Others wait for a stream.
    Queue,
    Use(Connection),
    Wait(watch::Receiver<Option<io::ErrorKind>>),
    Connect(watch::Sender<Option<io::ErrorKind>>),
}

impl Connection {
    /// Whether the cluster allows another request on it.
    fn may_go_on(&self, cluster: &Cluster) -> bool {
        let old = cluster.max_connection_duration;
        let max = cluster.max_requests_per_connection;
        max.is_none_or(|max| self.requests < max.get())
            && old.is_none_or(|old| self.born.elapsed() < old)
    }
}

impl Pooled {
    /// Streams that the peer allows beside those that there are.
    fn has_room(&self) -> bool {
        // The pool's own count is no stream.
        let streams = Arc::strong_count(&self.connection.streams).saturating_sub(1);
        streams < self.connection.sender.current_max_send_streams()
    }

    /// Whether it is to be kept. What is not has ended, or does so when its last stream has.
    fn stays(&mut self, shared: &HostShared) -> bool {
        let streams = Arc::strong_count(&self.connection.streams) > 1;
        self.idle = match streams {
            true => None,
            false => Some(self.idle.unwrap_or_else(Instant::now)),
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

    fn turn(&self, shared: &HostShared) -> Turn {
        let mut state = self.lock();
        // A connection that may take no more requests ends with the streams that it has.
        state.connections.retain_mut(|pooled| pooled.stays(shared));
        let connections = &mut state.connections;
        // To a peer that takes no streams at all for now, another connection would be one too many. `h2` keeps the
        // request until it may go.
        let free = connections.iter().position(Pooled::has_room).or_else(|| {
            let shut = |pooled: &Pooled| pooled.connection.sender.current_max_send_streams() == 0;
            connections.iter().position(shut)
        });
        if let Some(pooled) = free.and_then(|at| connections.get_mut(at)) {
            pooled.idle = None;
            let connection = &mut pooled.connection;
            connection.requests = connection.requests.saturating_add(1);
            return Turn::Use(connection.clone());
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
    /// attempt to connect.
    pub(super) async fn lease(&self, host: &Arc<Host>, asked: Lending) -> Result<Lease, Failure> {
        let queue = host.http2_queue();
        let mut pending = None;
        let mut waiting = None;
        loop {
            // Nobody overtakes those who wait for a stream.
            let behind = waiting.is_none() && !queue.is_empty();
            let turn = match behind {
                true => Turn::Queue,
                false => self.turn(&host.shared),
            };
            if pending.is_none() && !matches!(turn, Turn::Use(_)) {
                pending = Some(host.shared.place(asked.priority, Resource::Pending)?);
            }
            match turn {
                Turn::Queue => host.wait(queue, &mut waiting, asked.limit).await?,
                Turn::Use(mut connection) => {
                    if poll_fn(|cx| connection.sender.poll_ready(cx)).await.is_ok() {
                        return Ok(Lease {
                            connection,
                            wakes: queue.wakes(),
                            reused: true,
                        });
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
                        let connected = host.connect(place, queue).await?;
                        self.adopt(host, connected).await
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
                    return result;
                }
            }
        }
    }

    /// Begins HTTP/2 on a new connection.
    pub(super) async fn adopt(
        &self,
        host: &Arc<Host>,
        connected: Connected,
    ) -> Result<Lease, Failure> {
        let local = connected.io.local_addr();
        let options = &host.shared.cluster.http2;
        let header_list = u32::try_from(host.shared.cluster.response_headers.bytes);
        let (sender, mut connection) = client::Builder::new()
            .initial_window_size(options.initial_stream_window_size)
            .initial_connection_window_size(options.initial_connection_window_size)
            .max_header_list_size(header_list.unwrap_or(u32::MAX).saturating_add(16 * 1024))
            .enable_push(false)
            .handshake::<_, Queued>(Corked::new(connected.io))
            .await
            .map_err(|error| failure(&error))?;
        // Whether upgrades are possible is known from the peer's settings, which come before an answer.
        let settled = match options.allow_connect {
            true => connection.ping_pong(),
            false => None,
        };
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        if let Some(mut settled) = settled {
            let limit = host.shared.cluster.connect_timeout;
            match tokio::time::timeout(limit, settled.ping(Ping::opaque())).await {
                Ok(answer) => answer.map_err(|error| failure(&error))?,
                Err(_) => return Err(Failure::ConnectTimeout),
            };
        }
        let connection = Connection {
            sender,
            local,
            streams: Arc::default(),
            born: Instant::now(),
            requests: 1,
        };
        let mut state = self.lock();
        state.connections.push(Pooled {
            connection: connection.clone(),
            task: task.abort_handle(),
            idle: None,
        });
        if !std::mem::replace(&mut state.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(host)));
        }
        drop(state);
        Ok(Lease {
            connection,
            wakes: host.http2_queue().wakes(),
            reused: false,
        })
    }

    fn remove(&self, gone: &Connection) {
        self.lock()
            .connections
            .retain(|known| !Arc::ptr_eq(&known.connection.streams, &gone.streams));
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
    }
}

impl Lease {
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.connection.local
    }

    pub(super) fn reused(&self) -> bool {
        self.reused
    }

    /// Sends a request whose target is absolute.
    pub(super) async fn send(
        self,
        request: Box<Outbound>,
        sending: &Sending,
        progress: &Arc<Progress>,
    ) -> Result<Sent, Unsent> {
        let Connection {
            mut sender,
            streams,
            ..
        } = self.connection;
        let slot = Slot {
            streams,
            wakes: self.wakes,
        };
        let Outbound { mut parts, body } = *request;
        parts.version = Version::HTTP_2;
        parts.extensions.clear();
        trim_values(&mut parts.headers);
        let announced = length::settle(&mut parts.headers);
        let switched = match sending.tunnel && !sending.connect {
            true => Some(extend(&mut parts, &sender)?),
            false => None,
        };
        let announced = announced.filter(|_| !sending.tunnel);
        if !length::fits(announced, &body) {
            return Err(Failure::Length.into());
        }
        let body = Watched::new(body, ProgressWatch(progress.clone()));
        let end = body.is_end_stream();
        let sent = sender.send_request(Request::from_parts(parts, ()), end);
        let (mut response, stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                return Err(Unsent {
                    failure: failure(&error),
                    returned: body.into_inner(),
                });
            }
        };
        let mut pipe = (!end).then(|| {
            let mut body = Body::new(Exact::new(body, announced));
            Box::pin(
                async move { send_body(stream, &mut body, None, Reason::INTERNAL_ERROR).await },
            )
        });
        let response = poll_fn(|cx| {
            if let Some(sending) = &mut pipe
                && let Poll::Ready(result) = sending.as_mut().poll(cx)
            {
                pipe = None;
                if let Err(SendError::Body(error)) = result {
                    return Poll::Ready(Err(match Mismatch::is_behind(&*error) {
                        true => Failure::Length,
                        false => Failure::Request,
                    }));
                }
            }
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                // RFC 9113 §8.6: HTTP/2 has no 101.
                if head.status() == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Err(Failure::Protocol));
                }
                relay(sending, head.status(), head.headers());
            }
            Pin::new(&mut response)
                .poll(cx)
                .map_err(|error| failure(&error))
        })
        .await?;
        let keep = Keep::Http2 {
            slot,
            pipe: pipe.map(|pipe| tokio::spawn(pipe).abort_handle()),
        };
        let (mut parts, stream) = response.into_parts();
        // RFC 9113 §8.2.1: malformed.
        if !values_are_trimmed(&parts.headers) {
            return Err(Failure::Protocol.into());
        }
        let tunnel = sending.tunnel && parts.status.is_success();
        if tunnel {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        if let Some(protocol) = switched.filter(|_| tunnel) {
            parts.status = StatusCode::SWITCHING_PROTOCOLS;
            let upgrade = HeaderValue::from_static("upgrade");
            parts.headers.insert(header::CONNECTION, upgrade);
            parts.headers.insert(header::UPGRADE, protocol);
        }
        let mut body = Http2Body::new(stream, &parts.headers, lost);
        if matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        ) {
            body = body.without_content(|| Failure::Protocol.after_start(None).into());
        }
        Ok(Sent {
            response: http::Response::from_parts(parts, Body::http2(body)),
            keep,
            tunnel,
        })
    }
}

/// Makes an upgrade an extended CONNECT (RFC 8441 §4), which the peer has to have allowed. Gives what it
/// asks for.
fn extend(parts: &mut Parts, sender: &client::SendRequest<Queued>) -> Result<HeaderValue, Failure> {
    let headers = &mut parts.headers;
    headers.remove(header::CONNECTION);
    let protocol = headers.remove(header::UPGRADE).ok_or(Failure::Protocol)?;
    if !sender.is_extended_connect_protocol_enabled() {
        return Err(Failure::Protocol);
    }
    let name = protocol.to_str().map_err(|_| Failure::Protocol)?;
    parts.extensions.insert(Protocol::from(name));
    parts.method = Method::CONNECT;
    Ok(protocol)
}

fn relay(sending: &Sending, status: StatusCode, headers: &HeaderMap) {
    let Some(interim) = &sending.interim else {
        return;
    };
    if status == StatusCode::CONTINUE && !sending.continues {
        return;
    }
    let mut headers = headers.clone();
    strip_hop_by_hop(&mut headers, false);
    interim.interim(status, headers);
}

/// The error of a response's body.
fn lost(error: h2::Error) -> BoxError {
    let failure = failure(&error);
    failure.after_start(Some(error.into())).into()
}

/// What an error before the response means.
fn failure(error: &h2::Error) -> Failure {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => Failure::Reset { refused: true },
        _ if error.is_io() || error.is_go_away() => Failure::Terminated,
        Some(_) if error.is_remote() => Failure::Reset { refused: false },
        Some(_) => Failure::Protocol,
        None => Failure::Terminated,
    }
}
