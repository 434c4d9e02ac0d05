//! The second half of a replacement: all that was prepared is put in place, and the rest retires.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::{
    Bound, BoundChain, Serving,
    prepare::{Next, NextChain, Prepared},
};
use crate::{
    config::snapshot::{Listener, Snapshot},
    control::{accept, admin::served::Served},
    downstream::{
        chains::{Chain, Chains},
        drain::Drainer,
    },
    telemetry::access_log::Logger,
};

impl BoundChain {
    /// Returns whether its connections would be let in today as they were: their clients were asked what they would be asked
    /// by the chain of the same match in `next`, and by those of its `fresh` ones that would get some of them.
    fn stays(&self, next: &[NextChain], fresh: &[&NextChain]) -> bool {
        let asks_the_same = |chain: &NextChain| match (&self.tls, &chain.tls) {
            (Some(tls), Some(next)) => tls.settings.asks_the_same_as(&next.settings),
            (None, None) => true,
            _ => false,
        };
        let gives_way = |chain: &NextChain| match (&self.matches, &chain.matches) {
            (Some(own), Some(fresh)) => own.gives_way_to(fresh),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        let same = next.iter().filter(|chain| chain.matches == self.matches);
        let others = fresh.iter().copied().filter(|chain| gives_way(chain));
        same.chain(others).all(asks_the_same)
    }
}

impl Serving {
    /// Nothing here fails.
    pub(super) fn put_in_place(&mut self, snapshot: &Snapshot, prepared: Prepared) {
        let Prepared {
            pools,
            listeners,
            admin,
        } = prepared;
        self.overload.set(snapshot.overload);
        for (name, cluster) in &snapshot.clusters {
            self.metrics.breakers(name).set(&cluster.circuit_breakers);
        }
        self.sinks.sweep();
        let upstreams = pools.first().map(|pools| pools.upstreams().clone());
        self.tracers.sweep(upstreams);
        for (worker, pools) in self.workers.iter_mut().zip(pools) {
            worker.pools = Some(pools);
        }
        let before = std::mem::take(&mut self.listeners);
        let (stay, leave): (Vec<_>, Vec<_>) = before
            .into_iter()
            .partition(|bound| listeners.iter().any(|next| next.key == bound.key));
        let mut stay = stay;
        for next in listeners {
            let known = stay.iter().position(|bound| bound.key == next.key);
            let known = known.map(|at| stay.swap_remove(at));
            let bound = self.install(known, next);
            self.listeners.push(bound);
        }
        for bound in leave {
            tracing::info!(listener = bound.name, address = %bound.local, "no longer listening");
            self.retire(bound.drainer, bound.drain_limit);
            for chain in bound.chains {
                self.retire(chain.drainer, bound.drain_limit);
            }
        }
        let clusters = self
            .workers
            .iter()
            .filter_map(|worker| worker.pools.as_ref());
        let clusters = clusters.map(|pools| pools.upstreams().clone()).collect();
        let served = Served::new(snapshot, self.addresses(), clusters);
        self.served.store(Some(Arc::new(served)));
        match admin {
            Some(admin) => self.admin = Some(admin),
            None if snapshot.admin.is_none() => self.admin = None,
            None => {}
        }
    }

    /// Puts a listener in place. It cannot fail.
    fn install(&mut self, known: Option<Bound>, next: Next) -> Bound {
        let drain_limit = drain_limit(&next.config);
        let (known_chains, known) = match known {
            Some(mut bound) => (std::mem::take(&mut bound.chains), Some(bound)),
            None => (Vec::new(), None),
        };
        let (mut known_chains, changed): (Vec<_>, Vec<_>) = {
            let fresh: Vec<_> = next
                .chains
                .iter()
                .filter(|chain| {
                    known_chains
                        .iter()
                        .all(|known| known.matches != chain.matches)
                })
                .collect();
            let stays: Vec<_> = known_chains
                .iter()
                .map(|known| known.stays(&next.chains, &fresh))
                .collect();
            let (stay, change): (Vec<_>, Vec<_>) = known_chains
                .into_iter()
                .zip(stays)
                .partition(|(_, stays)| *stays);
            let chains = |all: Vec<(BoundChain, bool)>| all.into_iter().map(|(chain, _)| chain);
            (chains(stay).collect(), chains(change).collect())
        };
        let mut chains: Vec<BoundChain> = Vec::with_capacity(next.chains.len());
        for chain in next.chains {
            let same = known_chains
                .iter()
                .position(|known| known.matches == chain.matches);
            chains.push(match same {
                Some(at) => {
                    let known = known_chains.swap_remove(at);
                    for (slot, runtime) in known.slots.iter().zip(chain.runtimes) {
                        slot.store(runtime);
                    }
                    BoundChain {
                        tls: chain.tls,
                        handshake_timeout: chain.handshake_timeout,
                        ..known
                    }
                }
                None => BoundChain {
                    matches: chain.matches,
                    tls: chain.tls,
                    handshake_timeout: chain.handshake_timeout,
                    drainer: Drainer::new(),
                    slots: chain
                        .runtimes
                        .into_iter()
                        .map(|runtime| Arc::new(ArcSwap::new(runtime)))
                        .collect(),
                },
            });
        }
        let of_worker = |index: usize| Arc::new(offered(&next.config, &next.logs, &chains, index));
        let bound = match (known, next.sockets) {
            (Some(bound), _) => {
                for (index, served) in bound.served.iter().enumerate() {
                    served.store(of_worker(index));
                }
                Bound {
                    name: next.config.name.clone(),
                    drain_limit,
                    ..bound
                }
            }
            (None, sockets) => {
                let (sockets, local) = sockets.unwrap_or_else(|| (Vec::new(), next.config.address));
                let drainer = Drainer::new();
                let served: Vec<_> = (0..sockets.len())
                    .map(|index| Arc::new(ArcSwap::new(of_worker(index))))
                    .collect();
                let workers = self.workers.iter().zip(sockets).zip(&served);
                for ((worker, socket), served) in workers {
                    let accept = accept::accept(socket, served.clone(), drainer.drain());
                    worker.handle.spawn(accept);
                }
                Bound {
                    key: next.key,
                    name: next.config.name.clone(),
                    local,
                    drain_limit,
                    drainer,
                    served,
                    chains: Vec::new(),
                }
            }
        };
        for gone in known_chains.into_iter().chain(changed) {
            self.retire(gone.drainer, drain_limit);
        }
        Bound { chains, ..bound }
    }

    /// Lets what `drainer` stands for finish, and ends what has not finished in time.
    fn retire(&mut self, drainer: Drainer, limit: Duration) {
        drainer.signal();
        self.leaving.retain(|drainer| !drainer.is_done());
        self.leaving.push(drainer.clone());
        if let Some(worker) = self.workers.first() {
            worker.handle.spawn(async move { drainer.run(limit).await });
        }
    }
}

/// The longest `drain_timeout` of a listener's connection managers.
fn drain_limit(listener: &Listener) -> Duration {
    let limits = listener.all_chains().map(|chain| chain.http.timeouts.drain);
    limits.max().unwrap_or_default()
}

/// Services for a worker's new connections.
fn offered(
    listener: &Listener,
    logs: &Arc<[Arc<Logger>]>,
    chains: &[BoundChain],
    worker: usize,
) -> Chains {
    Chains {
        listener: listener.name.clone(),
        logs: logs.clone(),
        original_dst: listener.original_dst,
        chains: chains
            .iter()
            .filter_map(|chain| {
                Some(Chain {
                    matches: chain.matches.clone(),
                    tls: chain.tls.as_ref().map(|tls| tls.acceptor.clone()),
                    handshake_timeout: chain.handshake_timeout,
                    slot: chain.slots.get(worker)?.clone(),
                    drainer: chain.drainer.clone(),
                })
            })
            .collect(),
    }
}
