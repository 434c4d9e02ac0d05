//! The client over HTTP/2 without TLS.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{ClientScript, Seen};
use crate::support::exchange::{End, Fields, end_of, extend};
use crate::support::script::{Field, Part};

pub(super) async fn talk(script: &ClientScript, socket: TcpStream, seen: &Seen) {
    if let Err(error) = exchange(script, socket, seen).await {
        seen.change(|r| {
            if r.end == End::Open {
                r.end = end_of(&error);
            }
        });
    }
}

async fn exchange(script: &ClientScript, socket: TcpStream, seen: &Seen) -> Result<(), h2::Error> {
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_header_list_size(1 << 20)
        .handshake::<_, Bytes>(socket)
        .await?;
    // the connection lives exactly as long as the talk
    tokio::select! {
        _ = connection => {
            seen.change(|r| {
                if r.end == End::Open {
                    r.end = End::Cut;
                }
            });
            Ok(())
        }
        result = stream(script, client, seen) => result,
    }
}

async fn stream(
    script: &ClientScript,
    client: h2::client::SendRequest<Bytes>,
    seen: &Seen,
) -> Result<(), h2::Error> {
    let request = match request(script) {
        Ok(request) => request,
        Err(error) => {
            seen.change(|r| {
                r.informational
                    .push(vec![("invalid".into(), error.into_bytes())])
            });
            return Ok(());
        }
    };
    let parts = script.body.parts();
    let only_head = parts.is_empty() && script.trailers.is_none() && !script.half_open;
    let mut client = client.ready().await?;
    let (response, mut body) = client.send_request(request, only_head)?;
    let (progress, watched) = watch::channel(false);
    let receive = receive(response, seen, &progress);
    tokio::pin!(receive);
    let send = async {
        if !only_head {
            let _ = send(script, &parts, &mut body, watched, seen).await;
        }
        body
    };
    tokio::pin!(send);
    tokio::select! {
        () = &mut receive => {
            let _ = tokio::time::timeout(Duration::from_millis(600), send).await;
        }
        mut body = &mut send => match script.cancel {
            None => receive.await,
            Some(after) => {
                tokio::select! {
                    () = receive => {}
                    () = seen.activity.clock.pause(after) => {
                        seen.change(|r| r.end = End::Cancelled);
                        body.send_reset(Reason::CANCEL);
                        seen.activity.clock.pause(30).await;
                    }
                }
            }
        },
    }
    // frames that are written but not yet flushed must leave before the connection is dropped
    seen.activity.clock.pause(2).await;
    Ok(())
}

async fn send(
    script: &ClientScript,
    parts: &[Part],
    body: &mut SendStream<Bytes>,
    mut progress: watch::Receiver<bool>,
    seen: &Seen,
) -> Result<(), h2::Error> {
    if script.expect_continue {
        let wait = progress.changed();
        let _ = tokio::time::timeout(Duration::from_millis(300), wait).await;
    }
    if script.after_head {
        let _ = progress.wait_for(|head| *head).await;
    }
    let mut ended = false;
    for (index, part) in parts.iter().enumerate() {
        match part {
            Part::Pause { pause } => seen.activity.clock.pause(*pause).await,
            Part::Data(data) => {
                ended = index + 1 == parts.len()
                    && script.trailers.is_none()
                    && !script.half_open
                    && !script.separate_end;
                body.send_data(data.bytes().into(), ended)?;
                // let each part become a frame of its own
                tokio::task::yield_now().await;
            }
        }
    }
    if let Some(trailers) = &script.trailers {
        body.send_trailers(header_map(trailers).unwrap_or_default())?;
    } else if !ended && !script.half_open {
        body.send_data(Bytes::new(), true)?;
    }
    Ok(())
}

async fn receive(mut response: ResponseFuture, seen: &Seen, progress: &watch::Sender<bool>) {
    let result = async {
        let head = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(info))) = response.poll_informational(cx) {
                let fields = response_fields(info.status(), info.headers());
                seen.change(|r| r.informational.push(fields));
                let _ = progress.send(false);
            }
            Pin::new(&mut response).poll(cx)
        })
        .await?;
        let (parts, mut body) = head.into_parts();
        seen.head(response_fields(parts.status, &parts.headers));
        let _ = progress.send(true);
        while let Some(data) = body.data().await {
            let data = data?;
            let _ = body.flow_control().release_capacity(data.len());
            if !data.is_empty() {
                seen.change(|r| r.chunks.push(data));
            }
        }
        if let Some(trailers) = body.trailers().await? {
            let mut fields = Fields::new();
            extend(&mut fields, &trailers);
            seen.change(|r| r.trailers = Some(fields));
        }
        Ok(())
    }
    .await;
    let end = result.map_or_else(|error| end_of(&error), |()| End::Complete);
    seen.change(|r| r.end = end);
    let _ = progress.send(true);
}

fn response_fields(status: http::StatusCode, headers: &HeaderMap) -> Fields {
    let mut fields = vec![(":status".to_owned(), status.as_str().as_bytes().to_vec())];
    extend(&mut fields, headers);
    fields
}

fn request(script: &ClientScript) -> Result<Request<()>, String> {
    let mut uri = Uri::builder();
    if let Some(authority) = &script.authority {
        uri = uri.scheme("http").authority(authority.as_str());
        uri = uri.path_and_query(script.path.as_str());
    } else {
        uri = uri.path_and_query(script.path.as_str());
    }
    let mut request = Request::new(());
    *request.method_mut() =
        Method::from_bytes(script.method.as_bytes()).map_err(|e| e.to_string())?;
    *request.uri_mut() = uri.build().map_err(|e| e.to_string())?;
    *request.headers_mut() = header_map(&script.headers)?;
    Ok(request)
}

fn header_map(fields: &[Field]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for field in fields {
        let (name, value) = field.pair();
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| format!("{name}: {e}"))?;
        let value = HeaderValue::from_bytes(&value).map_err(|e| format!("{name}: {e}"))?;
        map.append(name, value);
    }
    Ok(map)
}
