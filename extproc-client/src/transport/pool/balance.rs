//! Several pools as one transport.

use std::{fmt, sync::Arc};

use http::HeaderMap;

use super::{Pool, PoolStream};
use crate::{
    transport::{Call, Transport},
    types::stream::Close,
};

/// Says which of several pools a call goes to: a load balancer.
pub trait Balance: fmt::Debug + Send + Sync + 'static {
    /// The pool of the next call, which has this metadata. Asked once for each, and once more for each repetition of one: a
    /// call that an endpoint refused or lost may go on with another.
    fn choose(&self, metadata: &HeaderMap) -> Pool;
}

/// A transport whose calls go to the pools that a [`Balance`] chooses. A handle: clones share it.
#[derive(Clone, Debug)]
pub struct Balanced(Arc<dyn Balance>);

impl Balanced {
    /// Calls on pools that `balance` chooses.
    pub fn new(balance: impl Balance) -> Self {
        Self(Arc::new(balance))
    }
}

impl Transport for Balanced {
    type Sidestream = PoolStream;

    fn open(&self, call: Call<'_>) -> Result<PoolStream, Close> {
        let pool = self.0.choose(&call.metadata);
        pool.open_balanced(call, Some(self.0.clone()))
    }
}
