//! The sample processor behind the fake proxy, in every body mode.

use extproc_sdk::{
    BodyMode,
    testing::{FakeExchange, FakeProxy, Message, Outcome},
};
use extproc_server::Instructions;

/// Every body mode.
const MODES: [BodyMode; 6] = [
    BodyMode::None,
    BodyMode::Streamed,
    BodyMode::Buffered,
    BodyMode::BufferedPartial,
    BodyMode::FullDuplexStreamed,
    BodyMode::Grpc,
];

/// Every way to configure the proxy that makes a difference to a body.
fn proxies() -> Vec<FakeProxy<Instructions>> {
    let mut proxies = Vec::new();
    for mode in MODES {
        let proxy = FakeProxy::new(Instructions)
            .request_body(mode)
            .response_body(mode)
            .request_trailers(true)
            .response_trailers(true);
        proxies.push(proxy.clone().body_without_waiting());
        proxies.push(proxy.clone().bodies_arrive_early());
        proxies.push(proxy.clone().bodies_arrive_early().keep_content_length());
        proxies.push(proxy.clone().keep_content_length().buffer_limit(4));
        proxies.push(proxy);
    }
    proxies
}

fn can_replace(proxy: &FakeProxy<Instructions>, message: &Message) -> bool {
    let grpc = format!("{proxy:?}").contains("body: Grpc");
    !grpc || !message.bytes().is_empty()
}

/// Messages of every shape, as a request and as a response.
fn shapes() -> Vec<(Message, Message)> {
    let request = || Message::request("POST", "/");
    let response = || Message::response(200);
    vec![
        (request(), response()),
        (request().body("hello"), response().body("hello")),
        (request().body(""), response().body("")),
        (
            request().pieces(["hello ", "world"]),
            response().pieces(["hello ", "world"]),
        ),
        (
            request().pieces(["hello ", "world"]).trailer("x-t", "old"),
            response().pieces(["hello ", "world"]).trailer("x-t", "old"),
        ),
        (
            request().trailer("x-t", "old"),
            response().trailer("x-t", "old"),
        ),
    ]
}

/// Runs a request and its response, both with these instructions; returns what goes on of either.
async fn both(
    proxy: &FakeProxy<Instructions>,
    shape: &(Message, Message),
    instructions: &str,
) -> (Message, Message) {
    let mut exchange = proxy.exchange();
    let request = shape.0.clone().header("instructions", instructions);
    let response = shape.1.clone().header("instructions", instructions);
    let context = || format!("{proxy:?} {shape:?} {instructions}");
    let forward = |outcome: Result<Outcome, _>| {
        outcome
            .and_then(Outcome::forwarded)
            .unwrap_or_else(|error| panic!("{error}: {}", context()))
    };
    let request = forward(exchange.request(request).await);
    let response = forward(exchange.response(response).await);
    exchange
        .finish()
        .await
        .unwrap_or_else(|error| panic!("{error}: {}", context()));
    (request, response)
}

#[tokio::test]
async fn without_instructions_nothing_changes() {
    for proxy in proxies() {
        for shape in shapes() {
            let (request, response) = both(&proxy, &shape, "{}").await;
            for (got, sent) in [(request, &shape.0), (response, &shape.1)] {
                assert_eq!(got.bytes(), sent.bytes(), "{proxy:?}");
                assert_eq!(got.get_trailer("x-t"), sent.get_trailer("x-t"), "{proxy:?}");
            }
        }
    }
}

#[tokio::test]
async fn headers_are_added_and_removed() {
    let instructions = r#"{"addHeaders":{"X-New":"1","x-old":"2"},"removeHeaders":["x-gone"]}"#;
    for proxy in proxies() {
        for (request, response) in shapes() {
            let change = |message: Message| message.header("x-old", "0").header("x-gone", "0");
            let shape = (change(request), change(response));
            let (request, response) = both(&proxy, &shape, instructions).await;
            for (got, sent) in [(request, &shape.0), (response, &shape.1)] {
                assert_eq!(got.get("x-new"), Some("1"));
                assert_eq!(got.get_all("x-old").collect::<Vec<_>>(), ["2"]);
                assert_eq!(got.get("x-gone"), None);
                assert_eq!(got.bytes(), sent.bytes());
            }
        }
    }
}

#[tokio::test]
async fn a_body_is_set_in_every_mode() {
    for proxy in proxies() {
        for shape in shapes() {
            if !can_replace(&proxy, &shape.0) {
                continue;
            }
            let (request, response) = both(&proxy, &shape, r#"{"setBody":"a new body"}"#).await;
            for (got, sent) in [(request, &shape.0), (response, &shape.1)] {
                assert_eq!(got.text(), "a new body", "{proxy:?} {sent:?}");
                assert_eq!(got.get("content-type"), Some("text/plain"));
                let length = got.get("content-length");
                assert!(
                    length.is_none_or(|length| length == "10"),
                    "{proxy:?} {got:?}"
                );
                assert_eq!(got.get_trailer("x-t"), sent.get_trailer("x-t"), "{proxy:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_body_can_be_taken_away() {
    for proxy in proxies() {
        for shape in shapes() {
            if !can_replace(&proxy, &shape.0) {
                continue;
            }
            let (request, response) = both(&proxy, &shape, r#"{"setBody":""}"#).await;
            assert_eq!(
                (request.text(), response.text()),
                (String::new(), String::new())
            );
        }
    }
}

#[tokio::test]
async fn trailers_are_set_where_there_are_some() {
    for proxy in proxies() {
        for shape in shapes() {
            let instructions = r#"{"setTrailers":{"x-t":"new","x-more":"1"}}"#;
            let (request, response) = both(&proxy, &shape, instructions).await;
            for (got, sent) in [(request, &shape.0), (response, &shape.1)] {
                let expected = sent.get_trailer("x-t").map(|_| "new");
                assert_eq!(got.get_trailer("x-t"), expected, "{proxy:?} {sent:?}");
                assert_eq!(got.bytes(), sent.bytes());
            }
        }
    }
}

#[tokio::test]
async fn body_and_trailers_are_set_together_where_the_body_is_shown() {
    let instructions = r#"{"setBody":"a new body","setTrailers":{"x-t":"new"}}"#;
    for proxy in proxies() {
        let shape = (
            Message::request("POST", "/")
                .pieces(["hello ", "world"])
                .trailer("x-t", "old"),
            Message::response(200)
                .pieces(["hello ", "world"])
                .trailer("x-t", "old"),
        );
        let (request, response) = both(&proxy, &shape, instructions).await;
        let settings = format!("{proxy:?}");
        let shown = !settings.contains("body: None") && !settings.contains("body: BufferedPartial");
        let expected = if shown { "new" } else { "old" };
        for got in [request, response] {
            assert_eq!(got.text(), "a new body", "{proxy:?}");
            assert_eq!(got.get_trailer("x-t"), Some(expected), "{proxy:?}");
        }
    }
}

#[tokio::test]
async fn a_content_type_of_the_client_stays() {
    let proxy = FakeProxy::new(Instructions);
    let instructions = r#"{"setBody":"{}","addHeaders":{"Content-Type":"application/json"}}"#;
    let request = Message::request("GET", "/").header("instructions", instructions);
    let got = proxy.exchange().request(request).await.unwrap();
    let got = got.forwarded().unwrap();
    assert_eq!(
        got.get_all("content-type").collect::<Vec<_>>(),
        ["application/json"]
    );
}

async fn respond(mut exchange: FakeExchange, side: &str, instructions: &str) -> Message {
    let outcome = if side == "request" {
        let request = Message::request("POST", "/").body("hello");
        exchange
            .request(request.header("instructions", instructions))
            .await
    } else {
        let response = Message::response(200).body("hello");
        exchange
            .response(response.header("instructions", instructions))
            .await
    };
    let response = outcome.unwrap().responded().unwrap();
    exchange.finish().await.unwrap();
    response
}

#[tokio::test]
async fn responds_at_once() {
    let instructions = r#"{"respond":{"status":403,"headers":{"x-why":"rules"},"body":"go away"}}"#;
    for proxy in proxies() {
        for side in ["request", "response"] {
            let response = respond(proxy.exchange(), side, instructions).await;
            assert_eq!(response.status(), 403);
            assert_eq!(response.get("x-why"), Some("rules"));
            assert_eq!(response.text(), "go away");
        }
    }
}

#[tokio::test]
async fn malformed_instructions_are_explained() {
    for proxy in proxies() {
        for side in ["request", "response"] {
            let response = respond(proxy.exchange(), side, r#"{"addHeaders":{"a":"b"},}"#).await;
            assert_eq!(response.status(), 400);
            assert!(
                response.text().contains("at line 1 column 25"),
                "{}",
                response.text()
            );
            assert!(response.text().contains("correct example"));
        }
    }
}

#[tokio::test]
async fn several_instructions_headers_are_followed_together() {
    let request = Message::request("GET", "/")
        .header("instructions", r#"{"addHeaders":{"a":"1"}}"#)
        .header("instructions", r#"{"addHeaders":{"b":"2"}}"#);
    let mut exchange = FakeProxy::new(Instructions).exchange();
    let got = exchange
        .request(request)
        .await
        .unwrap()
        .forwarded()
        .unwrap();
    assert_eq!((got.get("a"), got.get("b")), (Some("1"), Some("2")));
}

#[tokio::test]
async fn a_grpc_message_stream_without_messages_cannot_get_a_body() {
    let proxy = FakeProxy::new(Instructions).request_body(BodyMode::Grpc);
    let request = Message::request("POST", "/").header("instructions", r#"{"setBody":"x"}"#);
    let response = proxy.exchange().request(request).await.unwrap();
    assert_eq!(response.responded().unwrap().status(), 400);
}

#[tokio::test]
async fn observers_say_nothing() {
    let proxy = FakeProxy::new(Instructions)
        .request_body(BodyMode::Streamed)
        .response_body(BodyMode::Streamed)
        .observe_only();
    for instructions in [
        r#"{"setBody":"x"}"#,
        r#"{"respond":{"status":403}}"#,
        "nonsense",
    ] {
        let shape = &shapes()[3];
        let (request, _) = both(&proxy, shape, instructions).await;
        assert_eq!(request.text(), "hello world");
    }
}
