//! Accounts of the bytes that an exchange holds.

use std::{
    fmt,
    sync::{Arc, Weak},
};

/// Counts the bytes of bodies that filters hold for one exchange, so that its host can bound what it holds for all of them.
///
/// Small amounts are not told. An account that is dropped gives back what it was told, which may still be there. A host that wants some back drops the exchange.
pub trait BufferAccount: fmt::Debug + Send + Sync {
    /// Adds bytes that are held from now on.
    fn hold(&self, bytes: usize);
    /// Subtracts bytes that are no longer held.
    fn release(&self, bytes: usize);
}

/// Bytes that are told where so many are held: less than a grain is not, since most exchanges never hold more.
fn told(bytes: usize) -> usize {
    const GRAIN: usize = 16 * 1024;
    bytes - bytes % GRAIN
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

    /// Gives so many of the bytes to another part of the exchange, which holds them from now on. They are not told anew: for a
    /// moment they would count twice, and that may be too many.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = told(bytes).min(self.told);
        if bytes == 0 {
            return Self::default();
        }
        self.told -= bytes;
        Self {
            account: self.account.clone(),
            told: bytes,
        }
    }

    /// Sets the number of bytes that are held now.
    pub fn set(&mut self, bytes: usize) {
        if let Some(account) = &self.account {
            tell(&**account, &mut self.told, bytes);
        }
    }
}

/// Tells an account that so many bytes are held, of which it knows some.
fn tell(account: &dyn BufferAccount, known: &mut usize, bytes: usize) {
    let bytes = told(bytes);
    if bytes > *known {
        account.hold(bytes - *known);
    } else if bytes < *known {
        account.release(*known - bytes);
    }
    *known = bytes;
}

/// The same for bytes that the account's owner may keep itself: the account does not live on for them.
#[derive(Debug, Default)]
pub(crate) struct HeldByOwner {
    account: Option<Weak<dyn BufferAccount>>,
    told: usize,
}

impl HeldByOwner {
    /// Sets the number of bytes that are held now. They stay with the account that was told first, as long as it is there.
    pub(crate) fn set(&mut self, account: &Arc<dyn BufferAccount>, bytes: usize) {
        match self.account.as_ref().and_then(Weak::upgrade) {
            Some(first) => tell(&*first, &mut self.told, bytes),
            None => {
                self.account = Some(Arc::downgrade(account));
                self.told = 0;
                tell(&**account, &mut self.told, bytes);
            }
        }
    }
}

impl Drop for HeldByOwner {
    fn drop(&mut self) {
        if let Some(account) = self.account.as_ref().and_then(Weak::upgrade) {
            tell(&*account, &mut self.told, 0);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}
