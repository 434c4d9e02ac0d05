//! Side streams: facts of one, and how it ends.

use std::net::SocketAddr;

/// Facts of a side stream, as far as its transport knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamFacts {
    /// Address of the processor.
    pub endpoint: Option<SocketAddr>,
    /// The connection had carried another stream before.
    pub reused: Option<bool>,
    /// Times that the stream was opened, repetitions included; 0 if unknown.
    pub attempts: u32,
}

/// End of a side stream, or the reason for which there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("gRPC status {code}: {message}")]
pub struct Close {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) details: String,
    pub(crate) http: bool,
    pub(crate) cause: String,
}

impl Close {
    /// The stream ended with this gRPC status; 0 is a clean end.
    pub fn status(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
            http: false,
            cause: String::new(),
        }
    }

    /// Status 14: there is no connection to the processor.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::status(14, message)
    }

    /// The HTTP service gave no usable answer.
    pub fn http_error(message: impl Into<String>) -> Self {
        Self {
            http: true,
            ..Self::status(10, message)
        }
    }

    /// Adds what the transport knows beyond the status, such as `via_upstream`.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Adds the cause in words that name what has to be changed. For people: it is in no text of the protocol.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = cause.into();
        self
    }

    /// The cause in words, if the transport knows one; may be empty.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// The gRPC status code.
    pub fn code(&self) -> i32 {
        self.code
    }

    /// The message beside the status; may be empty.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Knowledge of the transport beyond the status; may be empty.
    pub fn details(&self) -> &str {
        &self.details
    }

    /// Tells whether the processor ended the stream without an error.
    pub fn is_ok(&self) -> bool {
        self.code == 0
    }
}
