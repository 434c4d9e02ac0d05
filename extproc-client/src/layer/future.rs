//! The future of one exchange, until the response's head.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, header, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    context::{
        error::{BoxError, Error},
        outcome::Outcome,
    },
    driver::{self, Core, Handle, Piece, Step},
    host::ExchangeContext,
    layer::body::{Drive, RequestBody, ResponseBody},
    transport::Transport,
};

pin_project! {
    /// The response of a service behind the filter.
    ///
    /// Dropping it cancels the exchange: the side stream ends at once.
    pub struct ResponseFuture<S, T, B, R>
    where
        S: Service<Request<RequestBody<B>>>,
        T: Transport,
    {
        #[pin]
        upstream: Upstream<S::Future>,
        stage: Stage<S, T, B, R>,
    }
}

pin_project! {
    /// The call of the wrapped service.
    #[project = UpstreamProj]
    enum Upstream<F> {
        Idle,
        Called { #[pin] future: F },
    }
}

impl<F: Future> Upstream<F> {
    /// The outcome of a call, once; pending without one.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let UpstreamProj::Called { future } = self.as_mut().project() else {
            return Poll::Pending;
        };
        let output = ready!(future.poll(cx));
        self.set(Self::Idle);
        Poll::Ready(output)
    }
}

/// Owner of the exchange.
///
/// ```text
/// Request ──request head is ready──▶ Waiting ──response head is ready──▶ done
///    │                                   ▲
///    └─ body flows on two tasks ─▶ Task ─┘ (the task has the exchange from then on)
/// ```
enum Stage<S, T: Transport, B, R> {
    /// The filter does nothing here.
    Bypass,
    /// The request is with the processor; the service was not called yet.
    Request {
        core: Box<Core<T, B, R>>,
        service: S,
    },
    /// The service was called; the exchange is here.
    Waiting(Box<Core<T, B, R>>),
    /// The service was called; a task has the exchange.
    Task(Handle<R>),
    Done,
}

impl<S, T, B, R> ResponseFuture<S, T, B, R>
where
    S: Service<Request<RequestBody<B>>>,
    T: Transport,
{
    pub(crate) fn bypass(future: S::Future) -> Self {
        Self {
            upstream: Upstream::Called { future },
            stage: Stage::Bypass,
        }
    }

    pub(crate) fn request(core: Core<T, B, R>, service: S) -> Self {
        Self {
            upstream: Upstream::Idle,
            stage: Stage::Request {
                core: Box::new(core),
                service,
            },
        }
    }

    pub(crate) fn upstream(core: Core<T, B, R>, future: S::Future) -> Self {
        Self {
            upstream: Upstream::Called { future },
            stage: Stage::Waiting(Box::new(core)),
        }
    }
}

impl<S, T, B, R> Future for ResponseFuture<S, T, B, R>
where
    S: Service<Request<RequestBody<B>>, Response = Response<R>>,
    T: Transport,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match std::mem::replace(this.stage, Stage::Done) {
                Stage::Bypass => {
                    *this.stage = Stage::Bypass;
                    let response = ready!(this.upstream.as_mut().poll(cx))?;
                    return Poll::Ready(Ok(bypassed(response)));
                }
                Stage::Request {
                    mut core,
                    mut service,
                } => {
                    if let Some(head) = core.take_answered() {
                        let request = Request::from_parts(head, RequestBody::empty());
                        let future = service.call(request);
                        this.upstream.set(Upstream::Called { future });
                        *this.stage = Stage::Waiting(core);
                        continue;
                    }
                    match core.next_step() {
                        Some(Step::Request { mut head, end }) => {
                            // What is to be said of the head is said before the next filter says something.
                            core.flush(cx);
                            let (body, task) = request_body(&mut core, &mut head, end);
                            let future = service.call(Request::from_parts(head, body));
                            this.upstream.set(Upstream::Called { future });
                            if task {
                                *this.stage = Stage::Task(driver::spawn(*core));
                                continue;
                            }
                            // What lies behind begins before more of what the processor said is heard, as in Envoy.
                            if let Poll::Ready(response) = this.upstream.as_mut().poll(cx) {
                                let (head, body) = response?.into_parts();
                                core.response(head, body);
                            }
                            *this.stage = Stage::Waiting(core);
                        }
                        Some(Step::Cancel) => *this.stage = Stage::Waiting(core),
                        Some(Step::Response { head, end }) => {
                            return Poll::Ready(Ok(respond(core, head, end)));
                        }
                        None => {
                            let polled = core.poll(cx);
                            *this.stage = Stage::Request { core, service };
                            ready!(polled);
                        }
                    }
                }
                Stage::Waiting(mut core) => {
                    match core.next_step() {
                        Some(Step::Response { head, end }) => {
                            this.upstream.set(Upstream::Idle);
                            return Poll::Ready(Ok(respond(core, head, end)));
                        }
                        Some(Step::Cancel) => {
                            this.upstream.set(Upstream::Idle);
                            *this.stage = Stage::Waiting(core);
                            continue;
                        }
                        Some(Step::Request { .. }) | None => {}
                    }
                    // The processor first: what it said may be that nothing goes upstream.
                    let polled = core.poll(cx);
                    if polled.is_pending()
                        && let Poll::Ready(response) = this.upstream.as_mut().poll(cx)
                    {
                        let (head, body) = response?.into_parts();
                        core.response(head, body);
                        *this.stage = Stage::Waiting(core);
                        continue;
                    }
                    *this.stage = Stage::Waiting(core);
                    ready!(polled);
                }
                Stage::Task(mut handle) => {
                    let mut received = Pin::new(&mut handle.head).poll(cx);
                    if received.is_pending()
                        && let Some(upstream) = &mut handle.upstream
                        && upstream.poll_closed(cx).is_ready()
                    {
                        // The filter answers itself.
                        handle.upstream = None;
                        this.upstream.set(Upstream::Idle);
                    }
                    if received.is_pending()
                        && let Poll::Ready(response) = this.upstream.as_mut().poll(cx)
                    {
                        match (response, handle.upstream.take()) {
                            // The task may have cut the request while the service was polled: an
                            // error of that is none of the service's.
                            (_, Some(upstream)) if upstream.is_closed() => {}
                            (Ok(response), Some(upstream)) => {
                                // A task that is gone by now has answered already.
                                let _ = upstream.send(response);
                            }
                            (Ok(_), None) => {}
                            (Err(error), _) => return Poll::Ready(Err(error)),
                        }
                        received = Pin::new(&mut handle.head).poll(cx);
                    }
                    let Poll::Ready(received) = received else {
                        *this.stage = Stage::Task(handle);
                        return Poll::Pending;
                    };
                    this.upstream.set(Upstream::Idle);
                    return Poll::Ready(Ok(match received {
                        Ok((mut head, Some(body))) => {
                            Outcome::of_head_mut(&mut head).remade = true;
                            Response::from_parts(head, ResponseBody::piped(body))
                        }
                        Ok((head, None)) => Response::from_parts(head, ResponseBody::empty()),
                        // The task ends without a head only if its runtime shuts down.
                        Err(_) => unavailable(),
                    }));
                }
                Stage::Done => return Poll::Pending,
            }
        }
    }
}

/// The body that goes with a request's head, and whether it needs a task to flow.
fn request_body<T, B, R>(
    core: &mut Core<T, B, R>,
    head: &mut http::request::Parts,
    end: bool,
) -> (RequestBody<B>, bool)
where
    T: Transport,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
{
    if end {
        return (RequestBody::empty(), false);
    }
    if let Some(whole) = core.take_complete_request() {
        ExchangeContext::note_remade(head);
        return (RequestBody::whole(whole), false);
    }
    let sized = head.headers.contains_key(header::CONTENT_LENGTH);
    if let Some((before, body)) = core.take_passing_request() {
        let counter = core.counter();
        return (RequestBody::pass(before, body, counter, sized), false);
    }
    ExchangeContext::note_remade(head);
    (RequestBody::piped(core.pipe_request()), true)
}

fn respond<T, B, R>(
    mut core: Box<Core<T, B, R>>,
    mut head: response::Parts,
    end: bool,
) -> Response<ResponseBody<R>>
where
    T: Transport,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    let body = if end {
        ResponseBody::empty()
    } else {
        let sized = head.headers.contains_key(header::CONTENT_LENGTH);
        if let Some((before, body)) = core.take_passing_response() {
            ResponseBody::pass(before, body, sized)
        } else {
            Outcome::of_head_mut(&mut head).remade = true;
            match core.take_complete_response() {
                Some(whole) => ResponseBody::whole(whole, sized),
                None => ResponseBody::inline(core),
            }
        }
    };
    Response::from_parts(head, body)
}

fn bypassed<R: Body>(response: Response<R>) -> Response<ResponseBody<R>> {
    response.map(|body| match body.is_end_stream() {
        true => ResponseBody::empty(),
        false => ResponseBody::pass(Default::default(), Box::pin(body), true),
    })
}

fn unavailable<R>() -> Response<ResponseBody<R>> {
    let mut response = Response::new(ResponseBody::empty());
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    response
}

impl<T, B, R> Drive for Core<T, B, R>
where
    T: Transport,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, Error>>> {
        self.poll_response(cx)
    }

    fn is_over(&self) -> bool {
        self.response_is_over()
    }
}
