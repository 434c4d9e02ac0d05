//! Needs of HTTP/1 beyond hyper: interim responses other than 100, trailers that were not
//! announced, checks of request heads that it leaves to others, and small chunks in one.

mod chunks;
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
    inbound::MOST_INTERIM,
    io::Http1Io,
    outgoing::{Behind, Outgoing, OutgoingQueue, WithTrailers},
};
