//! The first half of a replacement: all that a new snapshot needs beside what is there.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};

use super::{AdminServer, Key, Serving, Tls};
use crate::{
    config::snapshot::{AccessLog, ChainMatch, DownstreamTls, FilterChain, Listener, Snapshot},
    control::{
        accept,
        admin::{self, Admin},
        worker::Connections,
    },
    downstream::{
        chains::{ChainRuntime, ListenerShared},
        tls::Acceptor,
    },
    telemetry::access_log::Logger,
};

/// All that a new snapshot needs beside what is there.
pub(super) struct Prepared {
    /// For each worker.
    pub(super) pools: Vec<Connections>,
    pub(super) listeners: Vec<Next>,
    /// An admin server, if its address is new.
    pub(super) admin: Option<AdminServer>,
}

/// A listener of the new snapshot, ready to be put in place.
pub(super) struct Next {
    pub(super) key: Key,
    pub(super) config: Arc<Listener>,
    /// Sockets where the listener is new, one for each worker.
    pub(super) sockets: Option<(Vec<TcpListener>, SocketAddr)>,
    pub(super) chains: Vec<NextChain>,
    pub(super) logs: Arc<[Arc<Logger>]>,
}

pub(super) struct NextChain {
    pub(super) matches: Option<ChainMatch>,
    pub(super) tls: Option<Tls>,
    pub(super) handshake_timeout: Duration,
    /// One for each worker.
    pub(super) runtimes: Vec<Arc<ChainRuntime>>,
}

impl Serving {
    /// Builds all that `snapshot` needs beside what is there.
    pub(super) fn prepare(&mut self, snapshot: &Snapshot) -> io::Result<Prepared> {
        distinct(&snapshot.listeners)?;
        let buckets = Arc::new(self.buckets.of(snapshot));
        let pools = self
            .workers
            .iter()
            .map(|worker| {
                let before = worker.pools.as_ref();
                Connections::new(
                    snapshot,
                    &self.metrics,
                    &self.health,
                    &self.overload,
                    &buckets,
                    before,
                )
            })
            .collect::<io::Result<Vec<_>>>()?;
        self.tracers.warn(snapshot);
        let mut listeners: Vec<Next> = Vec::with_capacity(snapshot.listeners.len());
        for config in &snapshot.listeners {
            let next = self.prepare_listener(Key::of(config), config, &pools, &listeners)?;
            listeners.push(next);
        }
        let admin = self.prepare_admin(snapshot.admin)?;
        Ok(Prepared {
            pools,
            listeners,
            admin,
        })
    }

    /// Builds a listener, and binds it if it is new.
    fn prepare_listener(
        &mut self,
        key: Key,
        config: &Arc<Listener>,
        pools: &[Connections],
        beside: &[Next],
    ) -> io::Result<Next> {
        let mut chains = Vec::new();
        for chain in &config.chains {
            chains.push(self.prepare_chain(config, chain, Some(&chain.matches), pools)?);
        }
        if let Some(chain) = &config.default_chain {
            chains.push(self.prepare_chain(config, chain, None, pools)?);
        }
        let known = self.listeners.iter().any(|bound| bound.key == key);
        let sockets = match known {
            true => None,
            false => Some(self.bind(config, beside)?),
        };
        let logs = self.loggers(&config.access_log)?.into();
        Ok(Next {
            logs,
            key,
            config: config.clone(),
            sockets,
            chains,
        })
    }

    fn prepare_chain(
        &mut self,
        listener: &Listener,
        chain: &FilterChain,
        matches: Option<&ChainMatch>,
        pools: &[Connections],
    ) -> io::Result<NextChain> {
        let http = &chain.http;
        let logs = self.loggers(&http.access_log)?;
        let recorder = match &http.tracing {
            Some(tracing) => self.tracers.recorder(tracing)?,
            None => None,
        };
        let shared = Arc::new(ListenerShared {
            filter_chain: chain.name.clone(),
            stats: self.metrics.http(&http.stat_prefix),
            logs,
            recorder,
        });
        let runtimes = pools
            .iter()
            .map(|pools| {
                let limit = listener.buffer_limit;
                pools.chain(http, limit, &shared, &self.metrics, &self.overload)
            })
            .collect();
        let tls = chain.tls.as_ref().map(|settings| self.tls(settings));
        let tls = tls
            .transpose()
            .map_err(|reason| io::Error::other(format!("listener {}: {reason}", listener.name)))?;
        Ok(NextChain {
            matches: matches.cloned(),
            tls,
            handshake_timeout: chain.handshake_timeout,
            runtimes,
        })
    }

    /// Opens what access logs need.
    fn loggers(&mut self, logs: &[AccessLog]) -> io::Result<Vec<Arc<Logger>>> {
        let loggers = logs.iter().map(|log| self.sinks.logger(log));
        let opened: io::Result<_> = loggers.collect();
        opened.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot open access log: {error}"))
        })
    }

    fn tls(&self, settings: &Arc<DownstreamTls>) -> Result<Tls, String> {
        let chains = self.listeners.iter().flat_map(|bound| &bound.chains);
        let mut known = chains.filter_map(|chain| chain.tls.as_ref());
        match known.find(|known| known.settings == *settings) {
            Some(known) => Ok(known.clone()),
            None => Ok(Tls {
                acceptor: Acceptor::new(settings)?,
                settings: settings.clone(),
            }),
        }
    }

    /// A socket for each worker, known to its runtime. `beside` has those that are bound for the same snapshot.
    fn bind(
        &self,
        listener: &Listener,
        beside: &[Next],
    ) -> io::Result<(Vec<TcpListener>, SocketAddr)> {
        let address = listener.address;
        let port = address.port();
        let known = self.listeners.iter().map(|bound| bound.local.port());
        let new = beside.iter().map(|next| next.config.address.port());
        let ours = port != 0 && known.chain(new).any(|other| other == port);
        let sockets = accept::bind(address, listener.ipv4_compat, self.workers.len(), ours)?;
        let sockets = sockets
            .into_iter()
            .zip(&self.workers)
            .map(|(socket, worker)| {
                let _runtime = worker.handle.enter();
                TcpListener::from_std(socket)
            })
            .collect::<io::Result<Vec<_>>>()?;
        let local = match sockets.first() {
            Some(socket) => socket.local_addr()?,
            None => address,
        };
        Ok((sockets, local))
    }

    fn prepare_admin(&self, wanted: Option<SocketAddr>) -> io::Result<Option<AdminServer>> {
        let Some(wanted) = wanted else {
            return Ok(None);
        };
        if self.admin.as_ref().is_some_and(|now| now.wanted == wanted) {
            return Ok(None);
        }
        let mut sockets = accept::bind(wanted, true, 1, false)?;
        let Some(socket) = sockets.pop() else {
            return Ok(None);
        };
        let local = socket.local_addr()?;
        let stop = watch::Sender::new(false);
        let state = Admin::new(
            self.metrics.clone(),
            self.overload.clone(),
            self.workers.len(),
            self.going_down.subscribe(),
            self.served.clone(),
            self.levels.clone(),
            self.admin_hosts.clone(),
        );
        let thread = admin::start(socket, state, stop.subscribe())?;
        Ok(Some(AdminServer {
            wanted,
            local,
            stop,
            thread: Some(thread),
        }))
    }
}

/// Refuses two listeners that are the same one.
pub(super) fn distinct(listeners: &[Arc<Listener>]) -> io::Result<()> {
    for (index, listener) in listeners.iter().enumerate() {
        let same_key = |other: &Arc<Listener>| Key::of(other) == Key::of(listener);
        let before = listeners.iter().take(index);
        let mut taken = before.filter(|other| other.collides(listener) || same_key(other));
        if taken.next().is_some() {
            let address = listener.address;
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("cannot listen on {address}: two listeners have this address"),
            ));
        }
    }
    Ok(())
}
