//! The admin server: pages for operators, in the forms of Envoy's.
//!
//! For operators, on an address of their own. No part of the data path: it has a thread and a number of connections of its
//! own. When there are too many, the one that was silent longest makes room, so that a probe is always answered.

mod certs;
mod pages;
pub(crate) mod served;
mod stats;

use std::{
    convert::Infallible,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime,
    sync::watch,
    task::{AbortHandle, yield_now},
    time::sleep,
};

use self::served::Served;
use crate::{
    limits::{overload::Overload, throttle::Throttle},
    telemetry::stats::Metrics,
};

/// The longest silence of a connection: no request came, or its answer was not taken.
const SILENCE: Duration = Duration::from_secs(60);

/// The log of the program, whose levels the admin server shows and sets.
pub trait LogLevels: Send + Sync + 'static {
    /// Sets levels one after the other, each of a target, or of everything: `trace`, `debug`, `info`, `warn`, `error` or
    /// `off`.
    ///
    /// # Errors
    /// The text says what is wrong with a target. None of the levels is set then.
    fn set(&self, changes: &[(Option<&str>, &str)]) -> Result<(), String>;

    /// Configuration that holds now.
    fn shown(&self) -> String;
}

/// A [`LogLevels`].
#[derive(Clone)]
pub(crate) struct Levels(pub(crate) Arc<dyn LogLevels>);

impl std::ops::Deref for Levels {
    type Target = dyn LogLevels;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Levels")
    }
}

/// Sources of the admin server.
#[derive(Debug)]
pub(crate) struct Admin {
    metrics: Arc<Metrics>,
    overload: Arc<Overload>,
    concurrency: usize,
    draining: watch::Receiver<bool>,
    start: Instant,
    served: Arc<ArcSwapOption<Served>>,
    levels: Option<Levels>,
    hosts: Arc<[String]>,
}

impl Admin {
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        overload: Arc<Overload>,
        concurrency: usize,
        draining: watch::Receiver<bool>,
        served: Arc<ArcSwapOption<Served>>,
        levels: Option<Levels>,
        hosts: Arc<[String]>,
    ) -> Self {
        Self {
            metrics,
            overload,
            concurrency,
            draining,
            start: Instant::now(),
            served,
            levels,
            hosts,
        }
    }
}

/// Starts the admin server's thread. It ends when `stop` changes.
///
/// # Errors
/// No thread or no runtime can be had.
pub(crate) fn start(
    socket: std::net::TcpListener,
    admin: Admin,
    mut stop: watch::Receiver<bool>,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async move {
            tokio::select! {
                result = serve(socket, Arc::new(admin)) => {
                    if let Err(error) = result {
                        tracing::error!(%error, "admin server ended");
                    }
                }
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    })
}

async fn serve(socket: std::net::TcpListener, admin: Arc<Admin>) -> io::Result<()> {
    /// Waiting time after an error such as "too many open files".
    const PAUSE: Duration = Duration::from_millis(50);
    let listener = TcpListener::from_std(socket)?;
    let failures = Throttle::new();
    let mut open: Vec<Open> = Vec::new();
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(suppressed) = failures.pass() {
                    tracing::warn!(%error, suppressed, "admin server cannot accept");
                }
                sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.task.is_finished());
        if open.len() >= admin.overload.admin_connections() {
            let_go(&mut open);
        }
        let heard = Arc::<Heard>::default();
        let task = tokio::spawn(connection(stream, admin.clone(), heard.clone()));
        open.push(Open {
            task: task.abort_handle(),
            heard,
        });
        // What it has sent already is answered before another one can take its place.
        yield_now().await;
    }
}

/// A connection of the admin server.
struct Open {
    task: AbortHandle,
    heard: Arc<Heard>,
}

/// When the last request of a connection came, or the connection itself.
struct Heard(Mutex<Instant>);

impl Default for Heard {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Heard {
    fn last(&self) -> Instant {
        // Only assignments run under the lock.
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits until nothing came for [`SILENCE`].
    async fn silence(&self) {
        loop {
            let Some(left) = SILENCE.checked_sub(self.last().elapsed()) else {
                return;
            };
            sleep(left).await;
        }
    }
}

/// Ends the connection that was silent longest.
fn let_go(open: &mut Vec<Open>) {
    let silent = open
        .iter()
        .enumerate()
        .min_by_key(|(_, connection)| connection.heard.last());
    if let Some((at, _)) = silent {
        open.swap_remove(at).task.abort();
    }
}

async fn connection(stream: TcpStream, admin: Arc<Admin>, heard: Arc<Heard>) {
    let _counted = admin.overload.admin_connection();
    let service = service_fn(|request| {
        heard.now();
        let response = pages::answer(&admin, &request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => {
            if let Err(error) = ended {
                tracing::debug!(%error, "admin connection ended");
            }
        }
        () = heard.silence() => {}
    }
}
