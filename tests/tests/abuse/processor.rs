//! The processor as the adversary.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use tests::support::adversary::Adversary;
use tests::support::rig::{self, Setup, Upstream, get, scale};
use tokio::task::JoinSet;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

use super::{
    LITTLE, MIB,
    bodies::{mode, upload},
    with_processor,
};

/// Deeds of a processor with the status that the client gets: as configured, and where the failure mode is to go on. 0 is a cut
/// connection.
const DEEDS: &[(&str, u16, u16)] = &[
    ("good", 200, 200),
    ("unanswered", 504, 200),
    ("endless", 500, 200),
    // The stream is closed after the one reply that is awaited: what follows has no reader.
    ("endless-good", 200, 200),
    ("twice", 200, 200),
    ("announced", 500, 200),
    ("drip", 504, 200),
    // A clean end, whatever came before it.
    ("half", 200, 200),
    ("half/2", 500, 200),
    ("half/8", 500, 200),
    ("garbage", 500, 200),
    ("wrong-kind", 500, 200),
    ("mutations/10000", 500, 500),
    ("large/8", 500, 500),
    ("status/13", 500, 200),
    ("status/14", 500, 200),
    ("status/0", 200, 200),
    ("not-grpc", 500, 200),
    ("reset/1", 500, 200),
    ("reset/2", 500, 200),
    ("reset/8", 500, 200),
    ("reset/11", 500, 200),
];

pub(crate) async fn deeds() -> anyhow::Result<()> {
    let filter = "message_timeout: 3s\nprocessing_mode: {response_header_mode: SKIP}\n";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    let watch = rig.watch();
    // Good exchanges go on all the time, on the same connection to the processor.
    let address = rig.address;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let good = tokio::spawn(async move {
        let mut count = 0;
        while !*stopped.borrow_and_update() {
            let (status, _) = get(address, "/good").await?;
            ensure!(status == 200, "a good exchange got {status}");
            count += 1;
        }
        Ok(count)
    });
    let mut wrong = Vec::new();
    for (deed, closed, open) in DEEDS {
        for (path, wanted) in [
            (format!("/{deed}"), closed),
            (format!("/open/{deed}"), open),
        ] {
            let answer = tokio::time::timeout(Duration::from_secs(10), get(address, &path)).await;
            let got = match answer {
                Ok(Ok((status, _))) => status.to_string(),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "nothing".to_owned(),
            };
            if got != wanted.to_string() {
                wrong.push(format!("{path} gave {got} in place of {wanted}"));
            }
        }
    }
    stop.send_replace(true);
    let count = good.await??;
    eprintln!(
        "    {count} good exchanges beside {} bad ones",
        DEEDS.len() * 2
    );
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    // A message of 8 MiB is held whole, with the pieces it came in and what it is decoded to.
    watch.check(&rig, "deeds", 120 * MIB).await
}

/// Replies without end, from many exchanges at once.
pub(crate) async fn processor_floods() -> anyhow::Result<()> {
    let filter = "message_timeout: 10s\n";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    let watch = rig.watch();
    let mut clients = JoinSet::new();
    for number in 0..100 * scale() {
        let deeds = ["endless", "endless-good", "announced", "large/4"];
        let path = format!("/{}", deeds[number % deeds.len()]);
        let address = rig.address;
        clients.spawn(async move { get(address, &path).await });
    }
    while let Some(result) = clients.join_next().await {
        let (status, _) = result??;
        ensure!(matches!(status, 500 | 504), "got {status}");
    }
    // A message is held until it is complete: 25 of 4 MiB at the same time, and their pieces.
    watch.check(&rig, "100 bad processors", 300 * MIB).await
}

/// A processor that reads nothing stops the upload, not the gateway.
pub(crate) async fn deaf() -> anyhow::Result<()> {
    let filter = "message_timeout: 1s
processing_mode: {request_body_mode: STREAMED, response_header_mode: SKIP}
";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    let watch = rig.watch();
    for (path, wanted) in [("/deaf", 504), ("/open/deaf", 200)] {
        let begun = Instant::now();
        let (status, _) = upload(rig.address, path, 50_000_000).await?;
        eprintln!("    {path}: {status} after {:?}", begun.elapsed());
        ensure!(status == wanted, "{path} gave {status}");
    }
    watch.check(&rig, "deaf processor", LITTLE).await
}

/// A processor whose windows never open gets what fits of a copy, and holds no traffic.
pub(crate) async fn unread_copies() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let processor = TcpListener::bind("127.0.0.1:0").await?;
    let address = processor.local_addr()?;
    let reader = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut socket, _)) = processor.accept().await {
            connections.spawn(async move {
                // SETTINGS with INITIAL_WINDOW_SIZE 2000, and the acknowledgement of the peer's.
                let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\x07\xd0\0\0\0\x04\x01\0\0\0\0";
                let _ = socket.write_all(settings).await;
                tokio::io::copy(&mut socket, &mut tokio::io::sink()).await
            });
        }
    });
    let rig = Setup {
        upstream: Some(upstream.address),
        processor: Some(address),
        filter: "observability_mode: true\ndeferred_close_timeout: 1s\nprocessing_mode: {request_body_mode: STREAMED, response_body_mode: STREAMED}\n".to_owned(),
        ..Setup::default()
    }
    .start()
    .await?;
    let watch = rig.watch();
    let (status, _) = upload(rig.address, "/", 50_000_000).await?;
    ensure!(status == 200, "got {status}");
    let cut = rig.stat("http.main.ext_proc.copies_cut").await?;
    ensure!(cut == 1, "{cut} bodies were cut");
    watch
        .check(&rig, "copies that nobody reads", LITTLE)
        .await?;
    reader.abort();
    Ok(())
}

/// The refusal is readable while the client still sends, on both protocol versions.
pub(crate) async fn refused_upload() -> anyhow::Result<()> {
    let filter = "processing_mode: {request_body_mode: STREAMED, response_header_mode: SKIP}\n";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    let watch = rig.watch();
    for path in ["/refuse/0", "/refuse/1"] {
        for _ in 0..5 {
            let (status, body) = upload(rig.address, path, 50_000_000).await?;
            ensure!(status == 403, "{path} gave {status}");
            ensure!(body == b"no more of this", "{path}: {body:?}");
        }
        let (status, body) = upload_http2(rig.address, path, 50_000_000).await?;
        ensure!(status == 403, "{path} gave {status} over HTTP/2");
        ensure!(body == b"no more of this", "{path}: {body:?}");
    }
    watch.check(&rig, "refused uploads", LITTLE).await
}

pub(crate) async fn upload_http2(
    address: SocketAddr,
    path: &str,
    bytes: usize,
) -> anyhow::Result<(u16, Vec<u8>)> {
    let socket = TcpStream::connect(address).await?;
    let (client, connection) = h2::client::handshake(socket).await?;
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await?;
    let request = http::Request::post(format!("http://test{path}")).body(())?;
    let (response, mut body) = client.send_request(request, false)?;
    let send = async {
        let mut left = bytes;
        while left > 0 {
            body.reserve_capacity(left.min(64 * 1024));
            match poll_fn(|cx| body.poll_capacity(cx)).await {
                Some(Ok(n)) if n > 0 => {
                    left = left.saturating_sub(n);
                    if body
                        .send_data(Bytes::from(vec![b'x'; n]), left == 0)
                        .is_err()
                    {
                        break;
                    }
                }
                Some(Ok(_)) => {}
                _ => break,
            }
        }
        std::future::pending::<()>().await;
    };
    let receive = async {
        let (parts, mut body) = response.await?.into_parts();
        let mut all = Vec::new();
        while let Some(data) = body.data().await {
            all.extend_from_slice(&data?);
        }
        Ok::<_, anyhow::Error>((parts.status.as_u16(), all))
    };
    let answer = tokio::select! {
        () = send => anyhow::bail!("never"),
        answer = receive => answer,
    };
    connection.abort();
    answer
}

/// Full duplex waits for the answer to trailers without a message timer; the route's and the stream's end it.
pub(crate) async fn no_trailers() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let processor = Adversary::start().await?;
    let setup = |manager: &str, route: &str| Setup {
        upstream: Some(upstream.address),
        processor: Some(processor.address),
        filter: mode("FULL_DUPLEX_STREAMED"),
        manager: format!("http_protocol_options: {{enable_trailers: true}}\n{manager}"),
        route: route.to_owned(),
        ..Setup::default()
    };
    let request = b"POST /no-trailers HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
        5\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n";
    for (manager, route) in [
        ("stream_idle_timeout: 1s\n", "timeout: 0s"),
        (
            "common_http_protocol_options: {max_stream_duration: 1s}\n",
            "timeout: 0s",
        ),
        ("", "max_stream_duration: {max_stream_duration: 1s}"),
    ] {
        let rig = setup(manager, route).start().await?;
        let begun = Instant::now();
        let (status, _) = rig::exchange(rig.address, request).await?;
        eprintln!("    {manager}{route}: {status} after {:?}", begun.elapsed());
        ensure!(status == 504, "{manager}{route} gave {status}");
    }
    Ok(())
}

/// GOAWAY and lost connections: the exchanges on them end by the failure table, the next one finds another connection.
pub(crate) async fn goes_away() -> anyhow::Result<()> {
    let filter = "message_timeout: 1s\nprocessing_mode: {response_header_mode: SKIP}\n";
    let (_upstream, _processor, rig) = with_processor(filter, "").await?;
    for _ in 0..20 {
        for (path, wanted) in [
            ("/goaway", &[200][..]),
            ("/good", &[200]),
            ("/die", &[200, 500]),
            ("/good", &[200]),
            ("/open/die", &[200]),
            ("/open/goaway", &[200]),
        ] {
            let (status, _) = get(rig.address, path).await?;
            ensure!(wanted.contains(&status), "{path} gave {status}");
        }
    }
    Ok(())
}
