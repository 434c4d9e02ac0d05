//! The trait that a processor implements.

use std::future::ready;

use crate::{
    call::Call,
    reply::{BodyReply, HeadersReply, TrailersReply},
    types::{BoxError, Modes},
    view::{Body, Headers, Trailers},
};

/// A processor of HTTP exchanges: up to six messages of each, every one of them answered.
///
/// Each handler passes its message through unless it is written. Write them as `async fn`. Handlers of one exchange run
/// one after the other, in the order in which the proxy sends; those of different exchanges run at the same time.
///
/// ```
/// use extproc_sdk::{BoxError, Call, Headers, HeadersReply, Immediate, Processor};
/// use http::StatusCode;
///
/// struct RequireKey;
///
/// impl Processor for RequireKey {
///     type State = ();
///
///     async fn request_headers(
///         &self,
///         _call: &mut Call<()>,
///         headers: &Headers,
///     ) -> Result<HeadersReply, BoxError> {
///         if headers.get("x-api-key") != Some(b"secret") {
///             return Ok(Immediate::new(StatusCode::UNAUTHORIZED).body("no key").into());
///         }
///         Ok(HeadersReply::new().remove("x-api-key").set("x-user", "alice"))
///     }
/// }
/// ```
///
/// A handler that returns an error, panics, misses its deadline or builds an illegal reply has failed; what happens then
/// is the service's choice ([`OnFailure`](crate::OnFailure)).
pub trait Processor: Send + Sync + 'static {
    /// State kept from handler to handler within one exchange.
    type State: Default + Send + 'static;

    /// Checks that the processor can do its work with what the proxy sends; asked once, before the first handler, if the
    /// proxy says how it sends bodies (`protocol_config`).
    ///
    /// A processor that needs a body and silently sees none is a mistake in the proxy's configuration that nobody notices.
    /// Refused modes are a failure like that of a handler; the gRPC status is `FAILED_PRECONDITION` with the text of the
    /// error, unless the error is a [`tonic::Status`].
    ///
    /// ```
    /// # use extproc_sdk::{BodyMode, BoxError, Modes, Processor};
    /// # struct Redact;
    /// # impl Processor for Redact {
    /// # type State = ();
    /// fn check_modes(&self, modes: Modes) -> Result<(), BoxError> {
    ///     match modes.response_body {
    ///         BodyMode::Streamed | BodyMode::FullDuplexStreamed => Ok(()),
    ///         other => Err(format!("response_body_mode {other} shows too little").into()),
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// An error that says what is wrong with the modes.
    fn check_modes(&self, modes: Modes) -> Result<(), BoxError> {
        let _ = modes;
        Ok(())
    }

    /// The headers of a request.
    fn request_headers(
        &self,
        call: &mut Call<Self::State>,
        headers: &Headers,
    ) -> impl Future<Output = Result<HeadersReply, BoxError>> + Send {
        let _ = (call, headers);
        ready(Ok(HeadersReply::new()))
    }

    /// A piece of the body of a request, or all of it, depending on the [`Modes`] of the call.
    fn request_body(
        &self,
        call: &mut Call<Self::State>,
        body: &Body,
    ) -> impl Future<Output = Result<BodyReply, BoxError>> + Send {
        let _ = (call, body);
        ready(Ok(BodyReply::new()))
    }

    /// The trailers of a request.
    fn request_trailers(
        &self,
        call: &mut Call<Self::State>,
        trailers: &Trailers,
    ) -> impl Future<Output = Result<TrailersReply, BoxError>> + Send {
        let _ = (call, trailers);
        ready(Ok(TrailersReply::new()))
    }

    /// The headers of a response.
    fn response_headers(
        &self,
        call: &mut Call<Self::State>,
        headers: &Headers,
    ) -> impl Future<Output = Result<HeadersReply, BoxError>> + Send {
        let _ = (call, headers);
        ready(Ok(HeadersReply::new()))
    }

    /// A piece of the body of a response, or all of it.
    fn response_body(
        &self,
        call: &mut Call<Self::State>,
        body: &Body,
    ) -> impl Future<Output = Result<BodyReply, BoxError>> + Send {
        let _ = (call, body);
        ready(Ok(BodyReply::new()))
    }

    /// The trailers of a response.
    fn response_trailers(
        &self,
        call: &mut Call<Self::State>,
        trailers: &Trailers,
    ) -> impl Future<Output = Result<TrailersReply, BoxError>> + Send {
        let _ = (call, trailers);
        ready(Ok(TrailersReply::new()))
    }
}
