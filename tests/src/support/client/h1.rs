//! The client over HTTP/1.1.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;

use super::{ClientScript, RequestFraming, Seen};
use crate::support::exchange::{End, Fields};
use crate::support::http1::{self, Framing, Piece, Truncated};
use crate::support::script::{Part, fields};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Nothing,
    Informational,
    Head,
    Upgraded,
}

pub(super) async fn talk(script: &ClientScript, socket: TcpStream, seen: &Seen) {
    let (reader, writer) = socket.into_split();
    let (progress, watched) = watch::channel(Progress::Nothing);
    let send = send(script, writer, watched, seen);
    tokio::pin!(send);
    let receive = receive(script, reader, seen, &progress);
    tokio::pin!(receive);
    tokio::select! {
        () = &mut receive => {
            // the rest of the request is still worth sending: what arrives upstream is compared
            let _ = tokio::time::timeout(Duration::from_millis(600), send).await;
        }
        writer = &mut send => match script.cancel {
            None => {
                receive.await;
                drop(writer);
            }
            Some(after) => {
                tokio::select! {
                    () = receive => {}
                    () = seen.activity.clock.pause(after) => {
                        seen.change(|r| r.end = End::Cancelled);
                    }
                }
            }
        },
    }
}

async fn send(
    script: &ClientScript,
    mut writer: OwnedWriteHalf,
    mut progress: watch::Receiver<Progress>,
    seen: &Seen,
) -> OwnedWriteHalf {
    let mut head: Fields = Vec::new();
    if let Some(authority) = &script.authority {
        head.push(("Host".into(), authority.clone().into_bytes()));
    }
    head.extend(fields(&script.headers));
    let parts = script.body.parts();
    let has_body = !parts.is_empty() || script.trailers.is_some() || script.half_open;
    let mut chunked = false;
    if has_body && http1::find(&head, "content-length").is_none() {
        match script.framing {
            RequestFraming::Length => {
                let size = script.body.size().to_string();
                head.push(("content-length".into(), size.into_bytes()));
            }
            RequestFraming::Chunked => {
                chunked = true;
                head.push(("transfer-encoding".into(), b"chunked".to_vec()));
            }
        }
    }
    let first = format!("{} {} HTTP/{}", script.method, script.path, script.version);
    let result: std::io::Result<()> = async {
        writer.write_all(&http1::head_bytes(&first, &head)).await?;
        if script.expect_continue {
            let wait = progress.wait_for(|p| *p >= Progress::Informational);
            let _ = tokio::time::timeout(Duration::from_millis(300), wait).await;
        }
        if script.after_head {
            let _ = progress.wait_for(|p| *p >= Progress::Head).await;
        }
        // The last part of the body and its end are one write: between two of them, the proxy reads the one without the
        // other now and then.
        let mut unsent = Vec::new();
        for part in &parts {
            writer.write_all(&std::mem::take(&mut unsent)).await?;
            match part {
                Part::Pause { pause } => seen.activity.clock.pause(*pause).await,
                Part::Data(data) => {
                    let data = data.bytes();
                    if chunked && !data.is_empty() {
                        unsent = http1::chunk_bytes(&data);
                    } else {
                        unsent = data;
                    }
                }
            }
        }
        if chunked && !script.half_open {
            let trailers = fields(script.trailers.as_deref().unwrap_or_default());
            unsent.extend(http1::last_chunk(&trailers));
        }
        writer.write_all(&unsent).await?;
        if let Some(text) = &script.upgrade_send {
            let upgraded = progress.wait_for(|p| *p >= Progress::Head).await;
            if upgraded.is_ok_and(|p| *p == Progress::Upgraded) {
                writer.write_all(text.as_bytes()).await?;
            }
        }
        Ok(())
    }
    .await;
    // a proxy may close on a request that it has answered already; the response tells the rest
    drop(result);
    writer
}

async fn receive(
    script: &ClientScript,
    reader: OwnedReadHalf,
    seen: &Seen,
    progress: &watch::Sender<Progress>,
) {
    let mut reader = BufReader::new(reader);
    let end = match read_response(script, &mut reader, seen, progress).await {
        Ok(()) => End::Complete,
        Err(Truncated) => End::Cut,
    };
    seen.change(|r| r.end = end);
    let _ = progress.send(Progress::Head);
}

async fn read_response(
    script: &ClientScript,
    reader: &mut BufReader<OwnedReadHalf>,
    seen: &Seen,
    progress: &watch::Sender<Progress>,
) -> Result<(), Truncated> {
    let (status, head) = loop {
        let head = http1::read_head(reader).await?.ok_or(Truncated)?;
        let status = head.first.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut all = vec![(":status".to_owned(), status.clone().into_bytes())];
        all.extend(head.fields);
        if status.starts_with('1') && status != "101" {
            seen.change(|r| r.informational.push(all));
            let _ = progress.send(Progress::Informational);
            continue;
        }
        break (status, all);
    };
    let framing = if script.method == "HEAD" || status == "204" || status == "304" {
        Framing::None
    } else {
        http1::framing(&head, Framing::Close)
    };
    seen.head(head);
    let sink = |piece| {
        seen.change(|r| match piece {
            Piece::Data(data) => r.chunks.push(data),
            Piece::Trailers(trailers) => r.trailers = Some(trailers),
        });
    };
    if status == "101" {
        let _ = progress.send(Progress::Upgraded);
        let want = script
            .upgrade_send
            .as_ref()
            .map_or(0, |t| t.len() + "echo:".len());
        let mut got = 0;
        while got < want {
            let data = http1::read_some(reader, u64::MAX).await?.ok_or(Truncated)?;
            got += data.len();
            sink(Piece::Data(data));
        }
        return Ok(());
    }
    let _ = progress.send(Progress::Head);
    http1::read_body(reader, framing, sink).await
}
