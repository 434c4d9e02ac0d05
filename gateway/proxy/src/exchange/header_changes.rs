//! Header changes that the configuration asks for.

use extproc_client::host::Outcome;
use http::{HeaderMap, HeaderValue, Response};

use crate::{
    config::snapshot::{AppendAction, HeaderChange, HeaderTemplate, RouteAction},
    exchange::{Exchange, Head, Reply, local_reply, operators::Scope},
    http::body::Body,
    route::Selected,
};

/// Applies changes in order. `scope` is what `%..%` operators in values see.
fn apply(headers: &mut HeaderMap, changes: &[HeaderChange], scope: &Scope<'_>) {
    for change in changes {
        let (name, value, action, keep_empty) = match change {
            HeaderChange::Remove(name) => {
                headers.remove(name);
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
        // An operator may give bytes that no header may hold.
        let Some(value) = expand(value, keep_empty, scope) else {
            continue;
        };
        if matches!(action, AppendAction::AppendIfExistsOrAdd) {
            headers.append(name, value);
        } else {
            headers.insert(name, value);
        }
    }
}

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

fn expand(value: &HeaderTemplate, keep_empty: bool, scope: &Scope<'_>) -> Option<HeaderValue> {
    let template = match value {
        HeaderTemplate::Plain(value) => return Some(value.clone()),
        HeaderTemplate::Template(template) => template,
    };
    let mut text = String::new();
    scope.render(template, "", &mut text);
    (keep_empty || !text.is_empty())
        .then(|| HeaderValue::try_from(text).ok())
        .flatten()
}

/// Applies changes to a request, level by level.
pub(crate) fn request<'a>(
    parts: &mut http::request::Parts,
    levels: impl Iterator<Item = &'a [HeaderChange]>,
    exchange: &Exchange,
) {
    for level in levels {
        let rest = remove_first(&mut parts.headers, level);
        let head = rest.iter().any(is_template).then(|| Head::of(parts));
        let scope = Scope {
            exchange,
            head: head.as_ref(),
            reply: &Reply::default(),
        };
        apply(&mut parts.headers, rest, &scope);
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
        let scope = Scope {
            exchange,
            head,
            reply: &reply,
        };
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
