//! The layer.

mod body;
mod future;
mod service;

use std::{fmt, sync::Arc};

use tower_layer::Layer;

pub use self::{
    body::{RequestBody, ResponseBody},
    future::ResponseFuture,
    service::ExtProc,
};
use crate::{
    config::FilterConfig,
    observer::{Observer, Watcher},
};

/// Lets an external processor see and change the requests and responses of a service.
///
/// Cheap to clone. See the crate's documentation for an example.
#[derive(Clone)]
pub struct ExtProcLayer<T> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) transport: T,
}

/// State that all exchanges of a layer share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) config: Arc<FilterConfig>,
    pub(crate) name: Arc<str>,
    pub(crate) disabled: bool,
    pub(crate) guards_framing: bool,
    pub(crate) observer: Option<Arc<Watcher>>,
}

impl<T> ExtProcLayer<T> {
    /// A layer with this configuration, reaching the processor through `transport`.
    pub fn new(config: impl Into<Arc<FilterConfig>>, transport: T) -> Self {
        Self {
            shared: Arc::new(Shared {
                config: config.into(),
                name: Arc::from("envoy.filters.http.ext_proc"),
                disabled: false,
                guards_framing: true,
                observer: None,
            }),
            transport,
        }
    }

    /// The filter's name: the one by which a [`Host`](crate::host::Host) knows its routes'
    /// configuration of it. Default `envoy.filters.http.ext_proc`.
    #[must_use]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        let shared = self.change();
        shared.name = name.into();
        let observer = shared.observer.take();
        match observer {
            Some(watcher) => self.observer(watcher.observer.clone()),
            None => self,
        }
    }

    /// Does nothing unless a route's configuration says otherwise (`HttpFilter.disabled`).
    #[must_use]
    pub fn disabled(mut self, disabled: bool) -> Self {
        self.change().disabled = disabled;
        self
    }

    /// Keeps a processor from setting the fields that frame a message or speak of one connection (`transfer-encoding`, `connection`,
    /// `upgrade` and their like), and `content-length` where no content follows: HTTP clients and
    /// servers around the layer would write them as they are, and what comes behind would be read as another message.
    /// Default true. Such a change counts as a refused one. Envoy lets them pass; false is for a host that looks after them
    /// itself when it writes a message.
    #[must_use]
    pub fn guards_framing(mut self, guards: bool) -> Self {
        self.change().guards_framing = guards;
        self
    }

    /// Sees the events of every exchange; see [`observer`](crate::observer). Several are given as a tuple.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        let shared = self.change();
        shared.observer = Some(Watcher::new(shared.name.clone(), observer));
        self
    }

    fn change(&mut self) -> &mut Shared {
        Arc::make_mut(&mut self.shared)
    }
}

impl<S, T: Clone> Layer<S> for ExtProcLayer<T> {
    type Service = ExtProc<S, T>;

    fn layer(&self, inner: S) -> Self::Service {
        ExtProc {
            inner,
            layer: self.clone(),
        }
    }
}

impl<T> fmt::Debug for ExtProcLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtProcLayer")
            .field("name", &self.shared.name)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}
