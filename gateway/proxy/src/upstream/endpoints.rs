//! Endpoints of a cluster, and the choice of one for a request.

use std::{
    borrow::Cow,
    collections::HashMap,
    io::ErrorKind::TimedOut,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use extproc_client::metadata::DynamicMetadata;
use http::HeaderMap;
use prost_types::{Struct, Value, value::Kind};
use tokio::{net::lookup_host, sync::Notify, time::timeout};

use super::{
    connect::Address,
    hashing::Hashes,
    levels,
    member::{Host, HostShared},
};
use crate::{
    config::snapshot::{
        Discovery, Endpoint, EndpointAddress, HostSource, LbPolicy, MetadataKey, OriginalDst,
        OverrideHost, Standing,
    },
    http::hash::Hashed,
    limits::throttle::Throttle,
};

/// Time for which names stay resolved: `dns_refresh_rate`'s default.
const REFRESH: Duration = Duration::from_secs(5);

/// The longest wait for the addresses of a name.
const LOOK_UP: Duration = Duration::from_secs(10);

/// Dynamic hosts that are kept for reuse.
const MOST_DYNAMIC: usize = 1024;

/// Parts of a request by which its endpoint is chosen.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) metadata: Option<&'a DynamicMetadata>,
    /// Destination of the client's connection before it was redirected.
    pub(crate) redirected_from: Option<SocketAddr>,
    /// Attempts that went before.
    pub(crate) before: usize,
    /// Priorities to leave out.
    pub(crate) passed: &'a [u32],
    /// The request's hash, if its route asks for one.
    pub(crate) hash: Option<u64>,
    /// Endpoints that were chosen for the same attempt and are not wanted.
    pub(crate) again: u32,
}

impl<'a> Wanted<'a> {
    /// By these headers alone, for the first attempt.
    pub(crate) fn by(headers: &'a HeaderMap) -> Self {
        Self {
            headers,
            metadata: None,
            redirected_from: None,
            before: 0,
            passed: &[],
            hash: None,
            again: 0,
        }
    }

    /// The endpoint's address, in a cluster of type `ORIGINAL_DST`.
    fn original(&self, source: &OriginalDst) -> Option<SocketAddr> {
        match source {
            OriginalDst::Header(name) => {
                let text = self.headers.get(name)?.to_str().ok()?;
                text.trim().parse().ok()
            }
            OriginalDst::Socket(port) => {
                let mut address = self.redirected_from?;
                address.set_port(port.unwrap_or(address.port()));
                Some(address)
            }
        }
    }
}

/// The endpoints of a cluster, as one worker sees them.
#[derive(Debug)]
pub(crate) struct Endpoints {
    shared: Arc<HostShared>,
    state: Mutex<State>,
    next: AtomicUsize,
    hashes: Hashes,
    /// Some may be left out.
    differ: bool,
    /// Warnings about names.
    unresolved: Throttle,
    /// Told when names were looked up.
    looked_up: Notify,
}

#[derive(Debug, Default)]
struct State {
    hosts: Arc<[Arc<Host>]>,
    /// Addresses of each name and port when it could be resolved last.
    names: HashMap<(String, u16), Vec<Address>>,
    resolved: Option<Instant>,
    resolving: bool,
}

impl Endpoints {
    /// Hosts that are the same in `before` stay, with their connections.
    pub(crate) fn new(shared: Arc<HostShared>, before: Option<&Self>) -> Self {
        let (known, names) = before.map_or_else(Default::default, |before| {
            let state = before.lock();
            (state.hosts.clone(), state.names.clone())
        });
        let hosts = match &shared.cluster.discovery {
            Discovery::Static(endpoints) => endpoints
                .iter()
                .filter_map(|endpoint| {
                    let address = match &endpoint.address {
                        EndpointAddress::Socket(address) => Address::Socket(*address),
                        EndpointAddress::Pipe(path) => Address::Pipe(path.clone()),
                        // A name needs a cluster type that resolves.
                        EndpointAddress::Name(..) => return None,
                    };
                    Some(host(address, endpoint, &shared, &known))
                })
                .collect(),
            // Kept until the names are looked up, which the first request does.
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) | Discovery::OriginalDst(_) => {
                known.iter().cloned().collect()
            }
        };
        let cluster = &shared.cluster;
        let alike =
            |endpoint: &Endpoint| endpoint.priority == 0 && endpoint.standing == Standing::Healthy;
        let differ = match &cluster.discovery {
            _ if cluster.health.is_watched() => true,
            Discovery::Static(all) | Discovery::StrictDns(all) | Discovery::LogicalDns(all) => {
                !all.iter().all(alike)
            }
            Discovery::OriginalDst(_) => false,
        };
        Self {
            differ,
            shared,
            state: Mutex::new(State {
                hosts,
                names,
                ..State::default()
            }),
            next: AtomicUsize::new(0),
            hashes: Hashes::default(),
            unresolved: Throttle::new(),
            looked_up: Notify::new(),
        }
    }

    /// Those that are known now.
    pub(crate) fn hosts(&self) -> Arc<[Arc<Host>]> {
        self.lock().hosts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Lists are replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint for a request. Resolves names the first time.
    pub(crate) async fn choose(self: &Arc<Self>, wanted: &Wanted<'_>) -> Option<Arc<Host>> {
        if let Discovery::OriginalDst(source) = &self.shared.cluster.discovery {
            return wanted.original(source).map(|address| self.dynamic(address));
        }
        self.resolve().await;
        self.watch().await;
        let LbPolicy::OverrideHost(policy) = &self.shared.cluster.lb else {
            return self.balance(wanted);
        };
        let overridden = self.overridden(policy, wanted);
        let host = overridden.or_else(|| self.balance(wanted))?;
        if let (Some(key), Some(dynamic), Some(address)) =
            (&policy.selected, wanted.metadata, host.socket())
        {
            set_text(dynamic, key, address.to_string());
        }
        Some(host)
    }

    /// The endpoint for a side stream with these headers, if several are known now.
    pub(crate) fn choose_among_several(self: &Arc<Self>, headers: &HeaderMap) -> Option<Arc<Host>> {
        if matches!(self.shared.cluster.discovery, Discovery::OriginalDst(_)) || !self.refresh() {
            return None;
        }
        let several = self.lock().hosts.len() > 1;
        let several = several && self.is_known();
        several
            .then(|| self.balance(&Wanted::by(headers)))
            .flatten()
    }

    /// Has the endpoints checked. `false` if a first check has not ended.
    fn is_known(&self) -> bool {
        if self.shared.cluster.health.check.is_none() {
            return true;
        }
        let hosts = self.lock().hosts.clone();
        for host in hosts.iter() {
            host.watch();
        }
        !hosts.iter().any(|host| host.health.is_unknown())
    }

    /// Has the endpoints checked, and waits for the first checks of them.
    async fn watch(&self) {
        let (Some(check), false) = (&self.shared.cluster.health.check, self.is_known()) else {
            return;
        };
        let hosts = self.lock().hosts.clone();
        for host in hosts.iter() {
            host.health.known(check.timeout).await;
        }
    }

    /// Returns whether endpoints of other priorities than these are fit.
    pub(super) fn is_available_without(&self, passed: &[u32]) -> bool {
        let hosts = self.lock().hosts.clone();
        levels::is_available_without(&hosts, passed)
    }

    /// The host that a source names, if it is one of the cluster's: the first source that is there counts, and of the hosts in it
    /// the one whose turn it is.
    fn overridden(&self, policy: &OverrideHost, wanted: &Wanted<'_>) -> Option<Arc<Host>> {
        let hosts = self.lock().hosts.clone();
        let list = policy.sources.iter().find_map(|source| match source {
            HostSource::Header(name) => {
                let value = wanted.headers.get(name)?.to_str().ok()?;
                Some(Cow::Borrowed(value))
            }
            HostSource::Metadata(key) => text(wanted.metadata?, key).map(Cow::Owned),
        })?;
        list.split(',')
            .filter_map(|address| address.trim().parse::<SocketAddr>().ok())
            .filter_map(|wanted| hosts.iter().find(|host| host.socket() == Some(wanted)))
            .nth(wanted.before)
            .cloned()
    }

    fn dynamic(&self, address: SocketAddr) -> Arc<Host> {
        let mut state = self.lock();
        if let Some(host) = state
            .hosts
            .iter()
            .find(|host| host.socket() == Some(address))
        {
            return host.clone();
        }
        let new = Arc::new(Host::new(
            Address::Socket(address),
            "",
            None,
            self.shared.clone(),
        ));
        let full = state.hosts.len() >= MOST_DYNAMIC;
        state.hosts = state
            .hosts
            .iter()
            .filter(|host| !full || host.load() > 0)
            .cloned()
            .chain([new.clone()])
            .collect();
        new
    }

    fn balance(&self, wanted: &Wanted<'_>) -> Option<Arc<Host>> {
        let all = self.lock().hosts.clone();
        let hosts = match self.differ {
            true => levels::eligible(&all, &self.shared.cluster.health, wanted.passed),
            false => all,
        };
        let first = hosts.first()?;
        if hosts.len() == 1 {
            return Some(first.clone());
        }
        let policy = match &self.shared.cluster.lb {
            LbPolicy::OverrideHost(policy) => &policy.fallback,
            policy => policy,
        };
        match policy {
            LbPolicy::RoundRobin | LbPolicy::OverrideHost(_) => {
                // Where some may be left out, a position means another one each time.
                if self.differ || hosts.iter().any(|host| host.weight != first.weight) {
                    return smooth(&hosts);
                }
                let next = self.next.fetch_add(1, Ordering::Relaxed);
                hosts.get(next % hosts.len()).cloned()
            }
            LbPolicy::Hash(hashing) => {
                let hash = match hashing.policy.as_slice() {
                    [] => wanted.hash,
                    own => {
                        let hashed = Hashed {
                            line: None,
                            headers: wanted.headers,
                            addresses: None,
                        };
                        hashed.hash(own, &mut Vec::new())
                    }
                };
                let hash = hash.unwrap_or_else(rand::random);
                self.hashes.choose(hashing, &hosts, hash, wanted.again)
            }
            LbPolicy::Random => hosts.get(rand::random_range(0..hosts.len())).cloned(),
            LbPolicy::LeastRequest => {
                let a = hosts.get(rand::random_range(0..hosts.len()))?;
                let b = hosts.get(rand::random_range(0..hosts.len()))?;
                Some(if b.load() < a.load() { b } else { a }.clone())
            }
        }
    }

    async fn resolve(self: &Arc<Self>) {
        // However many wait, the names are looked up once: each look-up takes a thread and a socket.
        let looked_up = self.looked_up.notified();
        if !self.refresh() {
            looked_up.await;
        }
    }

    /// Names to resolve; the flag says that only the first address counts.
    fn names(&self) -> Option<(&[Endpoint], bool)> {
        match &self.shared.cluster.discovery {
            Discovery::StrictDns(endpoints) => Some((endpoints, false)),
            Discovery::LogicalDns(endpoints) => Some((endpoints, true)),
            Discovery::Static(_) | Discovery::OriginalDst(_) => None,
        }
    }

    /// Looks names up in a task if that is due. `false` if they were never looked up before.
    fn refresh(self: &Arc<Self>) -> bool {
        if self.names().is_none() {
            return true;
        }
        let mut state = self.lock();
        let is_due = |at: Instant| at.elapsed() >= REFRESH;
        if state.resolved.is_none_or(is_due) && !state.resolving {
            state.resolving = true;
            let this = self.clone();
            tokio::spawn(async move {
                if let Some((endpoints, first_alone)) = this.names() {
                    this.look_up(endpoints, first_alone).await;
                }
            });
        }
        state.resolved.is_some()
    }

    /// Replaces the hosts by what the names mean now. A name that does not resolve keeps the
    /// addresses that it had.
    async fn look_up(&self, endpoints: &[Endpoint], first_alone: bool) {
        let (known, before) = {
            let state = self.lock();
            (state.hosts.clone(), state.names.clone())
        };
        let mut names = HashMap::new();
        let mut hosts: Vec<Arc<Host>> = Vec::new();
        for endpoint in endpoints {
            let addresses: Vec<Address> = match &endpoint.address {
                EndpointAddress::Socket(address) => vec![Address::Socket(*address)],
                EndpointAddress::Pipe(path) => vec![Address::Pipe(path.clone())],
                EndpointAddress::Name(name, port) => {
                    let key = (name.clone(), *port);
                    let found = timeout(LOOK_UP, lookup_host((name.as_str(), *port)));
                    let found = found.await.unwrap_or_else(|_| Err(TimedOut.into()));
                    let addresses = match found {
                        Ok(found) => {
                            let mut found = self.shared.cluster.dns.choose(found);
                            found.dedup();
                            found.truncate(if first_alone { 1 } else { usize::MAX });
                            found.into_iter().map(Address::Socket).collect()
                        }
                        Err(error) => {
                            if let Some(suppressed) = self.unresolved.pass() {
                                tracing::warn!(
                                    cluster = %self.shared.cluster.name, name, %error, suppressed,
                                    "cannot resolve upstream"
                                );
                            }
                            before.get(&key).cloned().unwrap_or_default()
                        }
                    };
                    names.insert(key, addresses.clone());
                    addresses
                }
            };
            for address in addresses {
                hosts.push(host(address, endpoint, &self.shared, &known));
            }
        }
        let mut state = self.lock();
        state.hosts = hosts.into();
        state.names = names;
        state.resolved = Some(Instant::now());
        state.resolving = false;
        drop(state);
        self.looked_up.notify_waiters();
    }
}

/// The host of an endpoint: the one that is known, if it is the same.
fn host(
    address: Address,
    endpoint: &Endpoint,
    shared: &Arc<HostShared>,
    known: &[Arc<Host>],
) -> Arc<Host> {
    let hostname = match &endpoint.address {
        EndpointAddress::Name(name, _) if endpoint.hostname.is_empty() => name,
        _ => &endpoint.hostname,
    };
    let weight = endpoint.weight.max(1);
    let same = known.iter().find(|host| {
        host.address == address
            && host.hostname == *hostname
            && host.weight == weight
            && host.metadata == endpoint.metadata
            && host.priority == endpoint.priority
            && host.standing == endpoint.standing
            && host.check == endpoint.check
            && host.socket == endpoint.socket
    });
    match same {
        Some(host) => host.clone(),
        None => Arc::new(Host::new(address, hostname, Some(endpoint), shared.clone())),
    }
}

/// Smooth weighted round robin: adds its weight to the credit of each host, picks the one with the largest credit, and
/// subtracts the total from that.
fn smooth(hosts: &[Arc<Host>]) -> Option<Arc<Host>> {
    let mut total = 0;
    let earned = hosts.iter().map(|host| {
        let weight = i64::from(host.weight);
        total += weight;
        (
            host.credit.fetch_add(weight, Ordering::Relaxed) + weight,
            host,
        )
    });
    let (_, host) = earned.max_by_key(|(credit, _)| *credit)?;
    host.credit.fetch_sub(total, Ordering::Relaxed);
    Some(host.clone())
}

/// The text at a key.
fn text(metadata: &DynamicMetadata, key: &MetadataKey) -> Option<String> {
    let path: Vec<&str> = key.path.iter().map(String::as_str).collect();
    let value = metadata.json(&key.namespace, &path)?;
    value.as_str().map(str::to_owned)
}

/// Puts a text at a key.
fn set_text(metadata: &DynamicMetadata, key: &MetadataKey, text: String) {
    let text = Value {
        kind: Some(Kind::StringValue(text)),
    };
    let whole = key.path.iter().rev().fold(text, |inner, name| Value {
        kind: Some(Kind::StructValue(Struct {
            fields: [(name.clone(), inner)].into(),
        })),
    });
    if let Some(Kind::StructValue(content)) = whole.kind {
        metadata.merge(key.namespace.as_str(), content);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, telemetry::stats::Metrics, upstream::Upstreams};

    /// The order of each priority is its own, whatever becomes of the others.
    #[tokio::test]
    async fn weights_hold_for_each_priority() {
        let endpoint = |port, weight| {
            format!(
                "{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}, \
                 load_balancing_weight: {weight}}}"
            )
        };
        let text = format!(
            "static_resources:
  clusters:
  - name: c
    load_assignment:
      cluster_name: c
      endpoints:
      - {{priority: 0, lb_endpoints: [{}, {}]}}
      - {{priority: 1, lb_endpoints: [{}, {}]}}
",
            endpoint(1, 3),
            endpoint(2, 1),
            endpoint(3, 1),
            endpoint(4, 1)
        );
        let snapshot = config::parse_envoy("test.yaml", &text).unwrap();
        let upstreams = Upstreams::new(
            &snapshot,
            &Metrics::default(),
            &Default::default(),
            &Arc::default(),
            None,
        )
        .unwrap();
        let endpoints = &upstreams.get("c").unwrap().endpoints;
        let headers = HeaderMap::new();
        let mut chosen = HashMap::<u16, usize>::new();
        // Two of the first priority for each one of the second.
        for passed in [&[][..], &[], &[0]].repeat(8) {
            let wanted = Wanted {
                passed,
                ..Wanted::by(&headers)
            };
            let host = endpoints.choose(&wanted).await.unwrap();
            *chosen.entry(host.socket().unwrap().port()).or_default() += 1;
        }
        assert_eq!(chosen, HashMap::from([(1, 12), (2, 4), (3, 4), (4, 4)]));
    }

    /// Also where the endpoint says what it is called.
    #[tokio::test]
    async fn a_name_that_does_not_resolve_keeps_its_addresses() {
        for hostname in ["", "other"] {
            let text = format!(
                "static_resources:
  clusters:
  - name: c
    type: STRICT_DNS
    load_assignment:
      cluster_name: c
      endpoints:
      - lb_endpoints:
        - endpoint: {{hostname: \"{hostname}\", address: {{socket_address: {{address: a.invalid, port_value: 80}}}}}}
"
            );
            let snapshot = config::parse_envoy("test.yaml", &text).unwrap();
            let upstreams = Upstreams::new(
                &snapshot,
                &Metrics::default(),
                &Default::default(),
                &Arc::default(),
                None,
            )
            .unwrap();
            let endpoints = &upstreams.get("c").unwrap().endpoints;
            let address = Address::Socket(([127, 0, 0, 1], 80).into());
            let key = ("a.invalid".to_owned(), 80);
            endpoints.lock().names.insert(key, vec![address.clone()]);
            let headers = HeaderMap::new();
            let wanted = Wanted::by(&headers);
            for _ in 0..2 {
                let host = endpoints.choose(&wanted).await.unwrap();
                assert_eq!(host.address, address);
                endpoints.lock().resolved = None;
            }
        }
    }
}
