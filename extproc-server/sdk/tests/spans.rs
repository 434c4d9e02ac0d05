//! Spans and lines that a subscriber gets.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use extproc_sdk::tonic::metadata::MetadataMap;
use extproc_sdk::{
    BoxError, Call, Headers, HeadersReply, Processor, ProcessorService,
    testing::{FakeProxy, Message},
};
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tracing::{Instrument as _, Level, Subscriber, info, info_span, subscriber};
use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt as _};

/// Sets a subscriber for this thread. One at a time, and in a program of their own: `tracing` may ask the subscriber of the
/// thread that reaches a callsite first whether it is of interest, and keeps that for all.
async fn listen(
    subscriber: impl Subscriber + Send + Sync + 'static,
) -> (subscriber::DefaultGuard, MutexGuard<'static, ()>) {
    static ONE: AsyncMutex<()> = AsyncMutex::const_new(());
    let one = ONE.lock().await;
    (subscriber::set_default(subscriber), one)
}

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
    /// A subscriber that writes it.
    fn subscriber(&self, level: Level) -> impl Subscriber + Send + Sync + 'static {
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_writer(self.clone())
            .finish()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Pass;

impl Processor for Pass {
    type State = ();
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
    let guard = listen(log.subscriber(Level::DEBUG)).await;
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
    let guard = listen(log.subscriber(Level::INFO)).await;
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
    let guard = listen(log.subscriber(Level::INFO)).await;
    let mut exchange = FakeProxy::new(Pass).exchange();
    exchange
        .request(Message::request("GET", "/"))
        .await
        .unwrap();
    drop(guard);
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn spans_join_the_trace_of_the_proxy() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_simple_exporter(exporter.clone())
        .build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("processor"));
    let guard = listen(tracing_subscriber::registry().with(layer)).await;
    let mut metadata = MetadataMap::new();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    metadata.insert("traceparent", parent.parse().unwrap());
    let proxy = FakeProxy::new(Traced).initial_metadata(metadata);
    let mut exchange = proxy.exchange();
    let request = Message::request("GET", "/shop");
    let forwarded = exchange.request(request).await.unwrap().forwarded();
    assert_eq!(forwarded.unwrap().get("x-parent"), Some(parent));
    exchange.finish().await.unwrap();
    drop(guard);

    let spans = exporter.get_finished_spans().unwrap();
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let (exchange, phase) = (named("exchange"), named("phase"));
    let trace = exchange.span_context.trace_id().to_string();
    assert_eq!(trace, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(exchange.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(exchange.span_kind, SpanKind::Server);
    assert_eq!(phase.parent_span_id, exchange.span_context.span_id());
    // A span of the handler's own.
    assert_eq!(named("lookup").parent_span_id, phase.span_context.span_id());
}

/// Opens a span of its own.
struct Traced;

impl Processor for Traced {
    type State = ();

    async fn request_headers(
        &self,
        call: &mut Call<()>,
        _: &Headers,
    ) -> Result<HeadersReply, BoxError> {
        let parent = call.trace_parent().ok_or("no trace")?;
        let lookup = async { HeadersReply::new().set("x-parent", parent.to_string()) };
        Ok(lookup.instrument(info_span!("lookup")).await)
    }
}
