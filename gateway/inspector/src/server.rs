//! The server of the page, of transcripts and of their stream.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rand::RngCore as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime,
    sync::broadcast,
    task::{JoinSet, yield_now},
    time::sleep,
};

use crate::{
    Settings,
    capture::Inspector,
    record::Record,
    replay::Play,
    ring::{Shared, lock},
    takeaway,
};

/// Connections at a time; one more takes the place of the oldest. They are fewer than the descriptors that the gateway leaves
/// for what it does not count.
const CONNECTIONS: usize = 24;

/// Streams at a time; more are refused.
const STREAMS: usize = 16;

/// Longest wait for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Rows of the list that a page without a script has.
const STATIC_ROWS: usize = 200;

const COOKIE: &str = "inspector";

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

    /// Where to open it, with the token if one is asked for.
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
                include_str!("../page/app.js"),
            ),
        )
        .route(
            "/style.css",
            file("text/css; charset=utf-8", include_str!("../page/style.css")),
        )
        .route("/exchanges", get(list))
        .route("/exchanges/stream", get(follow))
        .route("/exchanges/{id}", get(one))
        .route("/exchanges/{id}/replay", post(replay))
        .route("/state", get(state))
        .layer(middleware::from_fn_with_state(inner.clone(), guard))
        .with_state(inner)
}

// === who may ask ===

/// Looks at host, token and origin of a request, and dresses its response.
async fn guard(State(inner): State<Arc<Inner>>, request: Request, next: Next) -> Response {
    let mut response = match admit(&inner, &request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused,
    };
    for (name, value) in [
        (
            "content-security-policy",
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        let name = HeaderName::from_static(name);
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

#[allow(clippy::result_large_err, reason = "the error is the response")]
fn admit(inner: &Inner, request: &Request) -> Result<(), Response> {
    let text = |name: HeaderName| {
        let value = request.headers().get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let host = text(header::HOST);
    if !is_known(inner, host) {
        let reason = "unknown host: open the inspector by its address or as localhost\n";
        return Err((StatusCode::MISDIRECTED_REQUEST, reason).into_response());
    }
    if let Some(token) = &inner.token {
        let query = request.uri().query().unwrap_or_default();
        let given = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("token="));
        if given.is_some_and(|given| same(given, token)) && request.method() == Method::GET {
            // The token leaves the address bar.
            let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
            let to = request.uri().path().to_owned();
            let headers = [(header::SET_COOKIE, cookie), (header::LOCATION, to)];
            return Err((StatusCode::SEE_OTHER, headers).into_response());
        }
        let cookies = text(header::COOKIE).split(';');
        let mut cookies = cookies.filter_map(|cookie| cookie.trim().split_once('='));
        let bearer = text(header::AUTHORIZATION).strip_prefix("Bearer ");
        let admitted = cookies.any(|(name, value)| name == COOKIE && same(value, token))
            || bearer.is_some_and(|given| same(given, token));
        if !admitted {
            let reason = "token missing or wrong: the log of the gateway has the address with it\n";
            return Err((StatusCode::UNAUTHORIZED, reason).into_response());
        }
    }
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return Ok(());
    }
    let site = text(HeaderName::from_static("sec-fetch-site"));
    let origin = text(header::ORIGIN);
    let from_here = origin.is_empty() || origin.strip_prefix("http://") == Some(host);
    if !matches!(site, "" | "same-origin" | "none") || !from_here {
        let reason = "this request comes from another site\n";
        return Err((StatusCode::FORBIDDEN, reason).into_response());
    }
    Ok(())
}

/// Whether a `host` is a name of ours or an address, which nobody can rebind.
fn is_known(inner: &Inner, host: &str) -> bool {
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<std::net::IpAddr>().is_ok()
        || inner
            .hosts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name))
}

/// Compares in a time that says nothing of where two texts differ.
fn same(given: &str, token: &str) -> bool {
    let pairs = given.bytes().zip(token.bytes());
    given.len() == token.len() && pairs.fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

// === what is shown ===

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    /// Words that the exchange has to contain; `problem:` stands for those with a problem.
    r#match: String,
    format: String,
    processor: String,
    /// Number of the filter in the exchange, the one nearest to the client is 0.
    index: usize,
    /// The last version that is known.
    after: Option<u64>,
}

impl Asked {
    fn takes(&self, record: &Record) -> bool {
        let status = record
            .status
            .map(|status| status.to_string())
            .unwrap_or_default();
        self.r#match.split_whitespace().all(|word| match word {
            "problem:" => record.has_problem(),
            word => {
                let contains = |text: &str| text.contains(word);
                contains(&record.path)
                    || contains(&record.authority)
                    || contains(&record.method)
                    || status == word
                    || record.processors.iter().any(|p| contains(&p.filter))
            }
        })
    }
}

async fn state(State(inner): State<Arc<Inner>>) -> Json<Value> {
    Json(state_of(&inner))
}

fn state_of(inner: &Inner) -> Value {
    let ring = &inner.inspector.ring;
    let settings = &inner.inspector.settings;
    let (kept, bytes) = ring.size();
    json!({
        "kept": kept,
        "bytes": bytes,
        "dropped": ring.dropped.load(Ordering::Relaxed),
        "skipped": ring.skipped.load(Ordering::Relaxed),
        "most": settings.exchanges,
        "one_in": settings.one_in,
        "bodies": settings.bodies,
        "following": inner.streams.load(Ordering::Relaxed),
    })
}

async fn list(State(inner): State<Arc<Inner>>, Query(asked): Query<Asked>) -> Json<Value> {
    let mut state = state_of(&inner);
    let summaries = inner.inspector.ring.all().into_iter().filter_map(|shared| {
        let record = lock(&shared);
        asked.takes(&record).then(|| record.summary())
    });
    state["exchanges"] = summaries.collect();
    Json(state)
}

fn find(inner: &Inner, id: u64) -> Result<Shared, (StatusCode, &'static str)> {
    let found = inner.inspector.ring.get(id);
    found.ok_or((StatusCode::NOT_FOUND, "no such exchange, or not any more\n"))
}

async fn one(
    State(inner): State<Arc<Inner>>,
    Path(id): Path<u64>,
    Query(asked): Query<Asked>,
) -> Response {
    let shared = match find(&inner, id) {
        Ok(shared) => shared,
        Err(missing) => return missing.into_response(),
    };
    let record = lock(&shared);
    match asked.format.as_str() {
        "" | "json" => Json(&*record).into_response(),
        "text" => record.text().into_response(),
        "curl" => takeaway::curl(&record).into_response(),
        "fake-proxy" => takeaway::fake_proxy(&record).into_response(),
        "scenario" => takeaway::scenario(&record).into_response(),
        _ => {
            let reason = "format: one of json, text, curl, fake-proxy, scenario\n";
            (StatusCode::BAD_REQUEST, reason).into_response()
        }
    }
}

async fn replay(
    State(inner): State<Arc<Inner>>,
    Path(id): Path<u64>,
    Query(asked): Query<Asked>,
) -> Response {
    if asked.processor.is_empty() {
        return (StatusCode::BAD_REQUEST, "processor: HOST:PORT is missing\n").into_response();
    }
    let play = match find(&inner, id) {
        Ok(shared) => {
            let record = lock(&shared);
            Play::new(
                &record,
                asked.index,
                &asked.processor,
                &inner.inspector.settings,
            )
        }
        Err(missing) => return missing.into_response(),
    };
    let play = match play {
        Ok(play) => play,
        Err(reason) => return (StatusCode::CONFLICT, format!("{reason}\n")).into_response(),
    };
    match play.run().await {
        Some(shared) => Json(&*lock(&shared)).into_response(),
        None => (StatusCode::BAD_GATEWAY, "nothing was recorded\n").into_response(),
    }
}

// === the stream ===

/// One of the places for streams, given back when dropped.
struct Place(Arc<Inner>);

impl Place {
    fn take(inner: &Arc<Inner>) -> Option<Self> {
        let place = Self(inner.clone());
        (inner.streams.fetch_add(1, Ordering::Relaxed) < STREAMS).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn follow(
    State(inner): State<Arc<Inner>>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let Some(place) = Place::take(&inner) else {
        let reason = "too many streams are open: close a page\n";
        let again = [(header::RETRY_AFTER, "10")];
        return (StatusCode::SERVICE_UNAVAILABLE, again, reason).into_response();
    };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let last = text("last-event-id").and_then(|id| id.parse().ok());
    let accept = text("accept").unwrap_or_default();
    let lines = asked.format == "ndjson" || accept.contains("application/x-ndjson");
    let transcript = asked.format == "text";
    let after = last.or(asked.after);
    let records = changes(inner, place, after);
    if !lines && !transcript {
        let events = futures_util::StreamExt::filter_map(records, move |shared| {
            let record = lock(&shared);
            let event = asked.takes(&record).then(|| {
                let data = record.summary().to_string();
                Ok::<_, Infallible>(Event::default().id(record.version.to_string()).data(data))
            });
            drop(record);
            async move { event }
        });
        return Sse::new(events)
            .keep_alive(KeepAlive::default())
            .into_response();
    }
    let texts = futures_util::StreamExt::filter_map(records, move |shared| {
        let record = lock(&shared);
        let line = (record.done && asked.takes(&record)).then(|| match transcript {
            true => record.text(),
            false => serde_json::to_string(&*record).unwrap_or_default() + "\n",
        });
        drop(record);
        async move { line.map(|line| Ok::<_, Infallible>(Bytes::from(line))) }
    });
    let kind = match transcript {
        true => "text/plain; charset=utf-8",
        false => "application/x-ndjson",
    };
    ([(header::CONTENT_TYPE, kind)], Body::from_stream(texts)).into_response()
}

/// Records as they change, after those that changed since version `after`. A reader that is slow misses some changes and gets
/// the records as they are then.
fn changes(inner: Arc<Inner>, place: Place, after: Option<u64>) -> impl Stream<Item = Shared> {
    let follower = inner.inspector.ring.follow();
    let mut known = Vec::new();
    if let Some(after) = after {
        known = since(&inner, after);
    }
    known.reverse();
    stream::unfold(
        (inner, place, follower, known, after.unwrap_or(0)),
        |(inner, place, mut follower, mut known, mut seen)| async move {
            loop {
                if let Some(shared) = known.pop() {
                    seen = seen.max(lock(&shared).version);
                    return Some((shared, (inner, place, follower, known, seen)));
                }
                match follower.recv().await {
                    Ok(change) => {
                        // One that has changed again is told with that change.
                        let found = inner.inspector.ring.get(change.id);
                        known.extend(found.filter(|found| lock(found).version == change.version));
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        known = since(&inner, seen);
                        known.reverse();
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        },
    )
}

/// Records that changed since that version, in the order of their changes.
fn since(inner: &Inner, version: u64) -> Vec<Shared> {
    let mut records: Vec<(u64, Shared)> = inner
        .inspector
        .ring
        .all()
        .into_iter()
        .map(|shared| (lock(&shared).version, shared.clone()))
        .filter(|(changed, _)| *changed > version)
        .collect();
    records.sort_by_key(|(changed, _)| *changed);
    records.into_iter().map(|(_, shared)| shared).collect()
}

// === the page ===

/// The page, with the last exchanges as a table for a browser without scripts.
async fn page(State(inner): State<Arc<Inner>>) -> Response {
    const PLACE: &str = "<!-- rows -->";
    tracing::warn!("the inspector was opened");
    let records = inner.inspector.ring.all();
    let rows: String = records.iter().rev().take(STATIC_ROWS).map(row).collect();
    let page = include_str!("../page/index.html").replace(PLACE, &rows);
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

fn row(shared: &Shared) -> String {
    let record = lock(shared);
    let status = record
        .status
        .map(|status| status.to_string())
        .unwrap_or_default();
    let flags: Vec<&str> = record
        .processors
        .iter()
        .flat_map(|p| p.flags.clone())
        .collect();
    format!(
        "<tr><td><a href=\"/exchanges/{id}?format=text\">{id}</a></td><td>{}</td><td>{}{}</td><td>{status}</td><td>{}</td></tr>\n",
        escaped(&record.method),
        escaped(&record.authority),
        escaped(&record.path),
        escaped(&flags.join(", ")),
        id = record.id,
    )
}

/// A text without what HTML takes for its own.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
