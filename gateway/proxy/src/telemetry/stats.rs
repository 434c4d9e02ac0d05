//! Counters and gauges, shared by all workers and read by the admin server.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use extproc_client::{
    host::ExchangeContext,
    observer::{Detail, Event, Observer, Phase, Stats, Watched},
};
use http::StatusCode;

use super::{
    histogram::{Histogram, Times},
    spans::trace_of,
};
use crate::trace::Trace;
use crate::{
    limits::breakers::{Breakers, Resource},
    trace::TraceCounts,
};

/// A number that goes up, and for gauges also down.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn sub(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Holds a gauge up as long as it lives.
#[derive(Debug)]
pub(crate) struct Held<S>(Arc<S>, fn(&S) -> &Count);

impl<S> Held<S> {
    pub(crate) fn new(stats: &Arc<S>, gauge: fn(&S) -> &Count) -> Self {
        gauge(stats).add();
        Self(stats.clone(), gauge)
    }
}

impl<S> Deref for Held<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

impl<S> Drop for Held<S> {
    fn drop(&mut self) {
        (self.1)(&self.0).sub();
    }
}

macro_rules! numbers {
    ($(#[$doc:meta])* $type:ident { $($name:ident: $kind:ident,)* } times { $($time:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(crate) struct $type {
            $(pub(crate) $name: Count,)*
            $(pub(crate) $time: Histogram,)*
        }

        impl $type {
            fn list(&self) -> Vec<(&'static str, Kind, u64)> {
                vec![$((stringify!($name), Kind::$kind, self.$name.get()),)*]
            }

            fn times(&self) -> Vec<(&'static str, Times)> {
                vec![$((stringify!($time), self.$time.times()),)*]
            }
        }
    };
}

const MANAGER: &str = "envoy_http_conn_manager_prefix";
const CLUSTER: &str = "envoy_cluster_name";
const PHASE: &str = "envoy_ext_proc_phase";

/// Kind of a number: a gauge may go down, a counter may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

numbers! {
    /// Of a connection manager, under `http.<stat_prefix>.`.
    HttpStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_http1_total: Counter,
        downstream_cx_http2_total: Counter,
        downstream_cx_protocol_error: Counter,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_max_duration_reached: Counter,
        downstream_cx_overload_reject: Counter,
        downstream_global_cx_overflow: Counter,
        downstream_cx_max_requests_reached: Counter,
        downstream_rq_total: Counter,
        downstream_rq_http1_total: Counter,
        downstream_rq_http2_total: Counter,
        downstream_rq_active: Gauge,
        downstream_rq_completed: Counter,
        downstream_rq_rx_reset: Counter,
        downstream_rq_tx_reset: Counter,
        downstream_rq_too_many_premature_resets: Counter,
        downstream_rq_overload_close: Counter,
        downstream_rq_timeout: Counter,
        downstream_rq_header_timeout: Counter,
        downstream_rq_idle_timeout: Counter,
        downstream_rq_max_duration_reached: Counter,
        downstream_rq_1xx: Counter,
        downstream_rq_2xx: Counter,
        downstream_rq_3xx: Counter,
        downstream_rq_4xx: Counter,
        downstream_rq_5xx: Counter,
        no_route: Counter,
        access_log_dropped: Counter,
    }
    times {
        downstream_rq_time,
        downstream_cx_length_ms,
    }
}

numbers! {
    /// Of a cluster, under `cluster.<name>.`.
    ClusterStats {
        upstream_cx_total: Counter,
        upstream_cx_overflow: Counter,
        upstream_cx_connect_fail: Counter,
        upstream_cx_connect_timeout: Counter,
        upstream_rq_total: Counter,
        upstream_rq_active_overflow: Counter,
        upstream_rq_pending_total: Counter,
        upstream_rq_pending_overflow: Counter,
        upstream_rq_completed: Counter,
        upstream_rq_1xx: Counter,
        upstream_rq_2xx: Counter,
        upstream_rq_3xx: Counter,
        upstream_rq_4xx: Counter,
        upstream_rq_5xx: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_max_duration_reached: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_internal_redirect_succeeded_total: Counter,
        upstream_internal_redirect_failed_total: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_cx_none_healthy: Counter,
    }
    times {
        upstream_rq_time,
    }
}

impl HttpStats {
    pub(crate) fn status(&self, status: StatusCode) {
        self.downstream_rq_completed.add();
        match status.as_u16() {
            100..=199 => self.downstream_rq_1xx.add(),
            200..=299 => self.downstream_rq_2xx.add(),
            300..=399 => self.downstream_rq_3xx.add(),
            400..=499 => self.downstream_rq_4xx.add(),
            _ => self.downstream_rq_5xx.add(),
        }
    }
}

impl ClusterStats {
    pub(crate) fn status(&self, status: StatusCode) {
        self.upstream_rq_completed.add();
        match status.as_u16() {
            100..=199 => self.upstream_rq_1xx.add(),
            200..=299 => self.upstream_rq_2xx.add(),
            300..=399 => self.upstream_rq_3xx.add(),
            400..=499 => self.upstream_rq_4xx.add(),
            _ => self.upstream_rq_5xx.add(),
        }
    }
}

/// An observer beside the statistics.
#[derive(Clone)]
pub(crate) struct Watching(pub(crate) Arc<dyn Observer>);

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watching")
    }
}

/// Numbers of ext_proc filters, and how long their processors take.
#[derive(Debug, Default)]
pub(crate) struct ExtProcStats {
    counts: Stats,
    /// From a message to its reply, by phase.
    times: [Histogram; Phase::ALL.len()],
}

impl Observer for ExtProcStats {
    fn detail(&self, context: &ExchangeContext) -> Detail {
        self.counts.detail(context)
    }

    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        if let Event::MessageReceived {
            phase: Some(phase),
            latency: Some(latency),
            ..
        } = event
            && let Some(times) = self.times.get(phase.index())
        {
            // The number is that of an exchange of which everything is told: only those are recorded.
            let trace = (exchange.part != 0).then(|| trace_of(exchange.context));
            times.record_fine(*latency, trace.flatten().and_then(Trace::id));
        }
        self.counts.event(exchange, event);
    }
}

/// All numbers of a gateway. Entries are made on demand and live as long as a configuration has their owner, so that a new
/// one goes on counting.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    inner: Mutex<Inner>,
    /// Sees what ext_proc filters do, beside their statistics.
    observer: Option<Watching>,
    /// Counts of spans by their fate.
    traces: Arc<TraceCounts>,
}

/// Whose chain a filter is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// A connection manager, by its `stat_prefix`.
    Manager(String),
    /// A cluster, by its name.
    Cluster(String),
}

impl Owner {
    /// The first word of its numbers, and its label in Prometheus.
    fn label(&self) -> (&'static str, (&'static str, &str)) {
        match self {
            Self::Manager(prefix) => ("http", (MANAGER, prefix)),
            Self::Cluster(name) => ("cluster", (CLUSTER, name)),
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    http: BTreeMap<String, Arc<HttpStats>>,
    clusters: BTreeMap<String, Arc<ClusterStats>>,
    breakers: BTreeMap<String, Arc<Breakers>>,
    ext_proc: BTreeMap<(Owner, String), Arc<ExtProcStats>>,
}

/// One number with its name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Envoy's dotted name.
    pub(crate) name: String,
    /// The name without what is a label in Prometheus.
    pub(crate) family: String,
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) kind: Kind,
    pub(crate) value: u64,
}

impl Sample {
    /// `name` of the connection manager, cluster, … `of` which it is; `label` stands for that in Prometheus. As with Envoy, the
    /// class of a status is a label, too.
    fn new(
        of: &str,
        label: (&'static str, &str),
        name: &str,
        family: &str,
        kind: Kind,
        value: u64,
    ) -> Self {
        let mut labels = Vec::with_capacity(2);
        let mut family = format!("{of}_{family}");
        let class = family.strip_suffix("xx").and_then(|rest| {
            let (rest, class) = rest.split_at_checked(rest.len().checked_sub(1)?)?;
            (rest.ends_with("_rq_") && class.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| (format!("{rest}xx"), class.to_owned()))
        });
        if let Some((rest, class)) = class {
            family = rest;
            labels.push(("envoy_response_code_class", class));
        }
        let (tag, owner) = label;
        labels.push((tag, owner.to_owned()));
        Self {
            name: format!("{of}.{owner}.{name}"),
            family,
            labels,
            kind,
            value,
        }
    }
}

/// A histogram with its name.
#[derive(Debug, PartialEq)]
pub(crate) struct TimeSample {
    /// Envoy's dotted name.
    pub(crate) name: String,
    /// The name without what is a label in Prometheus.
    pub(crate) family: String,
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) times: Times,
}

impl Metrics {
    /// Forgets the numbers that nobody can change any more.
    pub(crate) fn sweep(&self) {
        fn is_held<K, T>(_: &K, numbers: &mut Arc<T>) -> bool {
            Arc::strong_count(numbers) > 1
        }
        let Inner {
            http,
            clusters,
            breakers,
            ext_proc,
        } = &mut *self.lock();
        http.retain(is_held);
        clusters.retain(is_held);
        breakers.retain(is_held);
        ext_proc.retain(is_held);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Entries are added and taken out as a whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn http(&self, prefix: &str) -> Arc<HttpStats> {
        self.lock()
            .http
            .entry(prefix.to_owned())
            .or_default()
            .clone()
    }

    pub(crate) fn cluster(&self, name: &str) -> Arc<ClusterStats> {
        self.lock()
            .clusters
            .entry(name.to_owned())
            .or_default()
            .clone()
    }

    /// The circuit breakers of a cluster.
    pub(crate) fn breakers(&self, name: &str) -> Arc<Breakers> {
        self.lock()
            .breakers
            .entry(name.to_owned())
            .or_default()
            .clone()
    }

    pub(crate) fn new(observer: Option<Watching>) -> Self {
        Self {
            observer,
            ..Self::default()
        }
    }

    /// Counts of spans by their fate.
    pub(crate) fn traces(&self) -> &Arc<TraceCounts> {
        &self.traces
    }

    /// The observer of an ext_proc filter: its statistics, and whoever else looks.
    pub(crate) fn observer(&self, owner: Owner, filter: &str) -> Arc<dyn Observer> {
        let stats = self.ext_proc(owner, filter);
        match &self.observer {
            None => stats,
            Some(Watching(observer)) => Arc::new((stats, observer.clone())),
        }
    }

    /// Of all ext_proc filters of this owner with this prefix of their own.
    pub(crate) fn ext_proc(&self, owner: Owner, filter: &str) -> Arc<ExtProcStats> {
        self.lock()
            .ext_proc
            .entry((owner, filter.to_owned()))
            .or_default()
            .clone()
    }

    /// All numbers, by name.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        let inner = self.lock();
        let mut samples = Vec::new();
        for (prefix, stats) in &inner.http {
            for (name, kind, value) in stats.list() {
                let label = (MANAGER, prefix.as_str());
                samples.push(Sample::new("http", label, name, name, kind, value));
            }
        }
        for ((owner, filter), stats) in &inner.ext_proc {
            let (of, label) = owner.label();
            let dot = if filter.is_empty() { "" } else { "." };
            for (name, value) in stats.counts.iter() {
                let name = format!("ext_proc{dot}{filter}.{name}");
                samples.push(Sample::new(of, label, &name, &name, Kind::Counter, value));
            }
        }
        for (cluster, stats) in &inner.clusters {
            for (name, kind, value) in stats.list() {
                let label = (CLUSTER, cluster.as_str());
                samples.push(Sample::new("cluster", label, name, name, kind, value));
            }
        }
        for (cluster, breakers) in &inner.breakers {
            let mut sample = |name: &str, value| {
                let label = (CLUSTER, cluster.as_str());
                samples.push(Sample::new(
                    "cluster",
                    label,
                    name,
                    name,
                    Kind::Gauge,
                    value,
                ));
            };
            for (resource, name) in [
                (Resource::Connection, "upstream_cx_active"),
                (Resource::Pending, "upstream_rq_pending_active"),
                (Resource::Request, "upstream_rq_active"),
            ] {
                sample(name, breakers.in_use(resource).into());
            }
            for (priority, name, value) in breakers.gauges() {
                sample(&format!("circuit_breakers.{priority}.{name}"), value);
            }
        }
        for (name, value) in self.traces.list() {
            let name = format!("tracing.opentelemetry.{name}");
            samples.push(Sample {
                family: name.clone(),
                name,
                labels: Vec::new(),
                kind: Kind::Counter,
                value,
            });
        }
        samples.sort_by(|a, b| a.name.cmp(&b.name));
        samples
    }

    /// All histograms, by name.
    pub(crate) fn times(&self) -> Vec<TimeSample> {
        let inner = self.lock();
        let mut all = Vec::new();
        let mut add = |of: &str, label: (&'static str, &str), times: Vec<(&str, Times)>| {
            for (name, times) in times {
                all.push(TimeSample {
                    name: format!("{of}.{}.{name}", label.1),
                    family: format!("{of}_{name}"),
                    labels: vec![(label.0, label.1.to_owned())],
                    times,
                });
            }
        };
        for (prefix, stats) in &inner.http {
            add("http", (MANAGER, prefix), stats.times());
        }
        for (cluster, stats) in &inner.clusters {
            add("cluster", (CLUSTER, cluster), stats.times());
        }
        for ((owner, filter), stats) in &inner.ext_proc {
            let (of, (tag, owner)) = owner.label();
            let dot = if filter.is_empty() { "" } else { "." };
            for (phase, times) in Phase::ALL.iter().zip(&stats.times) {
                let phase = phase.name();
                let name = format!("ext_proc{dot}{filter}.message_time");
                all.push(TimeSample {
                    name: format!("{of}.{owner}.{name}.{phase}"),
                    family: format!("{of}_{name}"),
                    labels: vec![(tag, owner.to_owned()), (PHASE, phase.to_owned())],
                    times: times.times(),
                });
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}
