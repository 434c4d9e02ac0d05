//! Bytes of bodies that are held, counted for each exchange, for an HTTP/2 connection and for the process.
//!
//! One exchange is bounded by its buffer limit, but many together are not. Where they exceed a [`Budget`], the exchange ends
//! that holds the most (in Envoy: `envoy.overload_actions.reset_high_memory_stream`), not the one that came last. Of several that hold the
//! same, it is the one that began to hold last: it has received the least of what it counts with, and the least is lost.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// An exchange, as far as it holds something.
pub(crate) trait Holder: fmt::Debug + Send + Sync {
    fn buffers(&self) -> &Buffers;
    /// Lets whoever drives the exchange look whether it [is over](Buffers::is_over).
    fn wake(&self);
}

/// An exchange that holds less is not ended for another one: it takes hardly more memory than an exchange without a body.
const LARGE: usize = 4 * 1024;

/// Bytes that some exchanges may hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    held: AtomicUsize,
    /// The most that was held since somebody asked.
    peak: AtomicUsize,
    /// Those that hold much.
    large: Mutex<Large>,
}

/// Exchanges that hold much.
#[derive(Debug, Default)]
struct Large {
    /// By the address of their [`Buffers`], each with its number.
    known: HashMap<usize, (u64, Weak<dyn Holder>)>,
    /// Number of those that there ever were.
    ever: u64,
}

impl Default for Budget {
    /// Without a limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            held: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            large: Mutex::default(),
        }
    }

    /// Holds from the next byte on.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn large(&self) -> MutexGuard<'_, Large> {
        // Entries are put in and taken out whole.
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are held.
    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Bytes that are held, and the most that were since this was asked last.
    pub(crate) fn held_and_peak(&self) -> (usize, usize) {
        let held = self.held();
        (held, self.peak.swap(held, Ordering::Relaxed).max(held))
    }

    /// Bytes that are held beyond the limit.
    fn excess(&self) -> usize {
        let held = self.held();
        held.saturating_sub(self.limit.load(Ordering::Relaxed))
    }

    /// Ends large exchanges until the others fit; `false` if they do not even then.
    fn enforce(&self) -> bool {
        match self.excess() {
            0 => true,
            excess => {
                self.relieve(excess);
                self.excess() == 0
            }
        }
    }

    /// Ends exchanges, the largest first, until those that were ended held so many bytes. Gives their number.
    pub(crate) fn relieve(&self, bytes: usize) -> usize {
        let known: Vec<_> = {
            let large = self.large();
            let known = large.known.values();
            known
                .filter_map(|(number, exchange)| Some((*number, exchange.upgrade()?)))
                .collect()
        };
        let mut known: Vec<_> = known
            .into_iter()
            .map(|(number, exchange)| (exchange.buffers().held(), number, exchange))
            .collect();
        known.sort_by_key(|(held, number, _)| Reverse((*held, *number)));
        let (mut freed, mut ended) = (0, 0);
        for (_, _, exchange) in known {
            if freed >= bytes {
                break;
            }
            freed += exchange.buffers().end();
            ended += 1;
            exchange.wake();
        }
        ended
    }
}

/// Bytes that one exchange holds.
#[derive(Debug)]
pub(crate) struct Buffers {
    held: Mutex<usize>,
    /// It was ended for what it held, which counts no more.
    ended: AtomicBool,
    connection: Option<Arc<Budget>>,
    process: Arc<Budget>,
}

impl Buffers {
    /// Counts for the process, and for a connection of many exchanges.
    pub(crate) fn new(connection: Option<Arc<Budget>>, process: Arc<Budget>) -> Self {
        Self {
            held: Mutex::new(0),
            ended: AtomicBool::new(false),
            connection,
            process,
        }
    }

    /// Those of an exchange apart from its client's connection, counted for the same process.
    pub(crate) fn apart(&self) -> Self {
        Self::new(None, self.process.clone())
    }

    /// Returns true once the exchange has to end.
    pub(crate) fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> usize {
        *self.lock()
    }

    /// Its exchange is in an `Arc`, which does not move.
    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn budgets(&self) -> impl Iterator<Item = &Arc<Budget>> {
        self.connection.iter().chain([&self.process])
    }

    /// The exchange holds so many bytes more. It ends if there is no room, and none to be made.
    pub(crate) fn hold(&self, bytes: usize, exchange: &Weak<dyn Holder>) {
        {
            let mut held = self.lock();
            if self.is_over() {
                return;
            }
            let before = *held;
            *held += bytes;
            for budget in self.budgets() {
                let all = budget.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
                budget.peak.fetch_max(all, Ordering::Relaxed);
                if before < LARGE && *held >= LARGE {
                    let mut large = budget.large();
                    large.ever += 1;
                    let entry = (large.ever, exchange.clone());
                    large.known.insert(self.key(), entry);
                }
            }
        }
        // Each budget makes room, also behind one that could not.
        let misfits = self.budgets().filter(|budget| !budget.enforce()).count();
        if misfits > 0 {
            self.end();
            if let Some(exchange) = exchange.upgrade() {
                exchange.wake();
            }
        }
    }

    /// The exchange holds so many bytes less.
    pub(crate) fn release(&self, bytes: usize) {
        let mut held = self.lock();
        if !self.is_over() {
            let after = held.saturating_sub(bytes);
            self.lower(&mut held, after);
        }
    }

    /// Ends the exchange. Gives what it held.
    fn end(&self) -> usize {
        let mut held = self.lock();
        if self.ended.swap(true, Ordering::Relaxed) {
            return 0;
        }
        let before = *held;
        self.lower(&mut held, 0);
        before
    }

    fn lower(&self, held: &mut usize, to: usize) {
        let before = std::mem::replace(held, to);
        for budget in self.budgets() {
            budget.held.fetch_sub(before - to, Ordering::Relaxed);
            if before >= LARGE && to < LARGE {
                budget.large().known.remove(&self.key());
            }
        }
    }
}

impl Drop for Buffers {
    /// Metadata that end with their exchange have nobody left to tell.
    fn drop(&mut self) {
        let mut held = self.lock();
        self.lower(&mut held, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Upload(Buffers);

    impl Holder for Upload {
        fn buffers(&self) -> &Buffers {
            &self.0
        }

        fn wake(&self) {}
    }

    /// An upload on this connection that holds so much.
    fn upload(connection: &Arc<Budget>, process: &Arc<Budget>, bytes: usize) -> Arc<Upload> {
        let buffers = Buffers::new(Some(connection.clone()), process.clone());
        let upload = Arc::new(Upload(buffers));
        hold(&upload, bytes);
        upload
    }

    fn hold(upload: &Arc<Upload>, bytes: usize) {
        let upload: Arc<dyn Holder> = upload.clone();
        upload.buffers().hold(bytes, &Arc::downgrade(&upload));
    }

    #[test]
    fn the_largest_ends() {
        let connection = Arc::new(Budget::new(10 * LARGE));
        let process = Arc::new(Budget::default());
        let mut uploads: Vec<_> = [3, 5, 1]
            .map(|times| upload(&connection, &process, times * LARGE))
            .into();
        let over = |uploads: &[Arc<Upload>]| -> Vec<bool> {
            uploads.iter().map(|upload| upload.0.is_over()).collect()
        };
        assert_eq!(over(&uploads), [false, false, false]);
        uploads.push(upload(&connection, &process, 2 * LARGE));
        assert_eq!(over(&uploads), [false, true, false, false]);
        // What it still says counts no more.
        hold(&uploads[1], 100 * LARGE);
        uploads[1].0.release(100 * LARGE);
        assert_eq!(connection.held.load(Ordering::Relaxed), 6 * LARGE);
        assert_eq!(process.held.load(Ordering::Relaxed), 6 * LARGE);
        // The other connection is not full, but the process is.
        let other = Arc::new(Budget::default());
        process.set_limit(8 * LARGE);
        uploads.push(upload(&other, &process, 4 * LARGE));
        assert_eq!(over(&uploads), [false, true, false, false, true]);
        for upload in [0, 2, 3] {
            let upload = &uploads[upload];
            upload.0.release(upload.0.held());
        }
        assert_eq!(process.held.load(Ordering::Relaxed), 0);
        assert!(connection.large().known.is_empty() && process.large().known.is_empty());
    }

    #[test]
    fn of_several_that_hold_the_same_the_newest_ends() {
        let connection = Arc::new(Budget::new(4 * 2 * LARGE));
        let process = Arc::default();
        let uploads = [(); 16].map(|()| upload(&connection, &process, 2 * LARGE));
        for (number, upload) in uploads.iter().enumerate() {
            assert_eq!(upload.0.is_over(), number >= 4, "{number}");
        }
    }

    #[test]
    fn many_small_ones_have_a_limit_too() {
        let connection = Arc::new(Budget::new(3 * LARGE));
        let process = Arc::new(Budget::default());
        let small = [(); 3].map(|()| upload(&connection, &process, LARGE - 1));
        assert!(small.iter().all(|upload| !upload.0.is_over()));
        // Those that there are stay; a large one would have ended before this one.
        let further = upload(&connection, &process, LARGE - 1);
        assert!(further.0.is_over());
        assert!(small.iter().all(|upload| !upload.0.is_over()));
        assert_eq!(connection.held.load(Ordering::Relaxed), 3 * (LARGE - 1));
        assert_eq!(process.held.load(Ordering::Relaxed), 3 * (LARGE - 1));
    }

    #[test]
    fn what_an_exchange_still_holds_ends_with_it() {
        let (connection, process) = (Arc::new(Budget::new(3 * LARGE)), Arc::default());
        drop(upload(&connection, &process, 2 * LARGE));
        assert_eq!(connection.held.load(Ordering::Relaxed), 0);
        assert_eq!(process.held.load(Ordering::Relaxed), 0);
        assert!(connection.large().known.is_empty() && process.large().known.is_empty());
    }
}
