//! The data plane of the gateway: an HTTP proxy around the ext_proc layer.
//!
//! It routes HTTP/1.1 and HTTP/2 from listeners to clusters, through filters of which ext_proc is
//! the one that matters. [`Gateway::start`] serves a [`Snapshot`](gateway_config::snapshot::Snapshot), which
//! `gateway-config` reads from Envoy's own bootstrap language, on threads of its own.
//!
//! It is no general proxy: there is no xDS and no HTTP/3.

#![forbid(unsafe_code)]

mod control;
mod downstream;
mod exchange;
mod filters;
mod forward;
#[cfg(test)]
#[path = "../../config/src/fuzzing.rs"]
mod fuzzing;
mod http;
mod limits;
mod processors;
mod route;
mod telemetry;
pub mod trace;
mod upstream;

use gateway_config as config;

pub use self::{
    control::{
        admin::LogLevels,
        gateway::{Gateway, Options, Running, check},
    },
    limits::descriptors::raise_open_files,
    telemetry::writer::Lines,
};
