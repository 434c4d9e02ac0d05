//! What HTTP/1 needs beyond hyper: interim responses other than 100, and trailers that were not
//! announced, and checks of request heads that it leaves to others.

mod framing;
#[cfg(test)]
mod fuzz;
mod head;
mod inbound;
mod io;
mod outgoing;
pub(crate) mod waiting;

pub(crate) use self::{
    framing::MessageFacts,
    io::Http1Io,
    outgoing::{Behind, Outgoing, OutgoingQueue, WithTrailers},
};
