//! Starting, changing and stopping a gateway.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use extproc_client::observer::Observer;
use tokio::{
    runtime,
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{
    config::snapshot::Snapshot,
    control::{
        admin::{Levels, LogLevels},
        serving::{self, Serving},
        tracers::Opener,
    },
    downstream::drain,
    telemetry::stats::Watching,
    trace::{Tracer, Tracing},
};

/// Time that threads have to end. One that writes an access log may wait for a reader that does not read.
const THREADS_END: Duration = Duration::from_secs(5);

/// The longest wait at the end for spans to be sent.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// Looks at what [`Gateway::start`] would refuse whatever the state of the system is: listeners that collide, TLS settings that
/// cannot be used.
///
/// # Errors
/// The text names the listener or the cluster.
pub fn check(snapshot: &Snapshot) -> io::Result<()> {
    serving::check(snapshot)
}

/// Settings of a gateway that are no part of its configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Worker threads. Default: as many as there are cores for this process.
    pub concurrency: NonZeroUsize,
    observer: Option<Watching>,
    tracing: Option<Opener>,
    levels: Option<Levels>,
    admin_hosts: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            observer: None,
            tracing: None,
            levels: None,
            admin_hosts: Vec::new(),
        }
    }
}

impl Options {
    /// This many worker threads; at least one.
    #[must_use]
    pub fn concurrency(mut self, threads: usize) -> Self {
        self.concurrency = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
        self
    }

    /// Sees what every ext_proc filter does, beside the statistics.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(Watching(observer));
        self
    }

    /// One more name by which the admin server is reached. Others than these, `localhost` and addresses are refused.
    #[must_use]
    pub fn admin_host(mut self, name: impl Into<String>) -> Self {
        self.admin_hosts.push(name.into());
        self
    }

    /// Lets the admin server set the levels of the program's log.
    #[must_use]
    pub fn log_levels(mut self, levels: Arc<dyn LogLevels>) -> Self {
        self.levels = Some(Levels(levels));
        self
    }

    /// Records the traces that the configuration asks for.
    #[must_use]
    pub fn tracing(mut self, tracing: Arc<dyn Tracing>) -> Self {
        self.tracing = Some(Opener(tracing));
        self
    }
}

/// Serves a [`Snapshot`].
///
/// ```no_run
/// use gateway_proxy::{Gateway, Options};
///
/// let snapshot = gateway_config::load_file("envoy.yaml")?;
/// let running = Gateway::start(snapshot, Options::default().concurrency(2))?;
/// println!("{:?}", running.local_addr("main"));
/// running.shutdown();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Gateway;

impl Gateway {
    /// Binds every address, then serves. Nothing runs if this fails.
    ///
    /// # Errors
    /// An address cannot be listened on, an access log cannot be opened, TLS settings cannot be used,
    /// or no thread can be had. The text names which.
    pub fn start(snapshot: impl Into<Arc<Snapshot>>, options: Options) -> io::Result<Running> {
        let stop = watch::Sender::new(false);
        let serving = Serving::start(
            options.concurrency.get(),
            options.observer,
            options.tracing,
            options.levels,
            options.admin_hosts,
            &stop,
        )?;
        // Dropped, and with it stopped, if the first configuration cannot be served.
        let running = Running {
            serving: Mutex::new(Some(serving)),
            stop,
        };
        running.update(snapshot)?;
        Ok(running)
    }
}

/// A gateway that serves. Dropping it stops it at once, and waits 5 s at most for access logs to be written; [`shutdown`](Self::shutdown) lets it finish.
#[derive(Debug)]
pub struct Running {
    /// Unset only while this is dropped.
    serving: Mutex<Option<Serving>>,
    stop: watch::Sender<bool>,
}

impl Running {
    fn serving(&self) -> MutexGuard<'_, Option<Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves `snapshot` instead of what is served now; returns when every request that begins from
    /// here on is served by it.
    ///
    /// An exchange keeps the snapshot that it began with. A listener is the same one as before if its
    /// address is (and its name, where the port is 0): it keeps its socket, so that no connection is lost, and
    /// its connections take the new routes from their next request; a listener that is gone stops
    /// accepting, and its connections end with what they carry, at the latest after
    /// its `drain_timeout`. So it is with the filter chains of a listener, by their match. Clusters that are the
    /// same keep their connections to endpoints, and statistics go on.
    ///
    /// # Errors
    /// As with [`Gateway::start`], or the gateway is shutting down. Nothing has changed then.
    pub fn update(&self, snapshot: impl Into<Arc<Snapshot>>) -> io::Result<()> {
        match self.serving().as_mut() {
            Some(serving) => serving.replace(&snapshot.into()),
            None => Ok(()),
        }
    }

    /// Address of a listener; port 0 of the configuration is resolved here.
    pub fn local_addr(&self, listener: &str) -> Option<SocketAddr> {
        self.local_addrs()
            .into_iter()
            .find(|(name, _)| name == listener)
            .map(|(_, address)| address)
    }

    /// All listeners, in the order of the configuration.
    pub fn local_addrs(&self) -> Vec<(String, SocketAddr)> {
        let serving = self.serving();
        serving.as_ref().map(Serving::addresses).unwrap_or_default()
    }

    /// Address of the admin server.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.serving().as_ref()?.admin_address()
    }

    /// Says on `/ready` from now on that the gateway goes down; everything else goes on. For the time in which others
    /// learn that, before [`drain`](Self::drain).
    pub fn leave(&self) {
        if let Some(serving) = self.serving().as_ref() {
            serving.leave();
        }
    }

    /// Accepts no more connections, finishes the requests that are under way and ends; at the
    /// latest after the longest `drain_timeout` of the configuration.
    pub async fn drain(&self) {
        let waiting = self.serving().as_mut().map(Serving::drain);
        if let Some((drainers, limit)) = waiting {
            drain::wait(&drainers, limit).await;
        }
        let tracers = self.serving().as_ref().map(Serving::tracers);
        flush(tracers.unwrap_or_default()).await;
    }

    /// [`drain`](Self::drain), blocking. Not to be called on an async runtime's thread.
    pub fn shutdown(self) {
        match runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime.block_on(self.drain()),
            Err(error) => tracing::warn!(%error, "cannot wait for requests to finish"),
        }
    }
}

/// Waits a moment for the last spans to be sent.
async fn flush(tracers: Vec<Arc<dyn Tracer>>) {
    if tracers.is_empty() {
        return;
    }
    let (done, flushed) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name("last-spans".into());
    let flushing = thread.spawn(move || {
        for tracer in tracers {
            tracer.flush();
        }
        drop(done);
    });
    if flushing.is_ok() {
        // An error says that it is done.
        let _ = timeout(LAST_SPANS, flushed).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let Some(serving) = self.serving().take() else {
            return;
        };
        let threads = serving.into_threads();
        let (ended, all_ended) = mpsc::channel::<()>();
        let waiting = thread::Builder::new().name("end".into()).spawn(move || {
            for thread in threads {
                // A thread that panicked is gone too.
                let _ = thread.join();
            }
            drop(ended);
        });
        if waiting.is_ok() && all_ended.recv_timeout(THREADS_END) == Err(RecvTimeoutError::Timeout)
        {
            tracing::warn!("threads are left behind: an access log takes no lines");
        }
    }
}
