//! What a subscriber for traces gets to see.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use extproc_sdk::{
    BoxError, Call, Headers, HeadersReply, Processor, ProcessorService,
    testing::{FakeProxy, Message},
};
use tracing::{Level, info, subscriber};
use tracing_subscriber::fmt::MakeWriter;

use crate::Pass;

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    /// Collects what this thread logs as long as the guard lives.
    fn collect(&self, level: Level) -> subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_writer(self.clone())
            .finish();
        subscriber::set_default(subscriber)
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Talkative;

impl Processor for Talkative {
    type State = ();

    async fn request_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        tokio::task::yield_now().await;
        info!("in the handler");
        Ok(HeadersReply::new())
    }

    async fn response_headers(
        &self,
        _: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        Err("no answer".into())
    }
}

async fn exchange() {
    let service = ProcessorService::new(Talkative);
    let mut exchange = FakeProxy::with_service(service).exchange();
    let request = Message::request("GET", "/shop?a=1").header("x-request-id", "r-7");
    exchange.request(request).await.unwrap();
    exchange.response(Message::response(404)).await.unwrap_err();
}

#[tokio::test]
async fn a_handler_logs_within_its_exchange_and_phase() {
    let log = Log::default();
    let guard = log.collect(Level::DEBUG);
    exchange().await;
    drop(guard);
    let text = log.text();
    let line = |words: &str| {
        let found = text.lines().find(|line| line.contains(words));
        found.unwrap_or_else(|| panic!("no {words:?} in {text}"))
    };
    let said = line("in the handler");
    for words in [
        r#"exchange{method="GET" path="/shop?a=1" request_id="r-7"}"#,
        r#"phase{phase="request_headers"}"#,
    ] {
        assert!(said.contains(words), "{said}");
    }
    let failed = line("handler failed: no answer");
    for words in [
        r#"path="/shop?a=1""#,
        r#"status="404""#,
        r#"phase="response_headers""#,
    ] {
        assert!(failed.contains(words), "{failed}");
    }
}

#[tokio::test]
async fn a_log_at_info_has_the_failure_with_its_phase() {
    let log = Log::default();
    let guard = log.collect(Level::INFO);
    exchange().await;
    drop(guard);
    let text = log.text();
    assert!(!text.contains("exchange{"), "{text}");
    let failed = r#"handler failed: no answer phase="response_headers""#;
    assert!(text.contains(failed), "{text}");
}

#[tokio::test]
async fn nothing_is_said_about_ordinary_exchanges() {
    let log = Log::default();
    let guard = log.collect(Level::INFO);
    let mut exchange = FakeProxy::new(Pass).exchange();
    exchange
        .request(Message::request("GET", "/"))
        .await
        .unwrap();
    drop(guard);
    assert_eq!(log.text(), "");
}
