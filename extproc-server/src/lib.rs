//! The sample processor: does to a message what the message's `instructions` header says.
//!
//! ```text
//! curl http://localhost:8080/headers -H 'instructions: {"addHeaders":{"extproc":"true"}}'
//! ```
//!
//! It looks for the header on requests and, independently, on responses; [`Instruction`] says what it may contain. The
//! header itself stays on the message. Malformed instructions are answered with a 400 that says what is wrong.
//!
//! It works in every body mode. What no processor can do, it cannot do either: trailers can be changed only where the
//! message has trailers and the proxy is configured to send them; `setBody` beside `setTrailers` needs a message that has
//! a body; and in body mode `GRPC` there must be a gRPC message to replace. Where the proxy does not send the whole body
//! (none of it, or `BUFFERED_PARTIAL`), `setBody` takes the place of all that follows the headers, and `setTrailers` beside it
//! has no effect.

mod instructions;

use extproc_sdk::{
    Body, BodyMode, BodyReply, BoxError, Call, Headers, HeadersReply, Immediate, Processor,
    ServeError, Server, Trailers, TrailersReply, validate::Target,
};
use http::StatusCode;
use tokio::net::TcpListener;

pub use self::instructions::{EXAMPLE, Instruction, InvalidInstruction, Respond};

/// The name of the header.
pub const HEADER: &str = "instructions";

/// The sample processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Instructions;

/// Serves the sample processor until `shutdown` is done; see [`Server::serve`].
///
/// # Errors
/// The listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    Server::new(Instructions).serve(listener, shutdown).await
}

/// Work that is left in an exchange after its headers.
#[derive(Debug, Default)]
pub struct State {
    request: Rest,
    response: Rest,
}

/// Work that is left with one message after its headers.
#[derive(Debug, Default)]
struct Rest {
    body: NewBody,
    trailers: Vec<(String, String)>,
}

#[derive(Debug, Default)]
enum NewBody {
    /// The body stays as it is.
    #[default]
    Keep,
    /// This body goes in place of the first piece.
    Due(String),
    /// It has gone; the other pieces are dropped.
    Sent,
}

impl Processor for Instructions {
    type State = State;

    async fn request_headers(
        &self,
        call: &mut Call<State>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let mode = call.modes().request_body;
        Ok(obey(
            headers,
            Target::Request,
            mode,
            &mut call.state.request,
        ))
    }

    async fn request_body(&self, call: &mut Call<State>, _: &Body) -> Result<BodyReply, BoxError> {
        Ok(call.state.request.body.reply())
    }

    async fn request_trailers(
        &self,
        call: &mut Call<State>,
        _: &Trailers,
    ) -> Result<TrailersReply, BoxError> {
        Ok(call.state.request.trailers())
    }

    async fn response_headers(
        &self,
        call: &mut Call<State>,
        headers: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let mode = call.modes().response_body;
        Ok(obey(
            headers,
            Target::Response,
            mode,
            &mut call.state.response,
        ))
    }

    async fn response_body(&self, call: &mut Call<State>, _: &Body) -> Result<BodyReply, BoxError> {
        Ok(call.state.response.body.reply())
    }

    async fn response_trailers(
        &self,
        call: &mut Call<State>,
        _: &Trailers,
    ) -> Result<TrailersReply, BoxError> {
        Ok(call.state.response.trailers())
    }
}

fn obey(headers: &Headers, target: Target, mode: BodyMode, rest: &mut Rest) -> HeadersReply {
    let mut instruction = Instruction::default();
    for value in headers.get_all(HEADER) {
        match Instruction::parse(value, target) {
            Ok(parsed) => instruction.merge(parsed),
            Err(error) => return refuse(error.to_string()),
        }
    }
    let Instruction {
        add_headers,
        remove_headers,
        set_body,
        set_trailers,
        respond,
    } = instruction;
    if let Some(respond) = respond {
        return Immediate::from(respond).into();
    }
    let mut reply = HeadersReply::new();
    for name in &remove_headers {
        reply = reply.remove(name);
    }
    let typed = add_headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    if set_body.is_some() && !typed {
        reply = reply.set("content-type", "text/plain");
    }
    for (name, value) in &add_headers {
        reply = reply.set(name, value);
    }
    rest.trailers = set_trailers;
    let Some(body) = set_body else {
        return reply;
    };
    if headers.end_of_stream() && mode == BodyMode::Grpc {
        return refuse(
            "setBody: this message has no body, and none can be added in body mode GRPC\n"
                .to_owned(),
        );
    }
    // Replaced along with its headers, the message does not come by again with its trailers. But later it can be replaced
    // only if all of it is shown. No other way leads to a new body in gRPC mode.
    let later = match mode {
        BodyMode::None | BodyMode::BufferedPartial => false,
        BodyMode::Grpc => true,
        _ => !rest.trailers.is_empty() && !headers.end_of_stream(),
    };
    if !later {
        return reply.replace_body(body);
    }
    rest.body = NewBody::Due(body);
    // The length of the original would be wrong, and in the streamed modes it is too late to correct it.
    if mode == BodyMode::Buffered {
        reply
    } else {
        reply.remove("content-length")
    }
}

fn refuse(text: String) -> HeadersReply {
    Immediate::new(StatusCode::BAD_REQUEST)
        .set("content-type", "text/plain; charset=utf-8")
        .details("malformed_instructions")
        .body(text)
        .into()
}

impl NewBody {
    fn reply(&mut self) -> BodyReply {
        match std::mem::replace(self, Self::Sent) {
            Self::Keep => {
                *self = Self::Keep;
                BodyReply::new()
            }
            Self::Due(body) => BodyReply::replace(body),
            Self::Sent => BodyReply::clear(),
        }
    }
}

impl Rest {
    fn trailers(&self) -> TrailersReply {
        self.trailers
            .iter()
            .fold(TrailersReply::new(), |reply, (name, value)| {
                reply.set(name, value)
            })
    }
}
