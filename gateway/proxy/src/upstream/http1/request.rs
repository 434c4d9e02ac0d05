//! Form of a request on the wire.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use super::RequestBody;
use crate::{
    http::{
        body::{Body, Watched},
        h1::{MessageFacts, Outgoing, OutgoingQueue, WithTrailers},
        headers::tokens,
        length::{self, LastPiece},
    },
    upstream::{
        attempt::{Outbound, Sending},
        error::Failure,
        progress::{Progress, ProgressWatch},
        tunnel,
    },
};

pub(super) fn switched(sending: &Sending, status: StatusCode) -> bool {
    if sending.connect {
        status.is_success()
    } else {
        status == StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Turns a request into what goes on the wire; for a tunnel the body stays back. Fails if the target is too long for that.
pub(super) fn prepare(
    request: Outbound,
    sending: &Sending,
    trailers: bool,
    progress: &Arc<Progress>,
    queue: &OutgoingQueue,
) -> Result<(Request<RequestBody>, Option<Body>), Failure> {
    let Outbound { mut parts, body } = request;
    let host = parts
        .uri
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    parts.uri = if parts.method == Method::CONNECT {
        parts.uri
    } else {
        origin_form(parts.uri).ok_or(Failure::HeadTooLarge)?
    };
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    parts
        .headers
        .insert(header::HOST, host.unwrap_or(HeaderValue::from_static("")));
    // RFC 9110 §10.1.4: a TE field is of one hop and has to be named so.
    if !sending.tunnel && tokens(&parts.headers, &header::TE).next().is_some() {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    let announced = length::announced(&parts.headers).filter(|_| !sending.tunnel);
    if sending.tunnel {
        if sending.keyless {
            tunnel::complete_handshake(&mut parts.headers);
        }
    } else {
        if announced == Some(0) && !length::is_empty(&body) {
            // hyper would not look whether it is true.
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        frame_body(&mut parts, &body);
    }
    let outgoing = Arc::new(Outgoing::new(MessageFacts {
        bodyless: parts.method == Method::HEAD,
        tunnel: sending.tunnel,
        continued_by_upstream: false,
    }));
    queue.push(outgoing.clone());
    let (body, tunnel) = if sending.tunnel {
        (Body::empty(), Some(body))
    } else {
        (body, None)
    };
    let body = Watched::new(body, ProgressWatch(progress.clone()));
    let last = LastPiece::AwaitsKnowledge;
    let body = WithTrailers::new(body, trailers.then_some(outgoing), announced, last);
    let mut request = Request::from_parts(parts, Box::new(body));
    if let Some(interim) = sending.interim.clone() {
        hyper::ext::on_informational(&mut request, move |head| {
            interim.pass(head.status(), head.headers());
        });
    }
    Ok((request, tunnel))
}

/// Says how the body is framed where no `content-length` does. hyper would drop a body of unknown length
/// from methods that rarely have one, and would leave other requests without a body unframed
/// (RFC 9112 §6.3; RFC 9110 §8.6).
fn frame_body(parts: &mut http::request::Parts, body: &Body) {
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        return;
    }
    let rarely = matches!(
        parts.method,
        Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT
    );
    if !http_body::Body::is_end_stream(body) {
        let chunked = HeaderValue::from_static("chunked");
        parts.headers.insert(header::TRANSFER_ENCODING, chunked);
    } else if !rarely {
        parts.headers.insert(header::CONTENT_LENGTH, 0.into());
    }
}

/// The target without scheme and authority. Octets beyond ASCII, which HTTP/2 clients and rewrites may bring, have no place in a target
/// (RFC 9112 §3.2) and are escaped (RFC 3986 §2.5). `None` if it is too long then.
fn origin_form(uri: Uri) -> Option<Uri> {
    let Some(path) = uri.into_parts().path_and_query else {
        return Some(Uri::from_static("/"));
    };
    if path.as_str().is_ascii() {
        return Some(Uri::from(path));
    }
    let mut escaped = String::with_capacity(path.as_str().len() * 2);
    for octet in path.as_str().bytes() {
        match char::from(octet) {
            c if c.is_ascii() => escaped.push(c),
            _ => escaped.push_str(&format!("%{octet:02X}")),
        }
    }
    escaped.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_ascii() {
        for (uri, expected) in [
            ("http://a/b?c", Some("/b?c")),
            ("http://a", Some("/")),
            (
                "http://a/é%20\u{10d}\u{10a}?ü",
                Some("/%C3%A9%20%C4%8D%C4%8A?%C3%BC"),
            ),
        ] {
            let found = origin_form(uri.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), expected);
        }
        let long = format!("http://a/{}", "é".repeat(30_000));
        assert_eq!(origin_form(long.parse().unwrap()), None);
    }
}
