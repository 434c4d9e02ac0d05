//! Share of a connection that one stream has.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
};

use h2_guard::Traffic;
use tokio::sync::mpsc::UnboundedSender;

use super::Set;
use crate::transport::pool::{budget::Held, connection::Connection, stream::Open};

/// One stream's share of a connection, given back when dropped.
pub(in crate::transport::pool) struct Slot {
    pub(super) connection: Arc<Connection>,
    pub(super) set: Arc<Set>,
    /// True if no stream was opened on the connection before.
    pub(super) first: bool,
    /// Its share of the budget.
    pub(super) share: Option<Held>,
}

impl Slot {
    pub(in crate::transport::pool) fn connection(&self) -> u64 {
        self.connection.id
    }

    pub(in crate::transport::pool) fn peer(&self) -> Option<SocketAddr> {
        self.connection.peer
    }

    pub(in crate::transport::pool) fn is_first(&self) -> bool {
        self.first
    }

    pub(in crate::transport::pool) fn traffic(&self) -> &Arc<Traffic> {
        &self.connection.traffic
    }

    /// Gives the connection no more streams. It ends with the last that it has.
    pub(in crate::transport::pool) fn retire(&self) {
        self.set.remove(self.connection.id);
    }

    /// The stream was reset before its response had begun.
    pub(in crate::transport::pool) fn note_reset(&self) {
        self.connection.resets.note();
        let opened = self.connection.opened.load(Ordering::SeqCst);
        if self.connection.resets.are_many(opened) {
            self.retire();
        }
    }

    /// Returns the queue for streams that are reset once all that is queued before them has been sent.
    pub(in crate::transport::pool) fn leaving(&self) -> UnboundedSender<Box<Open>> {
        self.connection.leaving.clone()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.share = None;
        self.connection.live.fetch_sub(1, Ordering::SeqCst);
        if self.set.waiting.load(Ordering::SeqCst) > 0 {
            self.set.wake(1);
        }
    }
}
