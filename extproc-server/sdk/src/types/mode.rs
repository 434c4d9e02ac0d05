//! Parts of a message that a proxy sends, and their form.

use std::fmt;

use envoy_types::pb::envoy::{
    extensions::filters::http::ext_proc::v3::{
        ProcessingMode,
        processing_mode::{BodySendMode, HeaderSendMode},
    },
    service::ext_proc::v3::ProtocolConfiguration,
};

use crate::types::Side;

/// Form in which a proxy sends the body of a message (`ProcessingMode.BodySendMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyMode {
    /// No body is sent.
    #[default]
    None,
    /// Piece by piece; each piece is answered by one reply, in order.
    Streamed,
    /// The whole body in one message, while the proxy holds the headers back.
    Buffered,
    /// As [`Buffered`](Self::Buffered) up to the proxy's buffer limit; what is beyond passes without being shown.
    BufferedPartial,
    /// Piece by piece without keeping a copy; replies come when and in as many pieces as the processor likes.
    FullDuplexStreamed,
    /// As [`FullDuplexStreamed`](Self::FullDuplexStreamed), one piece per gRPC message.
    Grpc,
}

impl BodyMode {
    /// True for the modes in which body replies are `streamed_response`s, N for M.
    pub fn is_duplex(self) -> bool {
        matches!(self, Self::FullDuplexStreamed | Self::Grpc)
    }

    /// Its name in a proxy's configuration, such as `FULL_DUPLEX_STREAMED`.
    pub fn name(self) -> &'static str {
        self.to_wire().as_str_name()
    }

    /// The number of a `BodySendMode`, if this SDK knows it.
    pub(crate) fn from_wire(number: i32) -> Option<Self> {
        Some(match BodySendMode::try_from(number).ok()? {
            BodySendMode::None => Self::None,
            BodySendMode::Streamed => Self::Streamed,
            BodySendMode::Buffered => Self::Buffered,
            BodySendMode::BufferedPartial => Self::BufferedPartial,
            BodySendMode::FullDuplexStreamed => Self::FullDuplexStreamed,
            BodySendMode::Grpc => Self::Grpc,
        })
    }

    pub(crate) fn to_wire(self) -> BodySendMode {
        match self {
            Self::None => BodySendMode::None,
            Self::Streamed => BodySendMode::Streamed,
            Self::Buffered => BodySendMode::Buffered,
            Self::BufferedPartial => BodySendMode::BufferedPartial,
            Self::FullDuplexStreamed => BodySendMode::FullDuplexStreamed,
            Self::Grpc => BodySendMode::Grpc,
        }
    }
}

impl fmt::Display for BodyMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Settings that the proxy announced in the first message (`protocol_config`), with mode overrides applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Modes {
    /// Mode of request bodies. [`BodyMode::None`] also where the proxy did not say.
    pub request_body: BodyMode,
    /// Mode of response bodies. [`BodyMode::None`] also where the proxy did not say.
    pub response_body: BodyMode,
    /// Body pieces may arrive before the headers were answered
    /// (`ProtocolConfiguration.send_body_without_waiting_for_header_response`).
    pub body_without_waiting: bool,
}

impl Modes {
    /// Returns the mode of one side's bodies.
    pub fn of(self, side: Side) -> BodyMode {
        match side {
            Side::Request => self.request_body,
            Side::Response => self.response_body,
        }
    }

    /// # Errors
    /// The number of a body mode that this SDK does not know.
    pub(crate) fn from_wire(config: &ProtocolConfiguration) -> Result<Self, i32> {
        let mode = |number| BodyMode::from_wire(number).ok_or(number);
        Ok(Self {
            request_body: mode(config.request_body_mode)?,
            response_body: mode(config.response_body_mode)?,
            body_without_waiting: config.send_body_without_waiting_for_header_response,
        })
    }

    /// Returns whether a proxy can honour a mode override: Envoy ignores it if a body is sent in full duplex, or
    /// without waiting for the header reply.
    pub(crate) fn can_override(self) -> bool {
        !self.body_without_waiting
            && !self.request_body.is_duplex()
            && !self.response_body.is_duplex()
    }
}

/// A different processing mode for the rest of one exchange (`ProcessingResponse.mode_override`).
///
/// The proxy honours it in a reply to headers, and only where its configuration allows it (`allow_mode_override`,
/// `allowed_override_modes`). Body modes that are not named here stay as they are: on the wire an absent body mode
/// would turn the body off, so the SDK fills in the mode it knows.
///
/// Nobody tells a processor whether its override was accepted. The SDK assumes that it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeOverride {
    request_body: Option<BodyMode>,
    response_body: Option<BodyMode>,
    request_trailers: Option<bool>,
    response_headers: Option<bool>,
    response_trailers: Option<bool>,
}

impl ModeOverride {
    /// An override that changes nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the mode of the request body.
    #[must_use]
    pub fn request_body(mut self, mode: BodyMode) -> Self {
        self.request_body = Some(mode);
        self
    }

    /// Sets the mode of the response body.
    #[must_use]
    pub fn response_body(mut self, mode: BodyMode) -> Self {
        self.response_body = Some(mode);
        self
    }

    /// Sets whether request trailers are to be sent.
    #[must_use]
    pub fn request_trailers(mut self, send: bool) -> Self {
        self.request_trailers = Some(send);
        self
    }

    /// Sets whether response headers are to be sent.
    #[must_use]
    pub fn response_headers(mut self, send: bool) -> Self {
        self.response_headers = Some(send);
        self
    }

    /// Sets whether response trailers are to be sent.
    #[must_use]
    pub fn response_trailers(mut self, send: bool) -> Self {
        self.response_trailers = Some(send);
        self
    }

    /// The modes that hold once the proxy accepted this override.
    pub(crate) fn apply(self, modes: Modes) -> Modes {
        Modes {
            request_body: self.request_body.unwrap_or(modes.request_body),
            response_body: self.response_body.unwrap_or(modes.response_body),
            ..modes
        }
    }

    pub(crate) fn to_wire(self, modes: Modes) -> ProcessingMode {
        let applied = self.apply(modes);
        let send = |send: Option<bool>| match send {
            None => HeaderSendMode::Default,
            Some(true) => HeaderSendMode::Send,
            Some(false) => HeaderSendMode::Skip,
        };
        ProcessingMode {
            request_header_mode: HeaderSendMode::Default.into(),
            response_header_mode: send(self.response_headers).into(),
            request_body_mode: applied.request_body.to_wire().into(),
            response_body_mode: applied.response_body.to_wire().into(),
            request_trailer_mode: send(self.request_trailers).into(),
            response_trailer_mode: send(self.response_trailers).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_override_keeps_the_body_modes_it_does_not_name() {
        let modes = Modes {
            request_body: BodyMode::Streamed,
            response_body: BodyMode::Buffered,
            body_without_waiting: false,
        };
        let wire = ModeOverride::new()
            .request_body(BodyMode::Buffered)
            .response_headers(false)
            .to_wire(modes);
        assert_eq!(wire.request_body_mode(), BodySendMode::Buffered);
        assert_eq!(wire.response_body_mode(), BodySendMode::Buffered);
        assert_eq!(wire.response_header_mode(), HeaderSendMode::Skip);
        assert_eq!(wire.response_trailer_mode(), HeaderSendMode::Default);
    }

    #[test]
    fn an_unknown_body_mode_is_named() {
        let config = ProtocolConfiguration {
            response_body_mode: 9,
            ..ProtocolConfiguration::default()
        };
        assert_eq!(Modes::from_wire(&config), Err(9));
    }
}
