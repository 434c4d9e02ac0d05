//! State of one exchange, shared by ingress, filters, router and access log.

pub(crate) mod activity;
pub(crate) mod answer;
pub(crate) mod calls;
pub(crate) mod chain;
mod choice;
pub(crate) mod facts;
pub(crate) mod header_changes;
pub(crate) mod host;
mod interim;
pub(crate) mod local_reply;
pub(crate) mod log_filter;
pub(crate) mod operators;
pub(crate) mod record;
mod route_cell;

use std::{
    borrow::Cow,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use extproc_client::{
    host::{
        BufferAccount, ExchangeContext, HostFacts, Limits, Outcome, Received, ReplyForm,
        ResponseFlags, RouteConfig, UpstreamInfo,
    },
    metadata::DynamicMetadata,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri, Version, request};

use self::{
    activity::Moments,
    answer::Trail,
    calls::Calls,
    facts::Peer,
    record::{Head, Reply},
    route_cell::RouteCell,
};
use crate::{
    config::snapshot::{FilterKind, HttpManager, flag},
    http::{body::Body, h1::Outgoing},
    limits::buffers::{Buffers, Holder},
    route::{self, Selected},
    trace::Trace,
};

/// One request with its response. The innermost service finds it by the request's [`Passage`](host::Passage).
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) http: Arc<HttpManager>,
    pub(crate) peer: Arc<Peer>,
    /// Address of the client: the peer's, or what a trusted proxy says.
    pub(crate) client: SocketAddr,
    pub(crate) version: Version,
    pub(crate) start: Instant,
    pub(crate) time: SystemTime,
    pub(crate) metadata: DynamicMetadata,
    /// Receiver of interim responses.
    pub(crate) outgoing: Arc<Outgoing>,
    /// Bytes of a body that may be held.
    pub(crate) buffer: usize,
    /// The same for its request, for which its first route may allow more.
    request_buffer: usize,
    /// Bytes of both bodies that are held.
    pub(crate) buffers: Buffers,
    me: Weak<Self>,
    /// The request asks for a tunnel that the configuration allows.
    pub(crate) upgrade: bool,
    /// The request was one of gRPC when it came.
    pub(crate) grpc: bool,
    /// The `grpc-timeout` that a request of gRPC came with.
    pub(crate) grpc_timeout: Option<Duration>,
    /// The redirects that led to it.
    pub(crate) trail: Trail,
    /// Its part in a trace.
    pub(crate) trace: Option<Trace>,
    pub(crate) moments: Moments,
    pub(crate) request_bytes: AtomicU64,
    pub(crate) response_bytes: AtomicU64,
    request_done: AtomicBool,
    /// A limit of ours ended the response after it had begun.
    cut: AtomicBool,
    /// A field of the request whose value, as the configuration makes it, no message can carry.
    unsendable: OnceLock<HeaderName>,
    /// The client reset its stream (HTTP/2), where otherwise its connection ends.
    reset: AtomicBool,
    /// The request's body failed.
    broken: AtomicBool,
    /// It failed because the client left, so that nobody waits for a response.
    left: AtomicBool,
    /// A limit passed meanwhile, and the state has the reply.
    replied: AtomicBool,
    /// Milliseconds from the start to the last movement of either body.
    moved: AtomicU64,
    /// Attempts that were made to get a response.
    attempts: AtomicU32,
    route_renewed: AtomicBool,
    /// The request was answered after it had gone on, by a filter or since a limit passed.
    answered: AtomicBool,
    /// The whole response was here before the whole request.
    request_over: AtomicBool,
    /// A processor sees the response.
    judged: AtomicBool,
    /// Its number, if an observer has asked for it.
    number: OnceLock<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    route: RouteCell,
    head: Option<Head>,
    reply: Reply,
    /// Calls of processors by the names of their filters, where a log or a header shows them.
    calls: Vec<(String, Calls)>,
    /// The reply in place of the upstream's response.
    given: Option<Response<Body>>,
}

impl Received for Exchange {
    fn body_bytes(&self) -> u64 {
        self.request_bytes.load(Ordering::Relaxed)
    }
}

/// Beginning of an exchange.
pub(crate) struct Begin {
    pub(crate) http: Arc<HttpManager>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) client: SocketAddr,
    pub(crate) version: Version,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) buffer: usize,
    pub(crate) buffers: Buffers,
    pub(crate) upgrade: bool,
    pub(crate) grpc: bool,
    pub(crate) grpc_timeout: Option<Duration>,
    pub(crate) route: Option<Selected>,
    pub(crate) trail: Trail,
    pub(crate) trace: Option<Trace>,
}

impl Exchange {
    pub(crate) fn new(begin: Begin) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            http: begin.http,
            peer: begin.peer,
            client: begin.client,
            version: begin.version,
            start: Instant::now(),
            time: SystemTime::now(),
            metadata: DynamicMetadata::default(),
            outgoing: begin.outgoing,
            buffer: begin.buffer,
            request_buffer: begin
                .route
                .as_ref()
                .and_then(|route| route.route.request_buffer)
                .map_or(begin.buffer, |own| own.max(begin.buffer)),
            buffers: begin.buffers,
            me: me.clone(),
            upgrade: begin.upgrade,
            grpc: begin.grpc,
            grpc_timeout: begin.grpc_timeout,
            trail: begin.trail,
            trace: begin.trace,
            moments: Moments::default(),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            request_done: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            unsendable: OnceLock::new(),
            reset: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            left: AtomicBool::new(false),
            replied: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            attempts: AtomicU32::new(0),
            route_renewed: AtomicBool::new(false),
            answered: AtomicBool::new(false),
            request_over: AtomicBool::new(false),
            judged: AtomicBool::new(false),
            number: OnceLock::new(),
            state: Mutex::new(State {
                route: RouteCell::Selected(begin.route),
                head: None,
                ..State::default()
            }),
        })
    }

    /// The exchange of a copy of the request. As in Envoy it has no route, and metadata of its own.
    pub(crate) fn of_copy(&self) -> Arc<Self> {
        Self::new(Begin {
            http: self.http.clone(),
            peer: self.peer.clone(),
            client: self.client,
            version: self.version,
            outgoing: Arc::default(),
            buffer: self.buffer,
            buffers: self.buffers.apart(),
            upgrade: false,
            grpc: self.grpc,
            grpc_timeout: None,
            route: None,
            trail: Trail::default(),
            trace: None,
        })
    }

    /// Context for its filters.
    pub(crate) fn context(self: &Arc<Self>) -> ExchangeContext {
        let mut facts = HostFacts::default();
        facts.connection_id = self.peer.id;
        facts.source = Some(self.client);
        facts.destination = Some(self.peer.local);
        facts.version = Some(self.version);
        facts.start = Some(self.time);
        if let Some(tls) = &self.peer.tls {
            facts.requested_server_name = tls.server_name.clone();
            facts.tls_version = Some(tls.version.to_owned());
            facts.mtls = tls.mutual;
            facts.peer_certificate.clone_from(&tls.peer_certificate);
            facts.local_certificate.clone_from(&tls.local_certificate);
        }
        let mut form = ReplyForm::default();
        form.grpc = self.grpc;
        form.head = self.outgoing.facts.bodyless;
        let mut context = ExchangeContext::default();
        // The exchange holds no context, so that this is no circle.
        context.host = Some(self.clone());
        context.limits = Limits {
            request_buffer: self.request_buffer,
            response_buffer: self.buffer,
            request_headers: self.http.request_headers,
            ..Limits::default()
        };
        context.metadata = self.metadata.clone();
        context.reply_form = Some(form);
        context.received = Some(self.clone());
        context.buffers = Some(self.clone());
        context.facts = Arc::new(facts);
        context
    }

    /// The facts that its filters are told, for whoever has it borrowed; `None` when it ends.
    fn told(&self) -> Option<ExchangeContext> {
        Some(self.me.upgrade()?.context())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only assignments run under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The route that was selected last.
    pub(crate) fn route(&self) -> Option<Selected> {
        self.state().route.last().cloned()
    }

    /// Configuration of a filter of the cluster that the request goes to.
    pub(crate) fn config_of_cluster(&self, filter: &str) -> RouteConfig {
        let state = self.state();
        let route = state.route.last();
        route.map_or(RouteConfig::Inherit, |route| {
            route.config_of_cluster(filter)
        })
    }

    /// The route that holds for a request with this head. It is selected again if a filter has cleared it since.
    pub(crate) fn current_route(&self, head: &request::Parts) -> Option<Selected> {
        if let RouteCell::Selected(route) = &self.state().route {
            return route.clone();
        }
        let route = route::select(&self.http, head, Some(&self.metadata));
        self.set_route(route.clone());
        self.route_renewed.store(true, Ordering::Relaxed);
        route
    }

    /// One more attempt is made to get a response.
    pub(crate) fn count_attempt(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        // The log shows when the response of the last one began.
        self.moments.response_begin.store(0, Ordering::Relaxed);
    }

    /// Filters whose processors still have the request's headers get the answer that a filter in front made.
    pub(crate) fn set_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Tells whether the route was selected again since this was asked last.
    pub(crate) fn take_route_renewed(&self) -> bool {
        self.route_renewed.load(Ordering::Relaxed)
            && self.route_renewed.swap(false, Ordering::Relaxed)
    }

    /// The time without movement after which the exchange ends: the route's, otherwise the connection
    /// manager's.
    pub(crate) fn idle_limit(&self) -> Option<Duration> {
        let state = self.state();
        let own = state.route.last().and_then(Selected::forward);
        own.and_then(|forward| forward.idle_timeout)
            .or(self.http.timeouts.stream_idle)
            .filter(|limit| !limit.is_zero())
    }

    /// Takes a new route.
    pub(crate) fn set_route(&self, route: Option<Selected>) {
        self.state().route = RouteCell::Selected(route);
    }

    /// A piece of a body passed.
    pub(crate) fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    /// Notes for the log that the response began.
    pub(crate) fn note_response(&self) {
        self.note(|moments| &moments.response_begin);
    }

    /// Notes a moment, the first time, if somebody asks for it later.
    fn note(&self, moment: impl Fn(&Moments) -> &AtomicU64) {
        if self.noted() {
            let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let moment = moment(&self.moments);
            let _ = moment.compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// When something passed last, counted from the start.
    pub(crate) fn moved_after(&self) -> Duration {
        Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    /// Tells whether the whole request was received.
    pub(crate) fn request_done(&self) -> bool {
        self.request_done.load(Ordering::Acquire)
    }

    /// The whole request was received.
    pub(crate) fn note_request_done(&self) {
        self.request_done.store(true, Ordering::Release);
        self.note(|moments| &moments.request_end);
        self.touch();
    }

    /// Tells whether heads have to be kept for a log, a span or the response.
    pub(crate) fn noted(&self) -> bool {
        !self.http.access_log.is_empty()
            || self.trace.as_ref().is_some_and(|trace| trace.recording)
            || self.http.request_id_in_response
            || self.http.local_reply.is_some()
    }

    /// A header of the request as it stands now, if heads are kept.
    pub(crate) fn request_header(&self, name: &str) -> Option<HeaderValue> {
        self.state().head.as_ref()?.headers.get(name).cloned()
    }

    /// The request head as it stands now, if heads are kept.
    pub(crate) fn note_head(&self, head: &request::Parts) {
        if self.noted() {
            self.set_head(Head::of(head));
        }
    }

    /// The request head as it stands now, whether heads are kept or not.
    pub(crate) fn set_head(&self, head: Head) {
        self.state().head = Some(head);
    }

    /// The target that the request went on with.
    pub(crate) fn set_target(&self, target: &Uri) {
        if let Some(head) = &mut self.state().head
            && head.uri != *target
        {
            head.uri = target.clone();
        }
    }

    /// Notes a local reply for the log, for clients that leave while a filter has it.
    pub(crate) fn note_local<B>(&self, response: &Response<B>) {
        if self.noted() && Outcome::of(response).local.is_some() {
            self.set_reply(Reply::of(response));
        }
    }

    /// The response as it goes to the client.
    pub(crate) fn set_reply(&self, mut reply: Reply) {
        let mut state = self.state();
        if reply.upstream.is_none() {
            reply.upstream = state.reply.upstream.take();
        }
        // A response that takes the place of another one does not take back what happened.
        reply.flags |= state.reply.flags;
        state.reply = reply;
    }

    /// The endpoint that the request goes to.
    pub(crate) fn set_upstream(&self, upstream: &UpstreamInfo) {
        self.state().reply.upstream = Some(upstream.clone());
    }

    /// A limit of ours ends the response, which has begun.
    pub(crate) fn cut(&self, details: impl Into<Cow<'static, str>>, flags: ResponseFlags) {
        self.cut.store(true, Ordering::Relaxed);
        let mut state = self.state();
        state.reply.flags |= flags.0;
        state.reply.details = Some(details.into());
    }

    /// Tells whether the response was [`cut`](Self::cut).
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    /// The client reset its stream.
    pub(crate) fn note_reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// Tells whether the client broke its request off, or sent what is none.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// The request goes to no upstream: this field has no value that could be sent.
    pub(crate) fn cannot_send(&self, field: &HeaderName) {
        // The first one tells enough.
        let _ = self.unsendable.set(field.clone());
    }

    pub(crate) fn unsendable(&self) -> Option<&HeaderName> {
        self.unsendable.get()
    }

    /// Tells whether the client left before its request was complete.
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// The client did not wait for the end of the response.
    pub(crate) fn leave(&self) {
        let (details, flag) = match self.reset.load(Ordering::Relaxed) {
            true => ("http2.remote_reset", flag::DOWNSTREAM_REMOTE_RESET),
            false => ("downstream_remote_disconnect", flag::DOWNSTREAM_TERMINATION),
        };
        // What a broken request led to is no reason of its own.
        let consequence = self.is_broken();
        let reply = &mut self.state().reply;
        reply.flags = match consequence {
            true => flag,
            false => reply.flags | flag,
        };
        reply.details = Some(details.into());
    }

    /// Changes what is noted of a filter's processor.
    pub(crate) fn with_calls(&self, filter: &str, change: impl FnOnce(&mut Calls)) {
        let calls = &mut self.state().calls;
        let known = calls.iter().position(|(name, _)| name == filter);
        let at = known.unwrap_or_else(|| {
            calls.push((filter.to_owned(), Calls::default()));
            calls.len() - 1
        });
        if let Some((_, calls)) = calls.get_mut(at) {
            change(calls);
        }
    }

    /// A form of what is noted of a filter's processor: nothing yet for a filter that was not asked.
    pub(crate) fn show_calls(&self, filter: &str, form: &str) -> Option<serde_json::Value> {
        let state = self.state();
        match state.calls.iter().find(|(name, _)| name == filter) {
            Some((_, calls)) => calls.show(form),
            None => {
                let mut filters = self.http.filters.iter().filter(|f| f.name == filter);
                let asks = |kind: &FilterKind| matches!(kind, FilterKind::ExtProc(_));
                filters
                    .any(|filter| asks(&filter.kind))
                    .then(Calls::default)?
                    .show(form)
            }
        }
    }

    /// Offers a reply in place of the upstream's response, as if that had come, so that filters see it. Whoever has the request
    /// takes it the next time that it is polled: who waits for the upstream, or a filter whose processor has the headers.
    pub(crate) fn reply(&self, reply: Response<Body>) {
        self.state().given = Some(reply);
        self.replied.store(true, Ordering::Release);
        self.set_answered();
    }

    /// The [`reply`](Self::reply), for the end of the chain.
    pub(crate) fn take_reply(&self) -> Option<Response<Body>> {
        match self.replied.load(Ordering::Acquire) {
            true => self.state().given.take(),
            false => None,
        }
    }

    /// Outcome of a wait, or the [`reply`](Self::reply) to the request if a limit passes meanwhile. Pinned by the caller: an
    /// `async fn` would keep a future that it is given by value twice.
    pub(crate) async fn or_reply<T>(
        &self,
        mut waiting: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Response<Body>> {
        poll_fn(|cx| match self.take_reply() {
            Some(reply) => Poll::Ready(Err(reply)),
            None => waiting.as_mut().poll(cx).map(Ok),
        })
        .await
    }

    /// The trailers as they go to the client.
    pub(crate) fn set_trailers(&self, trailers: &HeaderMap) {
        if self.noted() {
            self.state().reply.trailers = Some(trailers.clone());
        }
    }

    /// The request head, if it is kept.
    pub(crate) fn head(&self) -> Option<Head> {
        self.state().head.clone()
    }

    /// Takes what the log shows, when the exchange is over.
    pub(crate) fn take_log(&self) -> (Option<Head>, Reply) {
        let mut state = self.state();
        (state.head.take(), std::mem::take(&mut state.reply))
    }
}

impl Holder for Exchange {
    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    fn wake(&self) {
        self.outgoing.wake();
    }
}

impl BufferAccount for Exchange {
    fn hold(&self, bytes: usize) {
        let me: Weak<dyn Holder> = self.me.clone();
        self.buffers.hold(bytes, &me);
    }

    fn release(&self, bytes: usize) {
        self.buffers.release(bytes);
    }
}

impl h2_guard::Account for Exchange {
    fn hold(&self, bytes: usize) {
        BufferAccount::hold(self, bytes);
    }

    fn release(&self, bytes: usize) {
        BufferAccount::release(self, bytes);
    }
}
