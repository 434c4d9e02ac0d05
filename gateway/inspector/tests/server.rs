//! Exchanges that are kept, those who may see them, and their forms.

#[allow(dead_code, reason = "shared by several tests")]
mod common;

use extproc_client::http::Request;
use gateway_inspector::Settings;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpStream,
};

use self::common::*;

#[tokio::test]
async fn secrets_are_not_recorded() {
    let inspector = inspector(Settings::default());
    let request = Request::builder()
        .uri("http://user:hidden@shop.test/a?access_token=hidden&q=shown")
        .header("authorization", "Bearer hidden")
        .header("x-auth-token", "hidden")
        .header("cookie", "hidden");
    let processor = Scripted::new(|_| vec![request_headers(&[("set-cookie", "hidden")])]);
    let config = config(r#""processing_mode": {"response_header_mode": "SKIP"}"#);
    send(&inspector, config, processor, request).await;
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let list: Value =
        serde_json::from_str(body(&ask(address, "GET /exchanges", &[]).await)).unwrap();
    let id = list["exchanges"][0]["id"].clone();
    for format in ["json", "text", "curl", "fake-proxy", "scenario"] {
        let taken = ask(
            address,
            &format!("GET /exchanges/{id}?format={format}"),
            &[],
        )
        .await;
        assert!(taken.starts_with("HTTP/1.0 200"), "{taken}");
        // In base64 as well.
        assert!(
            !taken.contains("hidden") && !taken.contains("aGlkZGVu"),
            "{format}: {taken}"
        );
        assert!(
            !taken.contains("question") && !taken.contains("hello"),
            "{format}: {taken}"
        );
        if format != "scenario" {
            assert!(taken.contains("shown"), "{format}: {taken}");
        }
    }
}

#[tokio::test]
async fn bodies_when_asked_and_no_more_than_asked() {
    let mut settings = Settings::default();
    settings.bodies = 4;
    let inspector = inspector(settings);
    let config = config(r#""processing_mode": {"request_body_mode": "BUFFERED"}"#);
    send(&inspector, config, obliging(), get("/")).await;
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let list: Value =
        serde_json::from_str(body(&ask(address, "GET /exchanges", &[]).await)).unwrap();
    let id = &list["exchanges"][0]["id"];
    let curl = ask(address, &format!("GET /exchanges/{id}?format=curl"), &[]).await;
    let parts = "{ printf 'ques'; head -c 4 /dev/zero | tr '\\0' '?'; } |\n";
    assert!(curl.contains(parts), "{curl}");
    let json = ask(address, &format!("GET /exchanges/{id}"), &[]).await;
    // In base64, four bytes of eight; the sizes are those of the whole.
    assert!(
        json.contains(r#""body":"cXVlcw==""#) && !json.contains("cXVlc3Rpb24"),
        "{json}"
    );
    assert!(json.contains(r#""bytes":8"#), "{json}");
}

#[tokio::test]
async fn strangers_are_refused() {
    let inspector = inspector(Settings::default());
    let (address, url) = serve(&inspector, "127.0.0.1:0").await;
    assert!(!url.contains("token"), "{url}");
    let status = async |line, headers: &[&str]| {
        let answer = ask(address, line, headers).await;
        assert!(
            answer.contains("content-security-policy: default-src 'none'"),
            "{answer}"
        );
        assert!(
            answer.contains("x-content-type-options: nosniff"),
            "{answer}"
        );
        answer[9..12].to_owned()
    };
    // A page of another name that was made to lead here.
    for host in [
        "evil.test",
        "evil.test:15001",
        "127.0.0.1.evil.test",
        "localhost.evil.test",
        "",
    ] {
        let host = format!("host: {host}");
        assert_eq!(status("GET /exchanges", &[&host]).await, "421", "{host}");
    }
    for host in [
        "localhost\r\nhost: evil.test",
        "evil.test\r\nhost: localhost",
    ] {
        let host = format!("host: {host}");
        let refused = status("GET /exchanges", &[&host]).await;
        assert!(
            matches!(refused.as_str(), "421" | "400"),
            "{host}: {refused}"
        );
    }
    assert_eq!(
        status("GET http://evil.test/exchanges", &["host: localhost"]).await,
        "421"
    );
    for host in [
        "localhost",
        "LOCALHOST:15001",
        "127.0.0.1",
        "[::1]:15001",
        "10.0.0.1",
    ] {
        let host = format!("host: {host}");
        assert_eq!(status("GET /exchanges", &[&host]).await, "200", "{host}");
    }
    // A form or script of another site.
    let post = "POST /exchanges/1/replay?processor=127.0.0.1:1";
    assert_eq!(status(post, &["sec-fetch-site: cross-site"]).await, "403");
    assert_eq!(status(post, &["sec-fetch-site: same-site"]).await, "403");
    assert_eq!(status(post, &["origin: http://evil.test"]).await, "403");
    assert_eq!(status(post, &["origin: null"]).await, "403");
    let own = format!("origin: http://127.0.0.1:{}", address.port());
    assert_eq!(
        status(post, &[&own, "sec-fetch-site: same-origin"]).await,
        "404"
    );
    let answer = ask(address, "GET /exchanges", &["origin: http://evil.test"]).await;
    assert!(!answer.contains("access-control"), "{answer}");
}

#[tokio::test]
async fn a_token_where_others_can_connect() {
    let inspector = inspector(Settings::default());
    let (address, url) = serve(&inspector, "0.0.0.0:0").await;
    let (_, token) = url.split_once("/?token=").unwrap();
    assert_eq!(token.len(), 32);
    for headers in [
        &[][..],
        &["authorization: Bearer 0"],
        &["cookie: inspector=0; a=b"],
    ] {
        let answer = ask(address, "GET /exchanges", headers).await;
        assert!(answer.starts_with("HTTP/1.0 401"), "{answer}");
    }
    let answer = ask(address, "GET /?token=0", &[]).await;
    assert!(answer.starts_with("HTTP/1.0 401"), "{answer}");
    let bearer = format!("authorization: Bearer {token}");
    let answer = ask(address, "GET /exchanges", &[&bearer]).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    // A browser keeps it in a cookie that no script and no other site gets.
    let answer = ask(address, &format!("GET /?token={token}"), &[]).await;
    assert!(answer.starts_with("HTTP/1.0 303"), "{answer}");
    assert!(answer.contains("HttpOnly; SameSite=Strict"), "{answer}");
    // Nor does it lead elsewhere.
    for path in ["//evil.test/", "/\\\\evil.test", "/\\/evil.test"] {
        let answer = ask(address, &format!("GET {path}?token={token}"), &[]).await;
        let is_own = answer.contains("location: /evil.test") || answer.starts_with("HTTP/1.0 400");
        assert!(is_own, "{answer}");
    }
    let cookie = format!("cookie: a=b; inspector={token}");
    let answer = ask(address, "GET /", &[&cookie]).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
}

#[tokio::test]
async fn a_stream_goes_on_where_it_was_left() {
    let inspector = inspector(Settings::default());
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let one = async || send(&inspector, config(""), obliging(), get("/stream")).await;
    one().await;
    let list: Value =
        serde_json::from_str(body(&ask(address, "GET /exchanges", &[]).await)).unwrap();
    let version = list["exchanges"][0]["version"].as_u64().unwrap();
    one().await;
    let last = format!("last-event-id: {version}");
    let socket = asked(address, "GET /exchanges/stream", &[&last]).await;
    let mut lines = BufReader::new(socket).lines();
    let mut id = None;
    let data: Value = loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some(given) = line.strip_prefix("id: ") {
            id = given.parse::<u64>().ok();
        } else if let Some(given) = line.strip_prefix("id:") {
            id = given.parse::<u64>().ok();
        }
        if let Some(data) = line.strip_prefix("data:") {
            break serde_json::from_str(data).unwrap();
        }
    };
    assert_ne!(
        data["id"], list["exchanges"][0]["id"],
        "only the second one is new"
    );
    assert_eq!(data["path"], "/stream");
    assert!(id.is_none_or(|id| id > version));

    let socket = asked(
        address,
        "GET /exchanges/stream?after=0",
        &["accept: application/x-ndjson"],
    )
    .await;
    let mut lines = BufReader::new(socket).lines();
    while !lines.next_line().await.unwrap().unwrap().is_empty() {}
    for _ in 0..2 {
        let line = lines.next_line().await.unwrap().unwrap();
        let exchange: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(exchange["processors"][0]["filter"], "authz");
        assert_eq!(exchange["processors"][0]["phases"][0], "changed");
    }
}

/// Two hundred pages: those beyond the limit are told so, and what is there can still be asked for.
#[tokio::test]
async fn too_many_streams_are_refused_and_closed_ones_do_not_count() {
    let inspector = inspector(Settings::default());
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let mut open = Vec::new();
    for page in 0..200 {
        if page >= 16 {
            let refused = ask(address, "GET /exchanges/stream", &[]).await;
            assert!(refused.starts_with("HTTP/1.0 503"), "{refused}");
            assert!(refused.contains("retry-after: 10"), "{refused}");
            assert!(refused.contains("close a page"), "{refused}");
            continue;
        }
        let mut socket = BufReader::new(asked(address, "GET /exchanges/stream", &[]).await);
        let mut line = String::new();
        socket.read_line(&mut line).await.unwrap();
        assert!(line.contains("200"), "{line}");
        open.push(socket);
    }
    assert!(
        ask(address, "GET /exchanges", &[])
            .await
            .starts_with("HTTP/1.0 200")
    );
    drop(open);
    // The server learns of an end when it has turned to it.
    while !ask_head(address).await.contains("200") {
        tokio::task::yield_now().await;
    }
}

/// A page that is left open and takes nothing: neither exchanges nor what is kept of them wait for it.
#[tokio::test]
async fn a_reader_that_reads_nothing_holds_up_nobody() {
    let inspector = inspector(Settings::default());
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let left_open = asked(address, "GET /exchanges/stream?after=0", &[]).await;
    for n in 0..3000 {
        send(&inspector, config(""), obliging(), get(&format!("/{n}"))).await;
    }
    let state = ask(address, "GET /state", &[]).await;
    let state: Value = serde_json::from_str(body(&state)).unwrap();
    assert_eq!(
        (&state["kept"], &state["dropped"]),
        (&1000.into(), &2000.into())
    );
    assert!(
        state["bytes"].as_u64().unwrap() < 32 * 1024 * 1024,
        "{state}"
    );
    // It goes on with what is there now, and misses what is gone.
    let mut lines = BufReader::new(left_open).lines();
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if line.starts_with("data:") && line.contains("\"path\":\"/2999\"") {
            break;
        }
    }
}

/// Whoever leaves connections open takes them from himself.
#[tokio::test]
async fn connections_that_say_nothing_make_room() {
    let inspector = inspector(Settings::default());
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let answer = ask(address, "GET /exchanges", &[]).await;
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");
    // The first of them is closed.
    assert!(matches!(silent[0].read(&mut [0]).await, Ok(0) | Err(_)));
}

async fn ask_head(address: std::net::SocketAddr) -> String {
    let mut socket = BufReader::new(asked(address, "GET /exchanges/stream", &[]).await);
    let mut line = String::new();
    socket.read_line(&mut line).await.unwrap();
    line
}

#[tokio::test]
async fn the_ring_is_bounded_and_what_is_left_out_is_counted() {
    let mut settings = Settings::default();
    settings.exchanges = 2;
    settings.only = Some("/kept".into());
    let inspector = inspector(settings);
    for path in ["/kept/1", "/other", "/kept/2", "/kept/3"] {
        send(&inspector, config(""), obliging(), get(path)).await;
    }
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let list: Value =
        serde_json::from_str(body(&ask(address, "GET /exchanges", &[]).await)).unwrap();
    assert_eq!(
        (&list["kept"], &list["dropped"], &list["skipped"]),
        (&2.into(), &1.into(), &1.into())
    );
    let paths: Vec<_> = list["exchanges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| &x["path"])
        .collect();
    assert_eq!(paths, ["/kept/2", "/kept/3"]);
    let found = ask(address, "GET /exchanges?match=kept/3", &[]).await;
    assert!(
        !found.contains("kept/2") && found.contains("kept/3"),
        "{found}"
    );
}

/// The page must not become a way to reach whatever the gateway can reach.
#[tokio::test]
async fn a_replay_reaches_known_processors_alone() {
    let mut settings = Settings::default();
    settings.replay = vec!["localhost:18081".into(), "[::1]:18082".into()];
    let inspector = inspector(settings);
    send(&inspector, config(""), obliging(), get("/replayed")).await;
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let list: Value =
        serde_json::from_str(body(&ask(address, "GET /exchanges", &[]).await)).unwrap();
    let id = list["exchanges"][0]["id"].clone();
    let play = async |to: &str| {
        let line = format!("POST /exchanges/{id}/replay?processor={to}");
        ask(address, &line, &[]).await
    };
    for to in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("localhost:18081@127.0.0.1:{port}"),
        format!("localhost:18081%00127.0.0.1:{port}"),
        format!("localhost:18081%2C127.0.0.1:{port}"),
        "169.254.169.254:80".into(),
        "/run/processor.sock".into(),
        "localhost".into(),
    ] {
        let answer = play(&to).await;
        assert!(answer.starts_with("HTTP/1.0 403"), "{to}: {answer}");
        assert!(answer.contains("localhost:18081, [::1]:18082"), "{answer}");
        assert!(answer.contains("--inspect-replay"), "{answer}");
    }
    let nobody = tokio::time::timeout(std::time::Duration::from_millis(100), listener.accept());
    assert!(nobody.await.is_err(), "no replay connects to it");
    // The configuration names it now, in place of what it named before; the list of the page has it.
    inspector.set_processors(["127.0.0.1:1".to_owned()]);
    inspector.set_processors([format!("127.0.0.1:{port}")]);
    let answer = play("127.0.0.1:1").await;
    assert!(answer.starts_with("HTTP/1.0 403"), "{answer}");
    let state: Value = serde_json::from_str(body(&ask(address, "GET /state", &[]).await)).unwrap();
    let all = serde_json::json!([
        format!("127.0.0.1:{port}"),
        "localhost:18081",
        "[::1]:18082"
    ]);
    assert_eq!(state["replay"], all);
    let known = format!("127.0.0.1:{port}");
    let (answer, reached) = tokio::join!(play(&known), async {
        let reached = listener.accept().await.is_ok();
        drop(listener);
        reached
    });
    assert!(answer.starts_with("HTTP/1.0 200") && reached, "{answer}");
}

#[tokio::test]
async fn a_recorded_request_is_played_to_another_processor() {
    let inspector = inspector(Settings::default());
    send(&inspector, config(""), obliging(), get("/replayed")).await;
    let (address, _) = serve(&inspector, "127.0.0.1:0").await;
    let list: Value =
        serde_json::from_str(body(&ask(address, "GET /exchanges", &[]).await)).unwrap();
    let id = &list["exchanges"][0]["id"];
    // Bound and not listened on: nobody else gets the port, and connections are refused.
    let nobody = tokio::net::TcpSocket::new_v4().unwrap();
    nobody.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let gone = nobody.local_addr().unwrap();
    inspector.set_processors([gone.to_string()]);
    let answer = ask(
        address,
        &format!("POST /exchanges/{id}/replay?processor={gone}"),
        &[],
    )
    .await;
    let played: Value = serde_json::from_str(body(&answer)).unwrap();
    assert_eq!(played["path"], "/replayed");
    assert_eq!(played["status"], 500, "nobody is there");
    assert!(
        played["processors"][0]["closed"]
            .as_str()
            .unwrap()
            .contains("14"),
        "{played}"
    );
}
