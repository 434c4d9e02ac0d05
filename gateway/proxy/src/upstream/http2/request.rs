//! Requests on streams, until their responses begin.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
};

use h2::{Reason, RecvStream, client, ext::Protocol};
use h2_guard::{Resets, request_size};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header, request::Parts};
use http_body::Body as _;

use super::{Connection, Lease, Shared, Slot, failure};
use crate::{
    http::{
        body::{self, Body, BoxError, Watched, is_behind},
        h1::MOST_INTERIM,
        h2::{
            backlog::{Backlog, Queued},
            body::{Http2Body, SEND_BUFFER, SendError, TrailersTooLarge, send_body},
        },
        headers::{trim_values, values_are_trimmed},
        length::{self, Exact, LastPiece, Mismatch},
    },
    upstream::{
        attempt::{Keep, Outbound, Sending, Sent, Unsent},
        error::Failure,
        progress::{Progress, ProgressWatch},
    },
};

/// Counts a stream that ends before its response has begun.
struct Unanswered<'a>(Option<&'a Resets>);

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(resets) = self.0 {
            resets.note();
        }
    }
}

impl Lease {
    /// Sends a request whose target is absolute.
    pub(in crate::upstream) async fn send(
        self,
        request: Box<Outbound>,
        sending: &Sending,
        progress: &Arc<Progress>,
    ) -> Result<Sent, Unsent> {
        let Self {
            connection: Connection {
                mut sender, shared, ..
            },
            counted,
            wakes,
            ..
        } = self;
        let slot = Slot { counted, wakes };
        let Outbound { mut parts, body } = *request;
        parts.version = Version::HTTP_2;
        parts.extensions.clear();
        trim_values(&mut parts.headers);
        let announced = length::settle(&mut parts.headers);
        let switched = match sending.tunnel && !sending.connect {
            true => Some(extend(&mut parts, &sender)?),
            false => None,
        };
        let head = Request::from_parts(parts, ());
        if !shared.traffic.will_take(|| request_size(&head)).await {
            return Err(Failure::HeadTooLarge.into());
        }
        let announced = announced.filter(|_| !sending.tunnel);
        if !length::fits(announced, &body) {
            return Err(Failure::Length.into());
        }
        let body = Watched::new(body, ProgressWatch(progress.clone()));
        let end = body.is_end_stream();
        let sent = sender.send_request(head, end);
        let (mut response, stream) = match sent {
            Ok(sent) => sent,
            Err(error) => {
                return Err(Unsent {
                    failure: failure(&error),
                    returned: body.into_inner().map(Box::new),
                });
            }
        };
        let mut unanswered = Unanswered(Some(&shared.resets));
        let mut pipe = (!end).then(|| {
            let mut body = Body::new(Exact::new(body, announced, LastPiece::Passes));
            // For this stream alone: what it has waiting is no matter of others.
            let backlog = Backlog::new(SEND_BUFFER);
            let traffic = shared.traffic.clone();
            Box::pin(async move {
                send_body(
                    stream,
                    &mut body,
                    &backlog,
                    &traffic,
                    Reason::INTERNAL_ERROR,
                )
                .await
            })
        });
        let mut interim = 0;
        let response = poll_fn(|cx| {
            if let Some(sending) = &mut pipe
                && let Poll::Ready(result) = sending.as_mut().poll(cx)
            {
                pipe = None;
                if let Err(SendError::Body(error)) = result {
                    return Poll::Ready(Err(unsent(&error)));
                }
            }
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                interim += 1;
                // RFC 9113 §8.6: HTTP/2 has no 101.
                if head.status() == StatusCode::SWITCHING_PROTOCOLS || interim > MOST_INTERIM {
                    return Poll::Ready(Err(Failure::Protocol));
                }
                if let Some(interim) = &sending.interim {
                    interim.pass(head.status(), head.headers());
                }
            }
            Pin::new(&mut response)
                .poll(cx)
                .map_err(|error| failure(&error))
        })
        .await;
        // Otherwise the stream is over, unless it is reset for want of its request.
        if !matches!(
            response,
            Err(Failure::Request | Failure::Trailers | Failure::HeadTooLarge)
        ) {
            unanswered.0 = None;
        }
        drop(unanswered);
        let response = response?;
        shared.answered.store(true, Ordering::Relaxed);
        let keep = Keep::Http2 {
            slot,
            pipe: pipe.map(|pipe| tokio::spawn(pipe).abort_handle()),
        };
        let (response, tunnel) = received(response, sending.tunnel, switched, &shared)?;
        Ok(Sent {
            response,
            keep,
            tunnel,
        })
    }
}

/// The failure of a request whose body could not be sent.
fn unsent(error: &BoxError) -> Failure {
    if is_behind::<Mismatch>(&**error) {
        Failure::Length
    } else if error.is::<TrailersTooLarge>() {
        Failure::HeadTooLarge
    } else if is_behind::<body::TrailersTooLarge>(&**error) {
        Failure::Trailers
    } else {
        Failure::Request
    }
}

/// The response as others see it, and whether it opens the tunnel that was asked for: to the protocol `switched`, if that was by
/// an upgrade.
fn received(
    response: Response<RecvStream>,
    tunnel: bool,
    switched: Option<HeaderValue>,
    shared: &Shared,
) -> Result<(Response<Body>, bool), Failure> {
    let (mut parts, stream) = response.into_parts();
    // RFC 9113 §8.2.1, RFC 9110 §8.6: malformed.
    let lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter().count();
    if !values_are_trimmed(&parts.headers) || lengths > 1 {
        return Err(Failure::Protocol);
    }
    let tunnel = tunnel && parts.status.is_success();
    if tunnel {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(protocol) = switched.filter(|_| tunnel) {
        parts.status = StatusCode::SWITCHING_PROTOCOLS;
        let upgrade = HeaderValue::from_static("upgrade");
        parts.headers.insert(header::CONNECTION, upgrade);
        parts.headers.insert(header::UPGRADE, protocol);
    }
    let mut body = Http2Body::new(
        stream,
        &shared.traffic,
        None,
        &parts.headers,
        shared.limits,
        lost,
    );
    if matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        body = body.without_content(|| Failure::Protocol.after_start(None).into());
    }
    Ok((Response::from_parts(parts, Body::http2(body)), tunnel))
}

/// Makes an upgrade an extended CONNECT (RFC 8441 §4), which the peer has to have allowed. Gives what it
/// asks for.
fn extend(parts: &mut Parts, sender: &client::SendRequest<Queued>) -> Result<HeaderValue, Failure> {
    let headers = &mut parts.headers;
    headers.remove(header::CONNECTION);
    let protocol = headers.remove(header::UPGRADE).ok_or(Failure::Protocol)?;
    if !sender.is_extended_connect_protocol_enabled() {
        return Err(Failure::Protocol);
    }
    let name = protocol.to_str().map_err(|_| Failure::Protocol)?;
    parts.extensions.insert(Protocol::from(name));
    parts.method = Method::CONNECT;
    Ok(protocol)
}

/// The error of a response's body.
fn lost(error: h2::Error) -> BoxError {
    let failure = failure(&error);
    failure.after_start(Some(error.into())).into()
}
