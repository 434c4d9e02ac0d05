//! Redirects of an upstream that the gateway follows itself (`internal_redirect_policy`).
//!
//! As in Envoy, the request then goes through all filters once more, as one of its own with its own line in the log. The
//! filters that had it before never see the redirect.

use std::sync::Arc;

use extproc_client::host::{Origin, Outcome};
use http::{
    HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts,
    uri::PathAndQuery,
};

use super::replay::Kept;
use crate::{
    config::snapshot::{Forward, InternalRedirect, RedirectPredicate, RouteAction},
    exchange::{Exchange, answer::Redirected},
    http::{authority::valid_authority, body::Body},
    route::{self, Selected},
};

const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-envoy-original-url");

/// A request to which a redirect may be the answer.
pub(super) struct Candidate<'a> {
    policy: &'a InternalRedirect,
    /// The head before the route rewrote its target.
    parts: Parts,
}

impl<'a> Candidate<'a> {
    /// `None` if the route has no redirect followed.
    pub(super) fn of(forward: &'a Forward, parts: &Parts, exchange: &Exchange) -> Option<Self> {
        let policy = forward.internal_redirect.as_ref()?;
        (!exchange.upgrade).then(|| Self {
            policy,
            parts: parts.clone(),
        })
    }

    /// Returns true if a response with this status is a redirect to follow.
    pub(super) fn is_met_by(&self, status: StatusCode) -> bool {
        self.policy.codes.contains(&status)
    }

    /// Replacement of the response, or the response if it cannot be followed.
    pub(super) fn follow(
        self,
        response: Response<Body>,
        route: &Selected,
        body: Option<Kept>,
        exchange: &Exchange,
    ) -> Result<Response<Body>, Box<Response<Body>>> {
        // All of the request has to be here, as it went on.
        let whole = exchange.request_done() && body.as_ref().is_none_or(Kept::is_whole);
        let next = match whole {
            true => self.next(&response, route, body, exchange),
            false => None,
        };
        let Some((next, selected)) = next else {
            return Err(Box::new(response));
        };
        // The log shows where it leads.
        exchange.set_route(Some(selected));
        exchange.note_head(&next.parts);
        let mut response = response.map(|_| Body::empty());
        let outcome = Outcome::of_mut(&mut response);
        outcome.details = Some("internal_redirect".into());
        outcome.origin = Origin::Final;
        outcome.own = Some(Arc::new(next));
        Ok(response)
    }

    fn next(
        self,
        response: &Response<Body>,
        route: &Selected,
        mut body: Option<Kept>,
        exchange: &Exchange,
    ) -> Option<(Redirected, Selected)> {
        let Self { policy, mut parts } = self;
        let target = target(response)?;
        let (from, to) = (is_https(&parts.uri), is_https(&target));
        if !policy.cross_scheme && from != to || exchange.trail.count >= policy.most {
            return None;
        }
        let original = original(&parts, route);
        for name in &policy.copied {
            parts.headers.remove(name);
            for value in response.headers().get_all(name) {
                parts.headers.append(name, value.clone());
            }
        }
        parts.uri = target;
        let selected = route::select(&exchange.http, &parts, Some(&exchange.metadata))?;
        let names = [route, &selected].map(|route| &route.route.facts.route_name);
        let [old, new] = names;
        let mut trail = exchange.trail.clone();
        let allowed = policy.predicates.iter().all(|predicate| match predicate {
            RedirectPredicate::AllowedRoutes(allowed) => allowed.contains(new),
            RedirectPredicate::OtherRoutes => {
                !trail.steps.iter().any(|(a, b)| (a, b) == (old, new))
            }
            RedirectPredicate::SafeCrossScheme => from || !to,
        });
        if !allowed {
            return None;
        }
        trail.count += 1;
        trail.steps.push((old.clone(), new.clone()));
        // RFC 9110 §15.4.4.
        let safe = parts.method == Method::GET || parts.method == Method::HEAD;
        if response.status() == StatusCode::SEE_OTHER && !safe {
            parts.method = Method::GET;
            parts.headers.remove(header::CONTENT_LENGTH);
            body = None;
        }
        parts.headers.insert(ORIGINAL_URL, original?);
        let next = Redirected::new(parts, body.map(Kept::into_data), trail);
        Some((next, selected))
    }
}

/// Returns the target of a redirect, if it is a URI as HTTP has them. The fragment is the client's. User information is left
/// out, as in Envoy: with it, no virtual host would be that of the name. The rest has to be an authority that a client may ask
/// for.
fn target(response: &Response<Body>) -> Option<Uri> {
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let whole = location.split('#').next().unwrap_or_default();
    let mut uri = whole.parse::<Uri>().ok()?.into_parts();
    if !matches!(uri.scheme.as_ref()?.as_str(), "http" | "https") {
        return None;
    }
    let authority = uri.authority.as_ref()?.as_str();
    let (_, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if !valid_authority(host) {
        return None;
    }
    if host.len() < authority.len() {
        uri.authority = Some(host.parse().ok()?);
    }
    let path = uri.path_and_query.as_ref().map(PathAndQuery::as_str);
    match path {
        None | Some("") => uri.path_and_query = Some(PathAndQuery::from_static("/")),
        Some(query) if query.starts_with('?') => {
            uri.path_and_query = PathAndQuery::try_from(format!("/{query}")).ok();
        }
        Some(_) => {}
    }
    Uri::from_parts(uri).ok()
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

/// The target as the upstream saw it.
fn original(parts: &Parts, route: &Selected) -> Option<HeaderValue> {
    let mut seen = Parts::clone(parts);
    if let RouteAction::Forward(forward) = &route.route.action {
        // It was rewritten before.
        route::rewrite(&mut seen, &route.route.matches, forward, None).ok()?;
    }
    HeaderValue::try_from(seen.uri.to_string()).ok()
}
