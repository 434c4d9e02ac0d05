//! Reports of failures of connections and streams, in Envoy's words, so that response code
//! details read the same.

use std::{error::Error as _, io};

use h2::Reason;

use crate::{text::failures, types::stream::Close};

/// No stream was opened.
#[derive(Debug)]
pub(super) struct NotOpened {
    pub(super) close: Close,
    /// The connection is what failed, not the call: another attempt may fare better.
    pub(super) retriable: bool,
}

impl NotOpened {
    /// There is no connection, or none with room.
    pub(super) fn retriable(close: Close) -> Self {
        Self {
            close,
            retriable: true,
        }
    }

    /// The call itself is not to be made.
    pub(super) fn for_good(close: Close) -> Self {
        Self {
            close,
            retriable: false,
        }
    }
}

/// The call failed before the response began, for this reason.
pub(super) fn before_response(reason: &str, cause: Option<&str>) -> Close {
    Close::unavailable(failures::no_response(reason, false))
        .with_details(failures::details_before_response(reason, cause))
}

/// The metadata of the call is larger than the peer takes.
pub(super) fn metadata_too_large() -> Close {
    before_response("initial metadata too large", None)
}

/// A limit of the pool or of its budget is reached.
pub(super) fn overflow() -> Close {
    before_response("overflow", None)
}

/// No connection could be made.
pub(super) fn of_connect(error: &io::Error) -> Close {
    if let Some(close) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Close>())
    {
        return close.clone();
    }
    if error.kind() == io::ErrorKind::TimedOut {
        return before_response("connection timeout", None);
    }
    let text = error.to_string();
    // `Connection refused (os error 111)` is `Connection refused` there.
    let text = text.split(" (os error").next().unwrap_or_default();
    before_response(
        "remote connection failure",
        Some(&format!("delayed connect error: {text}")),
    )
    .because(error.to_string())
}

/// The response headers did not come in time.
pub(super) fn no_head() -> Close {
    Close::status(4, "upstream request timeout").with_details("upstream_response_timeout")
}

/// A stream failed; `started` tells whether its response headers had come.
pub(super) fn of_stream(error: &h2::Error, started: bool) -> Close {
    let reason = if error.is_reset() && error.is_remote() {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => "remote refused stream reset",
            _ => "remote reset",
        }
    } else if error.is_io() || (error.is_go_away() && error.is_remote()) {
        "connection termination"
    } else {
        "protocol error"
    };
    if started {
        return Close::status(13, "").with_details(failures::details_after_response(reason));
    }
    let io = error.get_io();
    let cause = io.and_then(|io| io.source()).map(ToString::to_string);
    let close = before_response(reason, cause.as_deref());
    match io.map(ToString::to_string) {
        Some(text) if text == h2_guard::SPEAKS_TLS => close.because(text),
        _ => close,
    }
}

/// Returns whether the peer says that it never processed the stream, so that it may be sent again
/// (RFC 9113, sections 6.8 and 8.7).
pub(super) fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || is_refused(error))
}

/// Returns whether this one stream was refused.
pub(super) fn is_refused(error: &h2::Error) -> bool {
    error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)
}
