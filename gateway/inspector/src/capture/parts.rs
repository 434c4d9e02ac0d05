//! Parts of HTTP messages, as they came to a filter and went on from it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::{
    bytes::Bytes,
    http::{HeaderMap, response},
    observer::{HttpPart, Side},
};

use super::{scribe::Scribe, short};
use crate::record::{Field, Kind, Message};

/// Pieces of a body whose sizes are kept.
pub(super) const PIECES: usize = 256;

impl Scribe<'_> {
    /// A part of the HTTP message.
    pub(super) fn part(&mut self, side: Side, part: HttpPart<'_>, end: bool, before: bool) {
        let redaction = &self.settings.redaction;
        let passage = match side {
            Side::Request => &mut self.processor.request,
            Side::Response => &mut self.processor.response,
        };
        let message = match before {
            true => &mut passage.before,
            false => &mut passage.after,
        };
        message.end |= end;
        let kind = match (side, before) {
            (Side::Request, true) => Kind::RequestIn,
            (Side::Request, false) => Kind::RequestOut,
            (Side::Response, true) => Kind::ResponseIn,
            (Side::Response, false) => Kind::ResponseOut,
        };
        let text = match part {
            HttpPart::Request(head) => {
                let path = redaction.url(&head.uri.to_string());
                let mut fields = vec![
                    (":method".to_owned(), head.method.to_string()),
                    (":uri".to_owned(), path.clone()),
                ];
                fields.extend(redaction.headers(&head.headers));
                self.size += size(&fields);
                message.head = Some(fields);
                format!("{} {}", head.method, short(&path))
            }
            HttpPart::Response(head) => {
                let fields = response_fields(head, |headers| redaction.headers(headers));
                self.size += size(&fields);
                message.head = Some(fields);
                if !before {
                    self.status = Some(head.status.as_u16());
                    self.changed = true;
                }
                format!("{}", head.status.as_u16())
            }
            HttpPart::Data(data) => {
                let kept = keep(message, data, self.settings.bodies);
                self.size += kept;
                if data.is_empty() {
                    return;
                }
                format!("{} bytes", data.len())
            }
            HttpPart::Trailers(trailers) => {
                let fields = redaction.headers(trailers);
                self.size += size(&fields);
                message.trailers = Some(fields);
                "trailers".to_owned()
            }
            _ => return,
        };
        let end = if end { ", the end" } else { "" };
        self.entry(kind, None, format!("{text}{end}"));
    }
}

fn response_fields(
    head: &response::Parts,
    headers: impl FnOnce(&HeaderMap) -> Vec<Field>,
) -> Vec<Field> {
    let mut fields = vec![(":status".to_owned(), head.status.as_str().to_owned())];
    fields.extend(headers(&head.headers));
    fields
}

/// Keeps the beginning of a body and the sizes of its pieces; gives the bytes that takes.
fn keep(message: &mut Message, data: &Bytes, most: usize) -> usize {
    message.bytes += data.len() as u64;
    let mut size = 0;
    if !data.is_empty() && message.pieces.len() < PIECES {
        message.pieces.push(data.len() as u64);
        size += 8;
    }
    // Three bytes are four characters, so that pieces can be joined, the last one aside.
    let kept = message.body.trim_end_matches('=').len() * 3 / 4;
    let room = most.saturating_sub(kept);
    if room > 0 && !data.is_empty() {
        // The last group is begun anew if it is not full.
        let whole = match message.body.ends_with('=') {
            true => message.body.len().saturating_sub(4),
            false => message.body.len(),
        };
        let mut tail = STANDARD
            .decode(message.body.split_off(whole))
            .unwrap_or_default();
        tail.extend_from_slice(&data[..data.len().min(room)]);
        STANDARD.encode_string(tail, &mut message.body);
        size += data.len().min(room) * 4 / 3;
    }
    size
}

fn size(fields: &[Field]) -> usize {
    /// Two strings beside their text.
    const FIELD: usize = 48;
    let lengths = fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + FIELD);
    lengths.sum()
}
