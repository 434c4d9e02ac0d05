//! Record of an exchange for the access log.

use std::borrow::Cow;

use extproc_client::host::{ExchangeSummary, Outcome, ResponseFlags, UpstreamInfo};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, request, response};

/// A request head as the access log shows it.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
}

impl Head {
    pub(crate) fn of(request: &request::Parts) -> Self {
        Self {
            method: request.method.clone(),
            uri: request.uri.clone(),
            headers: request.headers.clone(),
        }
    }

    /// The head as an expression sees it.
    pub(super) fn parts(&self) -> request::Parts {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.into_parts().0
    }
}

/// The response as the access log shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: Option<StatusCode>,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) details: Option<Cow<'static, str>>,
    pub(crate) flags: u64,
    pub(crate) processor: Option<ExchangeSummary>,
    pub(crate) upstream: Option<UpstreamInfo>,
    /// Protocol in which an upstream responded.
    pub(crate) upstream_version: Option<Version>,
    /// The text of a local reply that is being formatted.
    pub(crate) local_body: String,
}

impl Reply {
    /// The head as an expression sees it.
    pub(super) fn parts(&self) -> Option<response::Parts> {
        let mut response = Response::new(());
        *response.status_mut() = self.status?;
        *response.headers_mut() = self.headers.clone();
        let outcome = Outcome::of_mut(&mut response);
        outcome.flags = ResponseFlags::new(self.flags);
        outcome.details = self.details.clone();
        Some(response.into_parts().0)
    }

    pub(crate) fn of<B>(response: &Response<B>) -> Self {
        let outcome = Outcome::of(response);
        Self {
            status: Some(response.status()),
            headers: response.headers().clone(),
            trailers: None,
            details: outcome.code_details(),
            flags: outcome.flags.0,
            processor: outcome.processor,
            upstream_version: outcome.is_upstream().then(|| response.version()),
            upstream: outcome.upstream.clone(),
            local_body: String::new(),
        }
    }
}
