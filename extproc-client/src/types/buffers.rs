//! Accounts of the bytes that an exchange holds.

use std::{fmt, sync::Arc};

/// Counts the bytes of bodies that filters hold for one exchange, so that its host can bound what it holds for all of them.
///
/// Small amounts are not told. A host that wants some back drops the exchange.
pub trait BufferAccount: fmt::Debug + Send + Sync {
    /// Adds bytes that are held from now on.
    fn hold(&self, bytes: usize);
    /// Subtracts bytes that are no longer held.
    fn release(&self, bytes: usize);
}

/// The bytes that one part of an exchange holds, as far as they were told. Dropping it gives them back.
#[derive(Debug, Default)]
pub struct Held {
    account: Option<Arc<dyn BufferAccount>>,
    told: usize,
}

impl Held {
    /// Nothing is held yet. Without an account, nothing is counted.
    pub fn new(account: Option<Arc<dyn BufferAccount>>) -> Self {
        Self { account, told: 0 }
    }

    /// The same for another part of the exchange, which holds nothing yet.
    pub(crate) fn other(&self) -> Self {
        Self::new(self.account.clone())
    }

    /// Sets the number of bytes that are held now.
    pub fn set(&mut self, bytes: usize) {
        /// Less is not told: most exchanges never hold more.
        const GRAIN: usize = 16 * 1024;
        let Some(account) = &self.account else {
            return;
        };
        let bytes = bytes - bytes % GRAIN;
        if bytes > self.told {
            account.hold(bytes - self.told);
        } else if bytes < self.told {
            account.release(self.told - bytes);
        }
        self.told = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
