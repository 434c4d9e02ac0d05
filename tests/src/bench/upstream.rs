//! The upstream of the benchmark: reads the request, then answers `/bytes/N` with N bytes.

use std::{convert::Infallible, pin::pin};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The most that is answered.
const MOST: usize = 16 << 20;

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener) {
    let zeros = Bytes::from(vec![b'x'; MOST]);
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let zeros = zeros.clone();
        let service = service_fn(move |request| answer(request, zeros.clone()));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    request: Request<Incoming>,
    zeros: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let wanted = request
        .uri()
        .path()
        .strip_prefix("/bytes/")
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    let mut body = pin!(request.into_body());
    while let Some(Ok(_)) = body.frame().await {}
    let response = Response::builder()
        .header("content-type", "text/plain")
        .body(Full::new(zeros.slice(..MOST.min(wanted))));
    Ok(response.unwrap_or_default())
}
