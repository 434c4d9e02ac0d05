//! What HTTP/1 needs beyond hyper: interim responses other than 100, and trailers that were not
//! announced.

mod framing;
mod io;
mod outgoing;

pub(crate) use self::{
    framing::{MessageFacts, Role},
    io::Http1Io,
    outgoing::{Outgoing, OutgoingQueue, WithTrailers},
};
