//! The upstream over HTTP/1.1.

use std::sync::Arc;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::{ResetAt, ResponseFraming, Shared, Wait};
use crate::support::exchange::End;
use crate::support::http1::{self, Framing, Piece};
use crate::support::script::{Part, fields};

/// Milliseconds.
const BEFORE_RESET: u64 = 30;

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    bytes: usize,
    ended: bool,
}

pub(super) async fn serve(socket: TcpStream, shared: Arc<Shared>) {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    while let Ok(Some(head)) = http1::read_head(&mut reader).await {
        let mut parts = head.first.splitn(2, ' ');
        let method = parts.next().unwrap_or_default().to_owned();
        let rest = parts.next().unwrap_or_default();
        let (path, version) = rest.rsplit_once(' ').unwrap_or((rest, ""));
        let mut all = vec![
            (":method".to_owned(), method.clone().into_bytes()),
            (":path".to_owned(), http1::bytes_of(path)),
            (":version".to_owned(), version.as_bytes().to_vec()),
        ];
        let framing = http1::framing(&head.fields, Framing::None);
        all.extend(head.fields);
        let index = shared.arrive(all);
        let upgrade = shared.script.status == 101;
        let (progress, watched) = watch::channel(Progress::default());
        let read = async {
            if upgrade {
                progress.send_modify(|p| p.ended = true);
                return true;
            }
            let result = http1::read_body(&mut reader, framing, |piece| match piece {
                Piece::Data(data) => {
                    progress.send_modify(|p| p.bytes += data.len());
                    shared.change(index, |r| r.chunks.push(data));
                }
                Piece::Trailers(trailers) => shared.change(index, |r| r.trailers = Some(trailers)),
            })
            .await;
            let end = if result.is_ok() {
                End::Complete
            } else {
                End::Cut
            };
            shared.change(index, |r| r.end = end);
            progress.send_modify(|p| p.ended = true);
            result.is_ok()
        };
        let reusable = {
            let respond = respond(&mut writer, &shared, index, &method, watched);
            tokio::pin!(read);
            tokio::pin!(respond);
            tokio::select! {
                // what is here already came before the answer
                biased;
                // a request that breaks off takes its connection with it, answered or not
                whole = &mut read => whole && respond.await,
                reusable = &mut respond => reusable && read.await,
            }
        };
        if upgrade && reusable {
            tunnel(&mut reader, &mut writer, &shared, index).await;
            return;
        }
        if !reusable {
            return;
        }
    }
}

/// Writes the answer; `false` when the connection cannot be used again.
async fn respond(
    writer: &mut OwnedWriteHalf,
    shared: &Shared,
    index: usize,
    method: &str,
    mut progress: watch::Receiver<Progress>,
) -> bool {
    let script = &shared.script;
    let _ = progress
        .wait_for(|p| match script.wait {
            Wait::Head => true,
            Wait::Body => p.ended,
            Wait::Bytes(n) => p.ended || p.bytes >= n,
        })
        .await;
    if script.silent {
        // Until the proxy closes the connection, or the scenario is over.
        return std::future::pending().await;
    }
    shared.activity.clock.pause(script.delay).await;
    let result = write(writer, shared, index, method).await;
    shared.activity.touch();
    result.unwrap_or(false)
}

async fn write(
    writer: &mut OwnedWriteHalf,
    shared: &Shared,
    index: usize,
    method: &str,
) -> std::io::Result<bool> {
    let script = &shared.script;
    if script.reset == Some(ResetAt::BeforeHead) {
        return abort(writer);
    }
    for info in &script.informational {
        let first = format!("HTTP/1.1 {} Info", info.status);
        let head = http1::head_bytes(&first, &fields(&info.headers));
        writer.write_all(&head).await?;
    }
    if let Some(raw) = &script.raw {
        writer.write_all(&raw.bytes()).await?;
        return Ok(!script.close);
    }
    let body = shared.response_body(index);
    let parts = body.parts();
    let mut head = shared.response_fields();
    let bodyless = method == "HEAD" || matches!(script.status, 101 | 204 | 304);
    let mut chunked = false;
    if !bodyless && http1::find(&head, "content-length").is_none() {
        let (name, value) = match script.framing {
            ResponseFraming::Close => ("connection", "close".to_owned()),
            ResponseFraming::Length => ("content-length", body.size().to_string()),
            ResponseFraming::Chunked if parts.is_empty() && script.trailers.is_none() => {
                ("content-length", "0".to_owned())
            }
            ResponseFraming::Chunked => {
                chunked = true;
                ("transfer-encoding", "chunked".to_owned())
            }
        };
        head.push((name.to_owned(), value.into_bytes()));
    }
    let first = format!("HTTP/1.1 {} Status", script.status);
    writer.write_all(&http1::head_bytes(&first, &head)).await?;
    if script.reset == Some(ResetAt::AfterHead) {
        shared.activity.clock.pause(BEFORE_RESET).await;
        return abort(writer);
    }
    if !bodyless {
        // The last part and the end are one write, as the client's.
        let mut unsent = Vec::new();
        for part in &parts {
            writer.write_all(&std::mem::take(&mut unsent)).await?;
            match part {
                Part::Pause { pause } => shared.activity.clock.pause(*pause).await,
                Part::Data(data) => {
                    let data = data.bytes();
                    if chunked && !data.is_empty() {
                        unsent = http1::chunk_bytes(&data);
                    } else {
                        unsent = data;
                    }
                    shared.activity.touch();
                }
            }
        }
        if script.reset == Some(ResetAt::AfterBody) {
            writer.write_all(&unsent).await?;
            shared.activity.clock.pause(BEFORE_RESET).await;
            return abort(writer);
        }
        if chunked {
            let trailers = fields(script.trailers.as_deref().unwrap_or_default());
            unsent.extend(http1::last_chunk(&trailers));
        }
        writer.write_all(&unsent).await?;
    }
    Ok(script.framing != ResponseFraming::Close && !script.close)
}

/// Echoes what comes after a 101, with `echo:` in front of every piece.
async fn tunnel(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    shared: &Shared,
    index: usize,
) {
    while let Ok(Some(data)) = http1::read_some(reader, u64::MAX).await {
        let answer = [b"echo:".as_slice(), &data].concat();
        shared.change(index, |r| r.chunks.push(data));
        if writer.write_all(&answer).await.is_err() {
            break;
        }
    }
    shared.change(index, |r| r.end = End::Complete);
}

fn abort(writer: &mut OwnedWriteHalf) -> std::io::Result<bool> {
    writer.as_ref().set_zero_linger()?;
    Ok(false)
}
