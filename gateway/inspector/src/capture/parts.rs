//! Parts of HTTP messages, as they came to a filter and went on from it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::{
    bytes::Bytes,
    http::{HeaderMap, response},
    observer::{HttpPart, Side},
};

use super::{scribe::Scribe, short};
use crate::{
    record::{ALLOCATION, Field, Kind, Message},
    redact::Redactor,
};

/// Pieces of a body whose sizes are kept.
pub(super) const PIECES: usize = 256;

impl Scribe<'_> {
    /// A part of the HTTP message.
    pub(super) fn part(&mut self, side: Side, part: HttpPart<'_>, end: bool, before: bool) {
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
                self.redactor.learn_headers(&head.headers);
                let path = self.redactor.url(&head.uri.to_string());
                let mut fields = vec![
                    Field::text(":method", self.redactor.words(head.method.as_str())),
                    Field::text(":uri", path.as_str()),
                ];
                fields.extend(self.redactor.headers(&head.headers));
                self.size += size(&fields);
                message.head = Some(fields);
                format!(
                    "{} {}",
                    self.redactor.words(head.method.as_str()),
                    short(&path)
                )
            }
            HttpPart::Response(head) => {
                let fields = response_fields(head, |headers| self.redactor.headers(headers));
                self.size += size(&fields);
                message.head = Some(fields);
                if !before {
                    self.status = Some(head.status.as_u16());
                    self.changed = true;
                }
                format!("{}", head.status.as_u16())
            }
            HttpPart::Data(data) => {
                let kept = keep(message, data, self.settings.bodies, &mut self.redactor);
                self.size += kept;
                if data.is_empty() {
                    return;
                }
                format!("{} bytes", data.len())
            }
            HttpPart::Trailers(trailers) => {
                let fields = self.redactor.headers(trailers);
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
    let mut fields = vec![Field::text(":status", head.status.as_str())];
    fields.extend(headers(&head.headers));
    fields
}

/// Bytes of a piece that are looked at beyond those that are kept, so that no half of a secret is.
const BEYOND: usize = 4096;

/// Base64 of a body's end that is looked at again with the next piece. A multiple of four.
const AGAIN: usize = 1024;

/// Keeps the beginning of a body and the sizes of its pieces; gives the bytes that takes.
fn keep(message: &mut Message, data: &Bytes, most: usize, redactor: &mut Redactor<'_>) -> usize {
    message.bytes += data.len() as u64;
    let mut size = 0;
    if !data.is_empty() && message.pieces.len() < PIECES {
        message.pieces.push(data.len() as u64);
        size += 16;
    }
    let before = message.body.len();
    // Three bytes are four characters, so that pieces can be joined, the last one aside.
    let kept = message.body.trim_end_matches('=').len() * 3 / 4;
    let room = most.saturating_sub(kept);
    if room > 0 && !data.is_empty() {
        // A secret may come in two pieces.
        let whole = before.saturating_sub(AGAIN) / 4 * 4;
        let mut tail = STANDARD
            .decode(message.body.split_off(whole))
            .unwrap_or_default();
        tail.extend_from_slice(data.get(..room + BEYOND).unwrap_or(data));
        let mut tail = redactor.body(&tail);
        tail.truncate(most.saturating_sub(whole / 4 * 3));
        STANDARD.encode_string(tail, &mut message.body);
        size += message.body.len().saturating_sub(before) * 2;
    }
    size
}

fn size(fields: &[Field]) -> usize {
    /// Two texts beside their bytes, and up to twice as much room in the list.
    const FIELD: usize = 2 * size_of::<Field>() + 2 * ALLOCATION;
    fields.iter().map(|field| field.len() + FIELD).sum()
}
