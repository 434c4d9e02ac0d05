//! Header changes that the configuration asks for.

use extproc_client::{
    config::{Effort, StringMatcher},
    host::Outcome,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response};

use crate::{
    config::snapshot::{AppendAction, HeaderChange, HeaderTemplate, RouteAction},
    exchange::{Exchange, Head, Reply, local_reply, operators::Scope},
    http::body::Body,
    route::Selected,
};

/// Applies changes in order. `scope` is what `%..%` operators in values see. Gives a field whose new value no message can carry, as
/// operators may make one of any bytes. An old value in its place would be somebody else's word, and is taken out.
fn apply<'a>(
    headers: &mut HeaderMap,
    changes: &'a [HeaderChange],
    scope: &Scope<'_>,
) -> Option<&'a HeaderName> {
    let mut unsendable = None;
    for change in changes {
        let (name, value, action, keep_empty) = match change {
            HeaderChange::Remove(name) => {
                headers.remove(name);
                continue;
            }
            HeaderChange::RemoveMatching(matcher) => {
                remove_matching(headers, matcher);
                continue;
            }
            HeaderChange::Set {
                name,
                value,
                action,
                keep_empty,
            } => (name, value, action, *keep_empty),
        };
        let exists = headers.contains_key(name);
        let wanted = match action {
            AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => true,
            AppendAction::AddIfAbsent => !exists,
            AppendAction::OverwriteIfExists => exists,
        };
        if !wanted {
            continue;
        }
        let value = match expand(value, keep_empty, scope) {
            Ok(Some(value)) => value,
            Ok(None) => continue,
            Err(Unsendable) => {
                headers.remove(name);
                unsendable = unsendable.or(Some(name));
                continue;
            }
        };
        if matches!(action, AppendAction::AppendIfExistsOrAdd) {
            headers.append(name, value);
        } else {
            headers.insert(name, value);
        }
    }
    unsendable
}

/// Takes out the fields whose names match. A name for which a regular expression takes too long is taken out as well: the rest
/// of the chain relies on it.
fn remove_matching(headers: &mut HeaderMap, matcher: &StringMatcher) {
    let mut effort = Effort::default();
    let goes = |name: &&HeaderName| matcher.try_matches(name.as_str(), &mut effort) != Some(false);
    let all: Vec<HeaderName> = headers.keys().filter(goes).cloned().collect();
    for name in all {
        headers.remove(name);
    }
}

/// A value has bytes that no field may have.
struct Unsendable;

/// Makes the removals that a level begins with, and gives the rest. As in Envoy, values see what is removed no more, and
/// nothing of what the same level adds.
fn remove_first<'a>(headers: &mut HeaderMap, level: &'a [HeaderChange]) -> &'a [HeaderChange] {
    let mut rest = level;
    while let [HeaderChange::Remove(name), after @ ..] = rest {
        headers.remove(name);
        rest = after;
    }
    rest
}

/// Tells whether the value of the change depends on the exchange.
pub(crate) fn is_template(change: &HeaderChange) -> bool {
    matches!(
        change,
        HeaderChange::Set {
            value: HeaderTemplate::Template(_),
            ..
        }
    )
}

/// The value, if there is one.
fn expand(
    value: &HeaderTemplate,
    keep_empty: bool,
    scope: &Scope<'_>,
) -> Result<Option<HeaderValue>, Unsendable> {
    let template = match value {
        HeaderTemplate::Plain(value) => return Ok(Some(value.clone())),
        HeaderTemplate::Template(template) => template,
    };
    let mut text = String::new();
    scope.render(template, "", &mut text);
    match keep_empty || !text.is_empty() {
        true => HeaderValue::try_from(text)
            .map(Some)
            .map_err(|_| Unsendable),
        false => Ok(None),
    }
}

/// Applies changes to a request, level by level. If one cannot be made, the request goes to no upstream.
pub(crate) fn request<'a>(
    parts: &mut http::request::Parts,
    levels: impl Iterator<Item = &'a [HeaderChange]>,
    exchange: &Exchange,
) {
    for level in levels {
        let rest = remove_first(&mut parts.headers, level);
        let head = rest.iter().any(is_template).then(|| Head::of(parts));
        let reply = Reply::default();
        let scope = Scope::of(exchange, head.as_ref(), &reply);
        if let Some(name) = apply(&mut parts.headers, rest, &scope) {
            exchange.cannot_send(name);
        }
    }
}

/// Applies changes to a response, level by level.
pub(crate) fn response<'a, B>(
    response: &mut Response<B>,
    levels: impl Iterator<Item = &'a [HeaderChange]>,
    exchange: &Exchange,
    head: Option<&Head>,
) {
    for level in levels {
        let rest = remove_first(response.headers_mut(), level);
        let reply = match rest.iter().any(is_template) {
            true => Reply::of(response),
            false => Reply::default(),
        };
        let scope = Scope::of(exchange, head, &reply);
        apply(response.headers_mut(), rest, &scope);
    }
}

/// Adds the headers of the route to a reply that a filter made, where the route would have forwarded the request, and gives it
/// the form of a local reply. A response that came from the end of the chain has both.
pub(crate) fn add_route_headers(response: &mut Response<Body>, exchange: &Exchange) {
    if Outcome::of(response).route_applied {
        return;
    }
    let route = exchange.route();
    let forwards = |route: &Selected| matches!(route.route.action, RouteAction::Forward(_));
    if let Some(route) = route.filter(forwards) {
        let head = exchange.head();
        self::response(response, route.response_headers(), exchange, head.as_ref());
    }
    finish(response, exchange);
}

/// Says that a response has what the route adds to it; a local reply gets its form.
pub(crate) fn finish(response: &mut Response<Body>, exchange: &Exchange) {
    local_reply::rewrite(response, exchange);
    Outcome::of_mut(response).route_applied = true;
}
