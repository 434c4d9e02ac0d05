//! Envoy's external processing protocol (ext_proc v3) as a tower layer.
//!
//! A *processor* is a gRPC server that sees an HTTP request and its response as they pass (headers, body, trailers)
//! and answers each part with a mutation, or ends the exchange with a reply of its own. This crate is the side of the
//! proxy: [`ExtProcLayer`] lets a processor see and change what goes through any `tower` service of HTTP requests, with
//! the configuration and the behaviour of Envoy's filter `envoy.filters.http.ext_proc`.
//!
//! ```no_run
//! use std::convert::Infallible;
//!
//! use bytes::Bytes;
//! use extproc_client::{
//!     ExtProcLayer, FilterConfig, RequestBody,
//!     transport::{Pool, TcpConnector},
//! };
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use tower::{ServiceBuilder, service_fn};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // In Envoy's own names; `FilterConfig::builder` does the same in code.
//! let config: FilterConfig = serde_json::from_str(r#"{
//!     "grpc_service": {"envoy_grpc": {"cluster_name": "processor"}},
//!     "processing_mode": {"response_header_mode": "SKIP"},
//!     "failure_mode_allow": true
//! }"#)?;
//! let processor = Pool::builder(TcpConnector::new("127.0.0.1:18080")).build();
//!
//! let service = ServiceBuilder::new()
//!     .layer(ExtProcLayer::new(config, processor))
//!     .service(service_fn(|_: Request<RequestBody<Full<Bytes>>>| async {
//!         Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("hello")))
//!     }));
//! # let _ = service;
//! # Ok(())
//! # }
//! ```
//!
//! # What holds for every exchange
//!
//! - One side stream per request, opened just before the first message and closed as soon as nothing more can come.
//! - The wrapped service gets no new error: a failed exchange becomes a response (504 after a timeout, else
//!   `status_on_error`) or, with `failure_mode_allow`, goes on without the processor. Only a body can fail, with what its
//!   source failed with, or with an [`Error`] where the filter cuts it.
//! - Back-pressure both ways: a slow processor, service or client stops what feeds it. What is held for a reply is
//!   bounded by [`host::Limits`].
//! - Dropping the response future, or the response's body, ends the side stream at once. Later only where that is asked for:
//!   with a [graceful close](FilterConfig::with_graceful_close), in observability mode (`deferred_close_timeout`), and for
//!   what was sent in the same breath and has to leave before the reset.
//! - An exchange spawns a task if a request body flows through the processor while the service already answers, and for such
//!   a late end of its side stream; none otherwise. A [`Pool`](transport::Pool) has one for each connection.
//! - `message_timeout` limits the wait for each reply. As in Envoy it does not where replies are not bound to messages: in
//!   full duplex and GRPC bodies, while the processor streams a response itself, and in observability mode. There a
//!   processor that stops holds the exchange until somebody drops it; give the service around the layer a timeout, or the pool
//!   a [keepalive](transport::PoolBuilder::keepalive) against hosts that are gone.
//!
//! # Which part for what
//!
//! | for | take |
//! |---|---|
//! | what the processor sees and may do | [`FilterConfig`], [`config`] |
//! | reaching the processor | [`transport`]: [`Pool`](transport::Pool) (HTTP/2), [`GrpcTransport`](transport::GrpcTransport) (any tonic service, in-process ones too), [`HttpTransport`](transport::HttpTransport) (JSON) |
//! | settings of one exchange: route configuration, limits, metadata | [`host`] |
//! | statistics under Envoy's names, and events | [`observer`] |
//!
//! A processor itself is written with the crate `extproc-sdk`.
//!
//! # Features
//!
//! - `pool`, on by default: [`Pool`](transport::Pool), side streams over HTTP/2; with `layer`.
//! - `layer`: [`ExtProcLayer`] and the traits of [`transport`]. Without it there are configuration, events and the protocol,
//!   and neither a runtime nor a network.
//! - `tonic`: [`GrpcTransport`](transport::GrpcTransport); `http-json`: [`HttpTransport`](transport::HttpTransport).
//! - `envoy-types`: a configuration is also made from the messages of that crate.
//! - `cel`: attributes may be any CEL expression. Without it they are names and headers, and a configuration with more than
//!   that is refused.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
// The machine is run by the layer.
#![cfg_attr(not(feature = "layer"), allow(dead_code, unused_imports))]

pub mod attributes;
pub mod config;
mod context;
#[cfg(feature = "layer")]
mod driver;
pub mod headers;
pub mod host;
#[cfg(feature = "layer")]
mod layer;
mod machine;
pub mod metadata;
pub mod observer;
pub mod text;
#[cfg(feature = "layer")]
pub mod transport;
mod types;
pub mod wire;

#[cfg(feature = "envoy-types")]
#[doc(no_inline)]
pub use envoy_types;
#[cfg(feature = "tonic")]
#[doc(no_inline)]
pub use tonic;
/// Crates of which types are in this one's interface.
#[doc(no_inline)]
pub use {bytes, http, http_body, prost_types, serde_json};

#[cfg(feature = "layer")]
pub use self::layer::{ExtProc, ExtProcLayer, RequestBody, ResponseBody, ResponseFuture};
pub use self::{
    config::{FilterConfig, PerRoute},
    context::error::{BoxError, Error},
    types::mode::{BodyMode, ProcessingMode, SendMode},
};

/// Compiles the programs in the README.
#[cfg(all(doctest, feature = "pool"))]
#[doc = include_str!("../README.md")]
struct Readme;
