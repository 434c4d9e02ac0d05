//! Moves values between the machine, the side stream and the bodies.
//!
//! A [`Core`] is one exchange with everything it touches. It has one owner at a time, so that there is
//! no lock around it: the response future while heads are exchanged, then the response body; or,
//! where a request body flows through the processor while the upstream already answers, a task of
//! its own.

mod core;
mod flow;
mod held;
mod link;
mod pace;
mod pipe;
mod task;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

pub(crate) use self::{
    core::{Core, Step},
    flow::Whole,
    held::Ready,
    link::SideStream,
    pipe::Receiver,
    task::{Handle, spawn},
};

/// A piece of a body on its way.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    /// The piece that a frame is, if it is one that is known.
    fn of(frame: Frame<Bytes>) -> Option<Self> {
        match frame.into_data() {
            Ok(data) => Some(Self::Data(data)),
            Err(frame) => frame.into_trailers().ok().map(Self::Trailers),
        }
    }

    /// Bytes of data.
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }
}
