//! Entries of a reply, counted before it is decoded.
//!
//! An entry of a list takes two bytes of a message and about a hundred of memory. Without a limit, a message that is accepted by its size
//! could take fifty times that, at once.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::reply::DecodeError;

/// Largest number of header changes and of values of metadata in a reply.
pub(super) const MOST: usize = 64 * 1024;

/// Nested messages up to which is counted; decoding refuses more of them.
const DEPTH: usize = 100;

/// A message in which entries are.
#[derive(Clone, Copy)]
enum Shape {
    Response,
    /// `HeadersResponse` and `BodyResponse`.
    Answer,
    Common,
    Mutation,
    Trailers,
    Immediate,
    /// `StreamedImmediateResponse`.
    Local,
    /// `HttpHeaders`.
    LocalHeaders,
    /// `HeaderMap`.
    Headers,
    Struct,
    /// A member of a `Struct`.
    Member,
    Value,
    List,
}

/// A field in which entries are, or that is one.
enum Field {
    Message(Shape),
    Entry(Option<Shape>),
}

impl Shape {
    /// The field of a number, if there are entries in it.
    fn field(self, number: u32) -> Option<Field> {
        Some(match (self, number) {
            (Self::Response, 1..=4) => Field::Message(Self::Answer),
            (Self::Response, 5 | 6) => Field::Message(Self::Trailers),
            (Self::Response, 7) => Field::Message(Self::Immediate),
            (Self::Response, 8) | (Self::Value, 5) => Field::Message(Self::Struct),
            (Self::Response, 11) => Field::Message(Self::Local),
            (Self::Response, 13) => Field::Entry(None),
            (Self::Answer, 1) => Field::Message(Self::Common),
            (Self::Common | Self::Immediate, 2) | (Self::Trailers, 1) => {
                Field::Message(Self::Mutation)
            }
            (Self::Mutation, 1 | 2) | (Self::Headers, 1) => Field::Entry(None),
            (Self::Local, 1) => Field::Message(Self::LocalHeaders),
            (Self::Local, 3) | (Self::LocalHeaders, 1) => Field::Message(Self::Headers),
            (Self::Struct, 1) => Field::Entry(Some(Self::Member)),
            (Self::Member, 2) => Field::Message(Self::Value),
            (Self::Value, 6) => Field::Message(Self::List),
            (Self::List, 1) => Field::Entry(Some(Self::Value)),
            _ => return None,
        })
    }
}

/// Refuses a reply that has more than [`MOST`] entries.
pub(super) fn check(reply: &[u8]) -> Result<(), DecodeError> {
    // Each takes at least a key and a length.
    if reply.len() <= 2 * MOST {
        return Ok(());
    }
    count(reply, Shape::Response, DEPTH, &mut 0)
}

fn count(
    mut rest: &[u8],
    shape: Shape,
    depth: usize,
    found: &mut usize,
) -> Result<(), DecodeError> {
    if depth == 0 {
        return Ok(());
    }
    while rest.has_remaining() {
        let (tag, wire) = decode_key(&mut rest)?;
        let field = shape.field(tag);
        let Some(field) = field.filter(|_| wire == WireType::LengthDelimited) else {
            skip_field(wire, tag, &mut rest, DecodeContext::default())?;
            continue;
        };
        let length = usize::try_from(decode_varint(&mut rest)?);
        let Some((inside, behind)) = length.ok().and_then(|it| rest.split_at_checked(it)) else {
            // Decoding says what is wrong.
            return Ok(());
        };
        let shape = match field {
            Field::Message(shape) => Some(shape),
            Field::Entry(shape) => {
                *found += 1;
                if *found > MOST {
                    return Err(DecodeError::TooManyEntries);
                }
                shape
            }
        };
        if let Some(shape) = shape {
            count(inside, shape, depth - 1, found)?;
        }
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use prost_types::{ListValue, Struct, Value, value::Kind};

    use super::{super::reply::*, *};

    fn list(values: usize) -> Struct {
        let list = ListValue {
            values: vec![Value { kind: None }; values],
        };
        let value = Value {
            kind: Some(Kind::ListValue(list)),
        };
        Struct {
            fields: BTreeMap::from([("a".to_owned(), value)]),
        }
    }

    fn mutation(set: usize, removed: usize) -> Option<HeaderMutation> {
        Some(HeaderMutation {
            set_headers: vec![HeaderOption::default(); set],
            remove_headers: vec![String::new(); removed],
        })
    }

    fn replies(entries: usize) -> Vec<Reply> {
        let common = |mutation| {
            Some(CommonReply {
                header_mutation: mutation,
                ..CommonReply::default()
            })
        };
        let headers = HeaderList {
            headers: vec![HeaderEntry::default(); entries],
        };
        let local = |part| Part::Local(LocalReply { part: Some(part) });
        let parts = [
            Part::RequestHeaders(HeadersReply {
                response: common(mutation(entries, 0)),
            }),
            Part::ResponseBody(BodyReply {
                response: common(mutation(0, entries)),
            }),
            Part::RequestTrailers(TrailersReply {
                header_mutation: mutation(entries / 2, entries - entries / 2),
            }),
            Part::Immediate(ImmediateReply {
                headers: mutation(entries, 0),
                ..ImmediateReply::default()
            }),
            local(LocalPart::Trailers(headers.clone())),
            local(LocalPart::Headers(LocalHeaders {
                headers: Some(headers),
                end_of_stream: true,
            })),
        ];
        let mut replies: Vec<Reply> = parts
            .into_iter()
            .map(|part| Reply {
                part: Some(part),
                ..Reply::default()
            })
            .collect();
        // The list is a member, which is an entry, too.
        replies.push(Reply {
            dynamic_metadata: Some(list(entries - 1)),
            ..Reply::default()
        });
        replies
    }

    #[test]
    fn as_many_entries_as_there_may_be_and_one_more() {
        for (entries, good) in [(MOST, true), (MOST + 1, false)] {
            for reply in replies(entries) {
                let decoded = Reply::decode(reply.to_bytes());
                assert_eq!(decoded.is_ok(), good, "{entries}");
            }
        }
    }

    #[test]
    fn a_large_body_is_no_entry() {
        let reply = Reply {
            part: Some(Part::Immediate(ImmediateReply {
                body: vec![b'\n'; 4 * MOST].into(),
                ..ImmediateReply::default()
            })),
            ..Reply::default()
        };
        assert_eq!(Reply::decode(reply.to_bytes()).unwrap(), reply);
    }

    #[test]
    fn what_is_no_message_is_left_to_decoding() {
        let mut message = replies(MOST + 1).remove(0).to_bytes().to_vec();
        message.truncate(MOST);
        message.resize(3 * MOST, 0xff);
        assert!(matches!(
            Reply::decode(message.into()),
            Err(DecodeError::Malformed(_))
        ));
    }
}
