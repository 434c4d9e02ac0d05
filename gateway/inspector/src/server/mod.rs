//! The server of the page, of transcripts and of their stream.

mod guard;
mod page;
mod records;
mod stream;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    thread,
    time::Duration,
};

use axum::{
    Router,
    http::header,
    middleware,
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rand::RngCore as _;
use tokio::{
    net::TcpListener,
    runtime,
    task::{JoinSet, yield_now},
    time::sleep,
};
use tower_http::csrf::CsrfLayer;

use self::{
    guard::guard,
    page::page,
    records::{list, one, replay, state},
    stream::follow,
};
use crate::{Settings, capture::Inspector};

/// Connections at a time; one more takes the place of the oldest. They are fewer than the descriptors that the gateway leaves
/// for what it does not count.
const CONNECTIONS: usize = 24;

/// Longest wait for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts an inspector and its server on a thread of its own, where it serves until the process ends; gives it with the
/// address to open.
///
/// # Errors
/// The address cannot be listened on, or no thread can be had.
pub fn start(address: SocketAddr, settings: Settings) -> io::Result<(Arc<Inspector>, String)> {
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let inspector = Arc::new(Inspector::new(settings));
    let server = Server::new(inspector.clone(), socket.local_addr()?);
    let url = server.url();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name("inspector".into())
        .spawn(move || {
            runtime.block_on(async move {
                match TcpListener::from_std(socket) {
                    Ok(listener) => server.serve(listener).await,
                    Err(error) => Err(error),
                }
            })
        })?;
    Ok((inspector, url))
}

/// Shows what an [`Inspector`] keeps.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    inspector: Arc<Inspector>,
    address: SocketAddr,
    /// Names in `host` beside `localhost` and addresses.
    hosts: Vec<String>,
    /// Asked for unless the address is a loopback one.
    token: Option<String>,
    streams: AtomicUsize,
}

impl Server {
    /// A server for a socket with this address. Unless that is a loopback address, it asks for a token, which
    /// [`url`](Self::url) has.
    pub fn new(inspector: Arc<Inspector>, address: SocketAddr) -> Self {
        let token = (!address.ip().is_loopback()).then(|| {
            let mut bytes = [0; 16];
            rand::rng().fill_bytes(&mut bytes);
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        });
        Self {
            shared: Arc::new(Inner {
                inspector,
                address,
                hosts: vec!["localhost".into()],
                token,
                streams: AtomicUsize::new(0),
            }),
        }
    }

    /// One more name by which the server is reached. Others than this, `localhost` and addresses are refused: a page that
    /// rebinds a name of its own to this address would read all of it.
    #[must_use]
    pub fn host(mut self, name: impl Into<String>) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.hosts.push(name.into());
        }
        self
    }

    /// URL of the page, with the token if one is asked for.
    pub fn url(&self) -> String {
        let token = self.shared.token.as_ref();
        let token = token
            .map(|token| format!("?token={token}"))
            .unwrap_or_default();
        format!("http://{}/{token}", self.shared.address)
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// None that ends it; errors of accepting are waited out.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        /// Waiting time after an error such as "too many open files".
        const PAUSE: Duration = Duration::from_millis(50);
        let router = router(self.shared);
        let mut connections = JoinSet::new();
        let mut open = VecDeque::new();
        loop {
            while connections.try_join_next().is_some() {}
            let (socket, _) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "inspector cannot accept");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let service = TowerToHyperService::new(router.clone());
            open.push_back(connections.spawn(async move {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(socket), service);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection to the inspector ended");
                }
            }));
            open.retain(|connection| !connection.is_finished());
            if open.len() > CONNECTIONS
                && let Some(oldest) = open.pop_front()
            {
                oldest.abort();
            }
            // What it has sent already is answered before another one can take its place.
            yield_now().await;
        }
    }
}

fn router(inner: Arc<Inner>) -> Router {
    let file = |kind: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, kind)], text) })
    };
    Router::new()
        .route("/", get(page))
        .route(
            "/app.js",
            file(
                "text/javascript; charset=utf-8",
                include_str!("../../page/app.js"),
            ),
        )
        .route(
            "/style.css",
            file(
                "text/css; charset=utf-8",
                include_str!("../../page/style.css"),
            ),
        )
        .route("/exchanges", get(list))
        .route("/exchanges/stream", get(follow))
        .route("/exchanges/{id}", get(one))
        .route("/exchanges/{id}/replay", post(replay))
        .route("/state", get(state))
        // What changes something comes from no other site.
        .layer(CsrfLayer::new())
        .layer(middleware::from_fn_with_state(inner.clone(), guard))
        .with_state(inner)
}
