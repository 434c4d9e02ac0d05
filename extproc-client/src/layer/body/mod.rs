//! The bodies that upstream and client poll.

mod request;
mod response;

pub(crate) use self::response::Drive;
pub use self::{request::RequestBody, response::ResponseBody};

use http_body::Frame;

use crate::driver::Piece;

fn frame(piece: Piece) -> Frame<bytes::Bytes> {
    match piece {
        Piece::Data(data) => Frame::data(data),
        Piece::Trailers(trailers) => Frame::trailers(trailers),
    }
}
