//! The JSON transport against services in the process.

use std::{
    convert::Infallible,
    future::{self, Future, poll_fn},
    sync::Mutex,
};

use serde_json::json;
use tokio::time::Instant;

use super::*;
use crate::{
    config::{HttpService, Service as Configured},
    types::pieces::Pieces,
    wire::Part,
};

fn service() -> Configured {
    Configured::Http(HttpService {
        uri: "http://processor.local:80/process?v=1".parse().unwrap(),
        cluster: "processor".to_owned(),
        timeout: Duration::from_secs(2),
        headers: vec![("x-added".parse().unwrap(), "yes".parse().unwrap())],
    })
}

fn message(bytes: &'static [u8]) -> Message {
    let mut framed = vec![0, 0, 0, 0, 0];
    framed.extend(bytes);
    Message {
        framed_head: framed.into(),
        body: Pieces::default(),
    }
}

/// Sends `messages` and receives until the end.
async fn exchange<F>(
    answer: impl Fn(Request<Full<Bytes>>) -> F + Clone + Send + Sync + 'static,
    messages: &[&'static [u8]],
) -> (Vec<Reply>, Close)
where
    F: Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'static,
{
    let transport = HttpTransport::new(tower::service_fn(answer)).max_answer(1000);
    let service = service();
    let mut stream = transport
        .open(Call {
            service: &service,
            metadata: HeaderMap::new(),
            buffers: None,
        })
        .unwrap();
    for bytes in messages {
        stream.send(message(bytes));
    }
    stream.finish();
    let mut replies = Vec::new();
    loop {
        match poll_fn(|cx| stream.poll_recv(cx)).await {
            Ok(reply) => replies.push(reply),
            Err(close) => return (replies, close),
        }
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    Ok(response)
}

#[tokio::test]
async fn messages_and_replies() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    let (replies, close) = exchange(
        move |request| {
            let log = log.clone();
            async move {
                use http_body_util::BodyExt;
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let reply = match body.get("request_headers") {
                    Some(_) => json!({"requestHeaders": {}}),
                    None => json!({"response_headers": {"response": {"status": "CONTINUE"}}}),
                };
                log.lock().unwrap().push((head, body));
                answer(200, reply.to_string())
            }
        },
        // request_headers { end_of_stream }, metadata_context {}; response_headers {}
        &[&[0x12, 2, 0x18, 1, 0x42, 0], &[0x1a, 0]],
    )
    .await;
    assert!(close.is_ok());
    assert!(matches!(replies[0].part, Some(Part::RequestHeaders(_))));
    assert!(matches!(replies[1].part, Some(Part::ResponseHeaders(_))));
    let seen = seen.lock().unwrap();
    let [(first, body), (second, _)] = seen.as_slice() else {
        panic!("two requests were expected");
    };
    assert_eq!(
        body.to_string(),
        r#"{"request_headers":{"end_of_stream":true},"metadata_context":{}}"#
    );
    assert_eq!(first.method, "POST");
    assert_eq!(first.uri, "http://processor.local:80/process?v=1");
    for (name, value) in [
        ("host", "processor.local:80"),
        ("content-type", "application/json"),
        ("x-request-id", "1"),
        ("x-envoy-expected-rq-timeout-ms", "2000"),
        ("x-added", "yes"),
    ] {
        assert_eq!(first.headers[name], value);
    }
    assert_eq!(first.headers, second.headers);
}

#[tokio::test]
async fn unusable_answers() {
    for (status, body) in [
        (201, "{}".to_owned()),
        (500, String::new()),
        (200, String::new()),
        (200, "nonsense".to_owned()),
        (200, r#"{"unknown": 1}"#.to_owned()),
        (200, format!("{{}}{}", " ".repeat(1000))),
    ] {
        let text = body.clone();
        let (replies, close) = exchange(
            move |_| {
                let body = text.clone();
                async move { answer(status, body) }
            },
            &[&[0x12, 0]],
        )
        .await;
        assert!(replies.is_empty(), "{status} {body}");
        assert!(close.http && close.code() == 10, "{status} {body}: {close}");
    }
    // An empty object is an answer, of no kind.
    let (replies, _) = exchange(|_| async { answer(200, "{}") }, &[&[0x12, 0]]).await;
    assert!(replies[0].part.is_none());
}

#[tokio::test(start_paused = true)]
async fn timeout() {
    let start = Instant::now();
    let (_, close) = exchange(|_| future::pending(), &[&[0x12, 0]]).await;
    assert_eq!(close.message, "no answer within 2s");
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[test]
fn not_for_grpc() {
    let transport = HttpTransport::new(tower::service_fn(|_: Request<Full<Bytes>>| async {
        answer(200, "")
    }));
    let service = Configured::Grpc(config::GrpcService::cluster("a"));
    let call = Call {
        service: &service,
        metadata: HeaderMap::new(),
        buffers: None,
    };
    assert_eq!(transport.open(call).unwrap_err().code(), 13);
}
