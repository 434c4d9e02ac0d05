//! The upstream over HTTP/2 without TLS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{ResetAt, Shared, Wait};
use crate::support::exchange::{End, Fields, end_of, extend};
use crate::support::script::{Part, fields};

/// Milliseconds.
const BEFORE_RESET: u64 = 30;

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    bytes: usize,
    ended: bool,
}

pub(super) async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(8 << 20)
        .initial_connection_window_size(32 << 20)
        .max_header_list_size(1 << 20)
        .handshake::<_, Bytes>(socket)
        .await;
    let Ok(mut connection) = handshake else {
        return;
    };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let shared = Arc::clone(&shared);
        streams.spawn(async move { stream(request, respond, &shared).await });
    }
    // the streams still have to note how they ended
    let ends = async { while streams.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(Duration::from_millis(100), ends).await;
}

async fn stream(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    shared: &Shared,
) {
    let (parts, mut body) = request.into_parts();
    let uri = &parts.uri;
    let mut head: Fields = vec![(":method".to_owned(), parts.method.as_str().into())];
    for (name, value) in [
        (":scheme", uri.scheme_str()),
        (":authority", uri.authority().map(|a| a.as_str())),
        (":path", uri.path_and_query().map(|p| p.as_str())),
    ] {
        if let Some(value) = value {
            head.push((name.to_owned(), value.into()));
        }
    }
    extend(&mut head, &parts.headers);
    let index = shared.arrive(head);
    let (progress, watched) = watch::channel(Progress::default());
    let read = async {
        let result = async {
            while let Some(data) = body.data().await {
                let data = data?;
                let _ = body.flow_control().release_capacity(data.len());
                progress.send_modify(|p| p.bytes += data.len());
                if !data.is_empty() {
                    shared.change(index, |r| r.chunks.push(data));
                }
            }
            if let Some(trailers) = body.trailers().await? {
                let mut all = Fields::new();
                extend(&mut all, &trailers);
                shared.change(index, |r| r.trailers = Some(all));
            }
            Ok(())
        }
        .await;
        let end = result.map_or_else(|error| end_of(&error), |()| End::Complete);
        let complete = end == End::Complete;
        shared.change(index, |r| r.end = end);
        progress.send_modify(|p| p.ended = true);
        complete
    };
    let answer = answer(&mut respond, shared, index, watched);
    tokio::pin!(read);
    tokio::pin!(answer);
    tokio::select! {
        // what is here already came before the answer
        biased;
        whole = &mut read => {
            if whole {
                let _ = answer.await;
            }
        }
        _ = &mut answer => {
            read.await;
        }
    }
}

async fn answer(
    respond: &mut SendResponse<Bytes>,
    shared: &Shared,
    index: usize,
    mut progress: watch::Receiver<Progress>,
) -> Result<(), h2::Error> {
    let script = &shared.script;
    let _ = progress
        .wait_for(|p| match script.wait {
            Wait::Head => true,
            Wait::Body => p.ended,
            Wait::Bytes(n) => p.ended || p.bytes >= n,
        })
        .await;
    if script.silent {
        // Until the proxy resets the stream, or the scenario is over.
        return std::future::pending().await;
    }
    shared.activity.clock.pause(script.delay).await;
    shared.activity.touch();
    let code = Reason::from(script.reset_code);
    if script.reset == Some(ResetAt::BeforeHead) {
        respond.send_reset(code);
        return Ok(());
    }
    for info in &script.informational {
        respond.send_informational(response(info.status, &fields(&info.headers)))?;
    }
    let parts = shared.response_body(index).parts();
    let only_head = parts.is_empty() && script.trailers.is_none() && script.reset.is_none();
    let head = response(script.status, &shared.response_fields());
    let mut body = respond.send_response(head, only_head)?;
    if only_head {
        return Ok(());
    }
    if script.reset == Some(ResetAt::AfterHead) {
        shared.activity.clock.pause(BEFORE_RESET).await;
        body.send_reset(code);
        return Ok(());
    }
    let mut ended = false;
    for (at, part) in parts.iter().enumerate() {
        match part {
            Part::Pause { pause } => shared.activity.clock.pause(*pause).await,
            Part::Data(data) => {
                ended = at + 1 == parts.len()
                    && script.trailers.is_none()
                    && script.reset.is_none()
                    && !script.separate_end;
                body.send_data(data.bytes().into(), ended)?;
                shared.activity.touch();
                tokio::task::yield_now().await;
            }
        }
    }
    if script.reset == Some(ResetAt::AfterBody) {
        shared.activity.clock.pause(BEFORE_RESET).await;
        body.send_reset(code);
    } else if let Some(trailers) = &script.trailers {
        body.send_trailers(header_map(&fields(trailers)))?;
    } else if !ended {
        body.send_data(Bytes::new(), true)?;
    }
    // the stream is reset when its last handle is dropped before everything has been sent
    std::future::poll_fn(|cx| body.poll_reset(cx)).await?;
    Ok(())
}

fn response(status: u16, fields: &Fields) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    *response.headers_mut() = header_map(fields);
    response
}

fn header_map(fields: &Fields) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_bytes(value),
        ) {
            map.append(name, value);
        }
    }
    map
}
