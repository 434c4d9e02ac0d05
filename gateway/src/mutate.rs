//! Header changes that the configuration asks for.

use http::{HeaderMap, HeaderValue};

use crate::{
    config::snapshot::{AppendAction, HeaderChange, HeaderTemplate},
    exchange::{Exchange, Head, Reply},
    format::{Format, Scope},
};

/// Applies changes in order. `scope` is what `%..%` operators in values see.
pub(crate) fn apply<'a>(
    headers: &mut HeaderMap,
    changes: impl IntoIterator<Item = &'a HeaderChange>,
    scope: &Scope<'_>,
) {
    for change in changes {
        match change {
            HeaderChange::Remove(name) => {
                headers.remove(name);
            }
            HeaderChange::Set {
                name,
                value,
                action,
            } => {
                let exists = headers.contains_key(name);
                let wanted = match action {
                    AppendAction::AppendIfExistsOrAdd | AppendAction::OverwriteIfExistsOrAdd => {
                        true
                    }
                    AppendAction::AddIfAbsent => !exists,
                    AppendAction::OverwriteIfExists => exists,
                };
                if !wanted {
                    continue;
                }
                // An operator may give bytes that no header may hold.
                let Some(value) = expand(value, scope) else {
                    continue;
                };
                if matches!(action, AppendAction::AppendIfExistsOrAdd) {
                    headers.append(name, value);
                } else {
                    headers.insert(name, value);
                }
            }
        }
    }
}

fn expand(template: &HeaderTemplate, scope: &Scope<'_>) -> Option<HeaderValue> {
    if !template.0.contains('%') {
        return HeaderValue::from_str(&template.0).ok();
    }
    let mut text = String::new();
    Format::parse(&template.0).render(scope, "", &mut text);
    // A value that comes out empty is not added.
    (!text.is_empty())
        .then(|| HeaderValue::try_from(text).ok())
        .flatten()
}

/// Applies changes to a request.
pub(crate) fn request<'a>(
    parts: &mut http::request::Parts,
    changes: impl Iterator<Item = &'a HeaderChange>,
    exchange: &Exchange,
) {
    let mut changes = changes.peekable();
    if changes.peek().is_none() {
        return;
    }
    let head = Head::of(parts);
    let scope = Scope {
        exchange,
        head: Some(&head),
        reply: &Reply::default(),
    };
    apply(&mut parts.headers, changes, &scope);
}

/// Applies changes to a response.
pub(crate) fn response<'a, B>(
    response: &mut http::Response<B>,
    changes: impl Iterator<Item = &'a HeaderChange>,
    exchange: &Exchange,
    head: Option<&Head>,
) {
    let mut changes = changes.peekable();
    if changes.peek().is_none() {
        return;
    }
    let reply = Reply::of(response);
    let scope = Scope {
        exchange,
        head,
        reply: &reply,
    };
    apply(response.headers_mut(), changes, &scope);
}
