//! The data plane of the gateway: an HTTP proxy around the ext_proc layer.
//!
//! It routes HTTP/1.1 and HTTP/2 from listeners to clusters, through filters of which ext_proc is
//! the one that matters. [`Gateway::start`] serves a [`Snapshot`](gateway_config::snapshot::Snapshot), which
//! `gateway-config` reads from Envoy's own bootstrap language, on threads of its own.
//!
//! It is no general proxy: there is no xDS and no HTTP/3.
//!
//! A request goes down this list, and its response comes back up:
//!
//! | what happens | where |
//! |---|---|
//! | the connection is accepted; its filter chain, TLS and protocol are found | `control::worker`, `downstream::open` |
//! | **the request enters**: its head is read and checked, and an `Exchange` begins | `downstream::{http1, http2}`, `downstream::ingress` |
//! | **a route is chosen**, and again once a filter has cleared it | `route::select`, kept in `exchange::route_cell` |
//! | the filters run, each around the rest of the `Chain` | `filters`, `exchange::chain` |
//! | **a processor is asked**, over side streams to a cluster | `filters::ext_proc`, `processors` |
//! | **the request leaves**: attempts, retries and copies, as the route says | `forward`, `upstream::attempt` |
//! | the response is given to the client, and the exchange is logged | `downstream::egress`, `telemetry::access_log` |

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
