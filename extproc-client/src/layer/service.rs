//! The service that a layer makes.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, request};
use http_body::Body;
use tower_service::Service;

use crate::{
    config::FilterConfig,
    context::error::BoxError,
    driver::{Core, SideStream},
    host::{ExchangeContext, RouteConfig},
    layer::{
        ExtProcLayer, Shared,
        body::{RequestBody, ResponseBody},
        future::ResponseFuture,
    },
    machine::Exchange,
    transport::Transport,
};

/// A service whose requests and responses a processor sees and changes.
#[derive(Clone, Debug)]
pub struct ExtProc<S, T> {
    pub(crate) inner: S,
    pub(crate) layer: ExtProcLayer<T>,
}

impl<S, T> ExtProc<S, T> {
    /// The wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The wrapped service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, T, B, R> Service<Request<B>> for ExtProc<S, T>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>> + Clone,
    T: Transport,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, T, B, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The service that was polled ready is the one to call; the clone is for the next request.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let (head, body) = request.into_parts();
        let context = ExchangeContext::of_head(&head).cloned().unwrap_or_default();
        let Some(config) = self.layer.shared.effective(&context, &head) else {
            let end = body.is_end_stream();
            let body = match end {
                true => RequestBody::empty(),
                false => RequestBody::pass(Default::default(), Box::pin(body), None, true),
            };
            return ResponseFuture::bypass(inner.call(Request::from_parts(head, body)));
        };
        let side = SideStream::new(self.layer.transport.clone(), config.service(), &head);
        if let Some(host) = &context.host
            && config.may_judge_response()
        {
            host.shows_response();
        }
        let response_only = context.response_only;
        let mut machine = Exchange::new(config, context, self.layer.shared.observer.as_ref());
        machine.guard_framing(self.layer.shared.guards_framing);
        if response_only {
            machine.skip_request(&head);
            let core = Core::new(machine, side);
            let body = RequestBody::pass(Default::default(), Box::pin(body), None, true);
            let future = inner.call(Request::from_parts(head, body));
            return ResponseFuture::upstream(core, future);
        }
        let mut core = Core::new(machine, side);
        core.request(head, body);
        ResponseFuture::request(core, inner)
    }
}

impl Shared {
    /// The configuration of one exchange: the route's, or the filter's own. `None` if disabled.
    fn effective(
        &self,
        context: &ExchangeContext,
        head: &request::Parts,
    ) -> Option<Arc<FilterConfig>> {
        let of_route = context
            .host
            .as_ref()
            .map(|host| host.route(&self.name, head));
        match of_route.unwrap_or_default() {
            RouteConfig::Inherit => (!self.disabled).then(|| self.config.clone()),
            RouteConfig::Disabled => None,
            RouteConfig::Use(config) => Some(config),
        }
    }
}
