//! Heads and trailers larger than one side takes.

use anyhow::ensure;
use bytes::Bytes;
use http::{Request, StatusCode};
use tests::support::frames::{self, kind};
use tests::support::rig::{Setup, exchange};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::upstream::{REFUSED, Upstream};
use super::{Client, PATIENCE, Victims};

/// A response with more header fields than is allowed is lost, and nothing else.
pub(crate) async fn large_head() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let victims = Victims::start(&rig);
    for _ in 0..3 {
        let request =
            b"POST /fields HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        let (status, _) = exchange(rig.address, request).await?;
        ensure!(status >= 500, "{status}");
    }
    victims.end(&upstream, "heads of 300 KB").await
}

/// Requests whose heads are larger than the upstream says it takes, which ends connections of those who do not heed it.
pub(crate) async fn large_request_head() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        upstream_http2: true,
        manager: "max_request_headers_kb: 200\n".to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    let victims = Victims::start(&rig);
    for _ in 0..3 {
        let fill = "x".repeat(100_000);
        let request =
            format!("GET /good HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-fill: {fill}\r\n\r\n");
        let (status, _) = exchange(rig.address, request.as_bytes()).await?;
        ensure!(status == 431, "{status}");
    }
    victims.end(&upstream, "request heads of 100 KB").await
}

/// Trailers larger than the upstream announced are not sent to it.
pub(crate) async fn large_request_trailers() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        upstream_http2: true,
        manager: "max_request_headers_kb: 200\nhttp_protocol_options: {enable_trailers: true}\n"
            .to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    let victims = Victims::start(&rig);
    for _ in 0..3 {
        let fill = "x".repeat(50_000);
        let request = format!(
            "POST /unanswered HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-fill: {fill}\r\n\r\n"
        );
        let (status, _) = exchange(rig.address, request.as_bytes()).await?;
        ensure!(status == 431, "{status}");
    }
    victims.end(&upstream, "request trailers of 50 KB").await
}

/// Heads and trailers beyond the limits end their stream and not the connection, which may be a proxy's. Nor does a response
/// that is larger than the client takes.
pub(crate) async fn large_heads_of_a_proxy() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let setup = Setup {
        upstream: Some(upstream.address),
        upstream_http2: true,
        manager: "max_request_headers_kb: 8\n".to_owned(),
        ..Setup::default()
    };
    let rig = setup.start().await?;
    rig.normal_client().await?;
    let socket = TcpStream::connect(rig.address).await?;
    let (client, connection) = h2::client::Builder::new()
        .max_header_list_size(1024)
        .handshake::<_, Bytes>(socket)
        .await?;
    tokio::spawn(connection);
    let request = Request::get("http://a/slow").body(())?;
    let (victim, _) = client.clone().ready().await?.send_request(request, true)?;
    for size in [9_000, 40_000, 100_000] {
        let request = Request::get("http://a/good").header("x-fill", "x".repeat(size));
        let mut client = client.clone().ready().await?;
        let (answer, _) = client.send_request(request.body(())?, true)?;
        let status = answer.await?.status();
        ensure!(status == 431, "{status} for a head of {size} bytes");

        let request = Request::post("http://a/unanswered").body(())?;
        let mut client = client.ready().await?;
        let (answer, mut body) = client.send_request(request, false)?;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-fill", "x".repeat(size).parse()?);
        body.send_trailers(trailers)?;
        let answer = timeout(PATIENCE, answer).await?;
        ensure!(
            answer.as_ref().is_err_and(|error| error.is_reset()),
            "trailers of {size} bytes: {answer:?}"
        );
    }
    let request = Request::get("http://a/wide").body(())?;
    let (answer, _) = client.clone().ready().await?.send_request(request, true)?;
    let answer = answer.await;
    ensure!(
        answer.as_ref().is_err_and(|error| error.is_reset()),
        "a wide response: {answer:?}"
    );
    upstream.seen.release().await;
    let status = victim.await?.status();
    ensure!(status == StatusCode::OK, "{status}");
    let request = Request::get("http://a/good").body(())?;
    let (answer, _) = client.ready().await?.send_request(request, true)?;
    let status = answer.await?.status();
    ensure!(status == StatusCode::OK, "{status} afterwards");
    Ok(())
}

/// A response with a field that no message may have is lost, and nothing else.
pub(crate) async fn refused_fields() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let victims = Victims::start(&rig);
    for number in 0..3 * REFUSED.len() {
        let request = format!(
            "POST /refused/{number} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let answer = timeout(PATIENCE, exchange(rig.address, request.as_bytes())).await?;
        // Trailers are lost with the connection of their client.
        if number % 2 == 0 {
            let (status, _) = answer?;
            ensure!(status >= 500, "{status} for {number}");
        }
    }
    victims
        .end(&upstream, "fields that no message may have")
        .await
}

/// The same for a request.
pub(crate) async fn refused_fields_of_a_client() -> anyhow::Result<()> {
    let upstream = Upstream::start().await?;
    let rig = upstream.rig("").await?;
    let mut client = Client::new(&rig, 65_535).await?;
    client.ask("/slow", 1).await?;
    for (name, value) in REFUSED {
        let request = frames::request("GET", "/good");
        let mut literal = request.clone();
        literal.extend(frames::block(&[(name, value)]));
        let mut added = request.clone();
        frames::indexed(&mut added, name.as_bytes(), value.as_bytes());
        let mut known = request;
        known.push(0x80 | 62);
        for block in [literal, added, known] {
            client.send(&block).await?;
        }
    }
    let refused = 3 * REFUSED.len();
    client
        .wait(refused, |frame, _| frame == kind::RST_STREAM)
        .await?;
    client.ask("/good", 1).await?;
    upstream.seen.release().await;
    client.wait(2, |frame, _| frame == kind::HEADERS).await
}
