//! Bounds of each look at an exchange: when bodies and replies are read, and what is looked for before something else is done.
//! Messages and replies have another one beside these, Tokio's for a task (see [`SideStream`](super::SideStream)).

/// Bytes kept of both bodies above which other tasks run after each look for frames. Exchanges that are ended for what they hold
/// let go of it there, before this one reads more.
pub(super) const KEPT: usize = 256 * 1024;

/// Pieces kept for a direction before no more replies are read. The machine asks for no more body
/// while there are any, so only a processor that sends more than it gets comes here.
pub(super) const PIECES: usize = 256;

/// The same in bytes.
pub(super) const BYTES: usize = 4 * 1024 * 1024;

/// Bytes of an HTTP/2 body that are read and kept while there is no room for more of it elsewhere. It is less than what Envoy's window
/// lets an upstream send meanwhile.
pub(super) const AHEAD: usize = 1024 * 1024;

/// Envoy takes what one read of a socket gave; here frames come one by one, and these numbers stand for that.
#[derive(Debug)]
pub(super) struct Pace {
    /// Frames of a body that are read before replies are looked at again: two pieces and the trailers. Envoy has all of one
    /// read. There has to be an end to it, since a side stream without a limit of its own would else be given a whole body
    /// before its first reply is heard.
    pub(super) frames_at_once: usize,
    /// Looks for the end of an HTTP/1 body behind a piece that was one too many: in Envoy both come out of one read. Who polls
    /// may do so twice before it gives others their turn.
    pub(super) end_looks: u8,
    /// Pieces of a request's body that may still go on before the request is cancelled, each in a turn of its own: Envoy has
    /// written what was released. Who takes nothing is not waited for.
    pub(super) last_pieces: u8,
}

/// As far as Envoy goes.
pub(super) const ENVOY: Pace = Pace {
    frames_at_once: 3,
    end_looks: 4,
    last_pieces: 8,
};
