//! One exchange of the fake proxy.

use std::{collections::HashMap, fmt, pin::Pin, time::Duration};

use bytes::Bytes;
use envoy_types::pb::envoy::{
    config::core::v3::Metadata,
    extensions::filters::http::ext_proc::v3::{ProcessingMode, processing_mode::HeaderSendMode},
    service::ext_proc::v3::{
        CommonResponse, HttpBody, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
        StreamedImmediateResponse, common_response::ResponseStatus, processing_request::Request,
        processing_response::Response, streamed_immediate_response::Response as Part,
    },
};
use futures_core::Stream;
use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

use super::{
    Message, Outcome, ProxyError, Settings,
    convert::{
        body, body_reply, body_request, duration, entries, headers, headers_reply,
        immediate_response, response_head, spurious, streamed_piece, to_struct, trailers,
        trailers_reply, whole,
    },
    mutate::{self, Rules},
};
use crate::{
    engine::Run,
    service::ProcessorService,
    types::{BodyMode, Phase, Side},
    view::attributes,
};

/// One exchange: a request and its response, one after the other.
pub struct FakeExchange {
    settings: Settings,
    to_processor: Option<mpsc::UnboundedSender<Result<ProcessingRequest, Status>>>,
    replies: Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>,
    begun: bool,
    attributes_due: [bool; 2],
    metadata: Map<String, Value>,
    timeouts: Vec<Duration>,
    route_cleared: bool,
}

/// Replies of the processor.
enum Event {
    Reply(Response, Option<ProcessingMode>),
    Responded(Message),
    Closed,
}

impl FakeExchange {
    pub(super) fn new<P: Run>(service: &ProcessorService<P>, settings: Settings) -> Self {
        let (to_processor, inbound) = mpsc::unbounded_channel();
        let inbound = UnboundedReceiverStream::new(inbound);
        let replies = P::run(service.engine(), settings.initial_metadata.clone(), inbound);
        Self {
            settings,
            to_processor: Some(to_processor),
            replies: Box::pin(replies),
            begun: false,
            attributes_due: [true; 2],
            metadata: Map::new(),
            timeouts: Vec::new(),
            route_cleared: false,
        }
    }

    /// Sends a request through the processor.
    ///
    /// # Errors
    /// The processor did something for which a proxy fails the request.
    pub async fn request(&mut self, request: Message) -> Result<Outcome, ProxyError> {
        self.pass(Side::Request, request).await
    }

    /// Sends a response through the processor.
    ///
    /// # Errors
    /// The processor did something for which a proxy fails the response.
    pub async fn response(&mut self, response: Message) -> Result<Outcome, ProxyError> {
        self.pass(Side::Response, response).await
    }

    /// Ends the exchange.
    ///
    /// # Errors
    /// The processor had more to say than was asked, or ends with an error.
    pub async fn finish(mut self) -> Result<(), ProxyError> {
        self.to_processor = None;
        match self.replies.next().await {
            None => Ok(()),
            Some(Ok(reply)) => Err(spurious("surplus reply", &reply)),
            Some(Err(status)) => Err(ProxyError::Stream(status)),
        }
    }

    /// The dynamic metadata that the processor has written, by namespace.
    pub fn written_metadata(&self) -> &Map<String, Value> {
        &self.metadata
    }

    /// The timeouts that the processor has asked for.
    pub fn timeouts(&self) -> &[Duration] {
        &self.timeouts
    }

    /// True once the processor has had the route chosen again (`clear_route_cache`), in a way that a proxy honours: in
    /// reply to a request whose headers are still held, along with a header mutation.
    pub fn route_cleared(&self) -> bool {
        self.route_cleared
    }

    /// True once the processor has ended the stream, or the proxy needs it no more.
    pub fn is_closed(&self) -> bool {
        self.to_processor.is_none()
    }

    async fn pass(&mut self, side: Side, mut message: Message) -> Result<Outcome, ProxyError> {
        let settings = self.settings.side(side);
        if self.is_closed() {
            return Ok(Outcome::Forwarded(message));
        }
        if self.settings.observe_only {
            return self.observe(side, message);
        }
        let end = message.ends_with_headers();
        let mut mode = settings.body;
        let mut rules = self.rules();
        let lengthless = match mode {
            BodyMode::None | BodyMode::Grpc => false,
            BodyMode::Buffered => !settings.headers,
            BodyMode::Streamed | BodyMode::BufferedPartial | BodyMode::FullDuplexStreamed => true,
        };
        let original = message.clone();
        if lengthless && !self.settings.keep_length {
            message.remove("content-length");
            rules.without_length = true;
        }
        let mut sent = None;
        if settings.headers {
            self.send(side, side.headers(), headers(side, &original, end));
            if !end && self.sends_at_once(mode) {
                sent = Some(self.send_pieces(side, mode, &message));
            }
            let (common, mode_override) = match self.next(side.headers()).await? {
                Event::Reply(reply, mode_override) => (headers_reply(side, reply)?, mode_override),
                Event::Responded(response) => return Ok(Outcome::Responded(response)),
                Event::Closed => return Ok(Outcome::Forwarded(message)),
            };
            self.clear_route(side, &common);
            let replace = common.status() == ResponseStatus::ContinueAndReplace;
            rules.with_method = replace;
            mutate::apply(&mut message.headers, common.header_mutation, rules)?;
            if let Some(mode_override) = mode_override
                && sent.is_none()
            {
                self.override_mode(mode_override);
                mode = self.settings.side(side).body;
            }
            match (replace, common.body_mutation) {
                (true, Some(mutation)) => {
                    message.remove("content-length");
                    message.body = Some(vec![whole(mutation)?]);
                    return Ok(Outcome::Forwarded(message));
                }
                (true, None) => return Ok(Outcome::Forwarded(message)),
                (false, Some(_)) => {
                    let reason = "a body without CONTINUE_AND_REPLACE, which proxies ignore";
                    return Err(ProxyError::Spurious(reason.to_owned()));
                }
                (false, None) => {}
            }
        }
        if end {
            return Ok(Outcome::Forwarded(message));
        }
        if mode.is_duplex() {
            let sent = match sent {
                Some(sent) => sent,
                None => self.send_pieces(side, mode, &message),
            };
            return self.duplex(side, message, sent).await;
        }
        let held = settings.headers;
        let ended = match mode {
            _ if message.body.is_none() => None,
            BodyMode::None => None,
            BodyMode::Buffered => self.whole_body(side, &mut message, held, rules).await?,
            _ if self.settings.early && held && sent.is_none() => {
                self.whole_body(side, &mut message, held, rules).await?
            }
            BodyMode::BufferedPartial => self.partial_body(side, &mut message, held, rules).await?,
            BodyMode::Streamed | BodyMode::FullDuplexStreamed | BodyMode::Grpc => {
                let sent = match sent {
                    Some(sent) => sent,
                    None => self.send_pieces(side, mode, &message),
                };
                self.streamed(side, &mut message, sent).await?
            }
        };
        if let Some(ended) = ended {
            return Ok(ended);
        }
        self.trailers(side, message).await
    }

    /// Copies of everything; nothing is awaited.
    fn observe(&mut self, side: Side, message: Message) -> Result<Outcome, ProxyError> {
        let settings = self.settings.side(side);
        let end = message.ends_with_headers();
        if settings.headers {
            self.send(side, side.headers(), headers(side, &message, end));
        }
        if !end && settings.body == BodyMode::Streamed {
            self.send_pieces(side, BodyMode::Streamed, &message);
        }
        if settings.trailers && !message.trailers.is_empty() {
            self.send(side, side.trailers(), trailers(side, &message));
        }
        Ok(Outcome::Forwarded(message))
    }

    fn sends_at_once(&self, mode: BodyMode) -> bool {
        mode.is_duplex() || (mode == BodyMode::Streamed && self.settings.body_without_waiting)
    }

    /// Sends the body piece by piece, and in a duplex mode the trailers. Returns how many messages carried the body.
    fn send_pieces(&mut self, side: Side, mode: BodyMode, message: &Message) -> usize {
        let mut count = 0;
        for piece in message.body.iter().flatten() {
            self.send(side, side.body(), body(side, piece, false));
            count += 1;
        }
        if message.trailers.is_empty() {
            let end = HttpBody {
                end_of_stream: true,
                end_of_stream_without_message: mode == BodyMode::Grpc,
                ..HttpBody::default()
            };
            self.send(side, side.body(), body_request(side, end));
            count += 1;
        } else if mode.is_duplex() {
            self.send(side, side.trailers(), trailers(side, message));
        }
        count
    }

    /// One reply for each piece. `Some` is an outcome that comes before the end of the message.
    async fn streamed(
        &mut self,
        side: Side,
        message: &mut Message,
        sent: usize,
    ) -> Result<Option<Outcome>, ProxyError> {
        let mut pieces = message.body.take().unwrap_or_default().into_iter();
        let mut passed = Vec::new();
        for _ in 0..sent {
            let common = match self.next(side.body()).await? {
                Event::Reply(reply, _) => body_reply(side, reply)?,
                Event::Responded(response) => return Ok(Some(Outcome::Responded(response))),
                Event::Closed => {
                    passed.extend(pieces);
                    message.body = Some(passed);
                    return Ok(None);
                }
            };
            let piece = pieces.next().unwrap_or_default();
            passed.push(match common.body_mutation {
                None => piece,
                Some(mutation) => whole(mutation)?,
            });
        }
        passed.retain(|piece| !piece.is_empty());
        message.body = Some(passed);
        Ok(None)
    }

    async fn whole_body(
        &mut self,
        side: Side,
        message: &mut Message,
        held: bool,
        rules: Rules,
    ) -> Result<Option<Outcome>, ProxyError> {
        let data = message.bytes();
        self.one_body(side, message, data, Bytes::new(), held, rules)
            .await
    }

    async fn partial_body(
        &mut self,
        side: Side,
        message: &mut Message,
        held: bool,
        rules: Rules,
    ) -> Result<Option<Outcome>, ProxyError> {
        let mut data = message.bytes();
        // More than the limit must have come before anything is sent.
        let shown = data.len().min(self.settings.buffer_limit + 1);
        let rest = data.split_off(shown);
        self.one_body(side, message, data, rest, held, rules).await
    }

    async fn one_body(
        &mut self,
        side: Side,
        message: &mut Message,
        data: Bytes,
        rest: Bytes,
        held: bool,
        rules: Rules,
    ) -> Result<Option<Outcome>, ProxyError> {
        let end = rest.is_empty() && message.trailers.is_empty();
        if data.is_empty() && !end {
            return Ok(None);
        }
        self.send(side, side.body(), body(side, &data, end));
        let common = match self.next(side.body()).await? {
            Event::Reply(reply, _) => body_reply(side, reply)?,
            Event::Responded(response) => return Ok(Some(Outcome::Responded(response))),
            Event::Closed => return Ok(None),
        };
        if held {
            self.clear_route(side, &common);
            mutate::apply(&mut message.headers, common.header_mutation, rules)?;
        }
        if let Some(mutation) = common.body_mutation {
            let new = whole(mutation)?;
            let declared = message
                .get("content-length")
                .and_then(|length| length.parse().ok());
            let actual = u64::try_from(new.len()).unwrap_or(u64::MAX);
            if let Some(declared) = declared
                && held
                && declared != actual
            {
                return Err(ProxyError::ContentLength { declared, actual });
            }
            message.body = Some(vec![new, rest]);
        }
        Ok(None)
    }

    async fn duplex(
        &mut self,
        side: Side,
        mut message: Message,
        sent: usize,
    ) -> Result<Outcome, ProxyError> {
        let mut passed = Vec::new();
        loop {
            let reply = match self.next(side.body()).await? {
                Event::Reply(reply, _) => reply,
                Event::Responded(response) => return Ok(Outcome::Responded(response)),
                // What was sent to the processor is lost.
                Event::Closed => break,
            };
            if let Some(reply) = trailers_reply(side, &reply) {
                if message.trailers.is_empty() {
                    return Err(spurious("reply to trailers", &reply));
                }
                mutate::apply(
                    &mut message.trailers,
                    reply.header_mutation,
                    Rules::default(),
                )?;
                break;
            }
            let common = body_reply(side, reply)?;
            if sent == 0 {
                return Err(spurious("reply to a body that there is not", &common));
            }
            let piece = streamed_piece(common)?;
            passed.push(Bytes::from(piece.body));
            if piece.end_of_stream {
                // With the end of the body the trailers are lost.
                message.trailers.clear();
                break;
            }
        }
        if message.body.is_some() || !passed.is_empty() {
            passed.retain(|piece| !piece.is_empty());
            message.body = Some(passed);
        }
        Ok(Outcome::Forwarded(message))
    }

    async fn trailers(&mut self, side: Side, mut message: Message) -> Result<Outcome, ProxyError> {
        let wanted = self.settings.side(side).trailers && !self.is_closed();
        if !wanted || message.trailers.is_empty() {
            return Ok(Outcome::Forwarded(message));
        }
        self.send(side, side.trailers(), trailers(side, &message));
        match self.next(side.trailers()).await? {
            Event::Reply(reply, _) => match trailers_reply(side, &reply) {
                Some(reply) => {
                    let rules = self.rules();
                    mutate::apply(&mut message.trailers, reply.header_mutation, rules)?;
                    Ok(Outcome::Forwarded(message))
                }
                None => Err(spurious("no reply to trailers", &reply)),
            },
            Event::Responded(response) => Ok(Outcome::Responded(response)),
            Event::Closed => Ok(Outcome::Forwarded(message)),
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            may_change: self.settings.may_change,
            ..Rules::default()
        }
    }

    fn clear_route(&mut self, side: Side, common: &CommonResponse) {
        let honoured = side == Side::Request && common.header_mutation.is_some();
        self.route_cleared |= honoured && common.clear_route_cache;
    }

    fn override_mode(&mut self, mode: ProcessingMode) {
        if !self.settings.allow_mode_override || !self.settings.modes().can_override() {
            return;
        }
        let send = |mode, configured| match mode {
            HeaderSendMode::Default => configured,
            HeaderSendMode::Send => true,
            HeaderSendMode::Skip => false,
        };
        let Settings {
            request, response, ..
        } = &mut self.settings;
        request.body = BodyMode::from_wire(mode.request_body_mode).unwrap_or_default();
        request.trailers = send(mode.request_trailer_mode(), request.trailers);
        response.headers = send(mode.response_header_mode(), response.headers);
        response.body = BodyMode::from_wire(mode.response_body_mode).unwrap_or_default();
        response.trailers = send(mode.response_trailer_mode(), response.trailers);
    }

    fn send(&mut self, side: Side, phase: Phase, request: Request) {
        let first = !self.begun;
        self.begun = true;
        let protocol_config = (first && !self.settings.observe_only).then(|| {
            let modes = self.settings.modes();
            ProtocolConfiguration {
                request_body_mode: modes.request_body.to_wire().into(),
                response_body_mode: modes.response_body.to_wire().into(),
                send_body_without_waiting_for_header_response: modes.body_without_waiting,
            }
        });
        let due = match side {
            Side::Request => &mut self.attributes_due[0],
            Side::Response => &mut self.attributes_due[1],
        };
        let mut attributes = HashMap::new();
        if std::mem::take(due) && !self.settings.attributes.is_empty() {
            let group = to_struct(&self.settings.attributes);
            attributes.insert("envoy.filters.http.ext_proc".to_owned(), group);
        }
        let filter_metadata = self
            .settings
            .metadata
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), to_struct(value.as_object()?))))
            .collect();
        let message = ProcessingRequest {
            request: Some(request),
            observability_mode: self.settings.observe_only,
            protocol_config,
            attributes,
            metadata_context: Some(Metadata {
                filter_metadata,
                ..Metadata::default()
            }),
            ..ProcessingRequest::default()
        };
        tracing::trace!(%phase, "sent");
        // A processor that has ended the stream shows in its replies.
        if let Some(to_processor) = &self.to_processor {
            let _ = to_processor.send(Ok(message));
        }
    }

    /// A response that the processor streams, from its head to its end.
    async fn streamed_response(
        &mut self,
        phase: Phase,
        head: StreamedImmediateResponse,
    ) -> Result<Message, ProxyError> {
        if phase != Phase::RequestHeaders {
            return Err(spurious("no reply to request headers", &head));
        }
        let mut message = match head.response {
            Some(Part::HeadersResponse(head)) => response_head(head)?,
            other => return Err(spurious("no head of a response", &other)),
        };
        let mut body = Vec::new();
        loop {
            let next = timeout(self.settings.timeout, self.replies.next()).await;
            let reply = match next.map_err(|_| ProxyError::Timeout(phase))? {
                // No proxy ends the response then.
                None => return Err(ProxyError::Timeout(phase)),
                Some(reply) => reply.map_err(ProxyError::Stream)?,
            };
            let part = match reply.response {
                Some(Response::StreamedImmediateResponse(part)) => part.response,
                other => return Err(spurious("no part of a response", &other)),
            };
            match part {
                Some(Part::BodyResponse(piece)) => {
                    body.push(Bytes::from(piece.body));
                    if piece.end_of_stream {
                        return Ok(message.pieces(body));
                    }
                }
                Some(Part::TrailersResponse(trailers)) => {
                    message.trailers = entries(trailers);
                    return Ok(message.pieces(body));
                }
                other => return Err(spurious("no part of a response", &other)),
            }
        }
    }

    async fn next(&mut self, phase: Phase) -> Result<Event, ProxyError> {
        loop {
            let next = timeout(self.settings.timeout, self.replies.next()).await;
            let reply = match next.map_err(|_| ProxyError::Timeout(phase))? {
                None => {
                    self.to_processor = None;
                    return Ok(Event::Closed);
                }
                Some(reply) => reply.map_err(ProxyError::Stream)?,
            };
            if let Some(time) = reply.override_message_timeout {
                self.timeouts.push(duration(time));
                continue;
            }
            if let Some(metadata) = reply.dynamic_metadata
                && let Value::Object(namespaces) = attributes::object_to_json(&metadata)
            {
                self.metadata.extend(namespaces);
            }
            return match reply.response {
                None => Err(ProxyError::Spurious("empty reply".to_owned())),
                Some(Response::ImmediateResponse(immediate)) => {
                    self.to_processor = None;
                    Ok(Event::Responded(immediate_response(immediate)?))
                }
                Some(Response::StreamedImmediateResponse(part)) => {
                    let response = self.streamed_response(phase, part).await?;
                    self.to_processor = None;
                    Ok(Event::Responded(response))
                }
                Some(response) => Ok(Event::Reply(response, reply.mode_override)),
            };
        }
    }
}

impl fmt::Debug for FakeExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeExchange")
            .field("settings", &self.settings)
            .field("closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
