//! One HTTP message as a raw peer saw it: exact headers, chunks, trailers, and its end.

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;

/// Header fields in the order in which they came, names as on the wire, values as bytes.
pub type Fields = Vec<(String, Vec<u8>)>;

/// End of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum End {
    /// Not yet.
    #[default]
    Open,
    /// As its framing says.
    Complete,
    /// HTTP/2 `RST_STREAM` (or a connection error) with this code.
    Reset(Reason),
    /// The connection went away before the message was complete.
    Cut,
    /// The peer gave up waiting.
    TimedOut,
    /// The peer itself cancelled, as its script says.
    Cancelled,
}

impl End {
    /// The name under which observations keep it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Open => "open".into(),
            Self::Complete => "complete".into(),
            Self::Reset(reason) => format!("reset {}", reason_name(*reason)),
            Self::Cut => "cut".into(),
            Self::TimedOut => "timed out".into(),
            Self::Cancelled => "cancelled".into(),
        }
    }
}

/// One message as a raw peer received it.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// 1xx heads that came before the final one.
    pub informational: Vec<Fields>,
    /// The head, pseudo headers first; for HTTP/1 they are made from the first line.
    pub head: Option<Fields>,
    /// The body, as it was cut into DATA frames or HTTP/1 chunks.
    pub chunks: Vec<Bytes>,
    /// The trailers, when there were any.
    pub trailers: Option<Fields>,
    /// Its end.
    pub end: End,
}

impl Received {
    /// The whole body.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        self.chunks.concat()
    }

    /// The first value of a head field, as text.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        let head = self.head.as_ref()?;
        head.iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| String::from_utf8_lossy(v).into_owned())
    }
}

/// Appends the entries of a header map.
pub fn extend(fields: &mut Fields, map: &HeaderMap) {
    for (name, value) in map {
        fields.push((name.as_str().to_owned(), value.as_bytes().to_vec()));
    }
}

/// The name of an HTTP/2 error code as RFC 9113 section 7 writes it.
#[must_use]
pub fn reason_name(reason: Reason) -> String {
    let name = match reason {
        Reason::NO_ERROR => "NO_ERROR",
        Reason::PROTOCOL_ERROR => "PROTOCOL_ERROR",
        Reason::INTERNAL_ERROR => "INTERNAL_ERROR",
        Reason::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
        Reason::STREAM_CLOSED => "STREAM_CLOSED",
        Reason::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
        Reason::REFUSED_STREAM => "REFUSED_STREAM",
        Reason::CANCEL => "CANCEL",
        Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
        Reason::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
        other => return u32::from(other).to_string(),
    };
    name.to_owned()
}

/// The end that an HTTP/2 error means for the message it hit.
#[must_use]
pub fn end_of(error: &h2::Error) -> End {
    if error.is_io() {
        End::Cut
    } else {
        error.reason().map_or(End::Cut, End::Reset)
    }
}
