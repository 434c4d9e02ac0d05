//! Write processors for ext_proc v3 in Rust.
//!
//! A processor is a gRPC service that a proxy asks about every HTTP request and response it forwards: it sees their
//! headers, bodies and trailers and may change them, or answer in the upstream's place. Envoy calls it the external
//! processing filter. With this crate a processor is a type with up to six methods:
//!
//! ```no_run
//! use extproc_sdk::{BoxError, Call, Headers, HeadersReply, Processor, Server};
//!
//! struct Greeter;
//!
//! impl Processor for Greeter {
//!     type State = ();
//!
//!     async fn response_headers(
//!         &self,
//!         call: &mut Call<()>,
//!         _: &Headers,
//!     ) -> Result<HeadersReply, BoxError> {
//!         let path = call.request().and_then(Headers::path).unwrap_or("?");
//!         Ok(HeadersReply::new().set("x-greeting", format!("hello, {path}")))
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), BoxError> {
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:18080").await?;
//!     Server::new(Greeter).serve(listener, std::future::pending()).await?;
//!     Ok(())
//! }
//! ```
//!
//! The protocol is the crate's business, not the processor's:
//!
//! - Every message is answered, in the form that the body mode of the proxy asks for, and only then. The same handler
//!   works in `STREAMED`, `BUFFERED`, `BUFFERED_PARTIAL`, `FULL_DUPLEX_STREAMED` and `GRPC`.
//! - A handler that fails, panics or takes too long has one defined outcome ([`OnFailure`]), which is logged and counted.
//! - Replies are checked before they are sent ([`validate`]), and a `content-length` follows the body.
//! - Both value fields of a header are read, only `raw_value` is written.
//!
//! A test needs no proxy: [`testing::FakeProxy`] sends as a proxy does and shows the HTTP message that comes out.
//!
//! ```
//! # use extproc_sdk::{BoxError, Call, Headers, HeadersReply, Processor};
//! use extproc_sdk::testing::{FakeProxy, Message};
//! # struct Greeter;
//! # impl Processor for Greeter {
//! #     type State = ();
//! #     async fn response_headers(&self, call: &mut Call<()>, _: &Headers) -> Result<HeadersReply, BoxError> {
//! #         let path = call.request().and_then(Headers::path).unwrap_or("?");
//! #         Ok(HeadersReply::new().set("x-greeting", format!("hello, {path}")))
//! #     }
//! # }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let mut exchange = FakeProxy::new(Greeter).exchange();
//! exchange.request(Message::request("GET", "/shop")).await?.forwarded()?;
//! let response = exchange.response(Message::response(200)).await?.forwarded()?;
//! assert_eq!(response.get("x-greeting"), Some("hello, /shop"));
//! # Ok(())
//! # }
//! ```
//!
//! # What a handler may return
//!
//! | handler | called if the proxy sends | to go on | to answer the client itself |
//! | --- | --- | --- | --- |
//! | `request_headers` | `request_header_mode: SEND` (default) | [`HeadersReply`]: headers, whole body, route, mode | [`Immediate`] |
//! | `request_body` | `request_body_mode` other than `NONE` | [`BodyReply`]: this piece; headers and route while they are held (buffered modes) | [`Immediate`] |
//! | `request_trailers` | `request_trailer_mode: SEND`, and there are some | [`TrailersReply`]: trailers; last bytes in the duplex modes | [`Immediate`] |
//! | `response_headers` | `response_header_mode: SEND` (default) | [`HeadersReply`]: headers, status, whole body, mode | [`Immediate`] |
//! | `response_body` | `response_body_mode` other than `NONE` | [`BodyReply`]: this piece; headers while they are held | [`Immediate`], if the head has not gone out |
//! | `response_trailers` | `response_trailer_mode: SEND`, and there are some | [`TrailersReply`] | [`Immediate`], if the head has not gone out |
//!
//! Every reply may carry dynamic metadata and [`skip_rest`](HeadersReply::skip_rest); every handler may fail. A processor that
//! cannot work with what the proxy sends says so in [`Processor::check_modes`].
//!
//! # Which part for what
//!
//! | for | take |
//! | --- | --- |
//! | a processor | [`Processor`], with [`HeadersReply`], [`BodyReply`], [`TrailersReply`] and [`Immediate`] |
//! | a processor that leads the conversation, for full duplex and streamed responses | [`StreamProcessor`] |
//! | a server around it, with an orderly end, health and reflection | [`Server`] |
//! | the gRPC service alone, for a server of your own or for a client in the same process | [`ProcessorService`] |
//! | whole bodies, JSON, compression, server-sent events, gRPC messages | [`bodies`] |
//! | tests without a proxy | [`testing`] |
//!
//! # What can be seen of it
//!
//! With [`tracing`]: a span `exchange` (`method`, `path`, `request_id`, `status`) around everything of an exchange, and in it
//! a span `phase` around each handler of a [`Processor`], both at level `debug`; failures at `error`, with their phase. In
//! numbers: [`Stats`], which [`serve_metrics`] shows to Prometheus.
//!
//! A proxy that traces tells of its span in the metadata of the stream: [`Call::trace_parent`], and `trace_id` of the span
//! `exchange`. With the feature `opentelemetry`, that span is below the proxy's, and a layer of `tracing-opentelemetry` that
//! lets `extproc_sdk=debug` pass exports it, and what a handler does within, as a part of the proxy's trace.
//!
//! # What it costs
//!
//! Beside the same processor written by hand on tonic, with no checks, deadlines or counters: 5 % more instructions for each
//! exchange (callgrind; eight exchanges with headers alone to one with a body of 16 pieces of 16 KiB), and 14 % more CPU
//! time with headers alone, 9 % with the body (medians of 15 alternating rounds on two busy cores, built without
//! link-time optimisation). `cargo bench -p extproc-sdk --bench cost` measures both side by side.
//!
//! # Features
//!
//! - `server`, on by default: [`Server`]. Without it there is the [`ProcessorService`], for a server of your own.
//! - `health`, `reflection`: these gRPC services, in the [`Server`]; `tls`: [`Server::tls`].
//! - `metrics`: [`serve_metrics`].
//! - `opentelemetry`: spans join the proxy's trace.
//! - `compression`: [`bodies::Decoder`], [`bodies::Encoder`] and [`bodies::Recode`].
//!
//! # What it is not
//!
//! It is not a proxy, and knows nothing of one beyond the protocol. What a proxy sends, how long it waits and what it
//! lets a processor change is the proxy's configuration; [`Call::modes`] tells a handler what can be known of it.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod bodies;
mod call;
mod engine;
#[cfg(feature = "metrics")]
mod metrics;
mod processor;
mod reply;
#[cfg(feature = "server")]
mod server;
mod service;
mod stats;
pub mod testing;
mod types;
mod view;

/// Crates of which types are in this one's interface.
#[doc(no_inline)]
pub use {bytes, envoy_types, http, serde_json, tonic};

#[cfg(feature = "metrics")]
pub use crate::metrics::serve_metrics;
#[cfg(feature = "tls")]
pub use crate::server::TlsConfig;
#[cfg(feature = "server")]
pub use crate::server::{DRAIN, ServeError, Server};
pub use crate::{
    call::Call,
    engine::{
        Conversation, ConversationError, DEADLINE, Event, OnFailure, Run, StreamProcessor,
        Streaming,
    },
    processor::Processor,
    reply::{BodyReply, HeadersReply, Immediate, TrailersReply, validate},
    service::{ProcessorService, RECEIVE_LIMIT},
    stats::Stats,
    types::{BodyMode, BoxError, ModeOverride, Modes, Phase, Side},
    view::{Attributes, Body, Headers, Metadata, TraceParent, Trailers},
};

/// Compiles the programs in the README.
#[cfg(all(doctest, feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;
