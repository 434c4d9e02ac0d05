//! A minimal HTTP gateway around the ext_proc layer.
//!
//! It routes HTTP/1.1 and HTTP/2 from listeners to clusters, through filters of which ext_proc is
//! the one that matters, and is configured in Envoy's own bootstrap language. It is a program
//! (`gateway --config envoy.yaml`) and a library: [`Gateway::start`] serves a
//! [`Snapshot`](config::snapshot::Snapshot) on threads of its own.
//!
//! It is no general proxy: there is no xDS and no HTTP/3.

#![forbid(unsafe_code)]

mod access_log;
mod admin;
mod alarm;
mod answered;
mod backlog;
mod body;
mod breakers;
mod buffers;
pub mod cli;
mod conditions;
mod connection;
mod cork;
mod cors;
mod descriptors;
mod drain;
mod exchange;
mod ext_proc;
mod filters;
mod format;
mod forward;
#[cfg(test)]
#[path = "../config/src/fuzzing.rs"]
mod fuzzing;
mod gateway;
mod headers;
mod http1;
mod http2;
pub mod inspect;
mod io;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod length;
mod listener;
mod local;
mod metadata;
mod metrics;
mod mirror;
mod mutate;
mod overload;
pub mod reload;
mod replay;
mod router;
mod serving;
mod throttle;
mod tls;
pub mod trace;
mod upstream;
mod worker;
pub mod writer;

pub use gateway_config as config;

pub use self::{
    descriptors::raise_open_files,
    gateway::{Gateway, Options, Running},
};
