//! Sessions that clients can resume: with tickets, which they keep, or by ids of sessions that are kept here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ServerConfig,
    crypto::ring::Ticketer,
    server::{
        NoServerSessionStorage, ProducesTickets, ServerSessionMemoryCache, StoresServerSessions,
    },
};

use crate::config::snapshot::DownstreamTls;

/// Sessions that are kept at a time. The oldest makes room.
const KEPT: usize = 1024;

/// Lets clients resume sessions as the settings allow. The key of tickets is made here, so that a ticket is good for these settings
/// alone.
pub(super) fn keep(config: &mut ServerConfig, settings: &DownstreamTls) -> Result<(), String> {
    let limit = settings.session_timeout;
    config.session_storage = match settings.no_session_ids {
        true => Arc::new(NoServerSessionStorage {}),
        false => Arc::new(Timed::new(ServerSessionMemoryCache::new(KEPT), limit)),
    };
    if settings.no_tickets {
        // Over TLS 1.3, rustls would give out references to what is kept.
        config.send_tls13_tickets = 0;
    } else {
        let tickets = Ticketer::new().map_err(|error| format!("session tickets: {error}"))?;
        config.ticketer = Arc::new(Timed::new(tickets, limit));
    }
    Ok(())
}

/// Sessions with the time at which they were made.
#[derive(Debug)]
struct Timed<T> {
    inner: T,
    born: Instant,
    limit: Option<Duration>,
}

impl<T> Timed<T> {
    fn new(inner: T, limit: Option<Duration>) -> Self {
        Self {
            inner,
            born: Instant::now(),
            limit,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn stamped(&self, session: &[u8]) -> Vec<u8> {
        let mut stamped = self.now().to_be_bytes().to_vec();
        stamped.extend_from_slice(session);
        stamped
    }

    /// The session, unless it is too old.
    fn fresh(&self, stamped: Vec<u8>) -> Option<Vec<u8>> {
        let (made, session) = stamped.split_first_chunk()?;
        let age = self.now().saturating_sub(u64::from_be_bytes(*made));
        let fresh = self
            .limit
            .is_none_or(|limit| Duration::from_millis(age) < limit);
        fresh.then(|| session.to_vec())
    }
}

impl ProducesTickets for Timed<Arc<dyn ProducesTickets>> {
    fn enabled(&self) -> bool {
        self.inner.enabled()
    }

    fn lifetime(&self) -> u32 {
        let own = self.inner.lifetime();
        match self.limit {
            Some(limit) => own.min(u32::try_from(limit.as_secs()).unwrap_or(u32::MAX)),
            None => own,
        }
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&self.stamped(plain))
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.inner.decrypt(cipher)?)
    }
}

impl StoresServerSessions for Timed<Arc<ServerSessionMemoryCache>> {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.inner.put(key, self.stamped(&value))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.inner.get(key)?)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.fresh(self.inner.take(key)?)
    }

    fn can_cache(&self) -> bool {
        self.inner.can_cache()
    }
}
