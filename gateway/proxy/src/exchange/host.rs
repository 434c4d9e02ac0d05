//! The exchange as the layers of a request know it, and the way from a request to its exchange.

use std::{
    any::Any,
    sync::{Arc, atomic::Ordering},
};

use extproc_client::{
    host::{ExchangeContext, Host, RouteConfig, RouteFacts},
    observer,
};
use http::{Request, request::Parts};

use super::{
    Exchange,
    answer::{Answer, LateAnswers, Meeting, Shortcut},
    choice,
    route_cell::RouteCell,
};

/// The one request extension of the gateway's own filters: the exchange of a request, and the ways of its answer.
#[derive(Clone)]
pub(crate) struct Passage {
    pub(crate) exchange: Arc<Exchange>,
    /// The request goes nowhere, this is its response: filters have nothing to do with the request.
    pub(crate) answer: Option<Answer>,
    pub(crate) late: LateAnswers,
    /// Ways of an attempt through the filters of a cluster.
    pub(crate) attempt: Option<(Meeting, Shortcut)>,
}

impl Passage {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self {
            exchange,
            answer: None,
            late: LateAnswers::default(),
            attempt: None,
        }
    }

    pub(crate) fn of<B>(request: &Request<B>) -> Option<&Self> {
        request.extensions().get()
    }

    pub(crate) fn of_head(head: &Parts) -> Option<&Self> {
        head.extensions.get()
    }

    pub(crate) fn of_head_mut(head: &mut Parts) -> Option<&mut Self> {
        head.extensions.get_mut()
    }

    pub(crate) fn attach(self, head: &mut Parts) {
        head.extensions.insert(self);
    }

    pub(crate) fn take(head: &mut Parts) -> Option<Self> {
        head.extensions.remove()
    }
}

/// Tells whether filters have nothing to do with the request, only with its response.
pub(crate) fn is_answered(head: &Parts) -> bool {
    Passage::of_head(head).is_some_and(|passage| passage.answer.is_some())
}

/// Takes off a request what only filters look for. A copy of it then allocates nothing for that.
pub(crate) fn strip(head: &mut Parts) {
    head.extensions = http::Extensions::new();
}

impl Exchange {
    /// The exchange of a request, which every request has that a connection of a client began.
    pub(crate) fn of_head(head: &Parts) -> Option<&Arc<Self>> {
        Passage::of_head(head).map(|passage| &passage.exchange)
    }
}

impl Host for Exchange {
    fn exchange_id(&self) -> u64 {
        *self.number.get_or_init(observer::next_id)
    }

    fn route(&self, filter: &str, head: &Parts) -> RouteConfig {
        let Some(route) = self.current_route(head) else {
            return RouteConfig::Inherit;
        };
        let choice = route.route.choices.iter().find(|c| c.filter == filter);
        match (choice, ExchangeContext::of_head(head)) {
            (Some(choice), Some(context)) => choice::choose(choice, head, context)
                .map_or(RouteConfig::Disabled, RouteConfig::Use),
            _ => route.config(filter),
        }
    }

    fn route_facts(&self) -> Arc<RouteFacts> {
        self.route().map(|route| route.facts()).unwrap_or_default()
    }

    fn clear_route(&self) {
        let mut state = self.state();
        state.route = match std::mem::take(&mut state.route) {
            RouteCell::Selected(last) | RouteCell::Cleared(last) => RouteCell::Cleared(last),
        };
    }

    fn end_request(&self) {
        self.request_over.store(true, Ordering::Relaxed);
    }

    fn is_request_over(&self) -> bool {
        self.request_over.load(Ordering::Relaxed)
    }

    fn own(&self) -> Option<&dyn Any> {
        Some(self)
    }

    fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed).into()
    }

    fn shows_response(&self) {
        self.note_judged();
    }

    fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }
}
