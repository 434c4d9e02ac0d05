//! One secret in each place of an exchange: nothing that the inspector gives away has it, in any form.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use extproc_client::{
    ExtProcLayer, RequestBody,
    bytes::Bytes,
    envoy_types::pb::{
        envoy::service::ext_proc::v3::{
            BodyResponse, ImmediateResponse, ProcessingRequest, ProcessingResponse,
            TrailersResponse, processing_request::Request as Asked,
            processing_response::Response as Answer,
        },
        google::protobuf::{Struct, Value, value::Kind},
    },
    http::{HeaderMap, HeaderValue, Request, Response},
    transport::{Call, Close, Message, Sidestream, Transport},
    wire::Reply,
};
use gateway_inspector::{Inspector, Settings};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use prost::Message as _;
use tower::{Layer as _, ServiceExt as _, service_fn};

use self::common::*;

const SECRET: &str = "Hunter2-sesame";

/// Deeds of the processor when a message comes; an error ends the stream.
type Script = dyn Fn(usize, ProcessingRequest) -> Result<ProcessingResponse, Close> + Send + Sync;

#[derive(Clone)]
struct Processor(Arc<Script>);

impl Transport for Processor {
    type Sidestream = Stream;

    fn open(&self, _call: Call<'_>) -> Result<Stream, Close> {
        Ok(Stream {
            script: self.0.clone(),
            count: 0,
            next: None,
        })
    }
}

struct Stream {
    script: Arc<Script>,
    count: usize,
    next: Option<Result<Reply, Close>>,
}

impl Sidestream for Stream {
    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn send(&mut self, message: Message) {
        let request = ProcessingRequest::decode(message.to_bytes()).unwrap();
        let answer = (self.script)(self.count, request);
        self.count += 1;
        self.next = Some(answer.map(|reply| Reply::decode(reply.encode_to_vec().into()).unwrap()));
    }

    fn poll_recv(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Reply, Close>> {
        self.next.take().map_or(Poll::Pending, Poll::Ready)
    }

    fn finish(&mut self) {}
}

fn headers(pairs: &[(&'static str, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    map
}

/// Headers in which the secret stands, by name and by form.
fn hostile_headers() -> Vec<(&'static str, String)> {
    let basic = STANDARD.encode(format!("user:{SECRET}"));
    vec![
        ("authorization", format!("Bearer {SECRET}")),
        ("proxy-authorization", format!("Basic {basic}")),
        ("cookie", format!("theme=dark; sid={SECRET}")),
        ("set-cookie", format!("sid={SECRET}; Path=/; HttpOnly")),
        ("x-api-key", SECRET.into()),
        ("x-auth-token", SECRET.into()),
        (
            "referer",
            format!("https://user:{SECRET}@shop.test/?access_token={SECRET}"),
        ),
        ("location", format!("/next?password={SECRET}")),
        ("content-location", format!("/next;token={SECRET}")),
        (
            "x-original-url",
            format!("https://shop.test/a?client_secret={SECRET}"),
        ),
        ("x-envoy-original-path", format!("/a?api_key={SECRET}")),
        (
            "x-rewrite-url",
            format!("/a?to=https%3A%2F%2Fu%3A{SECRET}%40h%2F"),
        ),
        ("link", format!("<https://h/?token={SECRET}>; rel=next")),
        ("refresh", format!("1; url=/?token={SECRET}")),
        ("x-forwarded-host", format!("u:{SECRET}@shop.test")),
        ("forwarded", format!("for=1.2.3.4;token={SECRET}")),
        ("x-json", format!(r#"{{"password": "{SECRET}"}}"#)),
        ("x-echo", format!("you sent Bearer {SECRET}, did you?")),
        ("x-copy", SECRET.into()),
    ]
}

fn mutations() -> Vec<(&'static str, String)> {
    let mut all = hostile_headers();
    all.push((":path", format!("/new?token={SECRET}&copy={SECRET}")));
    all
}

fn metadata() -> Struct {
    let text = |text: String| Value {
        kind: Some(Kind::StringValue(text)),
    };
    let inner: HashMap<String, Value> = [
        ("token".to_owned(), text(SECRET.into())),
        ("url".to_owned(), text(format!("https://u:{SECRET}@h/"))),
        ("copy".to_owned(), text(format!("<{SECRET}>"))),
        (SECRET.to_owned(), text("a key".into())),
    ]
    .into();
    Struct {
        fields: [(
            "filter".to_owned(),
            Value {
                kind: Some(Kind::StructValue(Struct { fields: inner })),
            },
        )]
        .into(),
    }
}

/// Sends one request with the secret everywhere through a processor that follows the script.
async fn play(inspector: &Arc<Inspector>, script: Arc<Script>) {
    let config = config(
        r#""processing_mode": {"request_body_mode": "BUFFERED", "response_body_mode": "BUFFERED",
           "request_trailer_mode": "SEND", "response_trailer_mode": "SEND"},
           "mutation_rules": {"allow_all_routing": true},
           "request_attributes": ["request.path", "request.query", "request.url_path", "request.host", "request.referer",
             "request.headers"]"#,
    );
    let frames = |name: &'static str| {
        let body = format!(r#"{{"password": "{SECRET}", "copy": "{SECRET}"}}"#);
        let (left, right) = body.split_at(body.len() - 8);
        let pieces =
            [left.to_owned(), right.to_owned()].map(|piece| Frame::data(Bytes::from(piece)));
        let trailers =
            Frame::trailers(headers(&[(name, SECRET.into()), ("x-copy", SECRET.into())]));
        let frames = pieces
            .into_iter()
            .chain([trailers])
            .map(Ok::<_, Infallible>);
        StreamBody::new(futures_util::stream::iter(frames))
    };
    let mut request = Request::builder()
        .method("POST")
        .uri(format!(
            "http://user:{SECRET}@shop.test/a?access_token={SECRET}&q=shown&copy={SECRET}#x"
        ))
        .body(frames("x-request-token").boxed())
        .unwrap();
    *request.headers_mut() = headers(&hostile_headers());
    let upstream = service_fn(|request: Request<RequestBody<_>>| async {
        let _ = request.into_body().collect().await;
        let mut response = Response::new(frames("x-response-token"));
        *response.headers_mut() = headers(&hostile_headers());
        Ok::<_, Infallible>(response)
    });
    let layer = ExtProcLayer::new(config, Processor(script))
        .named("authz")
        .observer(inspector.clone());
    let Ok(response) = layer.layer(upstream).oneshot(request).await;
    let _ = response.into_body().collect().await;
}

/// A text with everything in it that could be base64 decoded, and percent-encoding undone.
fn unpacked(text: &str) -> String {
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let mut out = text.to_owned();
    for word in text.split(|c| !is_base64(c)).filter(|word| word.len() >= 8) {
        let word = word.trim_end_matches('=');
        for start in 0..4 {
            let part = word.get(start..).unwrap_or_default();
            let part = &part[..part.len() / 4 * 4];
            let lenient = base64::engine::GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                base64::engine::GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
            );
            if let Ok(bytes) = lenient.decode(part) {
                out.push('\n');
                out.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
    }
    out
}

/// All that the inspector gives away of its exchanges.
async fn outputs(inspector: &Arc<Inspector>) -> Vec<(String, String)> {
    let (address, _) = serve(inspector, "127.0.0.1:0").await;
    let list = ask(address, "GET /exchanges", &[]).await;
    let ids: serde_json::Value = serde_json::from_str(body(&list)).unwrap();
    let ids: Vec<_> = ids["exchanges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x["id"].clone())
        .collect();
    let mut all = vec![("list".to_owned(), list)];
    all.push(("page".into(), ask(address, "GET /", &[]).await));
    for id in ids {
        for format in ["json", "text", "curl", "fake-proxy", "scenario"] {
            let taken = ask(
                address,
                &format!("GET /exchanges/{id}?format={format}"),
                &[],
            )
            .await;
            assert!(taken.starts_with("HTTP/1.0 200"), "{taken}");
            all.push((format!("{format} of {id}"), taken));
        }
        let gone = "POST /exchanges/{id}/replay?processor=127.0.0.1:1";
        let replayed = ask(address, &gone.replace("{id}", &id.to_string()), &[]).await;
        assert!(replayed.starts_with("HTTP/1.0 200"), "{replayed}");
        all.push((format!("replay of {id}"), replayed));
    }
    for format in ["", "&format=ndjson", "&format=text"] {
        let line = format!("GET /exchanges/stream?after=0{format}");
        let mut socket = asked(address, &line, &[]).await;
        let mut told = String::new();
        // Until the last exchange, which is the one that is found by the last lines.
        while !told.contains("/last") {
            let mut piece = [0; 4096];
            let len = tokio::io::AsyncReadExt::read(&mut socket, &mut piece)
                .await
                .unwrap();
            assert!(len > 0, "{told}");
            told.push_str(&String::from_utf8_lossy(&piece[..len]));
        }
        all.push((format!("stream {format}"), told));
    }
    all
}

#[tokio::test]
async fn one_secret_in_every_field() {
    for bodies in [0, 65536] {
        let mut settings = Settings::default();
        settings.bodies = bodies;
        settings.replay = vec!["127.0.0.1:1".into()];
        let inspector = inspector(settings);
        let told = Arc::new(Mutex::new(String::new()));
        let seen = Arc::new(AtomicUsize::new(0));
        // A processor that echoes the secret in each phase.
        let script = {
            let (told, seen) = (told.clone(), seen.clone());
            move |_, request: ProcessingRequest| {
                seen.fetch_add(1, Ordering::Relaxed);
                told.lock().unwrap().push_str(&format!("{request:?}"));
                let fields = mutations();
                let fields: Vec<(&str, &str)> = fields
                    .iter()
                    .map(|(name, value)| (*name, value.as_str()))
                    .collect();
                let mutation = headers_reply(&fields);
                let answer = match request.request {
                    Some(Asked::RequestHeaders(_)) => Answer::RequestHeaders(mutation),
                    Some(Asked::ResponseHeaders(_)) => Answer::ResponseHeaders(mutation),
                    Some(Asked::RequestBody(_)) => Answer::RequestBody(BodyResponse {
                        response: mutation.response,
                    }),
                    Some(Asked::ResponseBody(_)) => Answer::ResponseBody(BodyResponse {
                        response: mutation.response,
                    }),
                    Some(Asked::RequestTrailers(_)) => Answer::RequestTrailers(TrailersResponse {
                        header_mutation: mutation.response.unwrap().header_mutation,
                    }),
                    _ => Answer::ResponseTrailers(TrailersResponse {
                        header_mutation: mutation.response.unwrap().header_mutation,
                    }),
                };
                Ok(ProcessingResponse {
                    response: Some(answer),
                    dynamic_metadata: Some(metadata()),
                    ..ProcessingResponse::default()
                })
            }
        };
        play(&inspector, Arc::new(script)).await;
        assert_eq!(seen.load(Ordering::Relaxed), 6, "every phase");
        assert!(
            told.lock().unwrap().contains(SECRET),
            "the processor gets it"
        );

        // One that answers with it.
        let immediate = move |_, _| {
            let fields = hostile_headers();
            let fields: Vec<(&str, &str)> = fields
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            Ok(ProcessingResponse {
                response: Some(Answer::ImmediateResponse(ImmediateResponse {
                    headers: headers_reply(&fields).response.unwrap().header_mutation,
                    body: format!("no, {SECRET} is wrong").into(),
                    details: format!("denied_{SECRET}"),
                    ..ImmediateResponse::default()
                })),
                dynamic_metadata: Some(metadata()),
                ..ProcessingResponse::default()
            })
        };
        play(&inspector, Arc::new(immediate)).await;

        // One that fails with it, at once and late.
        for late in [0, 3] {
            let failing =
                move |count, request: ProcessingRequest| match (count >= late, request.request) {
                    (true, _) => Err(Close::status(16, format!("token {SECRET} expired"))),
                    (_, Some(Asked::RequestHeaders(_))) => Ok(request_headers(&[("x-a", SECRET)])),
                    (_, Some(Asked::RequestBody(_))) => Ok(ProcessingResponse {
                        response: Some(Answer::RequestBody(Default::default())),
                        ..ProcessingResponse::default()
                    }),
                    (_, Some(Asked::RequestTrailers(_))) => Ok(ProcessingResponse {
                        response: Some(Answer::RequestTrailers(Default::default())),
                        ..ProcessingResponse::default()
                    }),
                    _ => Ok(response_headers(&[])),
                };
            play(&inspector, Arc::new(failing)).await;
        }
        // One that answers in the wrong phase.
        let misfit = |_, _| Ok(response_headers(&[("x-a", SECRET)]));
        play(&inspector, Arc::new(misfit)).await;
        send(&inspector, config(""), obliging(), get("/last")).await;

        for (place, output) in outputs(&inspector).await {
            let output = unpacked(&output);
            if let Some(at) = output.find(SECRET) {
                let around: String = output[at.saturating_sub(300)..].chars().take(700).collect();
                panic!("{place} with bodies of {bodies} bytes: {around}");
            }
            if place.starts_with("json of") && !output.contains("/last") {
                assert!(output.contains("[redacted]"), "{place}: {output}");
            }
        }
        let whole = format!("{inspector:?}");
        assert!(!unpacked(&whole).contains(SECRET), "what is kept");
    }
}
