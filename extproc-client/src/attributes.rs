//! What a processor may ask for beside the message: CEL expressions over the exchange.

use crate::{config::AttributeSet, host::{HostFacts, UpstreamInfo}, metadata::DynamicMetadata};

/// A compiled CEL expression.
#[derive(Clone, Debug)]
pub struct Expression {}

impl Expression {
    /// Compiles `text`. An unknown name is no error: the expression then has no value.
    ///
    /// # Errors
    /// `text` is not CEL.
    pub fn compile(_text: &str) -> Result<Self, String> {
        Ok(Self {})
    }
}

/// What expressions are evaluated over: the exchange as it is now.
pub(crate) struct View<'a> {
    pub(crate) request: Option<&'a http::request::Parts>,
    pub(crate) response: Option<&'a http::response::Parts>,
    pub(crate) response_trailers: Option<&'a http::HeaderMap>,
    /// Body bytes seen so far.
    pub(crate) request_size: u64,
    pub(crate) response_size: u64,
    pub(crate) facts: &'a HostFacts,
    pub(crate) upstream: Option<&'a UpstreamInfo>,
    pub(crate) metadata: &'a DynamicMetadata,
}

/// Encodes the values of `set` as a `google.protobuf.Struct`; what has no value is left out.
pub(crate) fn evaluate(_set: &AttributeSet, _view: &View<'_>) -> Vec<u8> {
    Vec::new()
}
