//! Starting and stopping a gateway.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{runtime, sync::watch};

use crate::{
    admin::{self, Admin},
    config::snapshot::Snapshot,
    drain::Drainer,
    listener,
    metrics::Metrics,
    worker::{self, Served},
};

/// Settings of a gateway that are no part of its configuration.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Worker threads. Default: as many as there are cores for this process.
    pub concurrency: NonZeroUsize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
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
}

/// Serves a [`Snapshot`].
///
/// ```no_run
/// use gateway::{Gateway, Options, config};
///
/// let snapshot = config::load_file("envoy.yaml")?;
/// let running = Gateway::start(snapshot, Options::default().concurrency(2))?;
/// println!("{:?}", running.local_addr("main"));
/// running.shutdown();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Gateway;

impl Gateway {
    /// Binds every address, then starts the workers. Nothing runs if this fails.
    ///
    /// # Errors
    /// An address cannot be listened on, an access log cannot be opened, a cluster's TLS settings
    /// cannot be used, or no thread can be had. The text names which.
    pub fn start(snapshot: impl Into<Arc<Snapshot>>, options: Options) -> io::Result<Running> {
        let snapshot = snapshot.into();
        let count = options.concurrency.get();
        let metrics = Arc::new(Metrics::default());
        let (served, writers) = Served::new(snapshot.clone(), metrics.clone())?;
        let served = Arc::new(served);

        let mut per_worker: Vec<Vec<std::net::TcpListener>> = Vec::new();
        per_worker.resize_with(count, Vec::new);
        let mut addresses = Vec::new();
        for config in &snapshot.listeners {
            let sockets = listener::bind(config.address, count)?;
            if let Some(first) = sockets.first() {
                addresses.push((config.name.clone(), first.local_addr()?));
            }
            for (worker, socket) in per_worker.iter_mut().zip(sockets) {
                worker.push(socket);
            }
        }
        let admin_socket = snapshot
            .admin
            .map(|address| listener::bind(address, 1))
            .transpose()?
            .and_then(|mut sockets| sockets.pop());
        let admin = match &admin_socket {
            Some(socket) => Some(socket.local_addr()?),
            None => None,
        };

        let drainer = Drainer::new();
        let stop = watch::Sender::new(false);
        let mut threads = Vec::new();
        for (index, sockets) in per_worker.into_iter().enumerate() {
            threads.push(worker::start(
                index,
                served.clone(),
                sockets,
                drainer.drain(),
                stop.subscribe(),
            )?);
        }
        if let Some(socket) = admin_socket {
            let state = Admin::new(metrics.clone(), count);
            threads.push(admin::start(socket, state, stop.subscribe())?);
        }
        // Writers end when those who log have ended.
        threads.extend(writers);
        Ok(Running {
            addresses,
            admin,
            drain: snapshot
                .listeners
                .iter()
                .map(|listener| listener.http.timeouts.drain)
                .max()
                .unwrap_or_default(),
            drainer,
            stop,
            threads,
        })
    }
}

/// A gateway that serves. Dropping it stops it at once; [`shutdown`](Self::shutdown) lets it finish.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<(String, SocketAddr)>,
    admin: Option<SocketAddr>,
    drain: Duration,
    drainer: Drainer,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Where a listener listens; port 0 of the configuration is resolved here.
    pub fn local_addr(&self, listener: &str) -> Option<SocketAddr> {
        self.addresses
            .iter()
            .find(|(name, _)| name == listener)
            .map(|(_, address)| *address)
    }

    /// All listeners, in the order of the configuration.
    pub fn local_addrs(&self) -> impl Iterator<Item = (&str, SocketAddr)> {
        self.addresses
            .iter()
            .map(|(name, address)| (name.as_str(), *address))
    }

    /// Where the admin server listens.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Accepts no more connections, finishes the requests that are under way and ends; at the
    /// latest after the longest `drain_timeout` of the configuration.
    pub async fn drain(&self) {
        self.drainer.run(self.drain).await;
    }

    /// [`drain`](Self::drain), blocking. Not to be called on an async runtime's thread.
    pub fn shutdown(self) {
        match runtime::Builder::new_current_thread().enable_time().build() {
            Ok(runtime) => runtime.block_on(self.drain()),
            Err(error) => tracing::warn!(%error, "cannot wait for requests to finish"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            // A thread that panicked is gone too.
            let _ = thread.join();
        }
    }
}
