//! Events of an exchange, for statistics, logs and transcripts.
//!
//! Everything is borrowed for the time of the call, so that nothing is made for an observer that does not look. An observer
//! that wants counts alone says so with [`Detail::Counts`] and is spared the rest.

#![warn(clippy::exhaustive_structs)]

mod event;
mod stats;

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http::HeaderMap;

pub use self::{
    event::{Event, FailureRow, HttpPart, ModeIgnored, ModeOrigin, NotOpen, Verdict},
    stats::{Counter, Stats},
};
pub use crate::types::{
    header_change::{HeaderChange, Operation, Refused},
    phase::{Effect, Phase, Side},
    stream::StreamFacts,
};
use crate::{config::FilterConfig, host::ExchangeContext};

/// One exchange of one layer, as an observer sees it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Watched<'a> {
    /// Number of the exchange: the host's ([`Host::exchange_id`](crate::host::Host::exchange_id)), which all layers of a
    /// chain share, otherwise [`next_id`]. 0 unless everything is told.
    pub id: u64,
    /// Number of the layer's part in it: no two are equal, and a layer further in has the greater one. 0 unless everything is
    /// told.
    pub part: u64,
    /// Name of the filter, which layers of one chain may share.
    pub filter: &'a str,
    /// Configuration that holds for this exchange.
    pub config: &'a Arc<FilterConfig>,
    /// Surroundings of the exchange: host, limits, metadata, facts.
    pub context: &'a ExchangeContext,
}

/// Amount of what an observer is told, at least: two in a tuple are both told what one of them wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Detail {
    /// Events that are counted.
    Counts,
    /// Those, and side streams that are [opened](Observer::opening).
    Openings,
    /// Every event.
    Full,
}

/// Sees the events of every exchange of a layer. Called on the exchange's own task: never block.
///
/// Two observers in a tuple, or an observer in an `Arc`, are one as well.
pub trait Observer: Send + Sync + 'static {
    /// An exchange with these surroundings begins: how much of it is to be told. Default everything.
    fn detail(&self, context: &ExchangeContext) -> Detail {
        let _ = context;
        Detail::Full
    }

    /// Something happened.
    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>);

    /// A side stream is opened with this metadata, to which more may be added, such as `traceparent`. For
    /// [`Detail::Openings`] and more.
    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        let _ = (exchange, metadata);
    }
}

impl<T: Observer + ?Sized> Observer for Arc<T> {
    fn detail(&self, context: &ExchangeContext) -> Detail {
        (**self).detail(context)
    }

    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        (**self).event(exchange, event);
    }

    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        (**self).opening(exchange, metadata);
    }
}

impl<A: Observer, B: Observer> Observer for (A, B) {
    fn detail(&self, context: &ExchangeContext) -> Detail {
        self.0.detail(context).max(self.1.detail(context))
    }

    fn event(&self, exchange: &Watched<'_>, event: &Event<'_>) {
        self.0.event(exchange, event);
        self.1.event(exchange, event);
    }

    fn opening(&self, exchange: &Watched<'_>, metadata: &mut HeaderMap) {
        self.0.opening(exchange, metadata);
        self.1.opening(exchange, metadata);
    }
}

/// The next number of an exchange; never 0. For hosts whose exchanges have no number of their own.
pub fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// The next number of a part; never 0.
fn next_part() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// A layer's observer with the layer's name.
pub(crate) struct Watcher {
    pub(crate) filter: Arc<str>,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Watcher {
    pub(crate) fn new(filter: impl Into<Arc<str>>, observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self {
            filter: filter.into(),
            observer,
        })
    }
}

/// The observer's part in one exchange.
#[derive(Clone)]
pub(crate) struct Watch {
    watcher: Arc<Watcher>,
    id: u64,
    part: u64,
    detail: Detail,
    /// The facts of the side stream were told.
    reached: Cell<bool>,
}

impl Watch {
    pub(crate) fn new(watcher: &Arc<Watcher>, context: &ExchangeContext) -> Self {
        let detail = watcher.observer.detail(context);
        let (id, part) = match detail {
            Detail::Counts | Detail::Openings => (0, 0),
            Detail::Full => {
                let given = context.host.as_ref().map_or(0, |host| host.exchange_id());
                (if given == 0 { next_id() } else { given }, next_part())
            }
        };
        Self {
            watcher: watcher.clone(),
            id,
            part,
            detail,
            reached: Cell::new(false),
        }
    }

    /// Tells whether everything is to be told.
    pub(crate) fn is_full(&self) -> bool {
        self.detail == Detail::Full
    }

    /// Tells whether the facts of the side stream are still to be told; asked once.
    pub(crate) fn take_reached(&self) -> bool {
        self.is_full() && !self.reached.replace(true)
    }

    pub(crate) fn event(
        &self,
        config: &Arc<FilterConfig>,
        context: &ExchangeContext,
        event: &Event<'_>,
    ) {
        self.watcher
            .observer
            .event(&self.watched(config, context), event);
    }

    /// Tells of a side stream that is opened to whoever wants to know.
    pub(crate) fn opening(
        &self,
        config: &Arc<FilterConfig>,
        context: &ExchangeContext,
        metadata: &mut HeaderMap,
    ) {
        if self.detail >= Detail::Openings {
            let watched = self.watched(config, context);
            self.watcher.observer.opening(&watched, metadata);
        }
    }

    fn watched<'a>(
        &'a self,
        config: &'a Arc<FilterConfig>,
        context: &'a ExchangeContext,
    ) -> Watched<'a> {
        Watched {
            id: self.id,
            part: self.part,
            filter: &self.watcher.filter,
            config,
            context,
        }
    }
}
