//! Processing modes: which parts of a message the processor sees, and how.
//!
//! `envoy.extensions.filters.http.ext_proc.v3.ProcessingMode`. The values a user wrote are kept as
//! written (`Default` included), since the allow-list of `mode_override` compares them literally.

use serde::{Deserialize, Deserializer, Serialize, de};

/// `HeaderSendMode`: whether a header or trailer block is sent to the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SendMode {
    /// Headers are sent, trailers are not.
    #[default]
    Default,
    /// Sent.
    Send,
    /// Not sent.
    Skip,
}

/// `BodySendMode`: how a body is sent to the processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum BodyMode {
    /// The body is not sent.
    #[default]
    None,
    /// Chunk by chunk, one reply a chunk.
    Streamed,
    /// As a whole, up to the buffer limit.
    Buffered,
    /// As much as fits the buffer limit, the rest passes by.
    BufferedPartial,
    /// Chunk by chunk, replies independent in number and size.
    FullDuplexStreamed,
    /// As `FullDuplexStreamed`, one gRPC message at a time. Trailers are sent to the processor as well, whatever the
    /// trailer mode says.
    Grpc,
}

/// The processing mode of one filter: three sub-modes a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessingMode {
    /// Request headers.
    #[serde(alias = "requestHeaderMode")]
    pub request_header_mode: SendMode,
    /// Response headers.
    #[serde(alias = "responseHeaderMode")]
    pub response_header_mode: SendMode,
    /// Request body.
    #[serde(alias = "requestBodyMode")]
    pub request_body_mode: BodyMode,
    /// Response body.
    #[serde(alias = "responseBodyMode")]
    pub response_body_mode: BodyMode,
    /// Request trailers.
    #[serde(alias = "requestTrailerMode")]
    pub request_trailer_mode: SendMode,
    /// Response trailers.
    #[serde(alias = "responseTrailerMode")]
    pub response_trailer_mode: SendMode,
}

/// The three sub-modes of one direction, with defaults resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DirectionMode {
    pub(crate) headers: bool,
    pub(crate) body: BodyMode,
    pub(crate) trailers: bool,
}

impl DirectionMode {
    pub(crate) const OFF: Self = Self {
        headers: false,
        body: BodyMode::None,
        trailers: false,
    };

    /// Tells whether nothing of this direction is sent.
    pub(crate) fn is_off(self) -> bool {
        self == Self::OFF
    }

    /// Tells whether nothing behind the headers is sent.
    pub(crate) fn shows_headers_alone(self) -> bool {
        !self.shows_body() && !self.trailers
    }

    /// Tells whether the body is sent.
    pub(crate) fn shows_body(self) -> bool {
        self.body != BodyMode::None
    }

    /// Sends nothing behind the headers from now on.
    pub(crate) fn show_no_more(&mut self) {
        self.body = BodyMode::None;
        self.trailers = false;
    }
}

impl ProcessingMode {
    /// The request direction, defaults resolved.
    pub(crate) fn request(&self) -> DirectionMode {
        DirectionMode {
            headers: self.request_header_mode != SendMode::Skip,
            body: self.request_body_mode,
            trailers: self.request_trailer_mode == SendMode::Send
                || self.request_body_mode.includes_trailers(),
        }
    }

    /// The response direction, defaults resolved.
    pub(crate) fn response(&self) -> DirectionMode {
        DirectionMode {
            headers: self.response_header_mode != SendMode::Skip,
            body: self.response_body_mode,
            trailers: self.response_trailer_mode == SendMode::Send
                || self.response_body_mode.includes_trailers(),
        }
    }

    /// Tells whether any body is sent or any trailers are.
    pub(crate) fn has_body_or_trailers(&self) -> bool {
        let (request, response) = (self.request(), self.response());
        request.body != BodyMode::None
            || response.body != BodyMode::None
            || request.trailers
            || response.trailers
    }
}

impl BodyMode {
    /// The number of this mode on the wire.
    pub(crate) fn number(self) -> i32 {
        match self {
            Self::None => 0,
            Self::Streamed => 1,
            Self::Buffered => 2,
            Self::BufferedPartial => 3,
            Self::FullDuplexStreamed => 4,
            Self::Grpc => 5,
        }
    }

    /// The mode with this number; unknown numbers are `None`.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::Streamed,
            2 => Self::Buffered,
            3 => Self::BufferedPartial,
            4 => Self::FullDuplexStreamed,
            5 => Self::Grpc,
            _ => return None,
        })
    }

    /// Tells whether trailers are sent in any case, as the proto says of `GRPC` ("the client will send body and trailers to the
    /// server as they arrive"): nearly every gRPC response has some, and they may not overtake its messages.
    fn includes_trailers(self) -> bool {
        self == Self::Grpc
    }

    /// Tells whether replies are independent of requests in number and size.
    pub(crate) fn is_duplex(self) -> bool {
        matches!(self, Self::FullDuplexStreamed | Self::Grpc)
    }
}

impl SendMode {
    /// The mode with this number.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Default,
            1 => Self::Send,
            2 => Self::Skip,
            _ => return None,
        })
    }
}

// Enum names are matched without regard to case, as Envoy's YAML loader does; numbers work too.
impl<'de> Deserialize<'de> for SendMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const NAMES: &[&str] = &["DEFAULT", "SEND", "SKIP"];
        let number = crate::text::protojson::enum_number(deserializer, NAMES)?;
        Self::from_number(number)
            .ok_or_else(|| de::Error::unknown_variant(&number.to_string(), NAMES))
    }
}

impl<'de> Deserialize<'de> for BodyMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const NAMES: &[&str] = &[
            "NONE",
            "STREAMED",
            "BUFFERED",
            "BUFFERED_PARTIAL",
            "FULL_DUPLEX_STREAMED",
            "GRPC",
        ];
        let number = crate::text::protojson::enum_number(deserializer, NAMES)?;
        Self::from_number(number)
            .ok_or_else(|| de::Error::unknown_variant(&number.to_string(), NAMES))
    }
}
