//! The shapes of the answers, through the router alone.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Response, StatusCode, header},
};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::{MAX_BODY, page::ENDPOINTS, router};

async fn send(request: Request<Body>) -> Response<Body> {
    router()
        .oneshot(request)
        .await
        .expect("the router is infallible")
}

async fn get(target: &str) -> Response<Body> {
    send(
        Request::get(target)
            .header("host", "bin.test")
            .body(Body::empty())
            .expect("a request"),
    )
    .await
}

async fn bytes_of(response: Response<Body>) -> Bytes {
    response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes()
}

async fn text_of(response: Response<Body>) -> String {
    String::from_utf8(bytes_of(response).await.to_vec()).expect("text")
}

async fn json_of(response: Response<Body>) -> Value {
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/json; charset=utf-8"
    );
    serde_json::from_slice(&bytes_of(response).await).expect("a JSON document")
}

async fn posted(content_type: &str, body: impl Into<Body>) -> Value {
    let request = Request::post("/post").header("content-type", content_type);
    json_of(send(request.body(body.into()).expect("a request")).await).await
}

#[tokio::test]
async fn headers_have_canonical_names_sorted_in_arrays() {
    let request = Request::get("/headers")
        .header("user-agent", "test")
        .header("x-b", "1")
        .header("host", "www.example.com")
        .header("x-b", "2")
        .body(Body::empty())
        .expect("a request");
    assert_eq!(
        text_of(send(request).await).await,
        r#"{
  "headers": {
    "Host": [
      "www.example.com"
    ],
    "User-Agent": [
      "test"
    ],
    "X-B": [
      "1",
      "2"
    ]
  }
}
"#
    );
}

#[tokio::test]
async fn an_echo_has_the_fields_in_their_order() {
    let text = text_of(get("/anything/at?b=2&a=1&b=%20").await).await;
    let fields = [
        "args", "headers", "method", "origin", "url", "data", "files", "form", "json",
    ];
    let places: Vec<usize> = fields
        .iter()
        .map(|field| text.find(&format!("\n  \"{field}\":")).expect(field))
        .collect();
    assert!(places.is_sorted(), "{text}");

    let echo: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(echo["args"], json!({ "a": ["1"], "b": ["2", " "] }));
    assert_eq!(echo["url"], "http://bin.test/anything/at?b=2&a=1&b=%20");
    assert_eq!(echo["json"], Value::Null);
}

#[tokio::test]
async fn the_origin_and_url_follow_what_a_front_end_reports() {
    let request = Request::get("/get")
        .header("host", "bin.test")
        .header("x-forwarded-for", "192.0.2.1, 192.0.2.2")
        .header("x-forwarded-proto", "https")
        .body(Body::empty())
        .expect("a request");
    let echo = json_of(send(request).await).await;
    assert_eq!(echo["origin"], "192.0.2.1");
    assert_eq!(echo["url"], "https://bin.test/get");
}

#[tokio::test]
async fn bodies_are_shown_by_their_content_type() {
    let form = posted("application/x-www-form-urlencoded", "a=1&a=2&b=+x").await;
    assert_eq!(form["form"], json!({ "a": ["1", "2"], "b": [" x"] }));
    assert_eq!(form["data"], "a=1&a=2&b=+x");

    let document = posted("application/json; charset=utf-8", r#"{"b":1,"a":[null]}"#).await;
    assert_eq!(document["json"], json!({ "a": [null], "b": 1 }));

    let text = posted("text/plain", "plain").await;
    assert_eq!(text["data"], "plain");

    let binary = posted("image/png", vec![0xfb, 0xff]).await;
    assert_eq!(binary["data"], "data:image/png;base64,-_8=");

    let parts = "--B\r\ncontent-disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\nfile\r\n\
                 --B\r\ncontent-disposition: form-data; name=\"v\"\r\n\r\nvalue\r\n--B--\r\n";
    let multipart = posted("multipart/form-data; boundary=B", parts).await;
    assert_eq!(multipart["files"], json!({ "f": ["file"] }));
    assert_eq!(multipart["form"], json!({ "v": ["value"] }));
}

#[tokio::test]
async fn a_body_that_is_too_long_or_malformed_is_refused() {
    assert_eq!(
        posted("text/plain", vec![b'x'; MAX_BODY]).await["data"]
            .as_str()
            .map(str::len),
        Some(MAX_BODY)
    );
    let long = posted("text/plain", vec![b'x'; MAX_BODY + 1]).await;
    assert_eq!(
        (&long["status_code"], &long["error"]),
        (&json!(400), &json!("Bad Request"))
    );
    assert!(
        long["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("longer than 1048576 bytes"))
    );

    for (content_type, body) in [
        ("application/json", "{"),
        ("application/json", " "),
        ("application/x-www-form-urlencoded", "a=%z"),
        ("multipart/form-data", "x"),
    ] {
        assert_eq!(
            posted(content_type, body).await["status_code"],
            400,
            "{content_type} {body:?}"
        );
    }
}

#[tokio::test]
async fn statuses_come_as_asked_or_are_refused() {
    for code in [200, 204, 304, 404, 418, 503, 599] {
        assert_eq!(get(&format!("/status/{code}")).await.status(), code);
    }
    assert_eq!(get("/status/200:0,503:1").await.status(), 503);
    assert_eq!(
        get("/status/302").await.headers()[header::LOCATION],
        "/redirect/1"
    );
    for bad in [
        "x",
        "99",
        "101",
        "600",
        "200,x",
        "200:x,201",
        "200:-1,201:1",
        "200:0,201:0",
    ] {
        assert_eq!(get(&format!("/status/{bad}")).await.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn redirects_count_down_to_get() {
    let location = async |target: &str| {
        let response = get(target).await;
        assert_eq!(response.status(), StatusCode::FOUND, "{target}");
        response.headers()[header::LOCATION]
            .to_str()
            .expect("text")
            .to_owned()
    };
    assert_eq!(location("/redirect/3").await, "/relative-redirect/2");
    assert_eq!(location("/relative-redirect/1").await, "/get");
    assert_eq!(
        location("/absolute-redirect/2?x=1").await,
        "http://bin.test/absolute-redirect/1"
    );
    assert_eq!(
        location("/redirect-to?url=http%3A%2F%2Fa.test%2F").await,
        "http://a.test/"
    );
    for bad in [
        "/redirect/0",
        "/redirect/x",
        "/redirect-to",
        "/redirect-to?url=/&status_code=200",
    ] {
        assert_eq!(get(bad).await.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn response_headers_are_set_but_never_the_framing() {
    let response =
        get("/response-headers?x-a=1&X-A=2&bad%20name=1&content-length=1&x-b=a%0D%0Ab").await;
    let values: Vec<_> = response.headers().get_all("x-a").iter().collect();
    assert_eq!(values, ["2", "1"]);
    assert_eq!(response.headers()["x-b"], "a  b");
    assert!(!response.headers().contains_key("bad name"));
    assert_eq!(json_of(response).await["content-length"], json!(["1"]));
    let typed = get("/response-headers?content-type=text/x-own").await;
    assert_eq!(typed.headers()[header::CONTENT_TYPE], "text/x-own");
}

#[tokio::test]
async fn trailers_follow_the_body_and_are_announced() {
    let response = get("/trailers?x-one=1&x-two=2&x-two=3").await;
    let announced: Vec<_> = response.headers().get_all(header::TRAILER).iter().collect();
    assert_eq!(announced, ["x-one", "x-two"]);
    assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
    let whole = response.into_body().collect().await.expect("a whole body");
    let expected: HeaderMap = [("x-one", "1"), ("x-two", "3")]
        .into_iter()
        .map(|(name, value)| {
            (
                name.parse().expect("a name"),
                value.parse().expect("a value"),
            )
        })
        .collect();
    assert_eq!(whole.trailers(), Some(&expected));
    assert_eq!(get("/trailers?Content-Length=1").await.status(), 400);
}

#[tokio::test]
async fn random_bytes_are_counted_bounded_and_repeatable() {
    assert_eq!(bytes_of(get("/bytes/1000").await).await.len(), 1000);
    assert_eq!(bytes_of(get("/bytes/0").await).await.len(), 0);
    assert_eq!(
        bytes_of(get("/bytes/99999999").await).await.len(),
        100 * 1024
    );
    assert_eq!(
        bytes_of(get("/bytes/99?seed=7").await).await,
        bytes_of(get("/bytes/99?seed=7").await).await
    );
    for bad in [
        "/bytes/x",
        "/bytes/-1",
        "/bytes/5?seed=x",
        "/stream-bytes/5?chunk_size=x",
    ] {
        assert_eq!(get(bad).await.status(), 400, "{bad}");
    }
}

#[tokio::test]
async fn streamed_bytes_come_in_chunks_of_the_size() {
    let mut body = get("/stream-bytes/25?chunk_size=10").await.into_body();
    let mut sizes = Vec::new();
    while let Some(frame) = body.frame().await {
        sizes.push(frame.expect("no error").into_data().expect("data").len());
    }
    assert_eq!(sizes, [10, 10, 5]);
}

#[tokio::test]
async fn streamed_lines_are_numbered_documents() {
    let text = text_of(get("/stream/3?a=1").await).await;
    for (id, line) in text.lines().enumerate() {
        let document: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(
            (&document["id"], &document["args"]),
            (&json!(id), &json!({ "a": ["1"] }))
        );
    }
    assert_eq!(text.lines().count(), 3);
    assert_eq!(
        text_of(get("/stream/1000").await).await.lines().count(),
        100
    );
}

#[tokio::test(start_paused = true)]
async fn slow_answers_take_the_time_asked_for() {
    let start = tokio::time::Instant::now();
    let response = get("/delay/1.5").await;
    assert_eq!(start.elapsed(), Duration::from_millis(1500));
    assert!(
        response.headers()["server-timing"]
            .to_str()
            .is_ok_and(|timing| timing.contains("dur=1500.00"))
    );

    let start = tokio::time::Instant::now();
    let response = get("/drip?numbytes=5&duration=2s&delay=1s&code=201").await;
    assert_eq!(
        (response.status(), start.elapsed()),
        (StatusCode::CREATED, Duration::from_secs(1))
    );
    assert_eq!(response.headers()[header::CONTENT_LENGTH], "5");
    assert_eq!(text_of(response).await, "*****");
    assert_eq!(start.elapsed().as_secs(), 3);

    for bad in [
        "/delay/10.1",
        "/delay/-1",
        "/delay/x",
        "/drip?delay=6&duration=6",
        "/drip?numbytes=0",
        "/sse?count=0",
    ] {
        assert_eq!(get(bad).await.status(), 400, "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_end_with_a_timing_trailer() {
    let whole = get("/sse?count=3&duration=1s")
        .await
        .into_body()
        .collect()
        .await
        .expect("a whole body");
    assert!(
        whole
            .trailers()
            .is_some_and(|trailers| trailers.contains_key("server-timing"))
    );
    let text = String::from_utf8(whole.to_bytes().to_vec()).expect("text");
    assert_eq!(text.matches("event: ping\ndata: {").count(), 3);
}

#[tokio::test]
async fn compressed_answers_say_so() {
    for (target, coding, field) in [
        ("/gzip", "gzip", "gzipped"),
        ("/deflate", "deflate", "deflated"),
    ] {
        let response = get(target).await;
        assert_eq!(response.headers()[header::CONTENT_ENCODING], coding);
        let body = bytes_of(response).await;
        let document: Value = if coding == "gzip" {
            serde_json::from_reader(flate2::read::GzDecoder::new(&body[..])).expect("gzip of JSON")
        } else {
            serde_json::from_reader(flate2::read::ZlibDecoder::new(&body[..]))
                .expect("zlib of JSON")
        };
        assert_eq!(
            (&document[field], &document["url"]),
            (&json!(true), &json!(""))
        );
    }
}

#[tokio::test]
async fn base64_goes_both_ways() {
    assert_eq!(text_of(get("/base64/aGVsbG8=").await).await, "hello");
    assert_eq!(text_of(get("/base64/encode/hello").await).await, "aGVsbG8=");
    assert_eq!(
        bytes_of(get("/base64/decode/-_8=").await).await,
        [0xfb, 0xff].as_slice()
    );
    assert_eq!(get("/base64/%21").await.status(), 400);
    assert_eq!(get("/base64/zip/x").await.status(), 400);
}

#[tokio::test]
async fn a_websocket_needs_an_upgrade() {
    let refusal = json_of(get("/websocket/echo").await).await;
    assert_eq!(refusal["status_code"], 400);
    assert_eq!(
        get("/websocket/echo?max_message_size=0").await.status(),
        400
    );
}

#[tokio::test]
async fn methods_preflights_and_unknown_paths() {
    let ask = async |method: Method, target: &str| {
        send(
            Request::builder()
                .method(method)
                .uri(target)
                .body(Body::empty())
                .expect("a request"),
        )
        .await
    };
    assert_eq!(
        ask(Method::POST, "/get").await.status(),
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(
        ask(Method::GET, "/post").await.headers()[header::ALLOW],
        "POST"
    );
    assert_eq!(get("/nowhere").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(text_of(ask(Method::HEAD, "/get").await).await, "");
    for target in ["/get", "/nowhere"] {
        let response = ask(Method::OPTIONS, target).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    }
}

#[tokio::test]
async fn cookies_and_credentials() {
    let response = get("/cookies/set?a=1&b=2").await;
    let set: Vec<_> = response
        .headers()
        .get_all(header::SET_COOKIE)
        .iter()
        .collect();
    assert_eq!(set, ["a=1; HttpOnly", "b=2; HttpOnly"]);

    let with = async |target: &str, name: &str, value: &str| {
        send(
            Request::get(target)
                .header(name, value)
                .body(Body::empty())
                .expect("a request"),
        )
        .await
    };
    assert_eq!(
        json_of(with("/cookies", "cookie", "a=1; b=2").await).await,
        json!({ "a": "1", "b": "2" })
    );
    assert_eq!(
        with("/basic-auth/u/p", "authorization", "Basic dTpw")
            .await
            .status(),
        200
    );
    assert_eq!(
        with("/basic-auth/u/p", "authorization", "Basic dTp4")
            .await
            .status(),
        401
    );
    assert_eq!(get("/hidden-basic-auth/u/p").await.status(), 404);
    assert_eq!(
        json_of(with("/bearer", "authorization", "Bearer t").await).await["token"],
        "t"
    );
    assert_eq!(
        get("/bearer").await.headers()[header::WWW_AUTHENTICATE],
        "Bearer"
    );
    assert_eq!(
        with("/cache", "if-none-match", "x").await.status(),
        StatusCode::NOT_MODIFIED
    );
}

#[tokio::test(start_paused = true)]
async fn every_example_of_the_landing_page_answers() {
    let page = text_of(get("/").await).await;
    for (example, ..) in ENDPOINTS {
        if example.is_empty() {
            continue;
        }
        assert!(page.contains(&example.replace('&', "&amp;")), "{example}");
        let status = get(example).await.status();
        assert!(!matches!(status.as_u16(), 400 | 405), "{example}: {status}");
        let hidden = example.starts_with("/hidden");
        assert_eq!(
            status == StatusCode::NOT_FOUND,
            hidden,
            "{example}: {status}"
        );
    }
}
