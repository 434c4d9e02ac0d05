//! The data plane of the gateway: an HTTP proxy around the ext_proc layer.
//!
//! It routes HTTP/1.1 and HTTP/2 from listeners to clusters, through filters of which ext_proc is
//! the one that matters. [`Gateway::start`] serves a [`Snapshot`](gateway_config::snapshot::Snapshot), which
//! `gateway-config` reads from Envoy's own bootstrap language, on threads of its own.
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
#[path = "../../config/src/fuzzing.rs"]
mod fuzzing;
mod gateway;
mod headers;
mod http1;
mod http2;
mod io;
mod length;
mod listener;
mod local;
mod metadata;
mod metrics;
mod mirror;
mod mutate;
mod overload;
mod replay;
mod router;
mod serving;
mod throttle;
mod tls;
mod upstream;
mod worker;
mod writer;

use gateway_config as config;

pub use self::{
    descriptors::raise_open_files,
    gateway::{Gateway, Options, Running},
    writer::Lines,
};
