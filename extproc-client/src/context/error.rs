//! The one error of the library's bodies: a message that was cut short.

use std::{error::Error as StdError, fmt};

use http::StatusCode;

use crate::context::outcome::{ResponseFlags, UpstreamFailure};

/// Any error of a body.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a body was cut short. A failed exchange otherwise shows as a response, never as an error.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The exchange was aborted by the filter, which would have answered so.
    Aborted(UpstreamFailure),
    /// The exchange ended before the body did.
    Cancelled,
    /// The body that was read failed.
    Body(BoxError),
}

impl Error {
    pub(crate) fn aborted(status: StatusCode, details: String) -> Self {
        Self {
            kind: Kind::Aborted(UpstreamFailure {
                status,
                details: details.into(),
                flags: ResponseFlags(0),
                source: None,
            }),
        }
    }

    pub(crate) fn cancelled() -> Self {
        Self {
            kind: Kind::Cancelled,
        }
    }

    pub(crate) fn body(error: BoxError) -> Self {
        Self {
            kind: Kind::Body(error),
        }
    }

    /// Tells whether the filter cut the message because of the processor.
    pub fn is_processor(&self) -> bool {
        matches!(self.kind, Kind::Aborted(_))
    }

    /// Tells whether the other side of the exchange went away.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.kind, Kind::Cancelled)
    }

    /// Response code details, if the filter cut the message.
    pub fn details(&self) -> Option<&str> {
        match &self.kind {
            Kind::Aborted(failure) => Some(&failure.details),
            Kind::Cancelled | Kind::Body(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Aborted(failure) => write!(f, "exchange aborted: {failure}"),
            Kind::Cancelled => f.write_str("exchange ended before the message was complete"),
            Kind::Body(_) => f.write_str("error reading the message"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.kind {
            Kind::Body(error) => Some(&**error),
            Kind::Aborted(failure) => Some(failure),
            Kind::Cancelled => None,
        }
    }
}
