//! Durations, in the buckets that Envoy shows.

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::trace::TraceId;

/// The upper bounds of Envoy's buckets in milliseconds; one more bucket has none.
pub(crate) const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// Microseconds of a millisecond.
const MICROS: u64 = 1000;

/// Times.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    within: [AtomicU64; BOUNDS.len()],
    beyond: AtomicU64,
    /// Microseconds.
    sum: AtomicU64,
    /// The last time of each bucket that belongs to a trace; there is room for them once there is one.
    exemplars: OnceLock<Box<[Mutex<Option<Exemplar>>; BOUNDS.len() + 1]>>,
}

/// A time with the trace that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Exemplar {
    pub(crate) trace: TraceId,
    /// Milliseconds.
    pub(crate) value: f64,
    pub(crate) time: SystemTime,
}

/// Contents of a [`Histogram`] at one moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Times {
    /// Number of values of at most each of the [`BOUNDS`].
    pub(crate) within: Vec<u64>,
    pub(crate) count: u64,
    /// Milliseconds.
    pub(crate) sum: f64,
    /// One of each bucket at most, the one without a bound last; empty if no time belongs to a trace.
    pub(crate) exemplars: Vec<Option<Exemplar>>,
}

impl Histogram {
    /// Records a time in whole milliseconds, as Envoy does, of this trace.
    pub(crate) fn record(&self, time: Duration, trace: Option<TraceId>) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.record_micros(millis.saturating_mul(MICROS), trace);
    }

    /// Records a time of which less than a millisecond matters.
    pub(crate) fn record_fine(&self, time: Duration, trace: Option<TraceId>) {
        self.record_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), trace);
    }

    fn record_micros(&self, micros: u64, trace: Option<TraceId>) {
        let millis = micros as f64 / MICROS as f64;
        let at = BOUNDS.partition_point(|bound| *bound < millis);
        let bucket = self.within.get(at).unwrap_or(&self.beyond);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(micros, Ordering::Relaxed);
        let Some(trace) = trace else { return };
        let exemplars = self.exemplars.get_or_init(Box::default);
        // Whoever has the lock has one as good.
        if let Some(Ok(mut exemplar)) = exemplars.get(at).map(Mutex::try_lock) {
            *exemplar = Some(Exemplar {
                trace,
                value: millis,
                time: SystemTime::now(),
            });
        }
    }

    pub(super) fn times(&self) -> Times {
        let mut count = 0;
        let within = self.within.iter().map(|bucket| {
            count += bucket.load(Ordering::Relaxed);
            count
        });
        let within = within.collect();
        let exemplars = self.exemplars.get().into_iter().flat_map(|all| all.iter());
        let exemplars = exemplars.map(|one| one.try_lock().ok().and_then(|one| *one));
        Times {
            within,
            count: count + self.beyond.load(Ordering::Relaxed),
            sum: self.sum.load(Ordering::Relaxed) as f64 / MICROS as f64,
            exemplars: exemplars.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_all_that_is_not_longer() {
        let histogram = Histogram::default();
        for ms in [0, 1, 1, 5, 6, 4_000_000] {
            histogram.record(Duration::from_millis(ms), None);
        }
        let times = histogram.times();
        assert_eq!(times.within[..4], [1, 3, 4, 5]);
        assert_eq!((times.within[18], times.count), (5, 6));
        assert_eq!(times.sum, 4_000_013.0);
    }

    #[test]
    fn less_than_a_millisecond() {
        let histogram = Histogram::default();
        for micros in [200, 700, 1500] {
            histogram.record_fine(Duration::from_micros(micros), None);
        }
        let times = histogram.times();
        assert_eq!(times.within[..3], [1, 2, 3]);
        assert_eq!(times.sum, 2.4);
        assert!(times.exemplars.is_empty());
    }

    #[test]
    fn the_last_trace_of_each_bucket() {
        let histogram = Histogram::default();
        for (ms, trace) in [
            (3, Some([1; 16])),
            (4, Some([2; 16])),
            (5, None),
            (4_000_000, Some([3; 16])),
        ] {
            histogram.record(Duration::from_millis(ms), trace);
        }
        let exemplars = histogram.times().exemplars;
        let shown = exemplars.iter().enumerate();
        let shown: Vec<_> = shown
            .filter_map(|(at, one)| one.map(|one| (at, one.trace, one.value)))
            .collect();
        assert_eq!(shown, [(2, [2; 16], 4.0), (19, [3; 16], 4_000_000.0)]);
    }
}
