//! The last exchanges, bounded by count and by bytes. Nobody waits for room: the oldest goes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::broadcast;

use crate::record::Record;

/// Changes that a reader of the stream may be behind.
const BEHIND: usize = 1024;

/// A record that is shared with whoever reads it.
pub(crate) type Shared = Arc<Mutex<Record>>;

/// A record has changed and got this version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) id: u64,
    pub(crate) version: u64,
}

#[derive(Debug)]
pub(crate) struct Ring {
    /// By the number of the exchange, which grows with time.
    records: Mutex<BTreeMap<u64, Shared>>,
    most: usize,
    most_bytes: usize,
    bytes: AtomicUsize,
    /// Exchanges that were recorded and made room for others.
    pub(crate) dropped: AtomicU64,
    /// Exchanges that were not recorded, by sampling or match.
    pub(crate) skipped: AtomicU64,
    version: AtomicU64,
    changes: broadcast::Sender<Change>,
}

/// Only short pieces of code run under the locks, and none of them panics half way.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ring {
    pub(crate) fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            records: Mutex::default(),
            most: most.max(1),
            most_bytes,
            bytes: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            version: AtomicU64::new(0),
            changes: broadcast::Sender::new(BEHIND),
        }
    }

    pub(crate) fn get(&self, id: u64) -> Option<Shared> {
        lock(&self.records).get(&id).cloned()
    }

    /// The records, oldest first.
    pub(crate) fn all(&self) -> Vec<Shared> {
        lock(&self.records).values().cloned().collect()
    }

    pub(crate) fn insert(&self, record: Record) -> Shared {
        self.add(record.size);
        let id = record.id;
        let shared = Arc::new(Mutex::new(record));
        lock(&self.records).insert(id, shared.clone());
        self.make_room();
        shared
    }

    /// A record takes more bytes now. Called under its lock; [`make_room`](Self::make_room) follows without it.
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A record takes less bytes now.
    pub(crate) fn sub(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Lets the oldest records go while there are too many. One that is gone has the size 0.
    pub(crate) fn make_room(&self) {
        loop {
            let gone = {
                let mut records = lock(&self.records);
                let bytes = self.bytes.load(Ordering::Relaxed);
                match records.len() > self.most || bytes > self.most_bytes {
                    true => records.pop_first(),
                    false => None,
                }
            };
            let Some((_, gone)) = gone else { return };
            let size = std::mem::take(&mut lock(&gone).size);
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Numbers a change of a record and tells those who follow.
    pub(crate) fn changed(&self, record: &mut Record) {
        record.version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        // Nobody may be there.
        let _ = self.changes.send(Change {
            id: record.id,
            version: record.version,
        });
    }

    pub(crate) fn follow(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Number of records, and their bytes.
    pub(crate) fn size(&self) -> (usize, usize) {
        (
            lock(&self.records).len(),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: u64, size: usize) -> Record {
        let head = http::Request::new(()).into_parts().0;
        Record {
            size,
            ..Record::new(id, &head)
        }
    }

    fn ids(ring: &Ring) -> Vec<u64> {
        ring.all().iter().map(|record| lock(record).id).collect()
    }

    #[test]
    fn bounded_by_count_and_by_bytes() {
        let ring = Ring::new(3, 100);
        for id in 1..=4 {
            ring.insert(record(id, 10));
        }
        assert_eq!(ids(&ring), [2, 3, 4]);
        assert_eq!(ring.size(), (3, 30));
        lock(&ring.get(4).unwrap()).size += 65;
        ring.add(65);
        ring.make_room();
        assert_eq!(ring.size(), (3, 95));
        lock(&ring.get(4).unwrap()).size += 20;
        ring.add(20);
        ring.make_room();
        assert_eq!(ids(&ring), [4]);
        assert_eq!(ring.size(), (1, 95));
        assert_eq!(ring.dropped.load(Ordering::Relaxed), 3);
        // One that is larger than all there is goes itself.
        ring.insert(record(5, 500));
        assert_eq!(ring.size(), (0, 0));
    }
}
