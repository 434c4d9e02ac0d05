//! A message as a proxy shows it: its headers, pieces of its body, its trailers, and what comes with them.

pub(crate) mod attributes;
mod headers;
mod trace_parent;

pub use self::{
    attributes::{Attributes, Metadata},
    headers::{Body, Headers, Trailers},
    trace_parent::TraceParent,
};
