//! The notation that scripts of clients, upstreams and processors share: header fields, bodies, pauses.

use base64::Engine;
use bytes::Bytes;
use serde::Deserialize;

use super::exchange::Fields;
use super::http1::bytes_of;

/// Bytes. Text stands for itself, one byte a character up to U+00FF (so `"\xff"` is that byte).
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Payload {
    /// The characters as bytes.
    Text(String),
    /// That many bytes of filling.
    Size {
        /// Number of bytes.
        size: usize,
        /// Text to repeat.
        #[serde(default)]
        fill: Option<String>,
    },
    /// Base64.
    Base64 {
        /// The encoded bytes.
        base64: String,
    },
    /// A gRPC message: flag and length in front.
    Grpc {
        /// The message.
        grpc: Box<Self>,
        /// The flag.
        #[serde(default)]
        compressed: bool,
    },
    /// One after the other.
    Many(Vec<Self>),
}

impl Payload {
    /// The bytes themselves.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => bytes_of(text),
            Self::Size { size, fill } => {
                let fill = fill.as_deref().unwrap_or("0123456789abcdef");
                bytes_of(fill).into_iter().cycle().take(*size).collect()
            }
            Self::Base64 { base64 } => base64::engine::general_purpose::STANDARD
                .decode(base64)
                .unwrap_or_default(),
            Self::Grpc { grpc, compressed } => {
                let message = grpc.bytes();
                let mut out = vec![u8::from(*compressed)];
                out.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
                out.extend(message);
                out
            }
            Self::Many(parts) => parts.iter().flat_map(Self::bytes).collect(),
        }
    }
}

/// A step in sending a body.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Part {
    /// Wait, in milliseconds.
    Pause {
        /// Milliseconds.
        pause: u64,
    },
    /// One DATA frame or chunk.
    Data(Payload),
}

/// A body: its parts in order.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
pub enum Body {
    /// No body at all.
    #[default]
    None,
    /// Several parts.
    Parts(Vec<Part>),
    /// One.
    One(Payload),
}

impl Body {
    /// The parts.
    #[must_use]
    pub fn parts(&self) -> Vec<Part> {
        match self {
            Self::None => Vec::new(),
            Self::Parts(parts) => parts.clone(),
            Self::One(payload) => vec![Part::Data(payload.clone())],
        }
    }

    /// Number of its bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.parts()
            .iter()
            .map(|part| match part {
                Part::Pause { .. } => 0,
                Part::Data(data) => data.bytes().len(),
            })
            .sum()
    }
}

impl Part {
    /// The data of a part that is some.
    #[must_use]
    pub fn data(&self) -> Option<Bytes> {
        match self {
            Self::Pause { .. } => None,
            Self::Data(payload) => Some(payload.bytes().into()),
        }
    }
}

/// A header field: `"name: value"`, or in full where the value is not text.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Field {
    /// `name: value`; one space after the colon belongs to the notation.
    Line(String),
    /// In full.
    Full {
        /// The name.
        name: String,
        /// The value.
        value: Payload,
    },
}

impl Field {
    /// Name and value.
    #[must_use]
    pub fn pair(&self) -> (String, Vec<u8>) {
        match self {
            Self::Line(line) => {
                let (name, value) = split_line(line);
                (name.to_owned(), bytes_of(value))
            }
            Self::Full { name, value } => (name.clone(), value.bytes()),
        }
    }
}

/// Splits `name: value`; the name may begin with a colon.
#[must_use]
pub fn split_line(line: &str) -> (&str, &str) {
    let from = usize::from(line.starts_with(':'));
    match line[from..].find(':') {
        Some(colon) => {
            let value = &line[from + colon + 1..];
            (
                &line[..from + colon],
                value.strip_prefix(' ').unwrap_or(value),
            )
        }
        None => (line, ""),
    }
}

/// The fields of a list.
#[must_use]
pub fn fields(list: &[Field]) -> Fields {
    list.iter().map(Field::pair).collect()
}

/// The protocol that a peer speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    #[serde(rename = "h1")]
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    #[serde(rename = "h2")]
    Http2,
}
