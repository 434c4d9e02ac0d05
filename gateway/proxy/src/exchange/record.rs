//! What the access log will show of an exchange.

use extproc_client::host::{ExchangeSummary, ResponseDetails, ResponseFlags, UpstreamInfo};
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
    pub(crate) details: Option<ResponseDetails>,
    pub(crate) flags: u64,
    pub(crate) processor: Option<ExchangeSummary>,
    pub(crate) upstream: Option<UpstreamInfo>,
    /// What an upstream responded in.
    pub(crate) upstream_version: Option<Version>,
}

impl Reply {
    /// `%RESPONSE_CODE_DETAILS%` of a response.
    pub(crate) fn details_of<B>(response: &Response<B>) -> Option<ResponseDetails> {
        let extensions = response.extensions();
        let upstream = extensions.get().is_some_and(UpstreamInfo::responded);
        extensions
            .get()
            .cloned()
            .or_else(|| upstream.then(|| ResponseDetails::new("via_upstream")))
    }

    /// The head as an expression sees it.
    pub(super) fn parts(&self) -> Option<response::Parts> {
        let mut response = Response::new(());
        *response.status_mut() = self.status?;
        *response.headers_mut() = self.headers.clone();
        let extensions = response.extensions_mut();
        extensions.insert(ResponseFlags::new(self.flags));
        if let Some(details) = &self.details {
            extensions.insert(details.clone());
        }
        Some(response.into_parts().0)
    }

    pub(crate) fn of<B>(response: &Response<B>) -> Self {
        let extensions = response.extensions();
        let upstream: Option<UpstreamInfo> = extensions.get().cloned();
        let of_upstream = upstream.as_ref().is_some_and(UpstreamInfo::responded);
        Self {
            status: Some(response.status()),
            headers: response.headers().clone(),
            trailers: None,
            details: Self::details_of(response),
            flags: extensions.get().map_or(0, |flags: &ResponseFlags| flags.0),
            processor: extensions.get().copied(),
            upstream_version: of_upstream.then(|| response.version()),
            upstream,
        }
    }
}
