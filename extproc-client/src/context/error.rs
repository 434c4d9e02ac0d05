//! The one error of the library's bodies: a message that was cut short.

use std::{error::Error as StdError, fmt};

use crate::context::outcome::Answer;

/// Any error of a body.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Reason for which a body was cut short. A failed exchange otherwise shows as a response, never as an error.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// The exchange was aborted by the filter, which would have answered so.
    Aborted(Box<Answer>),
    /// The exchange ended before the body did.
    Cancelled,
    /// The body that was read failed.
    Body(BoxError),
}

impl Error {
    pub(crate) fn aborted(answer: Box<Answer>) -> Self {
        Self {
            kind: Kind::Aborted(answer),
        }
    }

    /// The answer of the filter that cut a message, whoever passed the error on.
    pub(crate) fn answer<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Answer> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(Self {
                kind: Kind::Aborted(answer),
            }) = error.downcast_ref()
            {
                return Some(answer);
            }
            next = error.source();
        }
        None
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
            Kind::Aborted(answer) => Some(answer.details()),
            Kind::Cancelled | Kind::Body(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Aborted(answer) => write!(f, "exchange aborted: {}", answer.details()),
            Kind::Cancelled => f.write_str("exchange ended before the message was complete"),
            Kind::Body(_) => f.write_str("error reading the message"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.kind {
            Kind::Body(error) => Some(&**error),
            Kind::Aborted(_) | Kind::Cancelled => None,
        }
    }
}
