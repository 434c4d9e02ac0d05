//! Envoy's external processing protocol (ext_proc v3) as a tower layer.

#![forbid(unsafe_code)]

pub mod attributes;
mod body;
pub mod config;
mod driver;
mod error;
mod future;
pub mod headers;
pub mod host;
mod layer;
mod machine;
pub mod metadata;
pub mod observer;
mod service;
pub mod transport;
pub mod wire;

pub use self::{
    body::{RequestBody, ResponseBody},
    config::{BodyMode, FilterConfig, PerRoute, ProcessingMode, SendMode},
    error::{BoxError, Error},
    future::ResponseFuture,
    layer::ExtProcLayer,
    service::ExtProc,
};
