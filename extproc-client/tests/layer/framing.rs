//! Headers of framing and of connections, which a processor may not change, and the host that it is shown.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    CommonResponse, HeadersResponse, processing_request::Request as Seen,
    processing_response::Response as Answer,
};
use extproc_client::{
    BodyMode, ExtProcLayer, FilterConfig,
    config::{GrpcService, MutationRules, Service as Target},
    observer::Stats,
};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{ServiceBuilder, ServiceExt, service_fn};

use super::memory::*;

/// A client of hyper's writes the fields as they are: what a processor sets must not frame a message otherwise than it is.
#[tokio::test]
async fn a_processor_does_not_frame_messages() {
    let fields = [
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("x-set", "1"),
    ];
    let set = move |()| {
        let mut all = CommonResponse::default();
        let mutation = all.header_mutation.get_or_insert_default();
        for (name, value) in fields {
            let one = set_header(name, value).header_mutation.unwrap();
            mutation.set_headers.extend(one.set_headers);
        }
        HeadersResponse {
            response: Some(all),
        }
    };
    let memory = Memory::new(move |seen| match seen {
        Seen::RequestHeaders(_) => vec![Answer::RequestHeaders(set(()))],
        Seen::ResponseHeaders(_) => vec![Answer::ResponseHeaders(set(()))],
        other => echo(other),
    });
    for guarded in [true, false] {
        let kept = Arc::new(Mutex::new(HeaderMap::new()));
        let seen = kept.clone();
        let stats = Arc::new(Stats::default());
        let layer = ExtProcLayer::new(config(BodyMode::None), memory.clone())
            .observer(stats.clone())
            .guards_framing(guarded);
        let service = ServiceBuilder::new().layer(layer).service(service_fn(
            move |request: Request<Incoming>| {
                *seen.lock().unwrap() = request.headers().clone();
                std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
            },
        ));
        let request = Request::get("http://test.local/")
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = service.oneshot(request).await.unwrap();
        let request = kept.lock().unwrap().clone();
        for headers in [&request, response.headers()] {
            for (name, value) in fields {
                let expected = (!guarded || name == "x-set").then_some(value);
                let got = headers.get(name).map(|value| value.to_str().unwrap());
                assert_eq!(got, expected, "{name}, guarded: {guarded}");
            }
        }
        let rejected = if guarded { 8 } else { 0 };
        assert_eq!(stats.rejected_header_mutations.get(), rejected);
    }
}

/// The response to HEAD announces the length of a body that is not sent.
#[tokio::test]
async fn the_length_of_a_response_to_head_stays() {
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(config(BodyMode::None), Memory::new(echo)))
        .service(service_fn(|_: Request<Incoming>| {
            let response = Response::builder().header("content-length", "5");
            std::future::ready(Ok::<_, Infallible>(
                response.body(Full::<Bytes>::default()).unwrap(),
            ))
        }));
    let request = Request::head("http://test.local/")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["content-length"], "5");
}

/// The processor and the service see one host, whichever of the two places it stands in.
#[tokio::test]
async fn one_host_for_processor_and_service() {
    let hosts = Arc::new(Mutex::new(Vec::new()));
    let told = hosts.clone();
    let memory = Memory::new(move |seen| match seen {
        Seen::RequestHeaders(message) => {
            let headers = message.headers.unwrap().headers;
            let value = |name: &str| {
                let header = headers.iter().find(|header| header.key == name)?;
                Some(String::from_utf8(header.raw_value.clone()).unwrap())
            };
            assert_eq!(value("host"), None);
            told.lock().unwrap().push(value(":authority").unwrap());
            let response = match value("x-move").is_some() {
                true => set_header(":authority", "moved:81"),
                false => CommonResponse::default(),
            };
            vec![Answer::RequestHeaders(HeadersResponse {
                response: Some(response),
            })]
        }
        other => echo(other),
    });
    let config = FilterConfig::builder(Target::Grpc(GrpcService::cluster("p")))
        .mutation_rules(MutationRules {
            allow_all_routing: true,
            ..MutationRules::default()
        })
        .build()
        .unwrap();
    let service = ServiceBuilder::new()
        .layer(ExtProcLayer::new(config, memory))
        .service(service_fn(|request: Request<Incoming>| {
            let host = request.headers().get("host").cloned();
            let authority = request.uri().authority().map(ToString::to_string);
            let text = format!("{host:?} {authority:?}");
            std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
                text,
            ))))
        }));
    for (uri, host, moves, shown, got) in [
        (
            "http://public/",
            Some("admin"),
            false,
            "public",
            r#"Some("public") Some("public")"#,
        ),
        (
            "http://public/",
            None,
            false,
            "public",
            r#"None Some("public")"#,
        ),
        (
            "http://me@public/",
            Some("admin"),
            false,
            "me@public",
            r#"Some("public") Some("me@public")"#,
        ),
        (
            "/",
            Some("public"),
            false,
            "public",
            r#"Some("public") None"#,
        ),
        (
            "http://public/",
            Some("admin"),
            true,
            "public",
            r#"Some("moved:81") Some("moved:81")"#,
        ),
        (
            "/",
            Some("public"),
            true,
            "public",
            r#"Some("moved:81") None"#,
        ),
    ] {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        if moves {
            request = request.header("x-move", "1");
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        let body = response.collect().await.unwrap().to_bytes();
        assert_eq!(body, got, "{uri} {host:?}");
        assert_eq!(hosts.lock().unwrap().pop().as_deref(), Some(shown));
    }
}
