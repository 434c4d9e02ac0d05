//! Guards for `h2` connections whose streams belong to different parties.
//!
//! A proxy carries the exchanges of many clients on one connection. `h2` has limits that belong to a connection and can be used up
//! by one stream: frames for streams that were reset, small and empty DATA frames, streams that are reset before they are
//! accepted. It ends the connection then, with everything on it. This crate lifts those limits and bounds the same memory
//! elsewhere:
//!
//! - [`client`] and [`server`] make builders without the limits.
//! - [`Frames`] stands between `h2` and the socket. It follows the boundaries of the frames that are read, hides empty DATA frames from
//!   `h2`, and interrupts reading after a number of frames, so that memory is accounted for in between. A header block with a field that
//!   `h2` would end the connection for is replaced by one for which it resets the stream. This follows the dynamic table of the default
//!   size: the builders' `header_table_size` has to stay as it is.
//!   Of a client, it ends the connection for more PRIORITY and WINDOW_UPDATE frames than [`FloodLimits`] allow.
//! - [`Receiver`] is a stream's receiving half. When a connection has received many small frames, [`Traffic::turn`] joins what each
//!   of its receivers has not handed out yet, so that a stream takes memory for its window and not for its frames.
//! - [`Keepalive`] finds out that the peer is gone, with pings.
//! - [`Traffic::takes`] tells whether a request's head is larger than the peer says it takes, for which many end the connection.
//!
//! Whoever polls the connection calls [`Traffic::turn`] each time that the poll is pending.

mod frames;
mod keepalive;
mod list;
mod receiver;
mod resets;
mod traffic;

use std::time::Duration;

pub use self::{
    frames::{FloodLimits, Frames, SPEAKS_TLS},
    keepalive::{Interval, Keepalive},
    list::{fields_size, request_size, response_size},
    receiver::{Account, Receiver},
    resets::Resets,
    traffic::Traffic,
};

/// Streams that were reset here and are remembered: frames that were on their way are ignored. A frame for a stream that
/// is forgotten is answered with another RST_STREAM, which peers may count. About 2 MiB for a connection.
const REMEMBERED: usize = 4096;

/// Longest memory of such a stream; the rest of its frames arrives within a round trip.
const REMEMBERED_FOR: Duration = Duration::from_secs(10);

/// Streams that may be reset by the client before they are accepted: about as many as fit between two [`Traffic::turn`]s.
const PENDING_RESETS: usize = 16 * 1024;

/// A builder for connections to a server.
pub fn client() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .max_concurrent_reset_streams(REMEMBERED)
        .reset_stream_duration(REMEMBERED_FOR)
        .max_local_error_reset_streams(None)
        .data_frame_budget(usize::MAX);
    builder
}

/// A builder for connections of a client. It is for the caller to close a connection that resets its streams without end.
pub fn server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_reset_streams(REMEMBERED)
        .reset_stream_duration(REMEMBERED_FOR)
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .data_frame_budget(usize::MAX);
    builder
}
