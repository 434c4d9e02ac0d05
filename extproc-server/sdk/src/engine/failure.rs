//! Failures of a handler, and the guard that notices them.

use std::{
    any::Any,
    error::Error,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::{Sleep, sleep};
use tonic::{Code, Status};

use crate::{reply::validate::InvalidReply, stats::Stats, types::BoxError};

/// Text in a status travels in a header; longer ones are cut.
const MESSAGE_LIMIT: usize = 512;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("handler failed: {}", chain(.0.as_ref()))]
    Handler(BoxError),
    #[error("handler panicked: {0}")]
    Panic(String),
    #[error("handler did not return within {0:?}")]
    Deadline(Duration),
    #[error("reply refused: {0}")]
    Invalid(#[from] InvalidReply),
    #[error("the processor cannot work with the proxy's configuration: {}", chain(.0.as_ref()))]
    Modes(BoxError),
    #[error("the proxy uses body mode {0}, which this processor does not know")]
    UnknownMode(i32),
    #[error("the proxy sent a message of a kind that this processor does not know")]
    UnknownMessage,
}

impl Failure {
    pub(crate) fn count(&self, stats: &Stats) {
        match self {
            Self::Handler(_) => stats.errors.add(),
            Self::Panic(_) => stats.panics.add(),
            Self::Deadline(_) => stats.deadlines.add(),
            Self::Invalid(_) => stats.invalid.add(),
            Self::Modes(_) => stats.refused.add(),
            Self::UnknownMode(_) | Self::UnknownMessage => stats.unknown.add(),
        }
    }

    /// The end of the gRPC stream.
    pub(crate) fn status(&self) -> Status {
        let code = match self {
            Self::Handler(error) | Self::Modes(error) => match error.downcast_ref::<Status>() {
                Some(status) => return Status::new(status.code(), cut(status.message())),
                None if matches!(self, Self::Modes(_)) => Code::FailedPrecondition,
                None => Code::Internal,
            },
            // What a panic says may be anything; it stays in the log.
            Self::Panic(_) => return Status::internal("handler panicked"),
            Self::Deadline(_) => Code::DeadlineExceeded,
            Self::Invalid(_) => Code::Internal,
            Self::UnknownMode(_) | Self::UnknownMessage => Code::Unimplemented,
        };
        Status::new(code, cut(&self.to_string()))
    }
}

/// Runs a handler; a panic, an error and a missed deadline come back as a [`Failure`].
///
/// The timer is made only when the handler waits for something.
pub(crate) async fn guard<T>(
    deadline: Option<Duration>,
    handler: impl Future<Output = Result<T, BoxError>>,
) -> Result<T, Failure> {
    let mut handler = pin!(handler);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    poll_fn(|cx| {
        // After a panic neither the handler nor the state of its exchange is used again.
        match catch_unwind(AssertUnwindSafe(|| handler.as_mut().poll(cx))) {
            Err(payload) => return Poll::Ready(Err(Failure::Panic(panic_text(payload.as_ref())))),
            Ok(Poll::Ready(result)) => return Poll::Ready(result.map_err(Failure::Handler)),
            Ok(Poll::Pending) => {}
        }
        let Some(deadline) = deadline else {
            return Poll::Pending;
        };
        timer
            .get_or_insert_with(|| Box::pin(sleep(deadline)))
            .as_mut()
            .poll(cx)
            .map(|()| Err(Failure::Deadline(deadline)))
    })
    .await
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_LIMIT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
