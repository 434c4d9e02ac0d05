//! A body, gathered from its pieces.

use bytes::{Bytes, BytesMut};

use super::TooLarge;
use crate::{types::BodyMode, view::Body};

/// Gathers a body up to a limit.
///
/// A handler that clears every piece until the body is whole, and then replaces the last piece, changes whole bodies in
/// the streamed and duplex modes just as in the buffered ones:
///
/// ```
/// # use extproc_sdk::{Body, BodyMode, BodyReply, bodies::{Collect, TooLarge}};
/// fn piece(mode: BodyMode, body: &Body, collect: &mut Collect) -> Result<BodyReply, TooLarge> {
///     Ok(match collect.push(mode, body)? {
///         None => BodyReply::clear(),
///         Some(whole) => BodyReply::replace(whole.to_ascii_uppercase()),
///     })
/// }
/// ```
///
/// A body with trailers has no last piece, except in [`BodyMode::Buffered`]: take the rest with [`take`](Self::take) when
/// the trailers come. In the duplex modes there is a place for it then
/// ([`TrailersReply::body`](crate::TrailersReply::body)); in [`BodyMode::Streamed`] there is none.
#[derive(Clone, Debug)]
pub struct Collect {
    bytes: BytesMut,
    limit: usize,
}

impl Collect {
    /// Gathers up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            limit,
        }
    }

    /// Adds a piece. Returns the body once it is whole.
    ///
    /// # Errors
    /// The body has more bytes than the limit. What was gathered so far is kept, the piece is not.
    pub fn push(&mut self, mode: BodyMode, piece: &Body) -> Result<Option<Bytes>, TooLarge> {
        if piece.data.len() > self.limit - self.bytes.len() {
            return Err(TooLarge { limit: self.limit });
        }
        self.bytes.extend_from_slice(&piece.data);
        let whole = piece.end_of_stream || mode == BodyMode::Buffered;
        Ok(whole.then(|| self.take()))
    }

    /// Takes what was gathered so far.
    pub fn take(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(data: &'static str, end_of_stream: bool) -> Body {
        Body {
            data: data.into(),
            end_of_stream,
            ..Body::default()
        }
    }

    #[test]
    fn a_body_is_whole_at_its_end_or_when_buffered() {
        let mut collect = Collect::new(4);
        assert_eq!(
            collect.push(BodyMode::Streamed, &piece("ab", false)),
            Ok(None)
        );
        let whole = collect.push(BodyMode::Streamed, &piece("cd", true));
        assert_eq!(whole, Ok(Some("abcd".into())));
        let whole = collect.push(BodyMode::Buffered, &piece("abcd", false));
        assert_eq!(whole, Ok(Some("abcd".into())));
    }

    #[test]
    fn the_limit_holds_over_all_pieces() {
        let mut collect = Collect::new(4);
        collect
            .push(BodyMode::Streamed, &piece("abc", false))
            .unwrap();
        let refused = collect.push(BodyMode::Streamed, &piece("de", false));
        assert_eq!(refused, Err(TooLarge { limit: 4 }));
        assert_eq!(collect.take(), "abc");
    }
}
