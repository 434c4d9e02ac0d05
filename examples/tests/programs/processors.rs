//! The example processors behind a proxy.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use bytes::Bytes;
use examples::hs256;
use http::Request;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};
use tests::support::peers::Peer;
use tests::support::wait;

use crate::{
    client::{ask, get, streamed, whole},
    proxy::{Kind, Setup, example},
    upstream::{self, CLEAN_LETTER, LETTER, MODEL_ANSWER},
};

pub(crate) async fn jwt(kind: Kind) -> anyhow::Result<()> {
    let processor = example("jwt", &["--secret", "s3cret"]).await?;
    let filter = json!({"processing_mode": {"response_header_mode": "SKIP"}});
    let setup = Setup::new(&processor, upstream::start("only").await?, filter);
    let proxy = setup.start(kind).await?;

    hs256::install();
    let soon = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 600;
    let claims = json!({"sub": "alice", "aud": "example", "exp": soon});
    let token = encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(b"s3cret"),
    )?;
    let request = Request::get("/")
        .header("authorization", format!("Bearer {token}"))
        .header("x-user", "root");
    let answer = ask(proxy.address, request, "/shop", whole("")).await?;
    let headers = &answer.json()?["headers"];
    ensure!(headers["x-user"] == "alice", "{answer:?}");
    ensure!(headers.get("authorization").is_none(), "{answer:?}");

    let request = Request::get("/").header("authorization", format!("Bearer {token}x"));
    let answer = ask(proxy.address, request, "/shop", whole("")).await?;
    ensure!(answer.status == 401, "{answer:?}");
    let challenge = answer.header("www-authenticate");
    ensure!(
        challenge == Some(r#"Bearer error="invalid_token""#),
        "{answer:?}"
    );
    let answer = get(proxy.address, "/shop").await?;
    ensure!(
        answer.header("www-authenticate") == Some("Bearer"),
        "{answer:?}"
    );
    Ok(())
}

pub(crate) async fn json_rewrite(kind: Kind) -> anyhow::Result<()> {
    let processor = example("json_rewrite", &[]).await?;
    let filter = json!({"processing_mode": {"request_body_mode": "BUFFERED"}});
    let setup = Setup::new(&processor, upstream::start("only").await?, filter);
    let proxy = setup.start(kind).await?;
    let post = |body: &'static str| {
        let request = Request::post("/").header("content-type", "application/json");
        ask(proxy.address, request, "/v1/chat", whole(body))
    };
    let answer = post(r#"{"model": "smart", "max_tokens": 9999999}"#).await?;
    let seen = answer.json()?;
    let body = seen["body"].as_str().unwrap_or_default();
    let expected = json!({"model": "large-2026-03", "max_tokens": 1024});
    ensure!(
        serde_json::from_str::<Value>(body)? == expected,
        "{answer:?}"
    );
    ensure!(seen["headers"]["x-model"] == "large-2026-03", "{answer:?}");
    let length = body.len().to_string();
    ensure!(
        seen["headers"]["content-length"] == length.as_str(),
        "{answer:?}"
    );
    let answer = post(r#"{"model": "#).await?;
    ensure!(answer.status == 400, "{answer:?}");
    Ok(())
}

pub(crate) async fn redact(kind: Kind) -> anyhow::Result<()> {
    let processor = example("redact", &[]).await?;
    let filter = json!({"processing_mode": {
        "response_body_mode": "FULL_DUPLEX_STREAMED",
        "response_trailer_mode": "SEND",
    }});
    let setup = Setup::new(&processor, upstream::start("only").await?, filter);
    let proxy = setup.start(kind).await?;
    let answer = get(proxy.address, "/letter").await?;
    ensure!(answer.text() == CLEAN_LETTER.repeat(50), "{answer:?}");
    let answer = get(proxy.address, "/anything").await?;
    let seen = answer.json()?;
    ensure!(
        seen["headers"]["accept-encoding"] == "identity",
        "{answer:?}"
    );
    // With trailers the end of the body comes along with them.
    let answer = get(proxy.address, "/signed").await?;
    ensure!(answer.json()? == json!({"signed": false}), "{answer:?}");
    ensure!(answer.trailers.contains_key("x-upstream"), "{answer:?}");
    Ok(())
}

pub(crate) async fn token_counter(kind: Kind) -> anyhow::Result<()> {
    let processor = example("token_counter", &[]).await?;
    let filter = json!({"processing_mode": {"response_body_mode": "STREAMED"}});
    let setup = Setup::new(&processor, upstream::start("only").await?, filter);
    let proxy = setup.start(kind).await?;
    let answer = get(proxy.address, "/model").await?;
    ensure!(answer.text() == MODEL_ANSWER, "{answer:?}");
    logged(&processor, "tokens=2").await?;
    let answer = get(proxy.address, "/letter").await?;
    ensure!(answer.text() == LETTER.repeat(50), "{answer:?}");
    Ok(())
}

/// The log may be a moment later than the response.
async fn logged(peer: &Peer, words: &str) -> anyhow::Result<()> {
    wait::until("the log", wait::LONG, async || {
        let log = peer.process.log();
        ensure!(log.contains(words), "no {words} in {log}");
        Ok(())
    })
    .await
}

pub(crate) async fn ab_routing(kind: Kind) -> anyhow::Result<()> {
    let (a, b) = (upstream::start("a").await?, upstream::start("b").await?);
    let routes = json!([
        {
            "match": {
                "prefix": "/",
                "headers": [{"name": "x-variant", "string_match": {"exact": "b"}}],
            },
            "route": {"cluster": "b"},
        },
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
    ]);
    for (share, expected) in [("0", "a"), ("100", "b")] {
        let processor = example("ab_routing", &["--share", share]).await?;
        let setup = Setup {
            processor: processor.address,
            upstreams: vec![("a", a), ("b", b)],
            routes: Some(routes.clone()),
            filter: json!({}),
        };
        let proxy = setup.start(kind).await?;
        // What a client chooses for itself does not count.
        for choice in ["a", "b"] {
            let request = Request::get("/")
                .header("x-user", "alice")
                .header("x-variant", choice);
            let answer = ask(proxy.address, request, "/", whole("")).await?;
            ensure!(
                answer.json()?["upstream"] == expected,
                "{share} {choice} {answer:?}"
            );
            ensure!(answer.header("x-variant") == Some(expected), "{answer:?}");
        }
    }
    Ok(())
}

pub(crate) async fn size_guard(kind: Kind) -> anyhow::Result<()> {
    let processor = example("size_guard", &["--limit", "1000"]).await?;
    let filter = json!({"processing_mode": {"request_body_mode": "STREAMED"}});
    let setup = Setup::new(&processor, upstream::start("only").await?, filter);
    let proxy = setup.start(kind).await?;
    let pieces = |count: usize| streamed(vec![Bytes::from_static(&[b'x'; 100]); count]);
    for (body, length) in [
        (whole("x".repeat(1000)), 1000),
        (pieces(10), 1000),
        (whole(""), 0),
    ] {
        let answer = ask(proxy.address, Request::post("/"), "/upload", body).await?;
        let seen = answer.json()?["body"].as_str().map(str::len);
        ensure!(seen == Some(length), "{length} {answer:?}");
    }
    for body in [whole("x".repeat(1001)), pieces(11)] {
        let answer = ask(proxy.address, Request::post("/"), "/upload", body).await?;
        ensure!(answer.status == 413, "{answer:?}");
    }
    Ok(())
}

/// A processor that is shown too little says so, where the operator looks.
pub(crate) async fn wrong_mode(kind: Kind) -> anyhow::Result<()> {
    let processor = example("redact", &[]).await?;
    let setup = Setup::new(&processor, upstream::start("only").await?, json!({}));
    let proxy = setup.start(kind).await?;
    let answer = get(proxy.address, "/letter").await?;
    ensure!(answer.status == 500, "{answer:?}");
    logged(
        &processor,
        "response_body_mode is NONE, FULL_DUPLEX_STREAMED is needed",
    )
    .await
}
