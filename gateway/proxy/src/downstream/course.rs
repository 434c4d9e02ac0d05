//! The way of a request through the chain, and of those that take its place where a redirect is followed here.

use std::sync::Arc;

use extproc_client::host::Outcome;
use http::{Request, Response};

use super::{
    Context,
    egress::Finish,
    ingress,
    timers::{self, Timers},
};
use crate::{
    exchange::{Exchange, answer::Redirected},
    http::body::Body,
    limits::buffers::Budget,
};

/// The exchange that is under way.
pub(super) struct Course {
    pub(super) exchange: Arc<Exchange>,
    pub(super) end: Finish,
    pub(super) timers: Timers,
}

impl Course {
    pub(super) fn new(context: &Context, exchange: Arc<Exchange>, timers: Timers) -> Self {
        Self {
            end: Finish::new(&context.chain.shared, exchange.clone()),
            exchange,
            timers,
        }
    }

    /// The response of the chain. `connection` is as for [`ingress::begin`].
    pub(super) async fn run(
        &mut self,
        context: &Context,
        connection: Option<&Arc<Budget>>,
        mut request: Request<Body>,
    ) -> Response<Body> {
        loop {
            let Self {
                exchange, timers, ..
            } = self;
            let response = timers::call(context, request, exchange, timers).await;
            let Some(redirected) = Outcome::of(&response).own::<Redirected>().cloned() else {
                return response;
            };
            self.end.redirected(&response);
            let next = ingress::again(context, connection, &self.exchange, redirected);
            self.timers.renew(&next.exchange);
            self.end = Finish::new(&context.chain.shared, next.exchange.clone());
            self.exchange = next.exchange;
            request = next.request;
        }
    }
}
