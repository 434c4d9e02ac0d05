//! Limits of the process as a whole: connections and memory.
//!
//! Beyond its limits the gateway sheds load in an orderly way, before the kernel ends it or refuses it
//! descriptors: new requests are answered 503, and closer to the limit new connections are closed.
//! Exchanges that were accepted go on. The names are those of Envoy's `overload_manager`; without one in the configuration the
//! limits are those of the process (`RLIMIT_NOFILE`, control group).

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;

use crate::{
    config::snapshot::OverloadLimits,
    limits::{buffers::Budget, descriptors::Shares, throttle::Throttle},
};

/// Time after which an allocator has let go of what was freed, if it is asked. mimalloc waits for one second.
const LET_GO: Duration = Duration::from_secs(2);

/// Room that an allocator takes from the system and gives back to it, apart from that for small values.
const NUDGE: usize = 2 * 1024 * 1024;

/// Shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    limits: ArcSwap<OverloadLimits>,
    connections: AtomicUsize,
    upstreams: AtomicUsize,
    /// The most connections to upstreams. 0 before the first configuration.
    most_upstreams: AtomicUsize,
    /// Warnings that there are no more.
    exhausted: Throttle,
    admin: AtomicUsize,
    /// The most connections of the admin server.
    most_admin: AtomicUsize,
    pressure: AtomicU8,
    /// Bytes of bodies that all exchanges may hold.
    buffers: Arc<Budget>,
}

/// Share of the memory that is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Pressure {
    None = 0,
    /// No more requests.
    Requests = 1,
    /// No more connections either.
    Connections = 2,
}

/// Holds a connection's place.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<Overload>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Holds the descriptor of a connection to an upstream.
#[derive(Debug)]
pub(crate) struct Descriptor(Arc<Overload>);

impl Drop for Descriptor {
    fn drop(&mut self) {
        self.0.upstreams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection of the admin server in the number of all that are open.
#[derive(Debug)]
pub(crate) struct AdminConnection(Arc<Overload>);

impl Drop for AdminConnection {
    fn drop(&mut self) {
        self.0.admin.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reason for which a connection is closed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// There are as many as may be.
    Count,
    /// There is too little memory.
    Memory,
}

impl Overload {
    /// Takes other limits; what is not configured is what the system allows, and nothing is more than that.
    pub(crate) fn set(&self, configured: Option<OverloadLimits>) {
        let counted = [&self.connections, &self.upstreams, &self.admin];
        let counted = counted.map(|count| count.load(Ordering::Relaxed));
        let shares = Shares::of_process(counted.iter().sum());
        let mut limits = configured.unwrap_or_else(|| OverloadLimits {
            memory: available(),
            ..OverloadLimits::default()
        });
        if let Some(wanted) = limits.connections.filter(|wanted| *wanted > shares.clients) {
            tracing::warn!(
                wanted,
                allowed = shares.clients,
                "the limit of open files allows fewer client connections"
            );
        }
        let connections = limits.connections.unwrap_or(shares.clients);
        limits.connections = Some(connections.min(shares.clients));
        tracing::debug!(?limits, ?shares, "limits of the process");
        // The other half is for everything else.
        let held = limits
            .memory
            .or_else(available)
            .map_or(u64::MAX, |memory| memory / 2);
        self.buffers
            .set_limit(usize::try_from(held).unwrap_or(usize::MAX));
        self.limits.store(Arc::new(limits));
        self.most_upstreams
            .store(shares.upstreams, Ordering::Relaxed);
        self.most_admin.store(shares.admin, Ordering::Relaxed);
    }

    /// Says whether so few descriptors are left for connections to upstreams that idle ones have to make room.
    pub(crate) fn is_short_of_descriptors(&self) -> bool {
        let most = self.most_upstreams.load(Ordering::Relaxed);
        let free = most.saturating_sub(self.upstreams.load(Ordering::Relaxed));
        free < most / 4
    }

    /// The most connections that the admin server may have.
    pub(crate) fn admin_connections(&self) -> usize {
        self.most_admin.load(Ordering::Relaxed)
    }

    /// Counts a connection of the admin server as long as what this gives lives.
    pub(crate) fn admin_connection(self: &Arc<Self>) -> AdminConnection {
        self.admin.fetch_add(1, Ordering::Relaxed);
        AdminConnection(self.clone())
    }

    /// A descriptor for a connection to an upstream whose cluster holds `held` of them. No cluster takes more than it
    /// leaves free, so that there is always something left for the others.
    pub(crate) fn descriptor(self: &Arc<Self>, held: u32) -> Option<Descriptor> {
        let most = self.most_upstreams.load(Ordering::Relaxed);
        let one_more = |used: usize| {
            let free = most.saturating_sub(used);
            (free > held as usize).then(|| used + 1)
        };
        let taken = self
            .upstreams
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if taken.is_ok() {
            return Some(Descriptor(self.clone()));
        }
        if let Some(suppressed) = self.exhausted.pass() {
            tracing::warn!(
                most,
                held,
                suppressed,
                "no descriptor for another connection to an upstream"
            );
        }
        None
    }

    /// Bytes of bodies that all exchanges may hold: half of the memory.
    pub(crate) fn buffers(&self) -> &Arc<Budget> {
        &self.buffers
    }

    /// A place for one more client connection.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Admitted, Refused> {
        if self.pressure.load(Ordering::Relaxed) >= Pressure::Connections as u8 {
            return Err(Refused::Memory);
        }
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let admitted = Admitted(self.clone());
        match self.limits.load().connections {
            Some(most) if before >= most => Err(Refused::Count),
            _ => Ok(admitted),
        }
    }

    /// Tells whether new requests are to be answered 503.
    pub(crate) fn refuses_requests(&self) -> bool {
        self.pressure.load(Ordering::Relaxed) >= Pressure::Requests as u8
    }

    /// Looks at the memory again and again; never ends.
    pub(crate) async fn watch(&self) {
        let mut freed = Freed::default();
        loop {
            let limits = self.limits.load_full();
            let used = limits.memory.and_then(|memory| {
                let (held, peak) = self.buffers.held_and_peak();
                let freed = freed.look(held, peak, Instant::now());
                let resident = resident()?;
                if resident > memory / 2 {
                    nudge();
                }
                // Part of the limit alone: who frees much again and again must not make the process take much more than it.
                let used = resident.saturating_sub(freed.min(memory / 4));
                // A limit of 0 is reached at once.
                Some(used as f64 / memory.max(1) as f64)
            });
            let used = used.unwrap_or(0.0);
            self.update(&limits, used);
            self.relieve(&limits, used);
            tokio::time::sleep(limits.refresh).await;
        }
    }

    /// Ends the exchanges that hold the most, as far as memory is above the threshold for that.
    fn relieve(&self, limits: &OverloadLimits, used: f64) {
        let (Some(threshold), Some(memory)) = (limits.reset_streams, limits.memory) else {
            return;
        };
        if used < threshold {
            return;
        }
        let excess = (used - threshold) * memory as f64;
        let ended = self.buffers.relieve((excess as usize).max(1));
        if ended > 0 {
            tracing::warn!(
                ended,
                "memory is short: ended the exchanges that held the most"
            );
        }
    }

    fn update(&self, limits: &OverloadLimits, used: f64) {
        let over = |threshold: Option<f64>| threshold.is_some_and(|threshold| used >= threshold);
        let pressure = if over(limits.stop_connections) {
            Pressure::Connections
        } else if over(limits.stop_requests) {
            Pressure::Requests
        } else {
            Pressure::None
        };
        let before = self.pressure.swap(pressure as u8, Ordering::Relaxed);
        if before != pressure as u8 {
            let percent = (used * 100.0).round();
            match pressure {
                Pressure::None => tracing::info!(percent, "memory is enough again"),
                _ => tracing::warn!(percent, "memory is short: refusing {pressure:?}"),
            }
        }
    }
}

/// Bytes of bodies that were freed a moment ago. The allocator keeps them for the next ones, and the system counts them as used: nobody is
/// to be refused for them.
#[derive(Debug, Default)]
struct Freed {
    /// The most that was held of late, and when that was seen.
    most: usize,
    at: Option<Instant>,
}

impl Freed {
    /// Gives their number, from what is held and the most that was held since the last look.
    fn look(&mut self, held: usize, peak: usize, now: Instant) -> u64 {
        let recent = self.at.is_some_and(|at| now - at < LET_GO);
        if peak >= self.most || !recent {
            self.most = peak;
            self.at = Some(now);
        }
        u64::try_from(self.most.saturating_sub(held)).unwrap_or(u64::MAX)
    }
}

/// Lets the allocator give back what was freed. mimalloc looks at that only when it takes room back, and under pressure there may be no
/// request for which it would.
fn nudge() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(NUDGE)));
}

/// Resident memory of this process, in bytes.
pub(crate) fn resident() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Memory that this process may use: that of its control group and those above, or of the machine.
fn available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kilobytes(&text, "MemTotal:"));
    let own = fs::read_to_string("/proc/self/cgroup").ok();
    let group = own.and_then(|groups| group_limit(&groups, Path::new("/sys/fs/cgroup")));
    machine.into_iter().chain(group).min()
}

/// The lowest limit of these control groups (version 2, or 1), below `root`.
fn group_limit(groups: &str, root: &Path) -> Option<u64> {
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let (root, file) = if controllers.is_empty() {
                (root.to_owned(), "memory.max")
            } else if controllers.split(',').any(|name| name == "memory") {
                (root.join("memory"), "memory.limit_in_bytes")
            } else {
                return None;
            };
            let group = root.join(path.trim_start_matches('/'));
            group
                .ancestors()
                .take_while(|group| group.starts_with(&root))
                .filter_map(|group| fs::read_to_string(group.join(file)).ok())
                // `max` is no number, and no limit.
                .filter_map(|limit| limit.trim().parse().ok())
                .min()
        })
        .min()
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let number: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: Option<usize>) -> OverloadLimits {
        OverloadLimits {
            connections,
            memory: Some(1000),
            ..OverloadLimits::default()
        }
    }

    #[test]
    fn places_are_counted_and_given_back() {
        let overload = Arc::new(Overload::default());
        overload.set(Some(limits(Some(2))));
        let first = overload.admit().unwrap();
        let _second = overload.admit().unwrap();
        assert_eq!(overload.admit().unwrap_err(), Refused::Count);
        drop(first);
        assert!(overload.admit().is_ok());
    }

    #[test]
    fn a_cluster_leaves_descriptors_for_others() {
        let overload = Arc::new(Overload::default());
        assert!(overload.descriptor(0).is_none());
        overload.most_upstreams.store(8, Ordering::Relaxed);
        let mut greedy = Vec::new();
        while let Some(descriptor) = overload.descriptor(greedy.len() as u32) {
            greedy.push(descriptor);
        }
        assert_eq!(greedy.len(), 4);
        let other = [0, 1].map(|held| overload.descriptor(held).unwrap());
        assert!(overload.descriptor(2).is_none());
        drop((greedy, other));
        assert!(overload.descriptor(7).is_some());
    }

    #[test]
    fn memory_sheds_requests_first() {
        let overload = Arc::new(Overload::default());
        let state = |used| {
            overload.update(&limits(None), used);
            (overload.refuses_requests(), overload.admit().is_err())
        };
        assert_eq!(state(0.5), (false, false));
        assert_eq!(state(0.91), (true, false));
        assert_eq!(state(0.96), (true, true));
        assert_eq!(state(0.5), (false, false));
    }

    #[test]
    fn what_was_freed_of_late_is_not_used() {
        let mut freed = Freed::default();
        let begin = Instant::now();
        let mut look =
            |held, peak, seconds| freed.look(held, peak, begin + Duration::from_secs_f64(seconds));
        assert_eq!(look(80, 80, 0.0), 0);
        assert_eq!(look(10, 90, 0.5), 80);
        assert_eq!(look(30, 30, 2.4), 60);
        assert_eq!(look(30, 30, 2.5), 0);
        assert_eq!(look(0, 30, 3.0), 30);
    }

    #[test]
    fn the_lowest_group_counts() {
        let root = std::env::temp_dir().join(format!("overload-{}", std::process::id()));
        let inner = root.join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(root.join("outer/memory.max"), "4096\n").unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        assert_eq!(group_limit("0::/outer/inner\n", &root), Some(4096));
        fs::write(inner.join("memory.max"), "1024\n").unwrap();
        assert_eq!(group_limit("0::/outer/inner\n", &root), Some(1024));
        assert_eq!(group_limit("0::/elsewhere\n", &root), None);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_says_what_there_is() {
        assert!(resident().unwrap() > 100_000);
        assert!(available().unwrap() > resident().unwrap());
    }
}
