//! The filter `envoy.filters.http.cors`: answers preflights, and tells browsers what a response may be
//! used for (Fetch standard, "HTTP CORS protocol").
//!
//! It refuses nothing: a request of another origin passes, and its browser keeps the answer to itself.

use extproc_client::{config::Effort, host::Outcome};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};

use crate::{
    config::snapshot::{Cors, RouteAction},
    exchange::{Exchange, host::is_answered},
    filters::{Chain, ResponseFuture, Serve, show_behind::show},
    http::body::Body,
};

/// The filter; what it does is up to the route.
pub(crate) struct CorsFilter {
    pub(crate) inner: Chain,
}

impl Serve for CorsFilter {
    fn serve(&self, request: Request<Body>) -> ResponseFuture {
        let (parts, body) = request.into_parts();
        let answered = is_answered(&parts);
        let policy = Exchange::of_head(&parts)
            .and_then(|exchange| exchange.current_route(&parts))
            // What is answered here is nothing that a policy is about.
            .filter(|route| matches!(route.route.action, RouteAction::Forward(_)))
            .and_then(|route| route.route.cors.clone());
        let request = Request::from_parts(parts, body);
        let origin = request.headers().get(header::ORIGIN);
        let (Some(policy), Some(origin)) = (policy, origin) else {
            return self.inner.call(request);
        };
        if origin.is_empty() || answered {
            return self.inner.call(request);
        }
        let origin = origin.clone();
        let allowed = allows(&policy, &origin);
        if is_preflight(&request) && (allowed || !policy.forward_not_matching_preflights) {
            let response = preflight(&policy, allowed.then_some(origin), request.headers());
            return show(&self.inner, request.into_parts().0, response);
        }
        let future = self.inner.call(request);
        if !allowed {
            return future;
        }
        Box::pin(async move {
            let mut response = future.await;
            let headers = response.headers_mut();
            allow_origin(&policy, origin, headers);
            response
        })
    }
}

fn is_preflight(request: &Request<Body>) -> bool {
    request.method() == Method::OPTIONS
        && request
            .headers()
            .get(header::ACCESS_CONTROL_REQUEST_METHOD)
            .is_some_and(|method| !method.is_empty())
}

/// The answer to a preflight; bare if the origin is not allowed.
fn preflight(policy: &Cors, origin: Option<HeaderValue>, request: &HeaderMap) -> Response<Body> {
    const REQUESTED: &str = "access-control-request-private-network";
    const ALLOWED: HeaderName = HeaderName::from_static("access-control-allow-private-network");
    let mut response = Response::new(Body::empty());
    Outcome::of_mut(&mut response).details = Some("cors_response".into());
    let Some(origin) = origin else {
        return response;
    };
    let headers = response.headers_mut();
    allow_origin(policy, origin, headers);
    for (name, allowed, asked) in [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            &policy.allow_methods,
            header::ACCESS_CONTROL_REQUEST_METHOD,
        ),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            &policy.allow_headers,
            header::ACCESS_CONTROL_REQUEST_HEADERS,
        ),
    ] {
        let echo = policy.echo_wildcards && policy.allow_credentials && allowed == "*";
        match request.get(asked).filter(|_| echo) {
            Some(asked) => {
                headers.insert(name, asked.clone());
            }
            None if echo => {}
            None => set(headers, name, allowed),
        }
    }
    set(headers, header::ACCESS_CONTROL_MAX_AGE, &policy.max_age);
    let private = request.get(REQUESTED);
    if policy.allow_private_network_access && private.is_some_and(|value| value == "true") {
        headers.insert(ALLOWED, HeaderValue::from_static("true"));
    }
    response
}

fn allow_origin(policy: &Cors, origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if policy.allow_credentials {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    set(
        headers,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        &policy.expose_headers,
    );
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_str(value)) {
        headers.insert(name, value);
    }
}

fn allows(policy: &Cors, origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(|origin| {
        let mut effort = Effort::default();
        let mut all = policy.allow_origins.iter();
        all.any(|matcher| matcher.try_matches(origin, &mut effort) == Some(true))
    })
}
