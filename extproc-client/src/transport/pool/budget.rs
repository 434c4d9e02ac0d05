//! Budgets that several pools share, as the circuit breakers of a cluster.

use std::{fmt, sync::Arc};

/// A thing that a call takes of a [`Budget`] and gives back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Share {
    /// Waiting for a connection, or for a stream on one.
    Waiting,
    /// An open stream.
    Stream,
    /// A call that is made again by the service's retry policy, from the pause before it to its response.
    Retry,
}

/// Bounds what calls take of something that several pools share.
///
/// A call that finds nothing left fails with status 14 and Envoy's reset reason `overflow`, which no retry policy meets with
/// another call. It is asked for each call on the path of the exchange, so it answers without waiting.
pub trait Budget: fmt::Debug + Send + Sync + 'static {
    /// Takes one share; `false` if there is none left.
    fn take(&self, share: Share) -> bool;

    /// Gives back a share that was taken.
    fn give_back(&self, share: Share);
}

/// A share that is given back when dropped. A pool without a budget has as many as are asked for.
#[derive(Debug)]
pub(super) struct Held(Option<(Arc<dyn Budget>, Share)>);

impl Held {
    /// Takes a share; `None` if there is none left.
    pub(super) fn take(budget: Option<&Arc<dyn Budget>>, share: Share) -> Option<Self> {
        match budget {
            Some(budget) if !budget.take(share) => None,
            Some(budget) => Some(Self(Some((budget.clone(), share)))),
            None => Some(Self(None)),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((budget, share)) = self.0.take() {
            budget.give_back(share);
        }
    }
}
